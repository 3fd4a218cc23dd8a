//! What is still served while the upstream is down, as recorded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod client;
mod replay;

use std::time::Duration;

use client::{Client, eventually};
use harbor_double::{Image, Pushed};
use replay::{World, notes::tuples_of};
use serde_json::Value;

const ARCHES: [(&str, &str, Option<&str>); 2] = [("linux", "amd64", None), ("linux", "arm64", None)];

/// Slow enough that a busy machine sees the states between.
const SPEED: f64 = 25.0;

/// How the recorder had pulled an image before it looked.
#[derive(Clone, Copy, PartialEq)]
enum Pull {
    /// The index by tag, all children, all blobs.
    ByTag,
    /// HEAD of the tag, the index by digest, all children, all blobs.
    AsContainerd,
    /// As before, of the first child alone.
    FirstAsContainerd,
    /// The index by tag, the first child, its blobs.
    FirstByTag,
    /// The index by tag and nothing else.
    IndexByTag,
    Never,
}

/// Pushes the images that a note names, under the digests that it names, and pulls each as its name says.
async fn push_and_pull(world: &mut World, note: &str, how: impl Fn(&str) -> (Image, Pull)) {
    let list = note.trim_start_matches("upstream: ").split(" single ").next().unwrap();
    let list: Value = serde_json::from_str(list).unwrap();
    for (name, recorded) in list.as_object().unwrap() {
        let (image, pull) = how(name);
        let pushed = world.shaky.push_image(name, "v1", &image.layers([10, 20]));
        world.pair_digest(recorded[0].as_str().unwrap(), &pushed.digest);
        for (child, recorded) in pushed.children.iter().zip(recorded[1].as_array().into_iter().flatten()) {
            world.pair_digest(recorded.as_str().unwrap(), &child.digest);
        }
        pull_image(world, name, &pushed, pull).await;
    }
}

async fn pull_image(world: &World, name: &str, image: &Pushed, pull: Pull) {
    let client = Client::new(&world.harbor).await;
    let repository = format!("/v2/pxdown/{name}");
    let (reference, most) = match pull {
        Pull::Never => return,
        Pull::IndexByTag => ("v1", 0),
        Pull::FirstByTag => ("v1", 1),
        Pull::ByTag => ("v1", 2),
        Pull::FirstAsContainerd => (image.digest.as_str(), 1),
        Pull::AsContainerd => (image.digest.as_str(), 2),
    };
    if reference != "v1" {
        client.head(&format!("{repository}/manifests/v1")).await.ok();
    }
    client.get(&format!("{repository}/manifests/{reference}")).await.ok();
    for child in image.children.iter().take(most) {
        if child.digest != image.digest {
            client.get(&format!("{repository}/manifests/{}", child.digest)).await.ok();
        }
        for blob in child.blobs() {
            client.get(&format!("{repository}/blobs/{}", blob.digest)).await.ok();
        }
    }
}

#[tokio::test]
async fn images_pulled_by_tag_are_served_offline_as_recorded() {
    let mut world = World::new(SPEED).await.with_projects().await;
    world
        .play("03i-upstream-down.md", &[], async |world, note| {
            if note.starts_with("upstream: ") {
                push_and_pull(world, note, |name| match name {
                    "fulldkr" => (Image::multi_arch(ARCHES).docker(), Pull::ByTag),
                    "full" => (Image::multi_arch(ARCHES), Pull::ByTag),
                    "part" => (Image::multi_arch(ARCHES), Pull::FirstByTag),
                    "idxonly" => (Image::multi_arch(ARCHES), Pull::IndexByTag),
                    "single" => (Image::single("linux", "amd64"), Pull::ByTag),
                    _ => (Image::multi_arch(ARCHES), Pull::Never),
                })
                .await;
            }
            if note.starts_with("t+212s") {
                // The recorder went on so late that the second child of `part` was stored after the index was trimmed.
                tokio::time::sleep(Duration::from_secs_f64(215.0 / SPEED)).await;
            }
            if note.starts_with("## upstream just stopped") {
                world.shaky.set_down(true).await;
            }
        })
        .await;
    // Up for long enough between the recordings that Harbor fetched what was missing of the manifests that were asked for.
    world.shaky.set_down(false).await;
    world.shaky.push_image("never2", "v1", &Image::multi_arch(ARCHES).layers([10, 20]));
    eventually(|| world.harbor.artifacts("pxdown/idxonly").len() == 2).await;
    eventually(|| world.harbor.artifacts("pxdown/part").len() == 3).await;
    world.shaky.set_down(true).await;
    world.harbor.check_upstreams().await;
    world
        .play("03j-upstream-down-2.md", &[], async |world, note| {
            if let Some((_, lists)) = note.split_once("part, idxonly before: ") {
                let lists = tuples_of(lists);
                for (name, list) in ["full", "part", "idxonly"].iter().zip(lists.as_array().unwrap()) {
                    world.await_list(note, &format!("pxdown/{name}"), list).await;
                }
            }
            if note.starts_with("upstream started again") {
                world.shaky.set_down(false).await;
            }
        })
        .await;
    world.finish(110);
}

#[tokio::test]
async fn images_pulled_as_containerd_does_are_served_offline_as_recorded() {
    let mut world = World::new(100.0).await.with_projects().await;
    let up3 = serde_json::json!({"name": "up3", "type": "docker-registry", "url": world.shaky.url()});
    assert_eq!(world.harbor.manual_request("POST", "/registries", Some(up3)).await.0, 201);
    let project = serde_json::json!({"project_name": "pxdown", "registry_id": 4, "metadata": {"public": "true"}});
    assert_eq!(world.harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
    let skipped =
        [("/webhook/policies", "webhooks are not doubled"), ("## webhook deliveries", "webhooks are not doubled")];
    world
        .play("03k-containerd-offline.md", &skipped, async |world, note| {
            if note.starts_with("upstream: ") {
                push_and_pull(world, note, |name| match name {
                    "ctd-canon" => (Image::multi_arch(ARCHES).canonical(), Pull::AsContainerd),
                    "ctd-canondkr" => (Image::multi_arch(ARCHES).docker().canonical(), Pull::AsContainerd),
                    "ctd-partial" => (Image::multi_arch(ARCHES), Pull::FirstAsContainerd),
                    _ => (Image::multi_arch(ARCHES), Pull::AsContainerd),
                })
                .await;
                let single = Image::single("linux", "amd64").layers([10, 20]);
                let single = world.shaky.push_image("ctd-single", "v1", &single);
                world.pair_digest(note.rsplit_once(' ').unwrap().1, &single.digest);
                pull_image(world, "ctd-single", &single, Pull::AsContainerd).await;
            }
            if let Some((name, rest)) = note.split_once("s ctd-").and_then(|(_, rest)| rest.split_once(": upstream ")) {
                let tuples = rest.split_once("local ").unwrap().1.split(" same digest").next().unwrap();
                world.await_artifacts(note, &format!("pxdown/ctd-{name}"), tuples).await;
            }
            if note.starts_with("## upstream stopped") {
                world.shaky.set_down(true).await;
            }
            if note.starts_with("## upstream up again") {
                world.shaky.set_down(false).await;
            }
        })
        .await;
    world.finish(25);
}
