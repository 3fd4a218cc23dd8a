//! Webhooks of others before and after ours: a mesh that injects, and one that sets images whatever we do.

use harbor_pilot_e2e::cluster::{Cluster, SOON, pod, resource, shared};
use harbor_pilot_e2e::kubectl::Output;
use harbor_pilot_e2e::other_webhook::OtherWebhook;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

const PROXY: &str = "docker.io/istio/proxyv2:1.27.0";
const STATUS: &str = "sidecar.istio.io/status";

/// What Istio's injector makes of a Pod: its own image in the place of `auto`, else a sidecar; an init container; and an
/// annotation by which it knows a Pod that it has seen.
fn inject(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if pod["metadata"]["annotations"][STATUS].is_string() {
        return pod;
    }
    pod["metadata"]["annotations"][STATUS] = json!("injected");
    let containers = pod["spec"]["containers"].as_array_mut().unwrap();
    match containers.iter_mut().find(|container| container["name"] == "istio-proxy") {
        Some(proxy) => proxy["image"] = json!(PROXY),
        None => containers.push(json!({"name": "istio-proxy", "image": PROXY})),
    }
    pod["spec"]["initContainers"] = json!([{"name": "istio-init", "image": PROXY}]);
    pod
}

async fn dry_run(cluster: &Cluster, object: &Value) -> Output {
    let arguments = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    cluster.plane.kubectl_with_input(&arguments, &object.to_string()).await.unwrap()
}

/// Repeats a dry run until the other webhook has been asked.
async fn dry_run_seen_by(webhook: &OtherWebhook, cluster: &Cluster, object: &Value) -> Output {
    let end = Instant::now() + SOON;
    let before = webhook.calls();
    loop {
        let output = dry_run(cluster, object).await;
        if webhook.calls() > before {
            return output;
        }
        assert!(Instant::now() < end, "the API server does not ask the other webhook: {output:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the policy is known, which refuses this Pod with these words.
async fn until_refused(cluster: &Cluster, object: &Value, reported: &str) {
    let end = Instant::now() + SOON;
    loop {
        let output = dry_run(cluster, object).await;
        if !output.status.success() && output.stderr.contains(reported) {
            return;
        }
        assert!(Instant::now() < end, "{reported} is not in {output:?}\n{}", cluster.logs());
        sleep(Duration::from_millis(100)).await;
    }
}

async fn only_harbor(cluster: &Cluster, name: &str, namespace: &str) {
    let spec = json!({
        "action": "Enforce", "allowed": [{"host": cluster.harbor.host()}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
    });
    cluster.apply(&resource("ImagePolicy", name, spec)).await.unwrap();
}

fn images(output: &Output) -> Vec<String> {
    let pod: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array().cloned().unwrap_or_default());
    lists.iter().flatten().map(|container| container["image"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn images_that_a_mesh_injects_come_from_harbor_whichever_webhook_is_asked_first() {
    let cluster = shared().await.unwrap();
    let (mesh, client) = (OtherWebhook::start(inject).await.unwrap(), cluster.client().unwrap());
    let hub = format!("{}/dockerhub", cluster.harbor.host());
    // Configurations are asked in the order of their names; ours is harbor-pilot.
    for (index, name) in ["asm-sidecar-injector", "istio-sidecar-injector"].into_iter().enumerate() {
        let namespace = cluster.plane.namespace("mesh").await.unwrap();
        let policy = format!("mesh-{index}");
        only_harbor(&cluster, &policy, &namespace).await;
        let mut gateway = pod("gateway", &namespace, "auto");
        gateway["spec"]["containers"][0]["name"] = json!("istio-proxy");
        gateway["metadata"]["annotations"] = json!({"inject.istio.io/templates": "gateway"});
        until_refused(&cluster, &gateway, "it is a placeholder that Istio's injector did not replace").await;

        mesh.register(&client, name, &namespace, "Never").await.unwrap();
        let gateway = dry_run_seen_by(&mesh, &cluster, &gateway).await;
        let app = dry_run_seen_by(&mesh, &cluster, &pod("app", &namespace, "nginx")).await;
        mesh.unregister(&client, name).await.unwrap();
        cluster.delete("hip", &policy).await.unwrap();

        let proxy = format!("{hub}/istio/proxyv2:1.27.0");
        assert_eq!(images(&gateway), [proxy.clone(), proxy.clone()], "{name}: {gateway:?}");
        assert_eq!(images(&app), [proxy.clone(), format!("{hub}/library/nginx"), proxy], "{name}: {app:?}");
    }
}

#[tokio::test]
async fn an_image_that_another_webhook_sets_after_ours_is_refused() {
    let cluster = shared().await.unwrap();
    let client = cluster.client().unwrap();
    let stubborn = OtherWebhook::start(|pod| {
        let mut pod = pod.clone();
        pod["spec"]["containers"][0]["image"] = json!("nginx:1.27");
        pod
    });
    let stubborn = stubborn.await.unwrap();
    let namespace = cluster.plane.namespace("stubborn").await.unwrap();
    only_harbor(&cluster, "stubborn", &namespace).await;
    let foreign = pod("foreign", &namespace, "evil.example/x");
    until_refused(&cluster, &foreign, "(policy stubborn allows").await;

    // Ours is asked again, and then it once more: the last word is its own.
    stubborn.register(&client, "zz-stubborn", &namespace, "IfNeeded").await.unwrap();
    let output = dry_run_seen_by(&stubborn, &cluster, &pod("app", &namespace, "nginx")).await;
    stubborn.unregister(&client, "zz-stubborn").await.unwrap();
    cluster.delete("hip", "stubborn").await.unwrap();
    assert!(!output.status.success(), "{output:?}");
    for reported in ["image \"nginx:1.27\"", "/mutate did not act on it", "no other webhook sets images after it"] {
        assert!(output.stderr.contains(reported), "{reported}: {output:?}");
    }
}
