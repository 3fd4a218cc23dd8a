//! What policies say of reviews: over the pure function, and over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use harbor_pilot::api::{CachedImage, ImagePolicy};
use harbor_pilot::policy::{Policies, ScanIndex, ScanRecord};
use harbor_pilot::rewrite::{KEEP_IMAGES, Namespaces, ORIGINAL_IMAGES, Rule, Rules};
use harbor_pilot::telemetry::metrics::Metrics;
use harbor_pilot::telemetry::probes::Readiness;
use harbor_pilot::webhook::review::ReviewOutcome;
use harbor_pilot::webhook::validate::validate;
use harbor_pilot::webhook::{Admission, BodyLimits, router};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

fn rules(unavailable: bool) -> Rules {
    let rule = Rule {
        name: "hub".to_owned(),
        matches: vec!["docker.io".to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: "hub".to_owned(),
        unavailable,
        ..Rule::default()
    };
    Rules::compile([rule])
}

fn policies(specs: &[(&str, Value)]) -> Policies {
    let policies: Vec<ImagePolicy> = specs
        .iter()
        .map(|(name, spec)| {
            let object = json!({
                "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ImagePolicy", "metadata": {"name": name}, "spec": spec,
            });
            serde_json::from_value(object).unwrap()
        })
        .collect();
    Policies::compile(&policies)
}

fn only_harbor(action: &str) -> Policies {
    policies(&[("only-harbor", json!({"action": action, "allowed": [{"host": "harbor.corp"}]}))])
}

fn namespaces() -> Namespaces {
    let labels: BTreeMap<String, String> = [("team".to_owned(), "shop".to_owned())].into();
    [("shop".to_owned(), labels), ("bank".to_owned(), BTreeMap::new())].into_iter().collect()
}

fn pod(image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"containers": [{"name": "web", "image": image}]},
    })
}

/// A workload of this kind whose Pods have this image.
fn workload(kind: &str, image: &str) -> Value {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod(image)["spec"]});
    let spec = match kind {
        "CronJob" => json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}}),
        "PodTemplate" => return json!({"kind": kind, "metadata": {"name": "web"}, "template": template}),
        _ => json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}),
    };
    json!({"kind": kind, "metadata": {"name": "web"}, "spec": spec})
}

fn review(operation: &str, object: Value, old: Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or("Pod").to_owned();
    let group = match kind.as_str() {
        "Job" | "CronJob" => "batch",
        "Pod" | "ReplicationController" | "PodTemplate" => "",
        _ => "apps",
    };
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"group": group, "version": "v1", "kind": kind},
            "resource": {"group": group, "version": "v1", "resource": format!("{}s", kind.to_lowercase())},
            "namespace": "shop", "operation": operation, "object": object, "oldObject": old,
        },
    })
}

fn create(object: Value) -> Value {
    review("CREATE", object, Value::Null)
}

fn answered(review: &Value, rules: &Rules, policies: &Policies) -> (Value, ReviewOutcome) {
    let reply = validate(review.to_string().as_bytes(), rules, &namespaces(), policies, None).unwrap();
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(answer["response"]["patch"].is_null() && reply.wanted.is_empty(), "{answer}");
    (answer["response"].clone(), reply.verdict)
}

fn answer(review: &Value, policies: &Policies) -> Value {
    answered(review, &rules(false), policies).0
}

fn allows(review: &Value, policies: &Policies) -> bool {
    answer(review, policies)["allowed"].as_bool().unwrap()
}

/// The message of a denial.
fn refusal(review: &Value, rules: &Rules, policies: &Policies) -> String {
    let (response, verdict) = answered(review, rules, policies);
    assert_eq!((&response["allowed"], verdict), (&json!(false), ReviewOutcome::Denied), "{response}");
    response["status"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn validate_judges_a_pod_as_it_arrives() {
    let policies = only_harbor("Enforce");
    for (image, allowed) in [
        ("harbor.corp/hub/library/nginx", true),
        // A rule rewrites it, and `/mutate` did not.
        ("nginx:1.27", false),
        ("docker.io/library/nginx", false),
        ("ghcr.io/acme/tool:1", false),
        ("harbor.corp.evil/x", false),
        ("user@harbor.corp/x", false),
        ("harbor.corp:443/x", true),
        ("harbor.corp:444/x", false),
        ("Nonsense Image", false),
    ] {
        assert_eq!(allows(&create(pod(image)), &policies), allowed, "{image}");
    }
}

#[test]
fn validate_refuses_a_pod_that_missed_mutate_and_says_what_to_check() {
    let message = refusal(&create(pod("nginx:1.27")), &rules(false), &only_harbor("Enforce"));
    assert_eq!(
        message,
        "container \"web\": image \"nginx:1.27\" is not from an allowed registry (policy only-harbor allows harbor.corp); \
         /mutate did not act on it, else it would be \"harbor.corp/hub/library/nginx:1.27\": try again, then check that \
         MutatingWebhookConfiguration harbor-pilot exists, that its calls succeed in time, and that no other webhook \
         sets images after it"
    );
    let warned = answer(&create(pod("nginx")), &only_harbor("Warn"));
    assert!(warned["warnings"].to_string().contains("/mutate did not act on it"), "{warned}");
    assert!(answer(&create(pod("nginx")), &policies(&[]))["warnings"].is_null());
}

#[test]
fn validate_says_why_an_image_was_not_rewritten() {
    let with = |field: &str, value: Value| {
        let mut pod = pod("nginx");
        pod["spec"]["containers"][0][field] = value;
        pod
    };
    let annotated = |key: &str, value: &str| {
        let mut pod = pod("nginx");
        pod["metadata"]["annotations"] = json!({key: value});
        pod
    };
    let mut volume = pod("harbor.corp/hub/x");
    volume["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "nginx", "pullPolicy": "Never"}}]);
    for (pod, reported) in [
        (with("imagePullPolicy", json!("Never")), "; its pull policy is Never, so no rule rewrites it"),
        (volume, "; its pull policy is Never, so no rule rewrites it"),
        (with("image", json!("auto")), "; it is a placeholder that Istio's injector did not replace"),
        (
            with("image", json!("injector-envoy-image")),
            "; it is a placeholder that the injector of AWS App Mesh did not replace",
        ),
        (annotated(KEEP_IMAGES, "other, web"), "; the Pod opts out of rewriting"),
        (with("imagePullPolicy", json!("Always")), "; /mutate did not act on it"),
        (with("image", json!("ghcr.io/acme/tool")), "; push it to Harbor or ask for a rule"),
    ] {
        let message = refusal(&create(pod.clone()), &rules(false), &only_harbor("Enforce"));
        assert!(message.contains(reported), "{reported} is not in {message}, of {pod}");
    }
}

#[test]
fn validate_believes_no_record_of_originals_on_an_update() {
    let forged = |image: &str| {
        let mut pod = pod("harbor.corp/hub/library/nginx");
        pod["metadata"]["annotations"] = json!({ORIGINAL_IMAGES: json!({"containers/web": image}).to_string()});
        pod
    };
    for image in ["evil.example/x", "nginx", "library/nginx"] {
        assert!(!allows(&review("UPDATE", pod(image), forged(image)), &only_harbor("Enforce")), "{image}");
        let mut ephemeral = review("UPDATE", forged(image), forged(image));
        ephemeral["request"]["subResource"] = json!("ephemeralcontainers");
        let debug = json!([{"name": "web", "image": image}]);
        ephemeral["request"]["object"]["spec"]["ephemeralContainers"] = debug;
        assert!(!allows(&ephemeral, &only_harbor("Enforce")), "{image}");
        // The API server drops other changes of this subresource; who sends them is refused all the same.
        ephemeral["request"]["object"] = pod(image);
        assert!(!allows(&ephemeral, &only_harbor("Enforce")), "{image}");
    }
}

#[test]
fn validate_gives_up_a_pod_beyond_the_limits_as_one_that_cannot_be_read() {
    let mut many = pod("harbor.corp/hub/x");
    many["spec"]["initContainers"] = vec![json!({}); 20_000].into();
    let mut kept = pod("harbor.corp/hub/x");
    kept["metadata"]["annotations"] = json!({KEEP_IMAGES: "a,".repeat(200_000)});
    for (pod, reported) in [(many, "more than 16384 containers"), (kept, "have more than 256 KiB")] {
        let message = refusal(&create(pod.clone()), &rules(false), &only_harbor("Enforce"));
        assert!(message.starts_with("rejected without a check") && message.contains(reported), "{message}");
        let (admitted, verdict) = answered(&create(pod), &rules(false), &only_harbor("Warn"));
        assert_eq!((&admitted["allowed"], verdict), (&json!(true), ReviewOutcome::Malformed));
    }
    let mut long = create(pod("harbor.corp/hub/x"));
    long["request"]["uid"] = json!("u".repeat(1_000_000));
    let (refused, _) = answered(&long, &rules(false), &only_harbor("Enforce"));
    assert_eq!((&refused["allowed"], &refused["uid"]), (&json!(false), &json!("")));
}

/// Pods beyond a limit, with images that no policy allows.
fn beyond_the_limits() -> [Value; 4] {
    let mut pods = [(); 4].map(|()| pod("ghcr.io/acme/tool"));
    let images = |count: usize| vec![json!({"name": "x", "image": "ghcr.io/acme/tool"}); count];
    pods[0]["spec"]["initContainers"] = images(20_000).into();
    let volume = json!({"name": "x", "image": {"reference": "ghcr.io/acme/tool"}});
    pods[1]["spec"]["volumes"] = vec![volume; 20_000].into();
    let labels: serde_json::Map<String, Value> = (0..5_000).map(|key| (format!("l{key}"), json!(""))).collect();
    pods[2]["metadata"]["labels"] = labels.into();
    pods[3]["spec"]["ephemeralContainers"] = images(20_000).into();
    pods
}

#[test]
fn validate_admits_an_update_of_a_pod_beyond_the_limits_that_leaves_its_images() {
    for old in beyond_the_limits() {
        let mut old = old;
        old["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        for sub_resource in ["", "ephemeralcontainers"] {
            let mut update = review("UPDATE", new.clone(), old.clone());
            update["request"]["subResource"] = json!(sub_resource);
            let (response, verdict) = answered(&update, &rules(false), &only_harbor("Enforce"));
            assert_eq!((&response["allowed"], verdict), (&json!(true), ReviewOutcome::Skipped), "{response}");
        }
        assert!(!allows(&create(new), &only_harbor("Enforce")), "a new Pod has no images before");
    }
}

#[test]
fn validate_refuses_an_update_of_a_pod_beyond_the_limits_that_changes_a_list_of_images() {
    let policies = only_harbor("Enforce");
    for (index, old) in beyond_the_limits().into_iter().enumerate() {
        let last =
            ["/spec/initContainers/19999/image", "/spec/volumes/19999/image/reference", "/spec/containers/0/image"]
                .into_iter()
                .chain(["/spec/ephemeralContainers/19999/image"])
                .nth(index)
                .unwrap();
        let mut new = old.clone();
        *new.pointer_mut(last).unwrap() = json!("evil.example/x");
        // What a tenant writes excuses nothing.
        new["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        new["metadata"]["annotations"] = json!({ORIGINAL_IMAGES: "{}", KEEP_IMAGES: "web"});
        assert!(!allows(&review("UPDATE", new.clone(), old.clone()), &policies), "{last}");
        let mut added = old.clone();
        added["spec"]["ephemeralContainers"] = json!([{"name": "y", "image": "evil.example/x"}]);
        assert!(!allows(&review("UPDATE", added, old), &policies), "{last}");
    }
    let within = pod("harbor.corp/hub/x");
    let grown = beyond_the_limits()[0].clone();
    assert!(!allows(&review("UPDATE", grown, within), &policies));
}

#[test]
fn a_denial_says_what_is_wrong_and_how_to_mend_it() {
    let (response, verdict) = answered(&create(pod("ghcr.io/acme/tool:1")), &rules(false), &only_harbor("Enforce"));
    let message = "container \"web\": image \"ghcr.io/acme/tool:1\" is not from an allowed registry (policy only-harbor \
                   allows harbor.corp); push it to Harbor or ask for a rule";
    assert_eq!(response["status"], json!({"code": 403, "reason": "Forbidden", "message": message}));
    assert_eq!((&response["allowed"], &response["uid"]), (&json!(false), &json!("u-1")));
    assert_eq!(response["auditAnnotations"], json!({"policy-violations": "only-harbor=1"}));
    assert_eq!(verdict, ReviewOutcome::Denied);
}

#[test]
fn every_place_that_holds_an_image_is_judged() {
    let policies = only_harbor("Enforce");
    let bad = json!([{"name": "x", "image": "ghcr.io/a/b"}]);
    for (field, list, reported) in [
        ("containers", bad.clone(), "container \"x\""),
        ("initContainers", bad.clone(), "init container \"x\""),
        ("ephemeralContainers", bad, "ephemeral container \"x\""),
        ("volumes", json!([{"name": "x", "image": {"reference": "ghcr.io/a/b"}}]), "volume \"x\""),
    ] {
        let mut pod = pod("harbor.corp/hub/library/nginx");
        pod["spec"][field] = list;
        let response = answer(&create(pod), &policies);
        assert!(response["status"]["message"].as_str().unwrap().starts_with(reported), "{field}: {response}");
    }
}

#[test]
fn nothing_in_a_pod_keeps_a_policy_off() {
    let policies = only_harbor("Enforce");
    let mut kept = pod("nginx");
    kept["metadata"]["annotations"] = json!({KEEP_IMAGES: "web"});
    assert!(!allows(&create(kept), &policies), "an image that is kept is not rewritten, so it is not at Harbor");
    let mut noted = pod("ghcr.io/acme/tool");
    noted["metadata"]["annotations"] = json!({ORIGINAL_IMAGES: r#"{"containers/web":"nginx"}"#});
    noted["metadata"]["labels"] = json!({"harbor-pilot.dev/exempt": "true"});
    assert!(!allows(&create(noted), &policies));
}

#[test]
fn an_update_is_judged_by_the_images_that_it_brings() {
    let policies = only_harbor("Enforce");
    let old = pod("ghcr.io/acme/tool:1");
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"seen": "yes"});
    assert!(allows(&review("UPDATE", labelled, old.clone()), &policies), "a Pod from before the policy stays editable");
    assert!(!allows(&review("UPDATE", pod("ghcr.io/acme/tool:2"), old.clone()), &policies));

    let mut with_sidecar = old.clone();
    let sidecar = json!({"name": "debug", "image": "ghcr.io/acme/debug"});
    with_sidecar["spec"]["ephemeralContainers"] = json!([sidecar]);
    let mut ephemeral = review("UPDATE", with_sidecar.clone(), old.clone());
    ephemeral["request"]["subResource"] = json!("ephemeralcontainers");
    let response = answer(&ephemeral, &policies);
    assert!(response["status"]["message"].as_str().unwrap().starts_with("ephemeral container \"debug\""), "{response}");
    assert!(allows(&review("UPDATE", with_sidecar.clone(), with_sidecar), &policies));

    // The original of what it runs with: `/mutate` gives the image back, and what arrives without it is refused.
    let mut running = pod("harbor.corp.old/hub/library/nginx");
    running["metadata"]["annotations"] = json!({ORIGINAL_IMAGES: r#"{"containers/web":"nginx"}"#});
    assert!(!allows(&review("UPDATE", pod("nginx"), running.clone()), &policies));
    assert!(allows(&review("UPDATE", running.clone(), running), &policies));
    for operation in ["DELETE", "CONNECT"] {
        assert!(allows(&review(operation, Value::Null, old.clone()), &policies), "{operation}");
    }
}

#[test]
fn a_workload_is_admitted_with_a_warning_that_its_pods_will_not_be() {
    let policies = only_harbor("Enforce");
    let core = ["ReplicationController", "PodTemplate"];
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"].into_iter().chain(core) {
        let response = answer(&create(workload(kind, "ghcr.io/acme/tool:1")), &policies);
        let reported = format!(
            "harbor-pilot: Pods of this {kind} will be rejected: container \"web\": image \"ghcr.io/acme/tool:1\" is not"
        );
        assert_eq!(response["allowed"], true, "{kind}");
        assert_eq!(response["warnings"].as_array().unwrap().len(), 1, "{response}");
        assert!(response["warnings"][0].as_str().unwrap().starts_with(&reported), "{response}");
        assert_eq!(response["auditAnnotations"]["policy-violations"], "only-harbor=1", "{kind}");

        assert!(
            answer(&create(workload(kind, "nginx")), &policies)["warnings"].is_null(),
            "{kind}: a rule makes it good"
        );
        let scaled = review("UPDATE", workload(kind, "ghcr.io/a/b"), workload(kind, "ghcr.io/a/b"));
        assert!(answer(&scaled, &policies)["warnings"].is_null(), "{kind}: told once");
        let placeholder = answer(&create(workload(kind, "auto")), &policies);
        assert!(placeholder["warnings"].is_null(), "{kind}: the image that replaces it is judged in the Pod");
    }
    let mut scale = create(workload("Deployment", "ghcr.io/a/b"));
    scale["request"]["subResource"] = json!("status");
    assert!(answer(&scale, &policies)["warnings"].is_null());
}

#[test]
fn a_workload_is_judged_by_the_labels_of_its_pods() {
    let selector = json!({"matchLabels": {"app": "web"}});
    let policies = policies(&[("web", json!({"action": "Warn", "forbidLatest": true, "objectSelector": selector}))]);
    assert_eq!(answer(&create(workload("Deployment", "nginx")), &policies)["warnings"].as_array().unwrap().len(), 1);
    assert!(answer(&create(pod("nginx")), &policies)["warnings"].is_null(), "the Pod has no such label");
}

#[test]
fn warn_and_audit_admit() {
    let bad = create(pod("ghcr.io/acme/tool:1"));
    let warned = answer(&bad, &only_harbor("Warn"));
    assert_eq!(warned["allowed"], true);
    assert!(warned["warnings"][0].as_str().unwrap().starts_with("harbor-pilot: container \"web\": image"), "{warned}");
    let audited = answer(&bad, &only_harbor("Audit"));
    assert_eq!((&audited["allowed"], &audited["warnings"]), (&json!(true), &Value::Null));
    assert_eq!(audited["auditAnnotations"], json!({"policy-violations": "only-harbor=1"}));
    assert!(answer(&create(pod("harbor.corp/hub/x")), &only_harbor("Audit"))["auditAnnotations"].is_null());
}

#[test]
fn while_harbor_is_unavailable_the_policy_says_what_happens_to_originals() {
    let spec =
        |outage: &str| json!({"action": "Enforce", "allowed": [{"host": "harbor.corp"}], "duringOutage": outage});
    for (outage, image, allowed) in
        [("Enforce", "nginx", false), ("Warn", "nginx", true), ("Warn", "ghcr.io/acme/tool", false)]
    {
        let policies = policies(&[("only-harbor", spec(outage))]);
        let (response, _) = answered(&create(pod(image)), &rules(true), &policies);
        assert_eq!(response["allowed"], allowed, "{outage} {image}");
        assert_eq!(response["warnings"].is_array(), allowed, "{response}");
        assert!(outage == "Enforce" || !allows(&create(pod(image)), &policies), "Harbor is there: {image}");
    }
    // What the Pod itself keeps from being rewritten is no matter of the outage.
    let policies = policies(&[("only-harbor", spec("Warn"))]);
    let mut kept = pod("nginx");
    kept["metadata"]["annotations"] = json!({KEEP_IMAGES: "web"});
    let mut never = pod("nginx");
    never["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    for pod in [kept, never, pod("auto")] {
        refusal(&create(pod), &rules(true), &policies);
    }
}

#[test]
fn what_cannot_be_read_fails_as_the_policies_say() {
    let mut no_uid = create(pod("nginx"));
    no_uid["request"]["uid"] = json!("");
    let mut no_object = create(Value::Null);
    no_object["request"]["object"] = Value::Null;
    let mut not_a_list = create(pod("nginx"));
    not_a_list["request"]["object"]["spec"]["containers"] = json!("x");
    let mut no_old = review("UPDATE", pod("nginx"), Value::Null);
    no_old["request"]["oldObject"] = Value::Null;
    for review in [no_uid, no_object, not_a_list, no_old, json!({"kind": "AdmissionReview"}), json!([1])] {
        let (refused, verdict) = answered(&review, &rules(false), &only_harbor("Enforce"));
        assert_eq!((&refused["allowed"], verdict), (&json!(false), ReviewOutcome::Denied), "{review}");
        let why = refused["status"]["message"].as_str().unwrap();
        assert!(why.starts_with("rejected without a check"), "{why}");
        for lenient in [only_harbor("Warn"), Policies::default()] {
            let (admitted, verdict) = answered(&review, &rules(false), &lenient);
            assert_eq!((&admitted["allowed"], verdict), (&json!(true), ReviewOutcome::Malformed), "{review}");
            assert_eq!(admitted["warnings"].as_array().unwrap().len(), 1, "{review}");
        }
    }
    // Only Pods are refused: a workload runs nothing by itself, and others are no concern of ours.
    let mut broken = create(workload("Deployment", "nginx"));
    broken["request"]["object"]["spec"]["template"] = json!([]);
    let mut stranger = create(json!({"kind": "Widget", "spec": {"containers": 3}}));
    stranger["request"]["kind"]["group"] = json!("example.com");
    for review in [broken, stranger] {
        assert!(allows(&review, &only_harbor("Enforce")), "{review}");
    }
    assert!(validate(b"{", &rules(false), &namespaces(), &only_harbor("Enforce"), None).is_err());
}

#[test]
fn namespaces_and_exemptions_bound_a_policy() {
    let spec = |rest: Value| {
        let mut spec = json!({"action": "Enforce", "allowed": [{"host": "harbor.corp"}]});
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        policies(&[("bounded", spec)])
    };
    let review_in = |namespace: &str| {
        let mut review = create(pod("ghcr.io/acme/tool:1"));
        review["request"]["namespace"] = json!(namespace);
        review
    };
    let selected = spec(json!({"namespaceSelector": {"matchLabels": {"team": "shop"}}}));
    assert!(!allows(&review_in("shop"), &selected));
    assert!(allows(&review_in("bank"), &selected));
    let exempt = spec(json!({"exemptions": [{"images": ["ghcr.io/acme/*"], "namespaces": ["bank"], "reason": "x"}]}));
    assert!(!allows(&review_in("shop"), &exempt));
    assert!(allows(&review_in("bank"), &exempt));
}

#[test]
fn validate_warns_users_about_an_inactive_policy() {
    let selector = json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]});
    let policies = policies(&[("odd", json!({"action": "Enforce", "forbidLatest": true, "objectSelector": selector}))]);
    let response = answer(&create(pod("nginx")), &policies);
    assert_eq!(response["allowed"], true);
    assert!(
        response["warnings"][0].as_str().unwrap().starts_with("harbor-pilot: policy odd is not active"),
        "{response}"
    );
}

/// What judges by these policies, in the state in which nothing is known of scans. Nothing may be prewarmed.
fn admission(policies: Arc<ArcSwap<Policies>>) -> Admission {
    Admission {
        rules: Arc::new(ArcSwap::from_pointee(rules(false))),
        policies,
        scans: Arc::default(),
        namespaces: Arc::new(ArcSwap::from_pointee(namespaces())),
        offers: Arc::new(|_| panic!("a judgement warms nothing")),
        metrics: Metrics::new().admission,
        readiness: Readiness::new(),
        limits: BodyLimits::default(),
    }
}

#[tokio::test]
async fn over_http_policies_are_followed_as_they_change_and_denials_are_counted() {
    let policies = Arc::new(ArcSwap::from_pointee(Policies::default()));
    let metrics = Metrics::new();
    let router = router(Admission { metrics: metrics.admission.clone(), ..admission(Arc::clone(&policies)) });
    let post = async |body: String| {
        let request = Request::post("/validate").body(Body::from(body)).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap())
    };
    let bad = create(pod("ghcr.io/acme/tool:1")).to_string();
    for (policies_now, allowed) in [(Policies::default(), true), (only_harbor("Enforce"), false)] {
        policies.store(Arc::new(policies_now));
        let (status, body) = post(bad.clone()).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &answer["response"]["allowed"]), (StatusCode::OK, &json!(allowed)));
    }
    assert_eq!(post("{".to_owned()).await.0, StatusCode::BAD_REQUEST);
    for image in ["nginx", "harbor.corp/hub/library/nginx"] {
        assert_eq!(post(create(pod(image)).to_string()).await.0, StatusCode::OK);
    }
    let counted = metrics.encode().unwrap();
    for line in [
        r#"harbor_pilot_admission_requests_total{operation="create",outcome="denied"} 2"#,
        "harbor_pilot_admission_unmutated_pods_total 1",
    ] {
        assert!(counted.lines().any(|found| found == line), "{line} is not in\n{counted}");
    }
}

/// What is known of `harbor.corp/hub/library/nginx:1`: a scan of a moment ago found this.
fn scanned(severity: &str) -> ScanIndex {
    let digest = format!("sha256:{}", "a".repeat(64));
    let scan = json!({
        "state": "Scanned", "severity": severity, "total": 2, "fixable": 1, "scannedAt": Timestamp::now().to_string(),
    });
    let platform =
        json!({"platform": "unknown", "digest": digest, "layers": 1, "bytes": 1, "stored": true, "scan": scan});
    let image = "harbor.corp/hub/library/nginx:1";
    let image: CachedImage = serde_json::from_value(json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": "nginx"},
        "spec": {"image": image}, "status": {"image": image, "digest": digest, "platforms": [platform]},
    }))
    .unwrap();
    ScanIndex::compile(ScanRecord::of(&image).iter())
}

#[tokio::test]
async fn over_http_a_review_that_takes_too_long_is_answered_as_one_that_cannot_be_read() {
    let metrics = Metrics::new();
    let policies = Arc::new(ArcSwap::from_pointee(only_harbor("Enforce")));
    let router = router(Admission {
        metrics: metrics.admission.clone(),
        limits: BodyLimits { review: std::time::Duration::ZERO, ..BodyLimits::default() },
        ..admission(Arc::clone(&policies))
    });
    let ask = async |path: &str, padding: usize| {
        let mut object = pod("harbor.corp/hub/library/nginx");
        object["metadata"]["managedFields"] = json!(["x".repeat(padding)]);
        let request = Request::post(path).body(Body::from(create(object).to_string())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let answer = serde_json::from_slice::<Value>(&body).unwrap()["response"].take();
        (answer["allowed"] == true, answer.to_string().contains("the review took too long"))
    };
    // Those that are answered where they come in have no time limit: their size is one.
    assert_eq!(ask("/validate", 100).await, (true, false));
    assert_eq!(ask("/mutate", 100_000).await, (true, true));
    assert_eq!(ask("/validate", 100_000).await, (false, true));
    policies.store(Arc::new(only_harbor("Warn")));
    assert_eq!(ask("/validate", 100_000).await, (true, true));
    let counted = metrics.encode().unwrap();
    let line = r#"harbor_pilot_admission_requests_total{operation="other",outcome="expired"} 3"#;
    assert!(counted.lines().any(|found| found == line), "{counted}");
}

/// Bodies that are not read to their end: too large, too slow, and without room for them.
fn unread_bodies(review: &str) -> Vec<(&'static str, Option<usize>, Body)> {
    let broken_off = |text: &str| {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(text.as_bytes().to_vec())]);
        Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending()))
    };
    let large = format!("{review}{}", " ".repeat(2 << 20));
    let pieces: Vec<_> = large.as_bytes().chunks(16_384).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    vec![
        ("of a length that is too large", Some(36 << 20), broken_off(review)),
        ("of no length that becomes too large", None, Body::from_stream(futures::stream::iter(pieces))),
        ("small and slow", Some(10_000), broken_off(review)),
        ("medium and slow", Some(100_000), broken_off(review)),
        ("large and slow", Some(900_000), broken_off(review)),
    ]
}

#[tokio::test]
async fn over_http_a_review_that_is_not_read_to_its_end_is_answered_as_one_that_cannot_be_read() {
    let metrics = Metrics::new();
    let policies = Arc::new(ArcSwap::from_pointee(only_harbor("Enforce")));
    let router = router(Admission {
        metrics: metrics.admission.clone(),
        limits: BodyLimits { body: 1 << 20, memory: 1 << 20, ..BodyLimits::default() },
        ..admission(Arc::clone(&policies))
    });
    let ask = async |path: &str, length: Option<usize>, body: Body| {
        let mut request = Request::post(format!("{path}?timeout=1s"));
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let response = router.clone().oneshot(request.body(body).unwrap());
        let response = tokio::time::timeout(std::time::Duration::from_millis(990), response).await.unwrap().unwrap();
        let (status, body) = (response.status().as_u16(), to_bytes(response.into_body(), usize::MAX).await.unwrap());
        (status, serde_json::from_slice::<Value>(&body).unwrap_or_default()["response"].take())
    };
    // As an API server writes it: what it is about comes before the object.
    let about = |uid: &str, group: &str, kind: &str| {
        let kind = json!({"group": group, "version": "v1", "kind": kind});
        format!(
            r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"{uid}","kind":{kind},"namespace":"shop","operation":"UPDATE","object":{{"spec":{{"a":""#
        )
    };
    for (action, allowed) in [("Enforce", false), ("Warn", true)] {
        policies.store(Arc::new(only_harbor(action)));
        for (what, length, body) in unread_bodies(&about("u-1", "", "Pod")) {
            let (status, answer) = ask("/validate", length, body).await;
            assert_eq!(
                (status, &answer["uid"], &answer["allowed"]),
                (200, &json!("u-1"), &json!(allowed)),
                "{what}: {answer}"
            );
            assert!(answer.to_string().contains("body"), "{what}: {answer}");
        }
    }
    policies.store(Arc::new(only_harbor("Enforce")));
    for (what, length, body) in unread_bodies(&about("u-2", "", "Pod")) {
        let (status, answer) = ask("/mutate", length, body).await;
        assert_eq!(
            (status, &answer["uid"], &answer["allowed"]),
            (200, &json!("u-2"), &json!(true)),
            "{what}: {answer}"
        );
        assert!(answer["warnings"][0].as_str().unwrap().contains("admitted without changes"), "{what}: {answer}");
    }
    for (what, length, body) in unread_bodies(&about("u-3", "apps", "Deployment")) {
        let (status, answer) = ask("/validate", length, body).await;
        assert_eq!((status, &answer["allowed"]), (200, &json!(true)), "{what}: its Pods are judged: {answer}");
    }
    // Without a uid no answer in kind can be given.
    for (what, length, body) in unread_bodies(r#"{"request":{"object":{"a":""#) {
        let (status, _) = ask("/validate", length, body).await;
        assert!([408, 413].contains(&status), "{what}: {status}");
    }
    let counted = metrics.encode().unwrap();
    for line in [r#"{operation="update",outcome="unread"} 20"#, r#"{operation="other",outcome="refused"} 5"#] {
        let line = format!("harbor_pilot_admission_requests_total{line}");
        assert!(counted.lines().any(|found| found == line), "{line}: {counted}");
    }
}

#[tokio::test]
async fn over_http_a_review_for_which_there_is_no_room_is_refused_while_a_policy_enforces() {
    let router = router(Admission {
        offers: Arc::new(|_| ()),
        limits: BodyLimits { body: 1 << 20, memory: 2 << 20, ..BodyLimits::default() },
        ..admission(Arc::new(ArcSwap::from_pointee(only_harbor("Enforce"))))
    });
    let mut object = pod("ghcr.io/acme/tool:v1");
    let mut ask = |path: &str, padding: usize, ends: bool| {
        object["metadata"]["managedFields"] = json!(["x".repeat(padding)]);
        let mut review = create(object.clone());
        review["request"].as_object_mut().unwrap().remove("uid");
        // The uid comes first, as an API server writes it.
        let review = review.to_string();
        let review = review.replace(r#""request":{"#, r#""request":{"uid":"u-1","#);
        let request = Request::post(path).header("content-length", review.len());
        let piece =
            futures::stream::iter([Ok::<_, std::io::Error>(review[..review.len() - usize::from(!ends)].to_owned())]);
        let body = if ends {
            Body::from(review)
        } else {
            Body::from_stream(futures::StreamExt::chain(piece, futures::stream::pending()))
        };
        router.clone().oneshot(request.body(body).unwrap())
    };
    let mut waiting = Vec::new();
    for _ in 0..400 {
        waiting.push(tokio::spawn(ask("/validate?timeout=2s", 900_000, false)));
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    // A smaller one has its own memory.
    let answer = ask("/validate?timeout=2s", 60_000, true).await.unwrap();
    let answer: Value = serde_json::from_slice(&to_bytes(answer.into_body(), usize::MAX).await.unwrap()).unwrap();
    assert!(answer.to_string().contains("is not from an allowed registry"), "{answer}");
    let mut no_room = 0;
    for waits in waiting {
        let answer = waits.await.unwrap().unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let answer: Value = serde_json::from_slice(&to_bytes(answer.into_body(), usize::MAX).await.unwrap()).unwrap();
        assert_eq!(answer["response"]["allowed"], false, "{answer}");
        no_room += usize::from(answer.to_string().contains("too many bodies"));
    }
    assert!(no_room > 100, "{no_room}");
}

#[tokio::test]
async fn validate_over_http_follows_changed_scans_during_an_outage() {
    let ceiling = json!({"action": "Enforce", "vulnerability": {"maxSeverity": "Medium"}, "duringOutage": "Warn"});
    let scans = Arc::new(ArcSwap::from_pointee(ScanIndex::default()));
    let rules_now = Arc::new(ArcSwap::from_pointee(rules(false)));
    let router = router(Admission {
        rules: Arc::clone(&rules_now),
        scans: Arc::clone(&scans),
        ..admission(Arc::new(ArcSwap::from_pointee(policies(&[("ceiling", ceiling)]))))
    });
    let post = async |object: Value| {
        let request = Request::post("/validate").body(Body::from(create(object).to_string())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()["response"].take()
    };
    let unknown = post(pod("nginx:1")).await;
    assert_eq!(unknown["allowed"], true);
    let warned = unknown["warnings"][0].as_str().unwrap();
    assert!(
        warned.contains("has no scan result (policy ceiling requires one): the image is not known yet"),
        "{warned}"
    );

    scans.store(Arc::new(scanned("High")));
    for unavailable in [false, true] {
        rules_now.store(Arc::new(rules(unavailable)));
        let refused = post(pod("nginx:1")).await;
        assert_eq!(refused["allowed"], false, "unavailable: {unavailable}");
        let why = refused["status"]["message"].as_str().unwrap();
        assert!(
            why.contains("has vulnerabilities of severity High (policy ceiling allows at most Medium): 2 found"),
            "{why}"
        );
    }
    let workload = post(workload("Deployment", "nginx:1")).await;
    assert_eq!(workload["allowed"], true);
    let reported = workload["warnings"][0].as_str().unwrap();
    assert!(
        reported.starts_with("harbor-pilot: Pods of this Deployment will be rejected: container \"web\""),
        "{reported}"
    );
    scans.store(Arc::new(scanned("Low")));
    let admitted = post(pod("nginx:1")).await;
    assert!(admitted["allowed"] == true && admitted["warnings"].is_null(), "{admitted}");
}
