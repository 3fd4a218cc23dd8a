//! Namespaces that name thousands of images delay no other, and exceed no cap.

use std::time::Duration;

use harbor_double::{Image, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, proxy_project, registry};
use serde_json::{Value, json};
use tokio::time::Instant;

const CAP: usize = 60;
const CAP_OF_NAMESPACE: usize = 40;
/// So many distinct images has each Deployment of a flood.
const IMAGES: usize = 1500;
/// In which a small namespace gets its CachedImage.
const SECONDS: Duration = Duration::from_secs(10);

fn deployment(name: &str, namespace: &str, images: &[String]) -> Value {
    let container = |(number, image): (usize, &String)| json!({"name": format!("c{number}"), "image": image});
    let containers: Vec<Value> = images.iter().enumerate().map(container).collect();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}}})
}

#[tokio::test]
async fn a_flood_of_two_namespaces_delays_no_small_one_and_exceeds_no_cap() {
    let (total, of_namespace) = (CAP.to_string(), CAP_OF_NAMESPACE.to_string());
    let caps = ["--max-cached-images", &total, "--max-cached-images-per-namespace", &of_namespace];
    let cluster = Cluster::own_with(&caps).await.unwrap();
    let upstream = Upstream::builder().start().await;
    upstream.push_image("small", "v1", &Image::single("linux", "amd64").seed("small"));
    cluster.apply(&registry("flood", &upstream.url())).await.unwrap();
    cluster.apply(&proxy_project("flood")).await.unwrap();
    cluster.wait_for("ProxyProject", "flood", "Ready", "True Reconciled").await.unwrap();
    let at_harbor = |name: &str| format!("{}/flood/{name}", cluster.harbor.host());

    for flood in ["flood-a", "flood-b"] {
        let namespace = cluster.plane.namespace(flood).await.unwrap();
        let images: Vec<String> = (0..IMAGES).map(|number| at_harbor(&format!("nope:{flood}-{number}"))).collect();
        cluster.apply(&deployment(flood, &namespace, &images)).await.unwrap();
    }
    let count = async || cluster.cached("flood").await.unwrap().len();
    let end = Instant::now() + Duration::from_secs(20);
    while count().await < CAP {
        assert!(Instant::now() < end, "the floods do not fill the cap\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let namespace = cluster.plane.namespace("small").await.unwrap();
    let small = at_harbor("small:v1");
    cluster.apply(&deployment("small", &namespace, std::slice::from_ref(&small))).await.unwrap();
    let end = Instant::now() + SECONDS;
    loop {
        let found = cluster.cached("flood").await.unwrap();
        assert!(found.len() <= CAP, "{} CachedImages", found.len());
        if found.contains_key(&small) {
            break;
        }
        assert!(Instant::now() < end, "no CachedImage for the small namespace\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.wait_until_warm("flood", &["small:v1".to_owned()]).await.unwrap();
    // What found no room is listed again meanwhile.
    let end = Instant::now() + Duration::from_secs(12);
    while Instant::now() < end {
        let found = cluster.cached("flood").await.unwrap();
        assert!(found.len() <= CAP && found.contains_key(&small), "{} CachedImages", found.len());
        for flood in ["flood-a", "flood-b"] {
            let own = found.keys().filter(|image| image.contains(flood)).count();
            assert!(own <= CAP_OF_NAMESPACE, "{own} CachedImages of {flood}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let logs = cluster.logs();
    let warned = |what: &str| logs.lines().filter(|line| line.contains("WARN") && line.contains(what)).count();
    assert!(logs.contains("evicted"), "the small namespace got room from a flood\n{logs}");
    assert_eq!(warned("too many images: only the first are prewarmed"), 2, "once for each namespace");
    assert!(warned("further images are not") >= 1 && warned("further images are not") <= 3);
}
