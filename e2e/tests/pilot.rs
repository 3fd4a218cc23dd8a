//! The harness itself: the real binary, built from this tree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use harbor_pilot_e2e::pilot::{Pilot, binary};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_binary_of_this_tree_is_built_beside_the_tests_and_runs() {
    let program = binary().await.unwrap();
    let profile = std::env::current_exe().unwrap();
    let profile = profile.parent().and_then(|deps| deps.parent()).unwrap();
    assert_eq!(program, profile.join("harbor-pilot"));

    let mut pilot = Pilot::spawn(&["--version"], &[]).await.unwrap();
    let status = pilot.wait(SOON).await.unwrap();
    assert!(status.success(), "{status}\n{}", pilot.logs());
    assert!(!pilot.is_running().unwrap());
}

#[tokio::test]
async fn waiting_for_what_is_never_said_ends_with_the_process() {
    let mut pilot = Pilot::spawn(&["--version"], &[]).await.unwrap();
    let error = pilot.wait_for_line("the moon is a harbour", SOON).await.unwrap_err().to_string();
    assert!(error.contains("ended") && error.contains("the moon is a harbour"), "{error}");
    // Both are harmless to a process that is no more.
    pilot.terminate().unwrap();
    assert!(pilot.kill().unwrap().success());
}
