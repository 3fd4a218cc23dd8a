//! Reviews in, replies out, through the router and without a socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harbor_pilot::prewarm::queue::PrewarmRequest;
use harbor_pilot::rewrite::{ORIGINAL_IMAGES, Rule, Rules};
use harbor_pilot::telemetry::metrics::Metrics;
use harbor_pilot::telemetry::probes::{Readiness, ops};
use harbor_pilot::webhook::{Admission, BodyLimits, PrewarmSink, router};
use serde_json::{Value, json};
use tower::ServiceExt;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Webhook {
    router: Router,
    rules: Arc<ArcSwap<Rules>>,
    offers: Arc<Mutex<Vec<PrewarmRequest>>>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

fn rule(name: &str, matched: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        created: 1,
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: name.to_owned(),
        ..Rule::default()
    }
}

fn webhook() -> Webhook {
    let offers = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&offers);
    webhook_with(Arc::new(move |offer| taken.lock().unwrap().push(offer)), offers, BodyLimits::default())
}

fn webhook_with(sink: PrewarmSink, offers: Arc<Mutex<Vec<PrewarmRequest>>>, limits: BodyLimits) -> Webhook {
    let rules =
        Arc::new(ArcSwap::from_pointee(Rules::compile([rule("hub", "docker.io"), rule("acme", "ghcr.io/acme")])));
    let (metrics, readiness) = (Arc::new(Metrics::new()), Readiness::new());
    let router = router(Admission {
        rules: Arc::clone(&rules),
        policies: Arc::default(),
        scans: Arc::default(),
        namespaces: Arc::default(),
        offers: sink,
        metrics: metrics.admission.clone(),
        readiness: readiness.clone(),
        limits,
    });
    Webhook { router, rules, offers, metrics, readiness }
}

impl Webhook {
    async fn post(&self, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
        let request = Request::post("/mutate").body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    /// The `response` of the answer, which must admit and carry the uid of `review`.
    async fn admit(&self, review: &Value) -> Value {
        let (status, body) = self.post(review.to_string()).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["allowed"], true, "{answer}");
        assert_eq!(answer["response"]["uid"], review["request"]["uid"], "{answer}");
        answer["response"].clone()
    }

    /// The object of `review` as the API server stores it.
    async fn stored(&self, review: &Value) -> Value {
        let response = self.admit(review).await;
        let mut object = review["request"]["object"].clone();
        if let Some(patch) = response["patch"].as_str() {
            assert_eq!(response["patchType"], "JSONPatch");
            let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
            json_patch::patch(&mut object, &patch).unwrap();
        }
        object
    }

    fn offered(&self) -> Vec<String> {
        let offers = std::mem::take(&mut *self.offers.lock().unwrap());
        offers.iter().map(|offer| format!("{} {} {}", offer.namespace, offer.proxy_project, offer.image)).collect()
    }
}

fn pod(containers: &[(&str, &str)]) -> Value {
    let containers: Vec<_> = containers.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-", "namespace": "shop", "creationTimestamp": null},
        "spec": {"containers": containers},
    })
}

fn review(operation: &str, object: Value, old: Value) -> Value {
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop", "operation": operation, "dryRun": false,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["a"]},
            "options": {"kind": "CreateOptions"},
        },
    });
    review["request"]["object"] = object;
    review["request"]["oldObject"] = old;
    review
}

fn create(object: Value) -> Value {
    review("CREATE", object, Value::Null)
}

#[tokio::test]
async fn images_of_a_new_pod_come_from_harbor() {
    let webhook = webhook();
    let table = [
        ("nginx", "harbor.corp/hub/library/nginx"),
        ("nginx:1.27", "harbor.corp/hub/library/nginx:1.27"),
        ("index.docker.io/bitnami/redis", "harbor.corp/hub/bitnami/redis"),
        (&*format!("nginx:1@{DIGEST}"), &*format!("harbor.corp/hub/library/nginx:1@{DIGEST}")),
        (&*format!("ghcr.io/acme/a@{DIGEST}"), &*format!("harbor.corp/acme/acme/a@{DIGEST}")),
    ];
    for (image, expected) in table {
        let stored = webhook.stored(&create(pod(&[("app", image)]))).await;
        assert_eq!(stored["spec"]["containers"][0]["image"], *expected);
        let record: Value =
            serde_json::from_str(stored["metadata"]["annotations"][ORIGINAL_IMAGES].as_str().unwrap()).unwrap();
        assert_eq!(record, json!({"containers/app": image}));
        let project = expected.split('/').nth(1).unwrap();
        assert_eq!(webhook.offered(), [format!("shop {project} {expected}")]);
    }
}

#[tokio::test]
async fn what_no_rule_speaks_of_is_admitted_without_a_patch() {
    let webhook = webhook();
    for (image, offers) in [
        ("registry.corp/app:1", 0),
        ("ghcr.io/acmeplus/a", 0),
        ("harbor.corp/other/x", 0),
        ("harbor.corp/hub/x/y:1", 1),
    ] {
        let response = webhook.admit(&create(pod(&[("app", image)]))).await;
        assert_eq!(response, json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true}), "{image}");
        assert_eq!(webhook.offered().len(), offers, "{image}");
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_read_is_left_with_a_warning_and_the_others_are_rewritten() {
    let webhook = webhook();
    let review = create(pod(&[("bad", "Nginx:1"), ("good", "nginx")]));
    let response = webhook.admit(&review).await;
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.contains("container \"bad\"") && warning.contains("lowercase"), "{warning}");
    assert_eq!(response["auditAnnotations"], json!({"images-rewritten": "1", "images-skipped": "1", "rules": "hub"}));
    let stored = webhook.stored(&review).await;
    assert_eq!(stored["spec"]["containers"][0]["image"], "Nginx:1");
    assert_eq!(stored["spec"]["containers"][1]["image"], "harbor.corp/hub/library/nginx");
}

#[tokio::test]
async fn a_dry_run_shows_the_rewrite_and_offers_nothing() {
    let webhook = webhook();
    let mut review = create(pod(&[("app", "nginx"), ("b", "harbor.corp/hub/x")]));
    review["request"]["dryRun"] = json!(true);
    let stored = webhook.stored(&review).await;
    assert_eq!(stored["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx");
    assert_eq!(webhook.offered(), [""; 0]);
}

#[tokio::test]
async fn an_image_that_a_rule_only_maps_stays_and_is_offered_as_it_is_at_harbor_unless_it_is_a_dry_run() {
    let webhook = webhook();
    let mut mapped = rule("ecr", "ecr.example.com");
    mapped.terms.mode = harbor_pilot::api::proxy_project::RewriteMode::Disabled;
    webhook.rules.store(Arc::new(Rules::compile([mapped])));
    let mut review = create(pod(&[("app", "ecr.example.com/team/app:1"), ("side", "harbor.corp/ecr/team/side:2")]));
    let response = webhook.admit(&review).await;
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    let expected = ["shop ecr harbor.corp/ecr/team/app:1", "shop ecr harbor.corp/ecr/team/side:2"];
    assert_eq!(webhook.offered(), expected);
    review["request"]["dryRun"] = json!(true);
    webhook.admit(&review).await;
    assert_eq!(webhook.offered(), [""; 0]);
}

#[tokio::test]
async fn rules_that_change_count_from_the_next_request_on() {
    let webhook = webhook();
    webhook.rules.store(Arc::new(Rules::default()));
    let object = pod(&[("app", "nginx")]);
    assert_eq!(webhook.stored(&create(object.clone())).await, object);
}

#[tokio::test]
async fn fields_that_we_do_not_know_survive_at_every_level() {
    let webhook = webhook();
    let strange = json!({"a": [1, {"b": null}], "ü\n": "\u{1f6a2}"});
    let mut object = pod(&[("app", "nginx")]);
    object["spec"]["initContainers"] = json!([{"name": "i", "image": "ghcr.io/acme/i:1"}]);
    object["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "acme/model"}}]);
    for pointer in [
        "",
        "/metadata",
        "/spec",
        "/spec/containers/0",
        "/spec/initContainers/0",
        "/spec/volumes/0",
        "/spec/volumes/0/image",
    ] {
        object.pointer_mut(pointer).unwrap()["strange/field"] = strange.clone();
    }
    let mut review = create(object);
    review["strange"] = strange.clone();
    review["request"]["strange"] = strange;

    let mut stored = webhook.stored(&review).await;
    assert_eq!(stored["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx");
    let sent = &review["request"]["object"];
    for pointer in ["/spec/containers/0/image", "/spec/initContainers/0/image", "/spec/volumes/0/image/reference"] {
        assert_ne!(stored.pointer(pointer), sent.pointer(pointer));
        *stored.pointer_mut(pointer).unwrap() = sent.pointer(pointer).unwrap().clone();
    }
    stored["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(&stored, sent);
}

#[tokio::test]
async fn an_update_keeps_what_runs_and_rewrites_what_is_new() {
    let webhook = webhook();
    let mut old = pod(&[("a", "harbor.corp/before/library/nginx"), ("b", "redis")]);
    old["metadata"]["annotations"] = json!({ORIGINAL_IMAGES: r#"{"containers/a":"nginx"}"#});
    let updated = |change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        review("UPDATE", new, old.clone())
    };

    // Labels and finalizers.
    let labelled = updated(&|pod| pod["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(webhook.admit(&labelled).await["patch"], Value::Null);
    // The manifest, applied again.
    let again = updated(&|pod| pod["spec"]["containers"][0]["image"] = json!("nginx"));
    assert_eq!(webhook.stored(&again).await, old);
    assert_eq!(webhook.offered(), [""; 0]);
    // Another image.
    let changed = updated(&|pod| pod["spec"]["containers"][1]["image"] = json!("redis:8"));
    let stored = webhook.stored(&changed).await;
    assert_eq!(stored["spec"]["containers"][0], old["spec"]["containers"][0]);
    assert_eq!(stored["spec"]["containers"][1]["image"], "harbor.corp/hub/library/redis:8");
    let record = r#"{"containers/a":"nginx","containers/b":"redis:8"}"#;
    assert_eq!(stored["metadata"]["annotations"][ORIGINAL_IMAGES], record);
    assert_eq!(webhook.offered(), ["shop hub harbor.corp/hub/library/redis:8"]);
}

#[tokio::test]
async fn debug_containers_are_rewritten_and_nothing_else_is_patched() {
    let webhook = webhook();
    let old = pod(&[("a", "nginx")]);
    let mut new = old.clone();
    new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "busybox"}]);
    let mut review = review("UPDATE", new.clone(), old);
    review["request"]["subResource"] = json!("ephemeralcontainers");
    let stored = webhook.stored(&review).await;
    new["spec"]["ephemeralContainers"][0]["image"] = json!("harbor.corp/hub/library/busybox");
    assert_eq!(stored, new);
    assert_eq!(webhook.offered(), ["shop hub harbor.corp/hub/library/busybox"]);
}

#[tokio::test]
async fn what_is_no_pod_or_carries_no_images_is_admitted_untouched() {
    let webhook = webhook();
    let changes: [&dyn Fn(&mut Value); 8] = [
        &|request| request["kind"]["kind"] = json!("Deployment"),
        &|request| request["kind"]["group"] = json!("example.com"),
        &|request| request["resource"]["resource"] = json!("podtemplates"),
        &|request| request["subResource"] = json!("status"),
        &|request| request["operation"] = json!("DELETE"),
        &|request| request["operation"] = json!("CONNECT"),
        &|request| request["operation"] = json!(null),
        &|request| {
            request["kind"]["kind"] = json!("Widget");
            request["object"] = json!({"spec": "text", "metadata": []});
        },
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut review = create(pod(&[("app", "nginx")]));
        change(&mut review["request"]);
        let response = webhook.admit(&review).await;
        assert_eq!(response.as_object().unwrap().len(), 2, "{index}: {response}");
    }
    assert_eq!(webhook.offered(), [""; 0]);
}

#[tokio::test]
async fn a_malformed_review_is_admitted_with_a_warning() {
    let webhook = webhook();
    let good = create(pod(&[("app", "nginx")]));
    type Change = (&'static str, &'static dyn Fn(&mut Value));
    let changes: [Change; 10] = [
        ("no object", &|review| review["request"]["object"] = Value::Null),
        ("admission.k8s.io/v1 ", &|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")),
        ("admission.k8s.io/v1 ", &|review| review["kind"] = json!("ConversionReview")),
        ("AdmissionReview", &|review| review["kind"] = json!(7)),
        ("no oldObject", &|review| review["request"]["operation"] = json!("UPDATE")),
        ("AdmissionReview of a Pod", &|review| review["request"]["object"] = json!("text")),
        ("AdmissionReview of a Pod", &|review| review["request"]["object"]["spec"] = json!([1])),
        ("AdmissionReview of a Pod", &|review| review["request"]["object"]["spec"]["containers"] = json!({})),
        ("AdmissionReview of a Pod", &|review| review["request"]["dryRun"] = json!("yes")),
        ("AdmissionReview of a Pod", &|review| {
            review["request"]["object"]["spec"]["containers"][0]["image"] = json!(5);
        }),
    ];
    for (problem, change) in changes {
        let mut review = good.clone();
        change(&mut review);
        let response = webhook.admit(&review).await;
        let warning = response["warnings"][0].as_str().unwrap_or_else(|| panic!("{problem}: {response}"));
        assert!(warning.contains(problem), "{warning}");
        assert_eq!(response["patch"], Value::Null);
    }
    for body in ["{}", "[]", "7", "null", r#"{"request":null}"#, r#"{"request":[]}"#, r#"{"request":{"uid":5}}"#] {
        let (status, answer) = webhook.post(body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(true)), "{body}");
        assert!(answer["response"]["warnings"][0].is_string(), "{body}");
    }
    for body in ["", "x", "<html>", r#"{"request":{"uid":"u""#, "{}{}", "\u{0}"] {
        let (status, answer) = webhook.post(body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.len() < 200 && String::from_utf8(answer).unwrap().contains("not JSON"));
    }
    assert_eq!(webhook.offered(), [""; 0]);
}

#[tokio::test]
async fn a_uid_beyond_its_bound_is_not_sent_back() {
    let mut review = create(pod(&[("app", "nginx")]));
    review["request"]["uid"] = json!("\u{1}".repeat(100_000));
    let mut unreadable = review.clone();
    unreadable["request"]["object"] = json!("text");
    for review in [review, unreadable] {
        let (status, answer) = webhook().post(review.to_string()).await;
        assert_eq!(status, StatusCode::OK);
        assert!(answer.len() < 2048, "{} bytes", answer.len());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&json!(""), &json!(true)));
        assert!(answer["response"]["warnings"][0].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_review_of_4_mib_is_answered_like_any_other_and_one_beyond_the_limit_is_refused() {
    let webhook = webhook();
    let mut object = pod(&[("app", "nginx")]);
    object["metadata"]["managedFields"] = json!([{"fieldsV1": {"f:\"": "x".repeat(4 * 1024 * 1024)}}]);
    let stored = webhook.stored(&create(object.clone())).await;
    assert_eq!(stored["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx");
    assert_eq!(stored["metadata"]["managedFields"], object["metadata"]["managedFields"]);

    let (status, _) = webhook.post(vec![b' '; BodyLimits::default().body + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let deep = "[".repeat(3 * 1024 * 1024);
    assert_eq!(webhook.post(deep).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn large_bodies_share_a_budget_and_small_ones_are_never_held_up_by_it() {
    let limits = BodyLimits {
        body: 1 << 20,
        memory: 1 << 20,
        time: std::time::Duration::from_millis(200),
        ..BodyLimits::default()
    };
    let offers = Arc::new(Mutex::new(Vec::new()));
    let webhook = Arc::new(webhook_with(Arc::new(|_| {}), offers, limits));
    // A body of unknown length that never ends takes all there is, until its time is over.
    let stuck = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let slow = tokio::spawn({
        let webhook = Arc::clone(&webhook);
        async move { webhook.post(Body::from_stream(stuck)).await.0 }
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let small = webhook.admit(&create(pod(&[("app", "nginx")]))).await;
    assert!(small["patch"].is_string());
    assert_eq!(slow.await.unwrap(), StatusCode::REQUEST_TIMEOUT);
    let large = Body::from_stream(futures::stream::once(async { Ok::<_, std::io::Error>(vec![b' '; 100_000]) }));
    assert_eq!(webhook.post(large).await.0, StatusCode::BAD_REQUEST, "the budget was not given back");
}

/// Posts a body of this length, of which nothing comes.
async fn post_nothing_of(webhook: &Webhook, length: usize) -> StatusCode {
    let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = Request::post("/mutate").header("content-length", length).body(never).unwrap();
    webhook.router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn large_bodies_beyond_the_total_memory_are_refused() {
    let time = std::time::Duration::from_millis(300);
    let limits = BodyLimits { body: 1 << 20, memory: 4 << 20, time, ..BodyLimits::default() };
    let webhook = webhook_with(Arc::new(|_| {}), Arc::default(), limits);
    let answers = futures::future::join_all((0..8).map(|_| post_nothing_of(&webhook, 1 << 20))).await;
    let admitted = answers.iter().filter(|status| **status == StatusCode::REQUEST_TIMEOUT).count();
    let turned_away = answers.iter().filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert!(admitted <= 4 && admitted + turned_away == 8, "{answers:?}");
}

#[tokio::test]
async fn small_bodies_that_do_not_come_make_room_for_later_ones() {
    let time = std::time::Duration::from_secs(2);
    let webhook = webhook_with(Arc::new(|_| {}), Arc::default(), BodyLimits { time, ..BodyLimits::default() });
    let answers = futures::future::join_all((0..1_500).map(|_| post_nothing_of(&webhook, 100))).await;
    let turned_away = answers.iter().filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert!(turned_away > 400, "{turned_away} of {}", answers.len());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up_before_the_api_server_gives_up() {
    let webhook = webhook();
    for length in [Some(100), Some(1 << 20), None] {
        let mut request = Request::post("/mutate?timeout=1s");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let never = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let answer = webhook.router.clone().oneshot(request.body(never).unwrap());
        let answer = tokio::time::timeout(std::time::Duration::from_millis(990), answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT, "{length:?}");
    }
}

#[tokio::test]
async fn images_of_a_namespace_that_no_namespace_can_be_called_are_not_offered() {
    let webhook = webhook();
    for (length, offers) in [(63, 1), (64, 0)] {
        let mut review = create(pod(&[("app", "nginx")]));
        review["request"]["namespace"] = json!("n".repeat(length));
        webhook.admit(&review).await;
        assert_eq!(webhook.offered().len(), offers, "{length}");
    }
}

#[tokio::test]
async fn a_sink_that_panics_does_not_harm_the_reply() {
    let webhook = webhook_with(Arc::new(|_| panic!("as tests do")), Arc::default(), BodyLimits::default());
    let stored = webhook.stored(&create(pod(&[("app", "nginx")]))).await;
    assert_eq!(stored["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx");
}

#[tokio::test]
async fn readiness_is_shown_until_the_server_drains_or_has_no_room() {
    let webhook = webhook();
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = webhook.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        (status, String::from_utf8(to_bytes(answer.into_body(), 1 << 10).await.unwrap().to_vec()).unwrap())
    };
    let unready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    assert_eq!(get("/readyz").await, unready("not ready yet\n"));
    webhook.readiness.set(true);
    assert_eq!(get("/readyz").await.0, StatusCode::OK);
    webhook.readiness.refuse();
    assert_eq!(get("/readyz").await, unready("too many connections\n"));

    webhook.readiness.drain();
    webhook.readiness.set(true);
    assert_eq!(get("/readyz").await, unready("draining\n"));
    assert_eq!(get("/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn requests_are_counted_by_operation_and_outcome() {
    let webhook = webhook();
    webhook.admit(&create(pod(&[("a", "nginx"), ("b", "Bad")]))).await;
    webhook.admit(&create(pod(&[("a", "registry.corp/x")]))).await;
    webhook.post("x").await;
    let ops = ops(webhook.readiness.clone(), Arc::clone(&webhook.metrics));
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = ops.oneshot(request).await.unwrap();
    let text = String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
    for line in [
        r#"requests_total{operation="create",outcome="patched"} 1"#,
        r#"requests_total{operation="create",outcome="unchanged"} 1"#,
        r#"requests_total{operation="other",outcome="refused"} 1"#,
        "images_rewritten_total 1",
        "images_skipped_total 1",
        "duration_seconds_count 3",
    ] {
        assert!(text.contains(&format!("harbor_pilot_admission_{line}\n")), "{line} is not in\n{text}");
    }
    assert!(text.contains("harbor_pilot_prewarm_requests_total 1\n"), "{text}");
}
