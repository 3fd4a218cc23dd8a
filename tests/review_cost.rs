//! What a review costs: linear in its size, whatever part of it grows, and bounded where a product would.
//!
//! Each case measures reviews of 1, 4 and 16 thousand of something, and grows at once all parts that a loop within a loop
//! would multiply. Sixteen times the size takes about sixteen times as long; with such a loop it takes 256 times as long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::Duration;

use harbor_pilot::api::ImagePolicy;
use harbor_pilot::policy::Policies;
use harbor_pilot::rewrite::limits::{MAX_ANNOTATIONS, MAX_CONTAINERS};
use harbor_pilot::rewrite::{KEEP_IMAGES, Namespaces, ORIGINAL_IMAGES, Rule, Rules};
use harbor_pilot::webhook::review::mutate;
use harbor_pilot::webhook::validate::validate;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const SIZES: [usize; 3] = [1_000, 4_000, 16_000];
/// Of sixteen times the size: between the 16 of a linear cost and the 256 of a quadratic one. Caches that are too small
/// for the large one, and other processes, take their part.
const MOST: f64 = 80.0;

/// A review, and what it is answered from.
struct Setup {
    review: Value,
    rules: Rules,
    policies: Policies,
}

fn rule(index: usize, matched: &str, terms: Value) -> Rule {
    Rule {
        name: format!("r{index}"),
        created: 1,
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: format!("p{index}"),
        terms: serde_json::from_value(terms).unwrap(),
        ..Rule::default()
    }
}

fn policy(index: usize, mut spec: Value) -> ImagePolicy {
    spec["action"] = json!("Enforce");
    let metadata = json!({"name": format!("policy-{index}")});
    let object =
        json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ImagePolicy", "metadata": metadata, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn only_harbor(index: usize) -> ImagePolicy {
    policy(index, json!({"allowed": [{"host": "harbor.corp"}]}))
}

fn containers(count: usize, image: impl Fn(usize) -> String) -> Value {
    (0..count).map(|index| json!({"name": format!("c{index}"), "image": image(index)})).collect()
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": {}, "labels": {}}, "spec": spec})
}

fn setup(object: Value, old: Value) -> Setup {
    let kind = object["kind"].as_str().unwrap().to_owned();
    let (group, resource) = if kind == "Pod" { ("", "pods") } else { ("apps", "deployments") };
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind}, "namespace": "shop",
            "resource": {"group": group, "version": "v1", "resource": resource},
            "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "object": object, "oldObject": old,
        },
    });
    let rules = Rules::compile([rule(0, "docker.io", json!({"pullSecretName": "harbor"}))]);
    Setup { review, rules, policies: Policies::compile(&[only_harbor(0)]) }
}

fn created(spec: Value) -> Setup {
    setup(pod(spec), Value::Null)
}

/// The processor time of a review, by both endpoints: the best of some. Other processes do not count.
fn cost(setup: &Setup) -> Duration {
    let (body, namespaces) = (setup.review.to_string().into_bytes(), Namespaces::default());
    let once = || {
        let start = processor_time();
        black_box(mutate(&body, &setup.rules, &namespaces).unwrap());
        black_box(validate(&body, &setup.rules, &namespaces, &setup.policies, None).unwrap());
        processor_time() - start
    };
    (0..2).map(|_| once()).min().unwrap()
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn is_linear(what: &str, make: impl Fn(usize) -> Setup) {
    let [small, middle, large] = SIZES.map(|size| cost(&make(size)));
    let ratio = large.as_secs_f64() / small.as_secs_f64();
    assert!(ratio < MOST, "{what}, at {SIZES:?}: {small:?}, {middle:?}, {large:?}: {ratio:.0} times as long");
}

#[test]
fn review_is_linear_in_its_images_wherever_they_stand() {
    let hub = |index: usize| format!("acme/app-{index}:1");
    is_linear("containers", |size| created(json!({"containers": containers(size, hub)})));
    is_linear("containers at Harbor", |size| {
        created(json!({"initContainers": containers(size, |index| format!("harbor.corp/p0/x:{index}"))}))
    });
    is_linear("containers with one name", |size| {
        created(json!({"containers": vec![json!({"name": "a", "image": "nginx"}); size]}))
    });
    is_linear("images that cannot be read", |size| {
        created(json!({"containers": containers(size, |_| "A".to_owned())}))
    });
    is_linear("volumes", |size| {
        let volume = |index| json!({"name": format!("v{index}"), "image": {"reference": hub(index)}});
        created(json!({"volumes": (0..size).map(volume).collect::<Value>()}))
    });
    is_linear("a workload", |size| {
        let template = json!({"spec": {"containers": containers(size, hub)}});
        setup(json!({"kind": "Deployment", "spec": {"template": template}}), Value::Null)
    });
}

#[test]
fn review_is_linear_in_an_update_with_records() {
    is_linear("an update with a record", |size| {
        let record: serde_json::Map<String, Value> =
            (0..size).map(|index| (format!("containers/c{index}"), json!(format!("x{index}")))).collect();
        let record = Value::from(record).to_string();
        assert!(record.len() < 2 * MAX_ANNOTATIONS);
        let mut old = pod(json!({"containers": containers(size, |index| format!("harbor.corp/p0/library/x{index}"))}));
        old["metadata"]["annotations"][ORIGINAL_IMAGES] = json!(record);
        let mut new = pod(json!({"containers": containers(size, |index| format!("x{index}"))}));
        new["metadata"] = old["metadata"].clone();
        // In another order no image is found by its place.
        new["spec"]["containers"].as_array_mut().unwrap().reverse();
        setup(new, old)
    });
}

#[test]
fn review_is_linear_in_annotations_labels_and_secrets() {
    is_linear("containers and names of containers to keep", |size| {
        let mut pod = pod(json!({"initContainers": containers(size, |_| "nginx".to_owned())}));
        let names: Vec<String> = (0..size).map(|index| format!("keep-{index}")).collect();
        pod["metadata"]["annotations"][KEEP_IMAGES] = json!(names.join(","));
        setup(pod, Value::Null)
    });
    is_linear("labels and requirements of rules and policies", |size| {
        let count = size / 8;
        let mut pod = pod(json!({"containers": containers(1, |_| "nginx".to_owned())}));
        let labels: serde_json::Map<String, Value> = (0..count).map(|key| (format!("l{key}"), json!(""))).collect();
        pod["metadata"]["labels"] = labels.into();
        let selector = |key: usize| {
            let expression = json!({"key": format!("l{key}"), "operator": "DoesNotExist"});
            json!({"matchExpressions": [expression]})
        };
        let rules = (0..count).map(|index| rule(index, "docker.io", json!({"objectSelector": selector(index)})));
        let given: Vec<_> = (0..count)
            .map(|index| policy(index, json!({"objectSelector": selector(index), "forbidLatest": true})))
            .collect();
        Setup { rules: Rules::compile(rules), policies: Policies::compile(&given), ..setup(pod, Value::Null) }
    });
    is_linear("pull secrets of the Pod and of rules", |size| {
        let count = size / 8;
        let image = |index: usize| format!("h{index}.example/x");
        let secrets: Value = (0..2 * count).map(|index| json!({"name": format!("own-{index}")})).collect();
        let spec = json!({"containers": containers(count, image), "imagePullSecrets": secrets});
        let secret = |index: usize| json!({"pullSecretName": format!("secret-{index}")});
        let rules = (0..count).map(|index| rule(index, &format!("h{index}.example"), secret(index)));
        Setup { rules: Rules::compile(rules), ..created(spec) }
    });
}

#[test]
fn review_is_linear_in_the_policies_and_rules_that_an_image_meets() {
    let spec = || json!({"containers": containers(3, |index| format!("acme/app-{index}"))});
    is_linear("policies", |size| {
        let given: Vec<ImagePolicy> = (0..size).map(only_harbor).collect();
        Setup { policies: Policies::compile(&given), ..created(spec()) }
    });
    is_linear("rules with one match", |size| {
        let excludes = json!({"objectSelector": {"matchLabels": {"team": "none"}}});
        let rules = (0..size).map(|index| rule(index, "docker.io", excludes.clone()));
        Setup { rules: Rules::compile(rules), ..created(spec()) }
    });
}

#[test]
fn review_of_many_images_under_many_policies_ends_and_is_refused() {
    let given: Vec<ImagePolicy> = (0..4_000).map(only_harbor).collect();
    let selecting = json!({"objectSelector": {"matchLabels": {"team": "none"}}});
    let rules = Rules::compile((0..4_000).map(|index| rule(index, "docker.io", selecting.clone())));
    let spec = json!({"containers": containers(16_000, |index| format!("harbor.corp/p0/x:{index}"))});
    let by_policies = Setup { policies: Policies::compile(&given), ..created(spec) };
    let spec = json!({"containers": containers(16_000, |index| format!("acme/app-{index}"))});
    let by_rules = Setup { rules, ..created(spec) };
    let small = cost(&created(json!({"containers": containers(16_000, |index| format!("acme/app-{index}"))})));
    for setup in [by_policies, by_rules] {
        let body = setup.review.to_string().into_bytes();
        let reply = validate(&body, &setup.rules, &Namespaces::default(), &setup.policies, None).unwrap();
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains("too many images for the number of rules and policies"), "{message}");
        let took = cost(&setup);
        assert!(took < 20 * small, "{took:?} beside {small:?} under one rule and one policy");
    }
}

#[test]
fn review_of_more_than_the_limits_costs_less_than_one_within_them() {
    let within = cost(&created(json!({"containers": containers(MAX_CONTAINERS, |index| format!("acme/app-{index}"))})));
    let empty = "{},".repeat(2_700_000);
    let text = created(json!({"containers": [], "x": 1})).review.to_string();
    let body = text.replace("\"containers\":[]", &format!("\"containers\":[{empty}{{}}]")).into_bytes();
    assert!(body.len() > 8_000_000);
    let start = processor_time();
    let reply = mutate(&body, &Rules::default(), &Namespaces::default()).unwrap();
    let took = processor_time() - start;
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert!(answer["response"]["warnings"][0].as_str().unwrap().ends_with("more than 16384 containers"), "{answer}");
    assert!(took < within * 4, "{took:?} beside {within:?}");
}

/// Setups that spend all steps of a review, by what they spend them on.
fn exhausting() -> Vec<(&'static str, Setup)> {
    let with_policies = |spec: &dyn Fn(usize) -> Value, object: Value| {
        let given: Vec<ImagePolicy> = (0..4_000).map(|index| policy(index, spec(index))).collect();
        Setup { policies: Policies::compile(&given), ..setup(object, Value::Null) }
    };
    let at_harbor = || pod(json!({"containers": containers(16_000, |index| format!("harbor.corp/p0/x:{index}"))}));
    let long = || {
        let path = "a".repeat(240);
        pod(json!({"containers": containers(8_000, |index| format!("harbor.corp/{path}/x:{index}"))}))
    };
    let mut labelled = at_harbor();
    let labels: serde_json::Map<String, Value> = (0..4_000).map(|key| (format!("label-{key}"), json!(""))).collect();
    labelled["metadata"]["labels"] = labels.into();
    let selecting = json!({"objectSelector": {"matchLabels": {"team": "none"}}});
    let rules = Rules::compile((0..4_000).map(|index| rule(index, "docker.io", selecting.clone())));
    let hub = pod(json!({"containers": containers(16_000, |index| format!("acme/app-{index}"))}));
    vec![
        ("policies", with_policies(&|_| json!({"allowed": [{"host": "harbor.corp"}]}), at_harbor())),
        ("globs", with_policies(&|_| json!({"allowed": [{"host": "harbor.corp", "projects": ["*a*b*c*d"]}]}), long())),
        (
            "selectors of policies",
            with_policies(
                &|index| {
                    let values: Vec<String> = (0..40).map(|value| format!("v{value}")).collect();
                    let expression = json!({"key": format!("label-{index}"), "operator": "NotIn", "values": values});
                    json!({"objectSelector": {"matchExpressions": [expression]}, "forbidLatest": true})
                },
                labelled,
            ),
        ),
        ("rules", Setup { rules, ..setup(hub, Value::Null) }),
    ]
}

/// Setups of 3 MiB, the most that an API server takes, under a few rules and policies.
fn largest() -> Vec<(&'static str, Setup)> {
    const SIZE: usize = 3 * 1024 * 1024;
    let containers = |bytes: usize| {
        let one =
            json!({"name": "c00000", "image": "acme/app-00000:1", "env": [{"name": "A", "value": "x".repeat(bytes)}]});
        let length = one.to_string().len() + 1;
        let element = |index: usize| {
            let env = json!([{"name": "A", "value": "x".repeat(bytes)}]);
            json!({"name": format!("c{index:05}"), "image": format!("acme/app-{index:05}:1"), "env": env})
        };
        pod(json!({"containers": (0..(SIZE / length).min(MAX_CONTAINERS)).map(element).collect::<Value>()}))
    };
    let many = containers(90);
    let mut moved = many.clone();
    moved["spec"]["containers"].as_array_mut().unwrap().reverse();
    let mut named = containers(60);
    named["metadata"]["annotations"][KEEP_IMAGES] = json!("x,".repeat(MAX_ANNOTATIONS / 2 - 100));
    vec![
        ("new containers", setup(many.clone(), Value::Null)),
        ("new containers, names to keep", setup(named, Value::Null)),
        ("an update in another order", setup(moved, many.clone())),
        ("an update of nothing", setup(many.clone(), many)),
        ("a text", created(json!({"containers": [{"name": "a", "image": "nginx", "args": ["x".repeat(SIZE)]}]}))),
    ]
}

/// The figures of `rewrite::limits` and of docs/security.md.
#[test]
#[ignore = "a measurement: cargo test --release --test review_cost -- --ignored --nocapture"]
fn measure_the_processor_time_of_the_heaviest_reviews() {
    let namespaces = Namespaces::default();
    let best = |act: &dyn Fn()| {
        let once = || {
            let start = processor_time();
            act();
            processor_time() - start
        };
        (0..7).map(|_| once()).min().unwrap()
    };
    for (what, setup) in exhausting().into_iter().chain(largest()) {
        let body = setup.review.to_string().into_bytes();
        let mutate = best(&|| drop(black_box(mutate(&body, &setup.rules, &namespaces).unwrap())));
        let validating = |policies: &Policies| {
            best(&|| drop(black_box(validate(&body, &setup.rules, &namespaces, policies, None).unwrap())))
        };
        let (all, none) = (validating(&setup.policies), validating(&Policies::default()));
        let kib = body.len() / 1024;
        println!("{what}: {kib} KiB, mutate {mutate:?}, validate {all:?}, {none:?} without policies");
    }
}
