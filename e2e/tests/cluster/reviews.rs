//! Reviews that no API server sends, posted to the webhook as it runs.

use std::time::Duration;

use harbor_pilot_e2e::cluster::{pod, shared};
use serde_json::{Value, json};

fn review(object: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": "CREATE", "namespace": "default", "dryRun": true,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": object,
        },
    })
}

#[tokio::test]
async fn malformed_reviews_get_a_proper_answer_and_block_no_pod() {
    let cluster = shared().await.unwrap();
    let certificate = reqwest::Certificate::from_pem(cluster.authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([certificate])
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let url = format!("{}/mutate", cluster.webhook_url());
    let post = async |body: Vec<u8>| {
        let request = client.post(&url).header("content-type", "application/json").body(body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap_or_default())
    };

    // Not JSON at all: nothing can be answered in kind, and the failurePolicy decides.
    for body in ["", "no JSON", "{\"apiVersion\":", "\u{0}\u{1}"] {
        assert_eq!(post(body.into()).await.0, 400, "{body:?}");
    }

    let plain = pod("p", "default", "nginx");
    let mut unknown = review(plain.clone());
    unknown["new"] = json!({"deep": [1, {"x": null}]});
    unknown["request"]["new"] = json!([[[]]]);
    unknown["request"]["object"]["spec"]["new"] = json!({"image": "nginx"});
    unknown["request"]["object"]["spec"]["containers"][0]["new"] = json!("x");
    let mut large = plain.clone();
    large["spec"]["containers"][0]["args"] = json!(["x".repeat(4 * 1024 * 1024)]);
    let mut wrong_kind = review(plain.clone());
    wrong_kind["kind"] = json!("ConversionReview");
    let mut service = review(json!({"apiVersion": "v1", "kind": "Service", "spec": {"image": "nginx"}}));
    service["request"]["kind"]["kind"] = json!("Service");
    service["request"]["resource"]["resource"] = json!("services");
    let mut no_object = review(Value::Null);
    no_object["request"].as_object_mut().unwrap().remove("object");
    let mut no_request = review(plain.clone());
    no_request.as_object_mut().unwrap().remove("request");
    let strange = review(json!({"spec": {"containers": "none", "initContainers": [7, null]}}));
    let table = [
        ("a Pod", review(plain), true, false),
        ("unknown fields", unknown, true, false),
        ("4 MiB", review(large), true, false),
        ("another kind of review", wrong_kind, false, true),
        ("another kind of object", service, false, false),
        ("no object", no_object, false, true),
        ("no request", no_request, false, true),
        ("an object of another shape", strange, false, true),
        ("a list", json!([1, 2, 3]), false, true),
    ];
    for (what, body, patched, warned) in table {
        let (status, answer) = post(body.to_string().into_bytes()).await;
        assert_eq!(status, 200, "{what}: {answer}");
        assert_eq!(answer["kind"], "AdmissionReview", "{what}: {answer}");
        let response = &answer["response"];
        assert_eq!(response["allowed"], true, "{what}: {answer}");
        assert_eq!(response["patch"].is_string(), patched, "{what}: {answer}");
        assert_eq!(response["warnings"].is_array(), warned, "{what}: {answer}");
        if patched {
            assert_eq!(response["uid"], "u-1", "{what}");
        }
    }
    // Without a uid at the beginning no review that is too large can be answered in kind.
    let too_large = client.post(&url).body(vec![b' '; 9 * 1024 * 1024]).send().await;
    assert!(too_large.is_err() || too_large.unwrap().status() == 413);

    let namespace = cluster.plane.namespace("after").await.unwrap();
    cluster.apply(&pod("after", &namespace, "nginx")).await.unwrap();
    assert_ne!(cluster.admitted("nginx").await.unwrap(), "nginx");
}
