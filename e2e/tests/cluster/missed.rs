//! Pods that `/mutate` does not act on, and one that is made to keep it busy. The configurations are those of
//! `config/webhook`, changed for a while: so these tests have the cluster alone.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// A Pod that has so many init containers, and an annotation that is as long as one may be.
fn heavy(name: &str, namespace: &str, containers: usize) -> Value {
    let mut pod = pod(name, namespace, "nginx");
    let init = |index: usize| json!({"name": format!("i{index}"), "image": "nginx"});
    pod["spec"]["initContainers"] = (0..containers).map(init).collect();
    pod["metadata"]["annotations"] = json!({"harbor-pilot.dev/keep-images": "x,".repeat(255 * 512)});
    pod
}

#[tokio::test]
async fn a_pod_that_is_made_to_take_long_is_rewritten_within_the_timeout_of_the_chart() {
    let cluster = alone().await.unwrap();
    let namespace = cluster.plane.namespace("heavy").await.unwrap();
    only_harbor(&cluster, "heavy", &namespace).await;
    let timeout = json!({"/timeoutSeconds": 2});
    let mutating = change(&cluster, "mutatingwebhookconfiguration", timeout.clone()).await;
    let validating = change(&cluster, "validatingwebhookconfiguration", timeout).await;

    // A busy machine, and a build without optimizations, may take their time now and then: never each time.
    let mut created = create(&cluster, &heavy("heavy", &namespace, 1_500), false).await;
    for _ in 0..4 {
        if !created.status.success() {
            created = create(&cluster, &heavy("heavy", &namespace, 1_500), false).await;
        }
    }
    let get = ["get", "pod", "heavy", "-n", &namespace, "--ignore-not-found", "-o", "json"];
    let stored = cluster.plane.kubectl(&get).await.unwrap().ok().unwrap();

    change(&cluster, "mutatingwebhookconfiguration", mutating).await;
    change(&cluster, "validatingwebhookconfiguration", validating).await;
    cluster.delete("hip", "heavy").await.unwrap();
    assert!(created.status.success(), "{created:?}");
    let stored: Value = serde_json::from_str(&stored).unwrap();
    let hub = format!("{}/dockerhub/library/nginx", cluster.harbor.host());
    let init = stored["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(init.len(), 1_500);
    assert!(init.iter().all(|container| container["image"] == hub), "{}", init[0]);
}

/// What others get while the webhook is busy.
#[derive(Debug)]
struct Other {
    admitted: anyhow::Result<String>,
    foreign: Output,
    healthz: Option<u16>,
}

#[tokio::test]
async fn while_pods_that_take_long_keep_coming_others_are_admitted_and_a_forged_record_excuses_no_image() {
    let cluster = alone().await.unwrap();
    let namespace = cluster.plane.namespace("busy").await.unwrap();
    only_harbor(&cluster, "busy", &namespace).await;
    let hub = format!("{}/dockerhub/library/nginx", cluster.harbor.host());
    let mut forged = pod("forged", &namespace, &hub);
    forged["metadata"]["annotations"] = json!({ORIGINALS: r#"{"containers/app":"evil.example/x"}"#});
    create(&cluster, &forged, false).await.ok().unwrap();
    let mutating = change(&cluster, "mutatingwebhookconfiguration", json!({"/timeoutSeconds": 2})).await;
    let closed = json!({"/timeoutSeconds": 2, "/failurePolicy": "Fail"});
    let validating = change(&cluster, "validatingwebhookconfiguration", closed).await;

    let blockers = ["one", "two", "three"].map(|name| heavy(name, &namespace, 10_000));
    let ended = AtomicBool::new(false);
    // The API server itself takes seconds for each: others ask until all of them came through.
    let blocking = async {
        let made = blockers.iter().map(|blocker| create(&cluster, blocker, true));
        let made = futures::future::join_all(made).await;
        ended.store(true, Ordering::Relaxed);
        made
    };
    let others = async {
        let (mut others, mut after) = (Vec::new(), 0);
        while after < 2 {
            after += usize::from(ended.load(Ordering::Relaxed));
            let image = ["set", "image", "pod/forged", "-n", &namespace, "app=evil.example/x"];
            let admitted = cluster.admitted("nginx").await;
            let foreign = cluster.plane.kubectl(&image).await.unwrap();
            let healthz = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().unwrap();
            let healthz = healthz.get(format!("{}/healthz", cluster.webhook_ops())).send().await.ok();
            others.push(Other { admitted, foreign, healthz: healthz.map(|answer| answer.status().as_u16()) });
        }
        others
    };
    let (blocked, others) = tokio::join!(blocking, others);

    change(&cluster, "mutatingwebhookconfiguration", mutating).await;
    change(&cluster, "validatingwebhookconfiguration", validating).await;
    cluster.delete("hip", "busy").await.unwrap();
    // Each was judged, or given up: none was refused by the API server before that.
    let is_judged = |made: &Output| made.status.success() || made.stderr.contains("validate.harbor-pilot.dev");
    assert!(blocked.iter().all(is_judged), "{blocked:?}");
    for Other { admitted, foreign, healthz } in others {
        assert_eq!(admitted.unwrap(), hub);
        assert!(!foreign.status.success() && foreign.stderr.contains("(policy busy allows"), "{foreign:?}");
        assert_eq!(healthz, Some(200));
    }
}
