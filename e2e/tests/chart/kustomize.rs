//! `config/` is generated from the chart, and `config/default` installs what the chart installs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use harbor_pilot_e2e::{
    helm::{documents, root},
    kubectl::Kubectl,
    tools::Tool,
};
use serde_json::{Value, json};

use super::support::{differences, helm, holds, id, rendered};

const HEADER: &str = "# Generated from charts/harbor-pilot with its default values: change the chart, then bless.\n";

/// A template of the chart, the kind of its objects (empty: all kinds), and the file of `config/` that has them.
const FILES: [(&str, &str, &str); 11] = [
    ("controller/deployment.yaml", "", "deploy/controller.yaml"),
    ("webhook/deployment.yaml", "", "deploy/webhook.yaml"),
    ("webhook/service.yaml", "", "deploy/webhook.yaml"),
    ("disruption.yaml", "", "deploy/disruption.yaml"),
    ("monitoring.yaml", "", "deploy/metrics.yaml"),
    ("network.yaml", "", "deploy/network.yaml"),
    ("quota.yaml", "", "deploy/quota.yaml"),
    ("controller/rbac.yaml", "", "rbac/controller.yaml"),
    ("webhook/rbac.yaml", "", "rbac/webhook.yaml"),
    ("webhook/configurations.yaml", "MutatingWebhookConfiguration", "webhook/mutating.yaml"),
    ("webhook/configurations.yaml", "ValidatingWebhookConfiguration", "webhook/validating.yaml"),
];

/// Files that the chart has no template for.
const BY_HAND: [&str; 4] =
    ["deploy/kustomization.yaml", "rbac/kustomization.yaml", "rbac/namespace.yaml", "webhook/kustomization.yaml"];

/// Labels that only Helm sets.
const HELM_LABELS: [&str; 4] =
    ["app.kubernetes.io/instance:", "app.kubernetes.io/managed-by:", "app.kubernetes.io/version:", "helm.sh/chart:"];

#[tokio::test]
async fn config_is_generated_from_the_chart() {
    let text = helm().await.template(&json!({})).await.unwrap().ok().unwrap();
    let config = root().join("config");
    let generated = generated(&text);
    for (file, content) in &generated {
        holds(&config.join(file), content);
    }
    let expected = generated.keys().copied().chain(BY_HAND).map(str::to_owned).collect();
    let mut found = BTreeSet::new();
    for directory in ["deploy", "rbac", "webhook"] {
        for entry in fs::read_dir(config.join(directory)).unwrap() {
            found.insert(format!("{directory}/{}", entry.unwrap().file_name().display()));
        }
    }
    assert_eq!(found, expected, "a file of config/ is neither generated nor listed as kept by hand");
}

#[test]
#[should_panic(expected = "new.yaml has no file in config/")]
fn generated_refuses_a_template_without_a_file() {
    generated("---\n# Source: harbor-pilot/templates/new.yaml\nkind: Service\n");
}

/// The files of `config/` and their content, of what `helm template` prints.
fn generated(rendered: &str) -> BTreeMap<&'static str, String> {
    let mut files = BTreeMap::<&str, Vec<(usize, String)>>::new();
    for document in rendered.split("---\n").filter(|document| !document.trim().is_empty()) {
        let source = document.lines().find_map(|line| line.strip_prefix("# Source: harbor-pilot/templates/"));
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).expect("an object has a kind");
        // `config/default` takes the CRDs from the chart's own files.
        if kind == "CustomResourceDefinition" {
            continue;
        }
        let source = source.unwrap_or_else(|| panic!("{kind} has no source"));
        let place = FILES.iter().position(|(file, only, _)| *file == source && (only.is_empty() || *only == kind));
        let place = place.unwrap_or_else(|| panic!("{source} has no file in config/: add it to FILES"));
        let kept = document.lines().filter(|line| {
            let line = line.trim_start();
            !line.starts_with("# Source: ") && !HELM_LABELS.iter().any(|label| line.starts_with(label))
        });
        let kept: Vec<&str> = kept.map(str::trim_end).collect();
        files.entry(FILES[place].2).or_default().push((place, kept.join("\n").trim().to_owned()));
    }
    let join = |mut documents: Vec<(usize, String)>| {
        documents.sort_by_key(|(place, _)| *place);
        let texts: Vec<String> = documents.into_iter().map(|(_, text)| text + "\n").collect();
        HEADER.to_owned() + &texts.join("---\n")
    };
    files.into_iter().map(|(file, documents)| (file, join(documents))).collect()
}

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
