//! ImagePolicies through the API server and kubectl.

use harbor_pilot_e2e::cluster::{Cluster, SOON, pod, resource, shared};
use harbor_pilot_e2e::kubectl::Output;
use serde_json::{Value, json};
use tokio::time::Instant;

/// A policy for one namespace.
fn policy(name: &str, namespace: &str, action: &str, cluster: &Cluster) -> Value {
    let spec = json!({
        "action": action,
        "allowed": [{"host": cluster.harbor.host()}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
    });
    resource("ImagePolicy", name, spec)
}

async fn kubectl_apply(cluster: &Cluster, object: &Value, more: &[&str]) -> Output {
    let arguments = [&["apply", "-f", "-"], more].concat();
    cluster.plane.kubectl_with_input(&arguments, &object.to_string()).await.unwrap()
}

/// Waits until a dry run of this object tells the user this.
async fn until_reported(cluster: &Cluster, object: &Value, reported: &str) {
    let end = Instant::now() + SOON;
    loop {
        let output = kubectl_apply(cluster, object, &["--dry-run=server"]).await;
        if output.stderr.contains(reported) {
            return;
        }
        assert!(Instant::now() < end, "{reported} is not in {output:?}\n{}", cluster.logs());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Workloads of all kinds that make Pods of this image.
fn workloads(namespace: &str, image: &str) -> Vec<(&'static str, Value)> {
    let labels = json!({"app": "web"});
    let pods = |restart: &str| {
        let spec = json!({"restartPolicy": restart, "containers": [{"name": "web", "image": image}]});
        json!({"metadata": {"labels": labels}, "spec": spec})
    };
    let selecting = || json!({"selector": {"matchLabels": labels}, "template": pods("Always")});
    let job = json!({"template": pods("Never")});
    let of = |group: &str, kind: &'static str, spec: Value| {
        let metadata = json!({"name": "web", "namespace": namespace});
        (kind, json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata, "spec": spec}))
    };
    let core = |kind: &'static str, field: &str, value: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "web", "namespace": namespace}});
        object[field] = value;
        (kind, object)
    };
    vec![
        core("PodTemplate", "template", pods("Always")),
        core("ReplicationController", "spec", json!({"selector": labels, "template": pods("Always")})),
        of("apps", "Deployment", selecting()),
        of("apps", "DaemonSet", selecting()),
        of("apps", "ReplicaSet", selecting()),
        of("apps", "StatefulSet", selecting()),
        of("batch", "Job", job.clone()),
        of("batch", "CronJob", json!({"schedule": "0 3 * * *", "jobTemplate": {"spec": job}})),
    ]
}

#[tokio::test]
async fn enforce_refuses_pods_with_a_reason_and_warns_of_workloads() {
    let cluster = shared().await.unwrap();
    let namespace = cluster.plane.namespace("enforced").await.unwrap();
    let bad = "ghcr.io/acme/tool:v1";
    let earlier = pod("earlier", &namespace, bad);
    kubectl_apply(&cluster, &earlier, &[]).await.ok().unwrap();
    cluster.apply(&policy("enforced", &namespace, "Enforce", &cluster)).await.unwrap();

    let host = cluster.harbor.host();
    let reason =
        format!("is not from an allowed registry (policy enforced allows {host}); push it to Harbor or ask for a rule");
    let refused = pod("refused", &namespace, bad);
    until_reported(&cluster, &refused, &reason).await;
    let output = kubectl_apply(&cluster, &refused, &[]).await;
    assert!(!output.status.success(), "{output:?}");
    for part in ["Forbidden", "validate.harbor-pilot.dev", "container \"app\": image \"ghcr.io/acme/tool:v1\""] {
        assert!(output.stderr.contains(part), "{part}: {output:?}");
    }

    // A rule brings it to Harbor.
    let output = kubectl_apply(&cluster, &pod("good", &namespace, "nginx"), &[]).await;
    assert!(output.status.success() && !output.stderr.contains("Warning"), "{output:?}");
    // What was there before stays editable, and gets no image that is refused.
    let label = ["label", "pod", "earlier", "-n", &namespace, "seen=yes"];
    cluster.plane.kubectl(&label).await.unwrap().ok().unwrap();
    let image = ["set", "image", "pod/earlier", "-n", &namespace, "app=ghcr.io/acme/tool:v2"];
    let output = cluster.plane.kubectl(&image).await.unwrap();
    assert!(output.stderr.contains(&reason), "{output:?}");

    for (kind, workload) in workloads(&namespace, bad) {
        let output = kubectl_apply(&cluster, &workload, &["--dry-run=server"]).await;
        let reported = format!("Warning: harbor-pilot: Pods of this {kind} will be rejected: container");
        assert!(output.status.success() && output.stderr.contains(&reported), "{output:?}");
    }
    for (kind, workload) in workloads(&namespace, "nginx") {
        let output = kubectl_apply(&cluster, &workload, &["--dry-run=server"]).await;
        assert!(output.status.success() && !output.stderr.contains("Warning"), "{kind}: {output:?}");
    }
    cluster.delete("hip", "enforced").await.unwrap();
}

#[tokio::test]
async fn warn_is_printed_by_kubectl_and_audit_lets_pass() {
    let cluster = shared().await.unwrap();
    let namespace = cluster.plane.namespace("warned").await.unwrap();
    let bad = pod("warned", &namespace, "ghcr.io/acme/tool:v1");
    cluster.apply(&policy("warned", &namespace, "Warn", &cluster)).await.unwrap();
    until_reported(&cluster, &bad, "(policy warned allows").await;
    let output = kubectl_apply(&cluster, &bad, &[]).await;
    let reported = "Warning: harbor-pilot: container \"app\": image \"ghcr.io/acme/tool:v1\" is not";
    assert!(output.status.success() && output.stderr.contains(reported), "{output:?}");

    // The second one is known once the first is silent.
    cluster.apply(&policy("warned", &namespace, "Audit", &cluster)).await.unwrap();
    let end = Instant::now() + SOON;
    loop {
        let audited = pod("audited", &namespace, "ghcr.io/acme/tool:v1");
        let output = kubectl_apply(&cluster, &audited, &["--dry-run=server"]).await;
        assert!(output.status.success(), "{output:?}");
        if !output.stderr.contains("Warning") {
            break;
        }
        assert!(Instant::now() < end, "{output:?}");
    }
    until_audited(&cluster, "audited", r#""validate.harbor-pilot.dev/policy-violations":"warned=1""#).await;
    kubectl_apply(&cluster, &pod("audited-too", &namespace, "nginx"), &["--dry-run=server"]).await.ok().unwrap();
    until_audited(&cluster, "audited-too", r#""mutate.harbor-pilot.dev/rules":"dockerhub""#).await;
    cluster.delete("hip", "warned").await.unwrap();
}

/// Waits until the API server's audit log says this of a Pod.
async fn until_audited(cluster: &Cluster, pod: &str, reported: &str) {
    let (end, name) = (Instant::now() + SOON, format!(r#""name":"{pod}""#));
    loop {
        let log = cluster.plane.audit_log().unwrap();
        let about: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
        if about.iter().any(|line| line.contains(reported)) {
            return;
        }
        assert!(Instant::now() < end, "{reported} is not in {about:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn selectors_and_exemptions_bound_a_policy() {
    let cluster = shared().await.unwrap();
    let [inside, outside] = ["inside", "outside"].map(|name| cluster.plane.namespace(name));
    let (inside, outside) = (inside.await.unwrap(), outside.await.unwrap());
    cluster.plane.kubectl(&["label", "namespace", &inside, "policy=bounded"]).await.unwrap().ok().unwrap();
    // The label of Pods keeps it off those of other tests, in namespaces that were made this moment.
    let spec = json!({
        "action": "Enforce",
        "allowed": [{"host": cluster.harbor.host()}],
        "namespaceSelector": {"matchLabels": {"policy": "bounded"}},
        "objectSelector": {"matchLabels": {"test": "bounded"}},
        "exemptions": [{"images": ["ghcr.io/acme/debug"], "namespaces": [inside], "reason": "debugging"}],
    });
    cluster.apply(&resource("ImagePolicy", "bounded", spec)).await.unwrap();
    let labelled = |name: &str, namespace: &str, image: &str| {
        let mut pod = pod(name, namespace, image);
        pod["metadata"]["labels"] = json!({"test": "bounded"});
        pod
    };
    let bad = "ghcr.io/acme/tool:v1";
    until_reported(&cluster, &labelled("refused", &inside, bad), "(policy bounded allows").await;
    for passing in [
        labelled("elsewhere", &outside, bad),
        pod("unlabelled", &inside, bad),
        labelled("exempt", &inside, "ghcr.io/acme/debug:v1"),
    ] {
        kubectl_apply(&cluster, &passing, &[]).await.ok().unwrap();
    }
    cluster.delete("hip", "bounded").await.unwrap();
}

#[tokio::test]
async fn the_api_server_refuses_policies_that_say_nothing() {
    let cluster = shared().await.unwrap();
    let harbor = json!([{"host": "harbor.corp"}]);
    for (spec, reported) in [
        (json!({"action": "Enforce"}), "the policy checks nothing"),
        (json!({"action": "Deny", "allowed": harbor}), "Unsupported value"),
        (json!({"action": "Warn", "vulnerability": {}}), "maxSeverity: Required value"),
        (json!({"action": "Warn", "vulnerability": {"maxSeverity": "High", "maxAge": "59m"}}), "must be at least 1h"),
        (json!({"allowed": harbor}), "action: Required value"),
        (json!({"action": "Warn", "allowed": [{"host": "https://harbor.corp"}]}), "spec.allowed[0].host"),
        (json!({"action": "Warn", "allowed": [{"host": "harbor.corp", "projects": ["a/b"]}]}), "without '/'"),
        (json!({"action": "Warn", "allowed": harbor, "exemptions": [{"reason": "x"}]}), "exempts nothing"),
        (
            json!({"action": "Warn", "allowed": harbor, "exemptions": [{"images": ["nginx"], "reason": "x"}]}),
            "begin with a host",
        ),
    ] {
        let refused = resource("ImagePolicy", "refused", spec);
        let error = format!("{:#}", cluster.apply(&refused).await.unwrap_err());
        assert!(error.contains(reported), "{reported}: {error}");
    }
}
