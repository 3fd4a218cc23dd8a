//! The manifests that a newcomer applies, and deletes again.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use harbor_pilot_e2e::cluster::{Cluster, EXAMPLES, alone, shared};
use serde_json::Value;

#[tokio::test]
async fn the_examples_are_applied_and_each_becomes_ready() {
    let cluster = shared().await.unwrap();
    cluster.apply_examples().await.unwrap();
    let arguments = [&["get", "-o", "wide"], &EXAMPLES[1..2]].concat();
    let columns = cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
    for shown in ["READY", "REASON", "True", "Reconciled", "docker-hub", "https://hub.docker.com"] {
        assert!(columns.contains(shown), "{shown} is not shown: {columns}");
    }
    let names = objects(&cluster, "/registries").await;
    assert!(names.contains(&"dockerhub".to_owned()) && names.contains(&"ecr".to_owned()), "{names:?}");
}

#[tokio::test]
async fn examples_are_deleted_immediately_and_found_again() {
    let cluster = alone().await.unwrap();
    cluster.apply_examples().await.unwrap();
    let before = (objects(&cluster, "/registries").await, objects(&cluster, "/projects").await);
    cluster.harbor.clear_log();

    let directory = cluster.examples.display().to_string();
    let started = Instant::now();
    cluster.plane.kubectl(&["delete", "-f", &directory, "--timeout=20s"]).await.unwrap().ok().unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "deleting took {took:?}");
    for resource in EXAMPLES {
        let output = cluster.plane.kubectl(&["get", resource]).await.unwrap();
        assert!(output.stderr.contains("NotFound"), "{resource} is still there: {output:?}");
    }

    cluster.apply_examples().await.unwrap();
    let after = (objects(&cluster, "/registries").await, objects(&cluster, "/projects").await);
    assert_eq!(before, after);
    let written: Vec<_> = cluster.harbor.writes().into_iter().filter(|write| write.method != "PUT").collect();
    assert!(written.is_empty(), "something was made or deleted again: {written:?}");
}

#[tokio::test]
async fn the_api_server_takes_every_scenario_as_it_is() {
    let cluster = shared().await.unwrap();
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/scenarios");
    for directory in fs::read_dir(&scenarios).unwrap().map(|entry| entry.unwrap().path()) {
        let path = directory.display().to_string();
        let arguments = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-R", "-f", &path];
        let taken = cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
        // The Secret and the HarborInstance, and what the scenario is about.
        assert!(taken.lines().count() >= 4, "{path}: {taken}");
        assert!(taken.lines().all(|line| line.ends_with("serverside-applied (server dry run)")), "{path}: {taken}");
    }
}

/// Names of what Harbor has.
async fn objects(cluster: &Cluster, path: &str) -> Vec<String> {
    let (status, list) = cluster.harbor.manual_request("GET", &format!("{path}?page_size=100"), None).await;
    assert_eq!(status, 200, "{list}");
    let mut names: Vec<String> =
        list.as_array().unwrap().iter().map(|object| object["name"].as_str().map(str::to_owned).unwrap()).collect();
    names.sort();
    assert!(!names.is_empty(), "{}", Value::from(names));
    names
}
