//! The life of a release in a cluster: installed, upgraded, looked at by GitOps tools, uninstalled. No Pod runs here, so what the
//! controller does is done by hand, as it does it: by server-side apply, under its own name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harbor_pilot_e2e::control_plane::ControlPlane;
use harbor_pilot_e2e::helm::{Helm, NAMESPACE, chart};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::admitted::{list, plane};
use super::support::{case, differences, id, read, rendered};

const WEBHOOKS: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Who writes `caBundle` with `certificates.source: managed`.
const ISSUER: &str = "harbor-pilot-certificates";

/// A cluster has one release; its tests take turns.
async fn alone() -> (&'static ControlPlane, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    (plane().await, turn)
}

#[tokio::test]
async fn a_release_comes_and_goes_and_the_resources_stay() {
    let (plane, _turn) = alone().await;
    let helm = Helm::of(plane.kubeconfig_path()).await.unwrap();
    let current = chart().display().to_string();
    let previous = previous_chart(&helm).await.display().to_string();
    let run = async |arguments: &[&str]| helm.run(&[arguments, &["--namespace", NAMESPACE]].concat()).await.unwrap();

    let reported = run(&["install", "pilot", &previous, "--create-namespace"]).await.ok().unwrap();
    for words in ["rollout status deployment/harbor-pilot-webhook", "kind: ProxyProject", "kubectl run hello"] {
        assert!(reported.contains(words), "{words} in {reported}");
    }
    let twice = run(&["install", "another", &current]).await;
    assert!(twice.stderr.contains("invalid ownership metadata"), "{twice:?}");

    plane.kubectl(&["wait", "--for=condition=Established", "crd", "-l", OURS, LONG]).await.unwrap().ok().unwrap();
    assert!(!explained(plane).await, "the previous chart knows the field already");
    plane.kubectl_with_input(&["create", "-f", "-"], &list(&resources())).await.unwrap().ok().unwrap();
    let before = uids(plane).await;
    assert_eq!(before.len(), resources().len());
    issue(plane).await;

    run(&["upgrade", "pilot", &current]).await.ok().unwrap();
    assert_eq!(uids(plane).await, before, "an upgrade keeps the resources");
    assert!(explained(plane).await, "an upgrade brings new fields");
    assert_issued(plane).await;
    // Nobody changed anything; neither does the next.
    run(&["upgrade", "pilot", &current, "--set", "webhook.timeoutSeconds=3"]).await.ok().unwrap();
    assert_issued(plane).await;
    run(&["rollback", "pilot"]).await.ok().unwrap();
    assert_issued(plane).await;
    run(&["upgrade", "pilot", &current, "--set", "crds.enabled=false"]).await.ok().unwrap();
    assert_eq!(uids(plane).await, before, "who takes the kinds out of the release keeps them");
    run(&["upgrade", "pilot", &current]).await.ok().unwrap();

    assert_eq!(
        rights_of_the_webhook(plane).await,
        RIGHTS.map(|(what, verbs)| (what.to_owned(), verbs.to_owned())).into()
    );
    run(&["uninstall", "pilot"]).await.ok().unwrap();
    for kind in WEBHOOKS {
        assert_eq!(names(plane, kind).await, Vec::<String>::new(), "a webhook of nobody");
    }
    for kind in ["deployments", "services", "serviceaccounts", "roles", "networkpolicies", "resourcequotas", "pdb"] {
        assert!(names(plane, kind).await.iter().all(|name| !name.contains("pilot")), "{kind} is left");
    }
    assert_eq!(uids(plane).await, before, "crds.keep keeps the resources");

    run(&["install", "pilot", &current]).await.ok().unwrap();
    assert_eq!(uids(plane).await, before, "the next release finds them");
    // What goes for good returns at once: Retain has no finalizer, and nobody is there to take one off.
    run(&["upgrade", "pilot", &current, "--set", "crds.keep=false"]).await.ok().unwrap();
    plane.kubectl(&["delete", "proxyproject,registry", "--all", LONG]).await.unwrap().ok().unwrap();
    run(&["uninstall", "pilot", "--wait", LONG]).await.ok().unwrap();
    assert_eq!(kinds(plane).await, Vec::<String>::new());

    run(&["install", "pilot", &current]).await.ok().unwrap();
    run(&["uninstall", "pilot"]).await.ok().unwrap();
    let deleted = delete_kinds(plane).await;
    assert_eq!(deleted.lines().count(), 6, "{deleted}");
}

#[tokio::test]
async fn gitops_tools_see_no_drift_once_the_certificate_is_issued() {
    let (plane, _turn) = alone().await;
    // Argo CD and Flux render with Helm and apply themselves: on the client or on the server, under names of their own.
    let (client, server): (&[&str], &[&str]) = (&[], &["--server-side", "--field-manager=argocd-controller"]);
    for (mode, names) in [(client, &["defaults"][..]), (server, &["defaults", "everything"])] {
        let mut applied = Vec::new();
        for name in names {
            applied = rendered(&case(name)).await;
            let manifest = list(&applied);
            let run = async |verb: &str| {
                let arguments = [&[verb], mode, &["-f", "-"]].concat();
                plane.kubectl_with_input(&arguments, &manifest).await.unwrap()
            };
            run("apply").await.ok().unwrap();
            issue(plane).await;
            let diff = run("diff").await;
            assert_eq!((diff.status.code(), diff.stdout.as_str()), (Some(0), ""), "{name} {mode:?}: {}", diff.stderr);
            run("apply").await.ok().unwrap();
            assert_issued(plane).await;
            assert_literal(plane, &applied).await;
        }
        // The kinds are for whoever comes next.
        applied.retain(|object| object["kind"] != "CustomResourceDefinition");
        plane.kubectl_with_input(&["delete", "-f", "-", "--wait=false"], &list(&applied)).await.unwrap().ok().unwrap();
    }
    delete_kinds(plane).await;
}

const OURS: &str = "app.kubernetes.io/name=harbor-pilot";

/// For what takes a few seconds on a machine that does nothing else.
const LONG: &str = "--timeout=120s";

/// Deletes what `crds.keep` left. In a cluster with a controller manager each kind has been listed by then; here nobody has, and an API
/// server (1.37) that first opens the storage of a kind in order to delete it may wait for it for ever.
async fn delete_kinds(plane: &ControlPlane) -> String {
    plane.kubectl(&["wait", "--for=condition=Established", "crd", "-l", OURS, LONG]).await.unwrap().ok().unwrap();
    for kind in kinds(plane).await {
        plane.kubectl(&["get", &kind, "-o", "name"]).await.unwrap().ok().unwrap();
    }
    plane.kubectl(&["delete", "crd", "-l", OURS, LONG]).await.unwrap().ok().unwrap()
}

/// All that the webhook's account may do, in any namespace.
const RIGHTS: [(&str, &str); 5] = [
    ("cachedimages.harbor-pilot.dev", "create list watch"),
    ("harborinstances.harbor-pilot.dev", "get list watch"),
    ("imagepolicies.harbor-pilot.dev", "get list watch"),
    ("namespaces", "get list watch"),
    ("proxyprojects.harbor-pilot.dev", "get list watch"),
];

/// What the API server lists, beyond what everybody may: ask what one may do oneself, and read `/api`, `/healthz` and the like.
async fn rights_of_the_webhook(plane: &ControlPlane) -> BTreeMap<String, String> {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:harbor-pilot-webhook");
    let text = plane.kubectl(&["auth", "can-i", "--list", &account, "-n", NAMESPACE]).await.unwrap().ok().unwrap();
    let mut rights = BTreeMap::<String, Vec<String>>::new();
    for line in text.lines().skip(1).filter(|line| !line.starts_with([' ', '[']) && !line.starts_with("selfsubject")) {
        let (what, rest) = line.split_once(' ').unwrap();
        let verbs = rest.rsplit_once('[').unwrap().1.trim_end_matches(']');
        rights.entry(what.to_owned()).or_default().extend(verbs.split(' ').map(str::to_owned));
    }
    let sorted = |mut verbs: Vec<String>| {
        verbs.sort();
        verbs.join(" ")
    };
    rights.into_iter().map(|(what, verbs)| (what, sorted(verbs))).collect()
}

/// The chart as it was before: an older version, and a kind that lacks a field.
async fn previous_chart(helm: &Helm) -> PathBuf {
    let directory = helm.home().join("previous");
    fs::create_dir_all(&directory).unwrap();
    let status = Command::new("cp").arg("-r").arg(chart()).arg(&directory).status().unwrap();
    assert!(status.success());
    let (copy, target) = (directory.join("harbor-pilot"), directory.display().to_string());
    edit(&copy.join("files/crds/proxyprojects.yaml"), "\n              suspend:\n", "\n              halted:\n");
    edit(&copy.join("templates/webhook/service.yaml"), "port: 443", "port: 8443");
    let arguments =
        ["package", &copy.display().to_string(), "-d", &target, "--version", "0.0.9", "--app-version", "0.0.9"];
    helm.run(&arguments).await.unwrap().ok().unwrap();
    directory.join("harbor-pilot-0.0.9.tgz")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = read(path);
    assert_eq!(text.matches(from).count(), 1, "{from} in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Whether the API server knows the field that the previous chart lacks.
async fn explained(plane: &ControlPlane) -> bool {
    let schema = ".spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.suspend.type";
    let path = format!("jsonpath={{{schema}}}");
    let reported =
        plane.kubectl(&["get", "crd", "proxyprojects.harbor-pilot.dev", "-o", &path]).await.unwrap().ok().unwrap();
    reported == "boolean"
}

/// One of each kind that a user writes.
fn resources() -> Vec<Value> {
    let resource = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    vec![
        resource(
            "HarborInstance",
            "default",
            json!({"url": "https://harbor.example.com", "credentialsSecretRef": {"name": "x"}}),
        ),
        resource("Registry", "hub", json!({"type": "docker-hub", "url": "https://hub.docker.com"})),
        resource("ProxyProject", "hub", json!({"registryRef": {"name": "hub"}, "public": true})),
        resource("ImagePolicy", "own", json!({"action": "Audit", "forbidLatest": true})),
        resource("CachedImage", "nginx", json!({"image": "harbor.example.com/hub/library/nginx:1.27"})),
    ]
}

async fn uids(plane: &ControlPlane) -> BTreeMap<String, String> {
    let kinds = "harborinstances,registries,proxyprojects,imagepolicies,cachedimages";
    let text = plane.kubectl(&["get", kinds, "-o", "json"]).await.unwrap().ok().unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let items = found["items"].as_array().unwrap();
    items.iter().map(|item| (id(item), item["metadata"]["uid"].as_str().unwrap().to_owned())).collect()
}

async fn names(plane: &ControlPlane, kind: &str) -> Vec<String> {
    let text = plane.kubectl(&["get", kind, "-n", NAMESPACE, "-o", "name"]).await.unwrap().ok().unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Ours, as `PLURAL.GROUP`.
async fn kinds(plane: &ControlPlane) -> Vec<String> {
    let text = plane.kubectl(&["get", "crd", "-l", OURS, "-o", "name"]).await.unwrap().ok().unwrap();
    text.lines().map(|line| line.rsplit('/').next().unwrap().to_owned()).collect()
}

/// Writes `caBundle` as the controller does.
async fn issue(plane: &ControlPlane) {
    for (configuration, bundle) in bundles() {
        let manager = format!("--field-manager={ISSUER}");
        let arguments = ["apply", "--server-side", "--force-conflicts", &manager, "-f", "-"];
        plane.kubectl_with_input(&arguments, &configuration.to_string()).await.unwrap().ok().unwrap();
        assert!(!bundle.is_empty());
    }
}

fn bundles() -> Vec<(Value, &'static str)> {
    // Base64 of a certificate; the API server looks that it is one.
    const BUNDLE: &str = include_str!("bundle.txt");
    let webhook = |name: &str| json!({"name": name, "clientConfig": {"caBundle": BUNDLE.trim()}});
    let configuration = |kind: &str, webhooks: Vec<Value>| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": "harbor-pilot"}, "webhooks": webhooks,
        })
    };
    vec![
        (configuration(WEBHOOKS[0], vec![webhook("mutate.harbor-pilot.dev")]), BUNDLE.trim()),
        (
            configuration(
                WEBHOOKS[1],
                vec![webhook("validate.harbor-pilot.dev"), webhook("templates.harbor-pilot.dev")],
            ),
            BUNDLE.trim(),
        ),
    ]
}

async fn assert_issued(plane: &ControlPlane) {
    for (configuration, bundle) in bundles() {
        let kind = configuration["kind"].as_str().unwrap();
        let text = plane.kubectl(&["get", kind, "harbor-pilot", "-o", "json"]).await.unwrap().ok().unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        for webhook in found["webhooks"].as_array().unwrap() {
            assert_eq!(webhook["clientConfig"]["caBundle"], bundle, "{kind}: {webhook}");
        }
    }
}

/// What a tool compares that knows nothing of quantities and defaults: each value is in the cluster as it is in the manifest.
async fn assert_literal(plane: &ControlPlane, objects: &[Value]) {
    let text = plane.kubectl_with_input(&["get", "-f", "-", "-o", "json"], &list(objects)).await.unwrap().ok().unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    for (wanted, found) in objects.iter().zip(found["items"].as_array().unwrap()) {
        let id = id(wanted);
        assert_eq!(id, super::support::id(found));
        let differing = differences(wanted, found);
        assert!(differing.is_empty(), "{id} is written back in another way: {differing:#?}");
    }
}
