//! Operators that compare the images of their Pods with what they want, and replace Pods that differ: with the recipe of
//! `docs/admission.md` they find nothing to replace.

use harbor_pilot_e2e::cluster::{Cluster, pod, proxy_project, shared};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

/// How CloudNativePG, Strimzi and Zalando's operator label their Pods.
const OPERATORS: [(&str, &str); 3] =
    [("cnpg.io/cluster", "db"), ("strimzi.io/cluster", "kafka"), ("application", "spilo")];

/// What the recipe says: rules leave the Pods of such operators alone.
fn recipe() -> Value {
    json!({"matchExpressions": [
        {"key": "cnpg.io/cluster", "operator": "DoesNotExist"},
        {"key": "strimzi.io/cluster", "operator": "DoesNotExist"},
        {"key": "application", "operator": "NotIn", "values": ["spilo"]},
    ]})
}

async fn rule(cluster: &Cluster, name: &str, rewrite: Value) {
    let mut project = proxy_project(name);
    project["spec"]["registryRef"] = json!({"name": "dockerhub"});
    project["spec"]["rewrite"] = rewrite;
    project["spec"]["prewarm"] = json!({"mode": "Manual"});
    cluster.apply(&project).await.unwrap();
    cluster.wait_for("ProxyProject", name, "Ready", "True Reconciled").await.unwrap();
}

/// Reconciles as such an operator does, so often, and counts how often it replaced the Pod.
async fn operate(pods: &Api<Pod>, wanted: &Value, rounds: usize) -> usize {
    let pod: Pod = serde_json::from_value(wanted.clone()).unwrap();
    let name = pod.metadata.name.clone().unwrap();
    let image = |pod: &Pod| {
        let spec = pod.spec.as_ref().unwrap();
        let init = spec.init_containers.iter().flatten().map(|container| container.image.clone());
        init.chain(spec.containers.iter().map(|container| container.image.clone())).collect::<Vec<_>>()
    };
    let mut replaced = 0;
    for _ in 0..rounds {
        match pods.get_opt(&name).await.unwrap() {
            None => {
                pods.create(&PostParams::default(), &pod).await.unwrap();
            }
            Some(found) if image(&found) != image(&pod) => {
                pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
                replaced += 1;
            }
            Some(_) => {}
        }
    }
    replaced
}

#[tokio::test]
async fn an_operator_that_compares_images_finds_its_pods_as_it_wants_them() {
    let cluster = shared().await.unwrap();
    rule(&cluster, "operators", json!({"matches": ["operators.example"], "objectSelector": recipe()})).await;
    rule(&cluster, "loops", json!({"matches": ["loops.example"]})).await;
    cluster.until_rewritten("operators.example/app").await.unwrap();
    cluster.until_rewritten("loops.example/app").await.unwrap();
    let namespace = cluster.plane.namespace("operators").await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), &namespace);
    let at_harbor = format!("{}/operators/postgres:17", cluster.harbor.host());
    for (index, (key, value)) in OPERATORS.into_iter().enumerate() {
        for (suffix, image, replaced) in [
            ("upstream", "operators.example/postgres:17", false),
            ("harbor", at_harbor.as_str(), false),
            // Without the recipe there is a loop, which shows that this test would see one.
            ("loop", "loops.example/postgres:17", true),
        ] {
            let mut wanted = pod(&format!("db-{index}-{suffix}"), &namespace, image);
            wanted["metadata"]["labels"] = json!({key: value});
            // The operator's own image, which it compares too.
            let own = if replaced { "loops.example/operator:1" } else { "operators.example/operator:1" };
            wanted["spec"]["initContainers"] = json!([{"name": "bootstrap-controller", "image": own}]);
            let count = operate(&pods, &wanted, 9).await;
            assert_eq!(count > 0, replaced, "{key}: {image} was replaced {count} times");
        }
    }
}
