//! An image that is known to be bad is refused at admission, before Harbor would ever judge it.

use std::time::Duration;

use harbor_double::{Image, Severity};
use harbor_pilot_e2e::cluster::{Cluster, SOON, pod, resource, shared};
use harbor_pilot_e2e::kubectl::Output;
use serde_json::{Value, json};
use tokio::time::Instant;

async fn apply(cluster: &Cluster, object: &Value) -> Output {
    cluster.plane.kubectl_with_input(&["apply", "-f", "-"], &object.to_string()).await.unwrap()
}

/// Applies the object under new names until what is told contains this.
async fn until_reported(cluster: &Cluster, namespace: &str, image: &str, reported: &str) -> Output {
    let (end, mut attempt) = (Instant::now() + SOON, 0);
    loop {
        attempt += 1;
        let output = apply(cluster, &pod(&format!("attempt-{attempt}"), namespace, image)).await;
        if output.stderr.contains(reported) {
            return output;
        }
        assert!(Instant::now() < end, "{reported} is not in {output:?}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn image_with_vulnerabilities_is_rejected_and_its_fixed_version_admitted() {
    let shared = shared().await.unwrap();
    let cluster = &*shared;
    let upstream = cluster.proxied("scanned").await.unwrap();
    let (judged, free) = (cluster.plane.namespace("judged"), cluster.plane.namespace("unjudged"));
    let (judged, free) = (judged.await.unwrap(), free.await.unwrap());
    let spec = json!({
        "action": "Enforce",
        "vulnerability": {"maxSeverity": "High", "onUnscanned": "Warn"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": judged}},
    });
    cluster.apply(&resource("ImagePolicy", "scanned", spec)).await.unwrap();
    let image = |tag: &str| format!("{}/app/web:{tag}", upstream.host());
    let unknown =
        until_reported(cluster, &judged, &image("v0"), "has no scan result (policy scanned requires one)").await;
    assert!(unknown.status.success(), "{unknown:?}");

    let bad = upstream.push_image("app/web", "v1", &Image::single("linux", "amd64").seed("scanned bad"));
    cluster.harbor.set_report(&bad.digest, Severity::Critical, 2);
    upstream.push_image("app/web", "v2", &Image::single("linux", "amd64").seed("scanned good"));
    for tag in ["v1", "v2"] {
        apply(cluster, &pod(&format!("web-{tag}"), &free, &image(tag))).await.ok().unwrap();
    }
    let refused = until_reported(cluster, &judged, &image("v1"), "has vulnerabilities of severity Critical").await;
    assert!(!refused.status.success(), "{refused:?}");
    let host = cluster.harbor.host();
    for part in [
        "Forbidden",
        &format!("container \"app\": image \"{host}/scanned/app/web:v1\" has vulnerabilities") as &str,
        "(policy scanned allows at most High): 2 found, 2 fixable, scanned 20",
        "use a fixed image, or ask for an exemption",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    // By its digest, too, and from wherever it is pulled.
    let pinned = apply(cluster, &pod("pinned", &judged, &format!("{host}/scanned/app/web@{}", bad.digest))).await;
    assert!(!pinned.status.success(), "{pinned:?}");

    let end = Instant::now() + SOON;
    loop {
        let output = apply(cluster, &pod("good", &judged, &image("v2"))).await;
        assert!(output.status.success(), "{output:?}");
        if !output.stderr.contains("Warning") {
            break;
        }
        assert!(Instant::now() < end, "{output:?}");
        cluster.plane.kubectl(&["delete", "pod", "good", "-n", &judged, "--now"]).await.unwrap().ok().unwrap();
    }
    let known = cluster.cached("scanned").await.unwrap();
    let status = &known[&format!("{host}/scanned/app/web:v1")]["status"];
    assert_eq!((&status["scan"]["severity"], &status["scan"]["state"]), (&json!("Critical"), &json!("Scanned")));
    cluster.delete("hip", "scanned").await.unwrap();
    cluster.forget("scanned").await.unwrap();
}
