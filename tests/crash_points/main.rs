//! The process is killed at every boundary between two steps of a life, and started again: the end is the same.
//!
//! A life is run once without interruption. Then it is run again for each request to Harbor, killed before Harbor has it and
//! after Harbor has carried it out, and for each status, killed before it is stored. How many there are turns out as they are met.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod harbor;
mod life;
#[path = "../support/mod.rs"]
mod support;

use std::future::Future;

use futures::{StreamExt, stream};
use harbor_double::Hold;
use serde_json::Value;

use life::{End, Life, PHASES};

/// Lives that are lived at once.
const AT_ONCE: usize = 6;

/// When the process is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    Never,
    /// At this request.
    Request(Hold),
    /// Before this status, or the end of a resource, is stored.
    Store(usize),
}

/// Runs `at(0)`, `at(1)` and so on, until one has lived to its end without having been killed. Answers how many were.
async fn each<F: Future<Output = bool>>(at: impl Fn(usize) -> F) -> usize {
    let mut killed = 0;
    let mut runs = stream::iter(0..).map(at).buffered(AT_ONCE);
    while runs.next().await.unwrap() {
        killed += 1;
    }
    killed
}

fn assert_same(kill: Kill, found: &End, wanted: &End) {
    let differences = [
        harbor::difference(&wanted.harbor, &found.harbor),
        harbor::difference(&wanted.created, &found.created),
        harbor::difference(&wanted.statuses, &found.statuses),
    ];
    let differences = differences.concat();
    assert!(differences.is_empty(), "killed at {kill:?}:\n{differences}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_at_any_step_ends_where_an_uninterrupted_one_does() {
    let upstreams = life::upstreams().await;
    let mut points = 0;
    for phase in 0..PHASES {
        let whole = Life::begin(&upstreams).await.live(phase, Kill::Never).await;
        whole.assert_right(phase);
        let run = async |kill: Kill| {
            let end = Life::begin(&upstreams).await.live(phase, kill).await;
            if end.was_killed {
                assert_same(kill, &end, &whole);
            }
            end.was_killed
        };
        let before = each(|at| run(Kill::Request(Hold::Before(at)))).await;
        let after = each(|at| run(Kill::Request(Hold::After(at)))).await;
        let unstored = each(|at| run(Kill::Store(at))).await;
        eprintln!("phase {phase}: {before} before a request, {after} after it, {unstored} before a status");
        let enough = whole.requests * 3 / 4;
        assert!(before >= enough && after >= enough && unstored >= 3, "of {} requests", whole.requests);
        points += before + after + unstored;
    }
    eprintln!("{points} crash points");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_half_made_when_its_resource_was_deleted_goes_too() {
    let upstreams = life::upstreams().await;
    let run = async |kill: Kill| {
        let Some(end) = Life::begin(&upstreams).await.cut_short(kill).await else { return false };
        let left: Vec<&Value> = ["registries", "projects", "policies"]
            .iter()
            .flat_map(|kind| end.harbor[kind].as_array().unwrap())
            // The project that the copied images are in is Harbor's.
            .filter(|object| !["library", "mirror"].contains(&object["name"].as_str().unwrap()))
            .collect();
        assert!(left.is_empty(), "killed at {kill:?}, left {left:#?}");
        assert!(end.created.values().all(|count| *count <= 1), "killed at {kill:?}, created {:?}", end.created);
        true
    };
    let before = each(|at| run(Kill::Request(Hold::Before(at)))).await;
    let after = each(|at| run(Kill::Request(Hold::After(at)))).await;
    let unstored = each(|at| run(Kill::Store(at))).await;
    eprintln!("{} crash points of a creation that nobody wants any more", before + after + unstored);
    assert!(before > 5 && after > 5 && unstored > 2);
}
