//! A cluster in which nothing changes: nothing is written.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use harbor_pilot_e2e::cluster::{Cluster, SOON, alone, pod, resource};
use serde_json::json;

const OBJECTS: [(&str, &str); 3] = [("HarborInstance", "quiet"), ("Registry", "quiet"), ("ProxyProject", "quiet")];

async fn versions(cluster: &Cluster, image: &str) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    for (kind, name) in OBJECTS.into_iter().chain([("CachedImage", image)]) {
        let object = cluster.get(kind, name).await.unwrap();
        versions.insert(kind.to_owned(), object["metadata"]["resourceVersion"].to_string());
    }
    versions
}

#[tokio::test]
async fn once_everything_is_ready_further_looks_write_nothing_to_harbor_and_nothing_to_the_api_server() {
    let mut cluster = alone().await.unwrap();
    let instance = json!({"url": cluster.harbor.url(), "credentialsSecretRef": {"name": "harbor"}, "interval": "2s"});
    let upstream = harbor_double::Upstream::builder().start().await;
    // Harbor tags this one soon; an index that it trims would take it a while.
    upstream.push_image("app", "v1", &harbor_double::Image::single("linux", "amd64"));
    cluster.apply_examples().await.unwrap();
    let own = json!({"name": "quiet"});
    let registry = json!({"harborRef": own, "type": "docker-registry", "url": upstream.url(), "interval": "2s"});
    let project = json!({"harborRef": own, "registryRef": own, "public": true, "interval": "2s"});
    for (kind, spec) in [("HarborInstance", instance), ("Registry", registry), ("ProxyProject", project)] {
        cluster.apply(&resource(kind, "quiet", spec)).await.unwrap();
    }
    for (kind, name) in OBJECTS {
        let ready = if kind == "HarborInstance" { "True Healthy" } else { "True Reconciled" };
        cluster.wait_for(kind, name, "Ready", ready).await.unwrap();
    }
    let image = format!("{}/app:v1", upstream.host());
    cluster.until_rewritten(&image).await.unwrap();
    let namespace = cluster.plane.namespace("quiet").await.unwrap();
    cluster.apply(&pod("app", &namespace, &image)).await.unwrap();
    cluster.wait_until_warm("quiet", &["app:v1".to_owned()]).await.unwrap();
    let found = cluster.cached("quiet").await.unwrap();
    let name = found.values().next().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.wait_for("CachedImage", &name, "OfflineByTag", "True Tagged").await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let before = versions(&cluster, &name).await;
    cluster.harbor.clear_log();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let looks = cluster.harbor.log().iter().filter(|request| request.path.starts_with("/api/v2.0/projects")).count();
    assert!(looks >= 2, "nobody looked: {:?}", cluster.harbor.log());
    let writes = cluster.harbor.writes();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(versions(&cluster, &name).await, before);
    cluster.harbor.clear_log();

    // A controller that starts anew knows nothing, and finds everything as it should be.
    cluster.kill_controller().unwrap();
    cluster.start_controller().await.unwrap();
    let looks = || cluster.harbor.log().iter().filter(|one| one.path.starts_with("/api/v2.0/registries")).count();
    let end = Instant::now() + SOON;
    while looks() < 2 {
        assert!(Instant::now() < end, "nobody looked: {:?}", cluster.harbor.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let writes = cluster.harbor.writes();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(versions(&cluster, &name).await, before);
    let logs = cluster.logs();
    let complaints: Vec<_> = logs
        .lines()
        .filter(|line| line.contains("forbidden") || (line.contains("WARN") && line.contains("quiet")))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    cluster.forget("quiet").await.unwrap();
    cluster.delete("hinst", "quiet").await.unwrap();
}
