//! What a tenant sends to the API server so that its call of the webhook fails, and with it Enforce: headers that the API
//! server passes on, reviews that are too large, and floods. The webhooks are registered as they are shipped
//! (`failurePolicy: Ignore`).

use futures::future::join_all;
use harbor_pilot_e2e::cluster::{Cluster, SOON, pod, resource, shared};
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const FOREIGN: &str = "evil.example/x:1";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Sends a Pod or a patch with further headers, and returns status and answer.
async fn send(client: &Client, method: &str, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
    let kind = if method == "PATCH" { "application/strategic-merge-patch+json" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = client.send(request.body(Body::from(body.to_string().into_bytes())).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// A Pod with arguments that take six times their size in a review, where each `<` is `\u003c`.
fn large(name: &str, namespace: &str, image: &str, size: usize) -> Value {
    let mut pod = pod(name, namespace, image);
    pod["spec"]["containers"][0]["args"] = json!(["<".repeat(size)]);
    pod
}

/// A namespace whose Pods may only come from Harbor, once that is so; and the path of its Pods.
async fn enforced(cluster: &Cluster, name: &str) -> (String, String) {
    let namespace = cluster.plane.namespace(name).await.unwrap();
    let spec = json!({
        "action": "Enforce",
        "allowed": [{"host": cluster.harbor.host()}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
    });
    cluster.apply(&resource("ImagePolicy", name, spec)).await.unwrap();
    let (client, pods) = (cluster.client().unwrap(), format!("/api/v1/namespaces/{namespace}/pods"));
    let end = Instant::now() + SOON;
    let dry_run = format!("{pods}?dryRun=All");
    while send(&client, "POST", &dry_run, &pod("foreign", &namespace, FOREIGN), &[]).await.0 != 403 {
        assert!(Instant::now() < end, "{}", cluster.logs());
        sleep(std::time::Duration::from_millis(200)).await;
    }
    (namespace, pods)
}

#[tokio::test]
async fn no_header_of_a_tenant_gets_a_foreign_pod_admitted() {
    let cluster = shared().await.unwrap();
    let (namespace, pods) = enforced(&cluster, "headers").await;
    let client = cluster.client().unwrap();
    let path = format!("{pods}?dryRun=All");
    let baggage = |size: usize| format!("a={}", "b".repeat(size - 2));
    let entries = |count: usize| {
        let entry = |number| format!("k{number:02}{}={}", "a".repeat(253), "v".repeat(256));
        (0..count).map(entry).collect::<Vec<_>>().join(",")
    };
    for (bytes, count) in [(4_000, 0), (7_700, 0), (8_192, 0), (100, 16), (100, 32), (8_192, 32)] {
        let (baggage, entries) = (baggage(bytes), entries(count));
        let headers = [("baggage", &*baggage), ("traceparent", TRACEPARENT), ("tracestate", &*entries)];
        let (status, answer) = send(&client, "POST", &path, &pod("foreign", &namespace, FOREIGN), &headers).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            status == 403 && message.contains("is not from an allowed registry"),
            "{bytes} {count}: {status} {answer}"
        );
        let (status, answer) = send(&client, "POST", &path, &pod("good", &namespace, "nginx"), &headers).await;
        let image = answer["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        assert!(status == 201 && image.starts_with(&cluster.harbor.host()), "{bytes} {count}: {status} {answer}");
    }
    cluster.delete("hip", "headers").await.unwrap();
}

#[tokio::test]
async fn no_review_that_is_too_large_gets_a_foreign_pod_admitted() {
    let cluster = shared().await.unwrap();
    let (namespace, pods) = enforced(&cluster, "too-large").await;
    let client = cluster.client().unwrap();
    let refused = |(status, answer): (u16, Value)| {
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == 403 && message.contains("the body is too large"), "{status} {message}");
    };
    refused(send(&client, "POST", &pods, &large("create", &namespace, FOREIGN, 1_400_000), &[]).await);

    // An update holds the Pod twice. On a busy machine a review of 4 MB may take too long, and is refused.
    let allowed = format!("{}/dockerhub/library/nginx", cluster.harbor.host());
    let (pod, end) = (large("update", &namespace, &allowed, 710_000), Instant::now() + SOON);
    loop {
        let (status, answer) = send(&client, "POST", &pods, &pod, &[]).await;
        if status == 201 {
            break;
        }
        assert!(status == 403 && Instant::now() < end, "{status} {}", answer["message"]);
    }
    let patch = json!({"spec": {"containers": [{"name": "app", "image": FOREIGN}]}});
    refused(send(&client, "PATCH", &format!("{pods}/update"), &patch, &[]).await);
    let metrics = cluster.webhook_metrics().await.unwrap();
    for operation in ["create", "update"] {
        let counted = format!("harbor_pilot_admission_requests_total{{operation=\"{operation}\",outcome=\"unread\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&counted)).unwrap();
        assert!(count.parse::<f64>().unwrap() >= 1.0, "{operation}: {count}");
    }
    cluster.delete("hip", "too-large").await.unwrap();
}

#[tokio::test]
async fn no_flood_of_large_reviews_gets_a_foreign_pod_admitted() {
    let cluster = shared().await.unwrap();
    let (namespace, pods) = enforced(&cluster, "flooded").await;
    let client = cluster.client().unwrap();
    let path = format!("{pods}?dryRun=All");
    let one = async |index: usize| {
        // Some are as large as Pods usually are.
        let size = [300_000, 300_000, 300_000, 3_000, 1][index % 5];
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(send(&client, "POST", &path, &large("flood", &namespace, FOREIGN, size), &[]).await.0);
        }
        statuses
    };
    let statuses: Vec<u16> = join_all((0..60).map(one)).await.into_iter().flatten().collect();
    // The API server itself may turn some away (429).
    assert!(statuses.iter().all(|status| [403, 429].contains(status)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 403).count() > 60, "{statuses:?}");
    cluster.delete("hip", "flooded").await.unwrap();
}
