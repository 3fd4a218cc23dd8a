//! The double answers as the recorded Harbor did. Each test plays recordings and says what it leaves out, and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod replay;

use std::time::Duration;

use harbor_double::Image;
use replay::{Skipped, World};

async fn nothing(_: &mut World, _: &str) {}

#[tokio::test]
async fn registries_and_projects_answer_as_recorded() {
    let mut world = World::new(100.0).await;
    let registries = [
        ("\"type\": \"harbor\", \"url\"", "that Harbor could not reach itself yet; 01b has it"),
        ("/registries/0/info", "the same"),
    ];
    world.play("01-registries.md", &registries, nothing).await;
    let projects = [("projects?page_size=3", "a project was removed off the record: one less in all")];
    world.play("02-projects.md", &projects, nothing).await;
    world.play("02b-projects-repair.md", &[], nothing).await;
    let portal = [("GET / ", "a page of the portal"), ("GET //info", "a page of the portal")];
    world.play("01b-registries-local.md", &portal, nothing).await;
    world.finish(180);
}

#[tokio::test]
async fn tokens_and_refusals_are_as_recorded() {
    let mut world = World::new(100.0).await.with_projects().await;
    world.play("03a-token-auth.md", &[], nothing).await;
    world.finish(50);
}

/// What the recordings of the pull path say of each other: the recorder pulled several images side by side.
const SIDE_BY_SIDE: &str = "it lists what other recordings pulled meanwhile";

async fn pull(file: &str, skipped: &[Skipped], at_least: usize) {
    let mut world = World::new(50.0).await.with_projects().await;
    world.play(file, skipped, nothing).await;
    world.finish(at_least);
}

#[tokio::test]
async fn an_index_alone_is_never_stored() {
    let mut world = World::new(100.0).await.with_projects().await;
    let others = [("/repositories?page_size=50", SIDE_BY_SIDE)];
    world
        .play("03b-index-only.md", &others, async |world, note| {
            if note.contains("gave up waiting") {
                tokio::time::sleep(Duration::from_millis(4820)).await;
                assert!(world.harbor.artifacts("px/app/multi").is_empty());
            }
        })
        .await;
    world.finish(3);
}

#[tokio::test]
async fn an_index_with_one_child_is_trimmed() {
    let mut world = World::new(100.0).await.with_projects().await;
    // There was a scanner by then, which adds links.
    world.ignore("addition_links");
    world.play("03c-index-one-child.md", &[], nothing).await;
    world.finish(11);
}

#[tokio::test]
async fn index_with_both_children_is_serialized_again() {
    pull("03d-index-both-children.md", &[], 12).await;
}

#[tokio::test]
async fn of_a_manifest_alone_harbor_fetches_the_blobs() {
    pull("03e-manifest-only.md", &[], 2).await;
}

#[tokio::test]
async fn a_pull_as_containerd_does_it_is_stored_and_tagged() {
    pull("03f-containerd-like.md", &[("/_catalog", SIDE_BY_SIDE)], 15).await;
}

#[tokio::test]
async fn a_head_alone_stores_nothing() {
    let mut world = World::new(50.0).await.with_projects().await;
    let big = Image::single("linux", "amd64").layers([10, 20]);
    let big = world.open.push_image("app/big", "v1", &big);
    let recorded = "sha256:e8b46a96e99d5b3f79b52804a1bc15ca47c13f679cfa4151b0fd5d65b911d44e";
    world.pair_digest(recorded, &big.children[0].layers[0].digest);
    world.play("03g-head-only.md", &[], nothing).await;
    world.finish(5);
}

#[tokio::test]
async fn moved_tag_moves_in_harbor_and_a_removed_one_is_deleted() {
    let mut world = World::new(50.0).await.with_projects().await;
    world
        .play("03h-moved-tag.md", &[], async |world, note| {
            if note.starts_with("upstream tag v1 moved") {
                let other = Image::single("linux", "amd64").layers([10, 20]).seed("moved");
                world.open.push_image("app/moving", "v1", &other);
            }
            if note.starts_with("## tag removed") {
                world.open.delete_tag("app/moving", "v1");
            }
        })
        .await;
    world.finish(18);
}
