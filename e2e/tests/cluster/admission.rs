//! Pods through the API server: what is stored, and what is left alone.

use std::time::Duration;

use harbor_pilot_e2e::cluster::{Cluster, image, pod, proxy_project, registry, shared};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// Creates a Pod and returns what the API server stored.
async fn create(cluster: &Cluster, pod: Value) -> Value {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), namespace);
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    let created = pods.create(&PostParams::default(), &pod).await.unwrap();
    let stored = pods.get(created.metadata.name.as_deref().unwrap()).await.unwrap();
    serde_json::to_value(stored).unwrap()
}

fn originals(pod: &Value) -> Value {
    let text = pod["metadata"]["annotations"]["harbor-pilot.dev/original-images"].as_str();
    text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
}

#[tokio::test]
async fn a_pod_with_the_image_nginx_is_stored_with_harbors_and_the_original_is_noted() {
    let cluster = shared().await.unwrap();
    let namespace = cluster.plane.namespace("nginx").await.unwrap();
    let hub = format!("{}/dockerhub", cluster.harbor.host());

    let stored = create(&cluster, pod("web", &namespace, "nginx")).await;
    assert_eq!(stored["spec"]["containers"][0]["image"], format!("{hub}/library/nginx"));
    assert_eq!(originals(&stored), json!({"containers/app": "nginx"}));

    let mut many = pod("many", &namespace, "docker.io/library/nginx:1.27");
    let digest = format!("sha256:{}", "a".repeat(64));
    many["spec"]["initContainers"] = json!([
        {"name": "first", "image": "bitnami/kubectl:1.36"},
        {"name": "second", "image": format!("index.docker.io/library/nginx@{digest}")},
    ]);
    many["spec"]["containers"].as_array_mut().unwrap().extend([
        json!({"name": "other", "image": "ghcr.io/acme/tool:v1"}),
        json!({"name": "at-harbor", "image": format!("{hub}/library/nginx:1.27")}),
    ]);
    many["spec"]["volumes"] = json!([{"name": "data", "image": {"reference": "acme/model:v3"}}]);
    let stored = create(&cluster, many).await;
    let spec = &stored["spec"];
    let found: Vec<&str> = [
        &spec["containers"][0]["image"],
        &spec["containers"][1]["image"],
        &spec["containers"][2]["image"],
        &spec["initContainers"][0]["image"],
        &spec["initContainers"][1]["image"],
        &spec["volumes"][0]["image"]["reference"],
    ]
    .map(|image| image.as_str().unwrap_or("none"))
    .to_vec();
    let wanted = [
        format!("{hub}/library/nginx:1.27"),
        "ghcr.io/acme/tool:v1".to_owned(),
        format!("{hub}/library/nginx:1.27"),
        format!("{hub}/bitnami/kubectl:1.36"),
        format!("{hub}/library/nginx@{digest}"),
        format!("{hub}/acme/model:v3"),
    ];
    assert_eq!(found, wanted);
    assert_eq!(
        originals(&stored),
        json!({
            "containers/app": "docker.io/library/nginx:1.27",
            "initContainers/first": "bitnami/kubectl:1.36",
            "initContainers/second": format!("index.docker.io/library/nginx@{digest}"),
            "volumes/data": "acme/model:v3",
        })
    );
}

#[tokio::test]
async fn an_ephemeral_container_is_rewritten_and_an_edit_of_labels_changes_no_image() {
    let cluster = shared().await.unwrap();
    let namespace = cluster.plane.namespace("edited").await.unwrap();
    let hub = format!("{}/dockerhub", cluster.harbor.host());
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), &namespace);

    // A manifest that is applied again and again keeps the image that it was admitted with.
    let manifest = pod("web", &namespace, "nginx").to_string();
    for _ in 0..2 {
        cluster.plane.kubectl_with_input(&["apply", "-f", "-"], &manifest).await.unwrap().ok().unwrap();
    }
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox", "stdin": true}]}});
    let parameters = PatchParams::default();
    pods.patch_ephemeral_containers("web", &parameters, &Patch::Strategic(debug)).await.unwrap();
    let label = json!({"metadata": {"labels": {"seen": "yes"}}});
    pods.patch("web", &parameters, &Patch::Merge(label)).await.unwrap();
    let stored = serde_json::to_value(pods.get("web").await.unwrap()).unwrap();
    assert_eq!(stored["spec"]["containers"][0]["image"], format!("{hub}/library/nginx"));
    assert_eq!(stored["spec"]["ephemeralContainers"][0]["image"], format!("{hub}/library/busybox"));

    // Admitted before there was a rule, or where there is none.
    let outside = create(&cluster, pod("outside", "kube-system", "nginx")).await;
    assert_eq!(outside["spec"]["containers"][0]["image"], "nginx", "kube-system is left out");
    let mut mirror = pod("mirror", &namespace, "nginx");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    mirror["spec"]["nodeName"] = json!("node-1");
    let mirror = create(&cluster, mirror).await;
    assert_eq!(mirror["spec"]["containers"][0]["image"], "nginx", "a mirror Pod is left alone");
    let system: Api<Pod> = Api::namespaced(cluster.client().unwrap(), "kube-system");
    system.delete("outside", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_server_side_dry_run_shows_the_rewrite_and_warms_nothing() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("dry-run").await.unwrap();
    upstream.push_image("app/imagined", "v1", &image());
    upstream.push_image("app/real", "v1", &image());
    let namespace = cluster.plane.namespace("dry-run").await.unwrap();
    let imagined = format!("{}/app/imagined:v1", upstream.host());

    let arguments = ["apply", "--dry-run=server", "-f", "-", "-o", "json"];
    let manifest = pod("imagined", &namespace, &imagined).to_string();
    let shown = cluster.plane.kubectl_with_input(&arguments, &manifest).await.unwrap().ok().unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let image = &shown["spec"]["containers"][0]["image"];
    assert_eq!(*image, format!("{}/dry-run/app/imagined:v1", cluster.harbor.host()));
    assert_eq!(originals(&shown), json!({"containers/app": imagined}));

    // What comes after it in the same queue is warm by now.
    create(&cluster, pod("real", &namespace, &format!("{}/app/real:v1", upstream.host()))).await;
    cluster.wait_until_warm("dry-run", &["app/real:v1".to_owned()]).await.unwrap();
    let cached = cluster.cached("dry-run").await.unwrap();
    assert_eq!(cached.len(), 1, "{:?}", cached.keys());
    let asked: Vec<_> = upstream.log().into_iter().filter(|request| request.path.contains("imagined")).collect();
    assert!(asked.is_empty(), "{asked:?}");
    cluster.forget("dry-run").await.unwrap();
}

#[tokio::test]
async fn with_the_prewarm_mode_manual_a_pod_is_rewritten_and_nothing_is_warmed() {
    let cluster = shared().await.unwrap();
    let other = cluster.proxied("automatic").await.unwrap();
    other.push_image("app", "v1", &image());
    cluster.apply(&registry("manual", &other.url())).await.unwrap();
    let mut project = proxy_project("manual");
    project["spec"]["prewarm"] = json!({"mode": "Manual"});
    project["spec"]["rewrite"] = json!({"matches": ["manual.example.com"]});
    cluster.apply(&project).await.unwrap();
    cluster.wait_for("ProxyProject", "manual", "Ready", "True Reconciled").await.unwrap();
    cluster.until_rewritten("manual.example.com/app:v1").await.unwrap();

    let namespace = cluster.plane.namespace("manual").await.unwrap();
    let stored = create(&cluster, pod("manual", &namespace, "manual.example.com/app:v1")).await;
    let rewritten = format!("{}/manual/app:v1", cluster.harbor.host());
    assert_eq!(stored["spec"]["containers"][0]["image"], rewritten);
    create(&cluster, pod("automatic", &namespace, &format!("{}/app:v1", other.host()))).await;
    cluster.wait_until_warm("automatic", &["app:v1".to_owned()]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(cluster.cached("manual").await.unwrap().is_empty());

    // What a user asks for is warmed all the same.
    let wanted = json!({"image": rewritten});
    cluster.apply(&harbor_pilot_e2e::cluster::resource("CachedImage", "asked-for", wanted)).await.unwrap();
    cluster.wait_until_warm("manual", &["app:v1".to_owned()]).await.unwrap();
    cluster.delete("hci", "asked-for").await.unwrap();
    cluster.forget("manual").await.unwrap();
    cluster.forget("automatic").await.unwrap();
}
