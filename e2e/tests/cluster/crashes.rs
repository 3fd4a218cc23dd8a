//! Processes that are killed at the worst moment: nothing is lost, nothing is made twice.

use std::time::Duration;

use harbor_double::Upstream;
use harbor_pilot_e2e::cluster::{Cluster, alone, image, pod, proxy_project, registry};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;

/// Creates Pods of these images at once and answers what they were stored with.
async fn create_all(cluster: &Cluster, namespace: &str, images: &[String]) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), namespace);
    let mut stored = Vec::new();
    for image in images {
        let name = image.rsplit('/').next().unwrap().replace([':', '.'], "-");
        let pod: Pod = serde_json::from_value(pod(&name, namespace, image)).unwrap();
        let created = pods.create(&PostParams::default(), &pod).await.unwrap();
        stored.push(created.spec.unwrap().containers[0].image.clone().unwrap());
    }
    stored
}

/// How many objects of a kind Harbor has made.
fn made(cluster: &Cluster, kind: &str) -> usize {
    let path = format!("/api/v2.0/{kind}");
    let writes = cluster.harbor.writes();
    writes.iter().filter(|write| write.method == "POST" && write.path == path && write.status == 201).count()
}

fn push(upstream: &Upstream, names: impl Iterator<Item = String>) -> Vec<String> {
    names
        .map(|name| {
            upstream.push_image(&name, "v1", &image());
            format!("{}/{name}:v1", upstream.host())
        })
        .collect()
}

#[tokio::test]
async fn a_webhook_killed_after_admission_loses_no_image_and_rewrites_again_when_it_is_back() {
    let mut cluster = alone().await.unwrap();
    let upstream = cluster.proxied("killed").await.unwrap();
    let namespace = cluster.plane.namespace("killed").await.unwrap();
    let images = push(&upstream, (0..12).map(|number| format!("app-{number}")));

    let stored = create_all(&cluster, &namespace, &images).await;
    cluster.kill_webhook().unwrap();
    let at_harbor = format!("{}/killed/", cluster.harbor.host());
    assert!(stored.iter().all(|image| image.starts_with(&at_harbor)), "{stored:?}");

    // While it is down Pods are admitted as they are.
    let down = push(&upstream, ["while-down".to_owned()].into_iter());
    assert_eq!(create_all(&cluster, &namespace, &down).await, down);

    cluster.start_webhook().await.unwrap();
    let again = push(&upstream, ["afterwards".to_owned()].into_iter());
    cluster.until_rewritten(&again[0]).await.unwrap();
    create_all(&cluster, &namespace, &again).await;
    let warm: Vec<String> =
        (0..12).map(|number| format!("app-{number}:v1")).chain(["afterwards:v1".to_owned()]).collect();
    cluster.wait_until_warm("killed", &warm).await.unwrap();
    cluster.forget("killed").await.unwrap();
}

#[tokio::test]
async fn when_both_processes_are_killed_after_admission_the_images_are_found_by_the_pods() {
    let mut cluster = alone().await.unwrap();
    let upstream = cluster.proxied("both-killed").await.unwrap();
    let namespace = cluster.plane.namespace("both-killed").await.unwrap();
    let images = push(&upstream, (0..6).map(|number| format!("app-{number}")));
    cluster.kill_controller().unwrap();
    let stored = create_all(&cluster, &namespace, &images).await;
    cluster.kill_webhook().unwrap();
    assert!(stored.iter().all(|image| image.contains("/both-killed/")), "{stored:?}");
    // What the webhook still got to write would hide what is shown here.
    cluster.plane.kubectl(&["delete", "hci", "--all", "--timeout=20s"]).await.unwrap().ok().unwrap();
    cluster.start_controller().await.unwrap();
    let warm: Vec<String> = (0..6).map(|number| format!("app-{number}:v1")).collect();
    cluster.wait_until_warm("both-killed", &warm).await.unwrap();
    cluster.start_webhook().await.unwrap();
    cluster.forget("both-killed").await.unwrap();
}

#[tokio::test]
async fn a_controller_killed_amid_its_work_ends_in_the_same_state_and_makes_nothing_twice() {
    const COUNT: usize = 8;
    let mut cluster = alone().await.unwrap();
    let upstream = Upstream::builder().start().await;
    cluster.kill_controller().unwrap();
    cluster.harbor.clear_log();
    let names: Vec<String> = (0..COUNT).map(|number| format!("interrupted-{number}")).collect();
    for name in &names {
        cluster.apply(&registry(name, &upstream.url())).await.unwrap();
        let mut project = proxy_project(name);
        project["spec"]["rewrite"] = json!({"matches": [format!("{name}.example.com")]});
        cluster.apply(&project).await.unwrap();
    }
    // Before anything, amid the registries, twice between a project and its marker, and before the last one.
    let moments: [fn(usize, usize, usize) -> bool; 5] = [
        |registries, _, _| registries >= 1,
        |registries, _, _| registries > COUNT / 2,
        |_, projects, labels| projects > labels,
        |_, projects, labels| projects > labels && labels > 0,
        |_, projects, _| projects >= COUNT,
    ];
    for has_come in moments {
        cluster.start_controller().await.unwrap();
        for _ in 0..10_000 {
            let [registries, projects, labels] = ["registries", "projects", "labels"].map(|kind| made(&cluster, kind));
            if has_come(registries, projects, labels) || labels == COUNT {
                break;
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        cluster.kill_controller().unwrap();
        eprintln!("killed at {:?}", ["registries", "projects", "labels"].map(|kind| made(&cluster, kind)));
    }
    cluster.start_controller().await.unwrap();
    for name in &names {
        cluster.wait_for("Registry", name, "Ready", "True Reconciled").await.unwrap();
        cluster.wait_for("ProxyProject", name, "Ready", "True Reconciled").await.unwrap();
    }
    for kind in ["registries", "projects", "labels"] {
        assert_eq!(made(&cluster, kind), COUNT, "{kind}: {:?}", cluster.harbor.writes());
    }
    for name in &names {
        cluster.forget(name).await.unwrap();
    }
}
