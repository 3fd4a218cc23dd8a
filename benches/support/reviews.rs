//! Reviews as API servers send them.

use serde_json::{Value, json};

/// A new Pod, 8 KiB.
pub fn create() -> Vec<u8> {
    review("CREATE", &pod(7 * 1024), &Value::Null)
}

/// A Pod of which only labels change, 16 KiB with the old one.
pub fn update() -> Vec<u8> {
    let old = pod(7 * 1024);
    let mut new = old.clone();
    new["metadata"]["labels"]["version"] = json!("2");
    review("UPDATE", &new, &old)
}

/// A new Pod, 1 MiB.
pub fn large() -> Vec<u8> {
    let mut pod = pod(7 * 1024);
    pod["metadata"]["annotations"]["big"] = json!("x".repeat(1024 * 1024));
    review("CREATE", &pod, &Value::Null)
}

fn review(operation: &str, object: &Value, old: &Value) -> Vec<u8> {
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop", "operation": operation,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": object, "oldObject": old, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    });
    review.to_string().into_bytes()
}

/// A Pod as the API server shows it to webhooks, with three containers of three origins, filled up to about `size`
/// bytes with what Pods are full of: environment, mounts, managed fields.
fn pod(size: usize) -> Value {
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 8080, "protocol": "TCP"}],
            "env": [],
            "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [{"name": "token", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let mut pod = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "generateName": "web-7d4b9c6f5-", "namespace": "shop", "creationTimestamp": null,
            "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"},
            "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c6f5", "uid": "u"}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {}},
            }}],
        },
        "spec": {
            "initContainers": [container("migrate", "ghcr.io/acme/migrate:v2.3.1")],
            "containers": [container("web", "nginx:1.27"), container("log", "registry.other.example/log:5")],
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "restartPolicy": "Always", "serviceAccountName": "default", "schedulerName": "default-scheduler",
        },
        "status": {},
    });
    let mut index = 0;
    while pod.to_string().len() < size {
        let env = pod["spec"]["containers"][index % 2]["env"].as_array_mut().unwrap();
        env.push(
            json!({"name": format!("SETTING_{index}"), "value": format!("https://service-{index}.shop.svc:8443/path")}),
        );
        index += 1;
    }
    pod
}
