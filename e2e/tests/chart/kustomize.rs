//! `config/default` gives what the chart gives.

use std::collections::BTreeMap;

use harbor_pilot_e2e::{
    helm::{documents, root},
    kubectl::Kubectl,
    tools::Tool,
};
use serde_json::{Value, json};

use super::support::{differences, helm, id, rendered};

#[tokio::test]
async fn kustomize_installs_what_the_chart_installs() {
    let kubectl = Kubectl::new(&Tool::Kubectl.path_async().await.unwrap(), helm().await.home(), helm().await.home());
    let directory = root().join("config/default").display().to_string();
    let text = kubectl.run(&["kustomize", &directory], "").await.unwrap().ok().unwrap();
    let (namespaces, rest): (Vec<_>, Vec<_>) =
        documents(&text).unwrap().into_iter().partition(|object| object["kind"] == "Namespace");
    let kustomize = by_id(rest);
    let chart = by_id(rendered(&json!({})).await);

    // `helm install --create-namespace` makes it.
    assert_eq!(namespaces.len(), 1, "{namespaces:?}");
    assert_eq!(namespaces[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&kustomize), names(&chart));
    for (id, object) in &chart {
        let differing = [differences(object, &kustomize[id]), differences(&kustomize[id], object)].concat();
        assert!(differing.is_empty(), "the chart and config/ differ in {id}: {differing:#?}");
    }
}

/// Objects by kind and name, without what Helm adds.
fn by_id(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let count = objects.len();
    let plain: BTreeMap<String, Value> = objects.into_iter().map(|object| (id(&object), plain(object))).collect();
    assert_eq!(plain.len(), count, "two objects of one kind and name");
    plain
}

fn plain(mut object: Value) -> Value {
    let is_crd = object["kind"] == "CustomResourceDefinition";
    let metadata = object["metadata"].as_object_mut().unwrap();
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.retain(|key, _| {
            matches!(key.as_str(), "app.kubernetes.io/name" | "app.kubernetes.io/component") && !is_crd
        });
        if labels.is_empty() {
            metadata.remove("labels");
        }
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("helm.sh/resource-policy");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    object
}
