//! What a real API server says of what the chart renders.

use harbor_pilot_e2e::control_plane::{self, ControlPlane};
use harbor_pilot_e2e::helm::NAMESPACE;
use harbor_pilot_e2e::tools::module_sources;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::{Duration, Instant};

use super::support::{cases, find, rendered};

/// Kinds of others that the chart has objects of: whose, the folder of their definitions, and their files.
const FOREIGN: [(&str, &str, &[&str]); 2] = [
    (
        "github.com/cert-manager/cert-manager",
        "deploy/crds",
        &["cert-manager.io_certificates.yaml", "cert-manager.io_issuers.yaml"],
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd",
        &[
            "monitoring.coreos.com_podmonitors.yaml",
            "monitoring.coreos.com_prometheusrules.yaml",
            "monitoring.coreos.com_servicemonitors.yaml",
        ],
    ),
];

/// The API server, with the namespace of the release, and the kinds of others.
pub async fn plane() -> &'static ControlPlane {
    static KNOWS: OnceCell<()> = OnceCell::const_new();
    let plane = control_plane::shared().await.unwrap();
    KNOWS.get_or_init(|| learn(plane)).await;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    plane
        .kubectl_with_input(&["apply", "--server-side", "-f", "-"], &namespace.to_string())
        .await
        .unwrap()
        .ok()
        .unwrap();
    plane
}

async fn learn(plane: &ControlPlane) {
    for (module, folder, files) in FOREIGN {
        let sources = tokio::task::spawn_blocking(|| module_sources("kinds", module)).await.unwrap().unwrap();
        for file in files {
            let path = sources.join(folder).join(file).display().to_string();
            plane.kubectl(&["create", "-f", &path]).await.unwrap().ok().unwrap();
            let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f", &path];
            plane.kubectl(&wait).await.unwrap().ok().unwrap();
        }
    }
}

/// A list of objects, as kubectl reads it.
pub fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[tokio::test]
async fn the_api_server_takes_everything_without_a_warning() {
    let plane = plane().await;
    for (name, values) in cases() {
        let objects = rendered(&values).await;
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"];
        let output = plane.kubectl_with_input(&arguments, &list(&objects)).await.unwrap();
        // What another test of this binary has installed is there already, and was taken.
        let refused: Vec<&str> =
            output.stderr.lines().filter(|line| !line.contains("already exists") && !line.trim().is_empty()).collect();
        assert!(refused.is_empty(), "{name}: {refused:#?}");
    }
}

#[tokio::test]
async fn pod_security_restricted_admits_the_pods_and_not_just_any() {
    let plane = plane().await;
    let namespace =
        plane.labelled_namespace("restricted", &[("pod-security.kubernetes.io/enforce", "restricted")]).await.unwrap();
    for account in ["harbor-pilot-webhook", "harbor-pilot-controller"] {
        plane.kubectl(&["create", "serviceaccount", account, "-n", &namespace]).await.unwrap().ok().unwrap();
    }
    let mut pods = Vec::new();
    for (case, values) in cases() {
        for deployment in rendered(&values).await.iter().filter(|object| object["kind"] == "Deployment") {
            let mut pod = deployment["spec"]["template"].clone();
            let name = format!("{case}-{}", deployment["metadata"]["name"].as_str().unwrap());
            (pod["apiVersion"], pod["kind"], pod["metadata"]["name"]) = (json!("v1"), json!("Pod"), json!(name));
            let container = &pod["spec"]["containers"][0]["securityContext"];
            assert_eq!(container["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}), "{name}");
            pods.push(pod);
        }
    }
    let arguments = ["create", "--dry-run=server", "-n", &namespace, "-o", "name", "-f", "-"];
    let output = plane.kubectl_with_input(&arguments, &list(&pods)).await.unwrap();
    assert_eq!(output.stderr, "");
    assert_eq!(output.stdout.lines().count(), pods.len());

    let mut root = pods[0].clone();
    root["spec"]["securityContext"]["runAsUser"] = json!(0);
    let output = plane.kubectl_with_input(&arguments, &root.to_string()).await.unwrap();
    assert!(output.stderr.contains("violates PodSecurity \"restricted"), "{output:?}");
}

/// The validator's configuration is installed under another name, with nobody behind it and `failurePolicy: Fail`: who is
/// refused, was to be asked about.
#[tokio::test]
async fn a_tenant_cannot_keep_his_pods_from_being_judged() {
    const NAME: &str = "harbor-pilot-of-nobody";
    let plane = plane().await;
    let namespace = plane.namespace("tenant").await.unwrap();
    let only_here =
        json!({"webhook": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}});
    let objects = rendered(&only_here).await;
    let mut configuration = find(&objects, "ValidatingWebhookConfiguration/harbor-pilot").clone();
    let mutating = &find(&objects, "MutatingWebhookConfiguration/harbor-pilot")["webhooks"][0];
    assert_eq!(mutating["matchConditions"], configuration["webhooks"][0]["matchConditions"]);
    configuration["metadata"]["name"] = json!(NAME);
    for webhook in configuration["webhooks"].as_array_mut().unwrap() {
        webhook["clientConfig"] = json!({"url": "https://127.0.0.1:1/nobody"});
        webhook["failurePolicy"] = json!("Fail");
    }
    plane.kubectl_with_input(&["apply", "-f", "-"], &configuration.to_string()).await.unwrap().ok().unwrap();

    let pod = |annotations: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "pod", "namespace": namespace, "annotations": annotations, "labels": {"app": "x"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "nginx"}]},
        })
    };
    let mirror = pod(json!({
        "kubernetes.io/config.mirror": "abc", "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "abc",
    }));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "x", "uid": "u", "controller": true}]);
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "set", "namespace": namespace, "ownerReferences": owner},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "app", "image": "nginx"}]}},
        },
    });
    // Who asks, with the groups that the API server gives them; RBAC is not what is tried here.
    let tenant: &[&str] = &["tenant"];
    let own_account: &[&str] =
        &["system:serviceaccount:tenant:ci", "system:serviceaccounts", "system:serviceaccounts:tenant"];
    let kubelet: &[&str] = &["system:node:node-1", "system:nodes"];
    let controller: &[&str] =
        &["system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts:kube-system"];
    let table = [
        ("a Pod", tenant, pod(json!({})), true),
        ("a Pod that says that it is a mirror", tenant, mirror.clone(), true),
        ("the same by an account", own_account, mirror.clone(), true),
        ("a Pod of a controller", controller, pod(json!({})), true),
        ("a mirror Pod", kubelet, mirror, false),
        ("a workload that says that it is of a controller", own_account, workload.clone(), true),
        ("a workload of a controller", controller, workload.clone(), false),
        ("a workload of the controller manager", &["system:kube-controller-manager"], workload, false),
    ];
    for (what, who, object, judged) in table {
        let mut arguments = vec!["create", "--dry-run=server", "-f", "-", "--as", who[0], "--as-group=system:masters"];
        for group in &who[1..] {
            arguments.extend(["--as-group", group]);
        }
        // The API server follows a new configuration within about a second.
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let output = plane.kubectl_with_input(&arguments, &object.to_string()).await.unwrap();
            let asked = output.stderr.contains("failed calling webhook");
            assert!(asked || output.status.success(), "{what}: {output:?}");
            if asked == judged {
                break;
            }
            assert!(judged && Instant::now() < end, "{what}: {output:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    plane.kubectl(&["delete", "validatingwebhookconfiguration", NAME]).await.unwrap().ok().unwrap();
}
