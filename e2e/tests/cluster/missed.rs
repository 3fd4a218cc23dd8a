//! Pods that `/mutate` does not act on, and one that is made to keep it busy. The configurations are those of
//! `config/webhook`, changed for a while: so these tests have the cluster alone.

use std::net::TcpListener;

use harbor_pilot_e2e::cluster::{Cluster, SOON, alone, pod, resource};
use harbor_pilot_e2e::kubectl::Output;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

const ORIGINALS: &str = "harbor-pilot.dev/original-images";

/// Changes fields of the first webhook of one of our configurations, and gives back what was there.
async fn change(cluster: &Cluster, kind: &str, fields: Value) -> Value {
    let get = ["get", kind, "harbor-pilot", "-o", "json"];
    let before: Value = serde_json::from_str(&cluster.plane.kubectl(&get).await.unwrap().ok().unwrap()).unwrap();
    let (mut restore, mut patch) = (json!({}), Vec::new());
    for (path, value) in fields.as_object().unwrap() {
        restore[path] = before["webhooks"][0].pointer(path).unwrap().clone();
        patch.push(json!({"op": "replace", "path": format!("/webhooks/0{path}"), "value": value}));
    }
    let patch = Value::from(patch).to_string();
    cluster.plane.kubectl(&["patch", kind, "harbor-pilot", "--type=json", "-p", &patch]).await.unwrap().ok().unwrap();
    restore
}

async fn only_harbor(cluster: &Cluster, name: &str, namespace: &str) {
    let spec = json!({
        "action": "Enforce", "allowed": [{"host": cluster.harbor.host()}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
    });
    cluster.apply(&resource("ImagePolicy", name, spec)).await.unwrap();
    let end = Instant::now() + SOON;
    while create(cluster, &pod("foreign", namespace, "evil.example/x"), true).await.status.success() {
        assert!(Instant::now() < end, "the policy is not known\n{}", cluster.logs());
        sleep(Duration::from_millis(100)).await;
    }
}

async fn create(cluster: &Cluster, object: &Value, dry_run: bool) -> Output {
    let dry_run: &[&str] = if dry_run { &["--dry-run=server"] } else { &[] };
    let arguments = [&["create", "-f", "-"], dry_run].concat();
    cluster.plane.kubectl_with_input(&arguments, &object.to_string()).await.unwrap()
}

#[tokio::test]
async fn a_pod_that_missed_mutate_is_refused_and_a_forged_record_excuses_no_image() {
    let cluster = alone().await.unwrap();
    let namespace = cluster.plane.namespace("missed").await.unwrap();
    only_harbor(&cluster, "missed", &namespace).await;
    let at_harbor = format!("{}/dockerhub/library/nginx", cluster.harbor.host());

    // Connections to this port are accepted by the kernel, and no byte ever comes back.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/mutate", silent.local_addr().unwrap());
    let mutating =
        change(&cluster, "mutatingwebhookconfiguration", json!({"/clientConfig/url": url, "/timeoutSeconds": 1})).await;
    let validating = change(&cluster, "validatingwebhookconfiguration", json!({"/failurePolicy": "Fail"})).await;
    let end = Instant::now() + SOON;
    let mut waits = true;
    while waits && Instant::now() < end {
        waits = cluster.admitted("nginx").await.unwrap() != "nginx";
    }

    let missed = create(&cluster, &pod("missed", &namespace, "nginx"), false).await;
    let mut forged = pod("forged", &namespace, &at_harbor);
    forged["metadata"]["annotations"] = json!({ORIGINALS: r#"{"containers/app":"evil.example/x"}"#});
    let stored = create(&cluster, &forged, false).await;
    let image = ["set", "image", "pod/forged", "-n", &namespace, "app=evil.example/x"];
    let foreign = cluster.plane.kubectl(&image).await.unwrap();
    let label = ["label", "pod", "forged", "-n", &namespace, "seen=yes"];
    let labelled = cluster.plane.kubectl(&label).await.unwrap();

    change(&cluster, "mutatingwebhookconfiguration", mutating).await;
    change(&cluster, "validatingwebhookconfiguration", validating).await;
    cluster.until_rewritten("nginx").await.unwrap();
    cluster.delete("hip", "missed").await.unwrap();
    assert!(!waits, "the API server still asks the webhook");
    assert!(!missed.status.success() && missed.stderr.contains("/mutate did not act on it"), "{missed:?}");
    assert!(missed.stderr.contains(&format!("else it would be \"{at_harbor}\"")), "{missed:?}");
    assert!(stored.status.success() && labelled.status.success(), "{stored:?} {labelled:?}");
    assert!(!foreign.status.success() && foreign.stderr.contains("(policy missed allows"), "{foreign:?}");
}

#[tokio::test]
async fn a_pod_that_is_made_to_take_long_is_rewritten_within_the_timeout_of_the_chart() {
    let cluster = alone().await.unwrap();
    let namespace = cluster.plane.namespace("heavy").await.unwrap();
    only_harbor(&cluster, "heavy", &namespace).await;
    let heavy = |name: &str, containers: usize| {
        let mut pod = pod(name, &namespace, "nginx");
        let init = |index: usize| json!({"name": format!("i{index}"), "image": "nginx"});
        pod["spec"]["initContainers"] = (0..containers).map(init).collect();
        pod["metadata"]["annotations"] = json!({"harbor-pilot.dev/keep-images": "x,".repeat(255 * 512)});
        pod
    };
    let timeout = json!({"/timeoutSeconds": 2});
    let mutating = change(&cluster, "mutatingwebhookconfiguration", timeout.clone()).await;
    let validating = change(&cluster, "validatingwebhookconfiguration", timeout).await;

    let created = create(&cluster, &heavy("heavy", 1_500), false).await;
    let get = ["get", "pod", "heavy", "-n", &namespace, "--ignore-not-found", "-o", "json"];
    let stored = cluster.plane.kubectl(&get).await.unwrap().ok().unwrap();
    // While such Pods come all the time, others are answered.
    let blockers = [heavy("one", 10_000), heavy("two", 10_000), heavy("three", 10_000)];
    let blocking = futures::future::join_all(blockers.iter().map(|blocker| create(&cluster, blocker, true)));
    let start = Instant::now();
    let (blocked, bystander) = tokio::join!(blocking, cluster.admitted("nginx"));
    let took = start.elapsed();

    change(&cluster, "mutatingwebhookconfiguration", mutating).await;
    change(&cluster, "validatingwebhookconfiguration", validating).await;
    cluster.delete("hip", "heavy").await.unwrap();
    assert!(created.status.success(), "{created:?}");
    let stored: Value = serde_json::from_str(&stored).unwrap();
    let hub = format!("{}/dockerhub/library/nginx", cluster.harbor.host());
    let init = stored["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(init.len(), 1_500);
    assert!(init.iter().all(|container| container["image"] == hub), "{}", init[0]);
    assert_eq!(bystander.unwrap(), hub, "{took:?} {blocked:?}");
}
