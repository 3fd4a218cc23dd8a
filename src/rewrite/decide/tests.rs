use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::proxy_project::RewriteTerms;
use crate::rewrite::{ALLOW_EXEMPT, EXEMPT, KEEP_IMAGES, Rule};

const KEY: &str = ORIGINAL_IMAGES;

fn rules_to(project: &str) -> Rules {
    let rule = |name: &str, created, matched: &str, project: &str| Rule {
        name: name.to_owned(),
        created,
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: project.to_owned(),
        ..Rule::default()
    };
    Rules::compile([rule("hub", 1, "docker.io", project), rule("acme", 2, "ghcr.io/acme", "acme")])
}

fn pod(annotations: Value, containers: &[(&str, &str)]) -> Value {
    let containers: Vec<_> = containers.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
    let mut pod = json!({"metadata": {}, "spec": {"containers": containers}});
    pod["metadata"]["annotations"] = annotations;
    pod
}

struct Reported {
    pod: Value,
    operations: usize,
    wanted: Vec<String>,
    warnings: Vec<String>,
}

fn admit(rules: &Rules, pod: &Value, old: Option<&Value>) -> Reported {
    admit_as(rules, pod, old, |pod, old| match old {
        Some(old) => PodChange::Update { pod, old },
        None => PodChange::Create { pod },
    })
}

fn admit_as(
    rules: &Rules,
    pod: &Value,
    old: Option<&Value>,
    request: for<'p> fn(&'p Pod<'p>, Option<&'p Pod<'p>>) -> PodChange<'p>,
) -> Reported {
    let (text, old_text) = (pod.to_string(), old.map(ToString::to_string));
    let view: Pod<'_> = crate::json_scan::read(text.as_bytes()).unwrap();
    let old_view: Option<Pod<'_>> = old_text.as_deref().map(|text| crate::json_scan::read(text.as_bytes()).unwrap());
    let subject = PodScope { namespace: "shop", labels: view.labels(), ..PodScope::default() };
    let outcome = decide(request(&view, old_view.as_ref()), rules, &subject);

    let mut pod = pod.clone();
    let mut patch = String::new();
    outcome.write_patch(&mut patch);
    let patch: Value = serde_json::from_str(&patch).unwrap();
    let operations = patch.as_array().unwrap().len();
    assert_eq!(outcome.changes_anything(), operations > 0);
    json_patch::patch(&mut pod, &serde_json::from_value::<json_patch::Patch>(patch).unwrap()).unwrap();
    let warnings = outcome.warnings().to_vec();
    let wanted =
        outcome.into_wanted().iter().map(|wanted| format!("{} of {}", wanted.image, wanted.proxy_project)).collect();
    Reported { pod, operations, wanted, warnings }
}

#[test]
fn a_pod_of_another_harbor_is_rewritten_once_and_keeps_its_record() {
    let rules = Rules::compile([Rule {
        name: "hub".to_owned(),
        matches: vec!["docker.io".to_owned(), "harbor.old/hub".to_owned()],
        replaces: vec!["harbor.old/hub".to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: "hub".to_owned(),
        ..Rule::default()
    }]);
    let restored = |original: &str| {
        let record = json!({"containers/web": original}).to_string();
        let reported = admit(&rules, &pod(json!({KEY: record}), &[("web", "harbor.old/hub/library/nginx:1")]), None);
        let annotations = &reported.pod["metadata"]["annotations"];
        let record: Value = serde_json::from_str(annotations[KEY].as_str().unwrap()).unwrap();
        (reported.pod["spec"]["containers"][0]["image"].clone(), record["containers/web"].clone())
    };
    assert_eq!(restored("nginx:1"), (json!("harbor.corp/hub/library/nginx:1"), json!("nginx:1")));
    let forged = restored("redis:1");
    assert_eq!(forged, (json!("harbor.corp/hub/library/nginx:1"), json!("harbor.old/hub/library/nginx:1")));
}

#[test]
fn decide_says_that_it_drops_the_record_of_a_pod_from_a_harbor_that_no_rule_names() {
    let restored = |original: &str| {
        let record = json!({"containers/web": original}).to_string();
        admit(&rules_to("hub"), &pod(json!({KEY: record}), &[("web", "harbor.old/hub/library/nginx:1")]), None)
    };
    let reported = restored("nginx:1");
    let [warning] = reported.warnings.as_slice() else { panic!("{:?}", reported.warnings) };
    assert!(warning.contains("\"web\" is dropped") && warning.contains("rewrite.matches"), "{warning}");
    assert!(warning.len() < 256, "an API server cuts it: {warning}");
    assert_eq!(reported.pod["metadata"]["annotations"].get(KEY), None);
    assert_eq!(restored("redis:1").warnings, Vec::<String>::new(), "it was not made from that");
}

#[test]
fn a_new_pod_gets_all_its_images_from_harbor_and_a_record_of_the_originals() {
    let sent = json!({
        "metadata": {"name": "p", "labels": {"a/b": "c"}},
        "spec": {
            "containers": [{"name": "app", "image": "nginx"}, {"name": "own", "image": "registry.corp/x:1"}],
            "initContainers": [{"name": "init", "image": "ghcr.io/acme/tool:2", "restartPolicy": "Always"}],
            "ephemeralContainers": [{"name": "debug", "image": "busybox@sha256:".to_owned() + &"a".repeat(64)}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "model", "image": {"reference": "acme/model:v1", "pullPolicy": "Always"}}],
        },
    });
    let reported = admit(&rules_to("hub"), &sent, None);

    let mut expected = sent;
    expected["spec"]["containers"][0]["image"] = json!("harbor.corp/hub/library/nginx");
    expected["spec"]["initContainers"][0]["image"] = json!("harbor.corp/acme/acme/tool:2");
    let debug = format!("busybox@sha256:{}", "a".repeat(64));
    expected["spec"]["ephemeralContainers"][0]["image"] = json!(format!("harbor.corp/hub/library/{debug}"));
    expected["spec"]["volumes"][1]["image"]["reference"] = json!("harbor.corp/hub/acme/model:v1");
    let record = format!(
        r#"{{"containers/app":"nginx","initContainers/init":"ghcr.io/acme/tool:2","ephemeralContainers/debug":"{debug}","volumes/model":"acme/model:v1"}}"#
    );
    expected["metadata"]["annotations"] = json!({KEY: record});
    assert_eq!(reported.pod, expected);
    assert_eq!(reported.operations, 5);
    assert_eq!(reported.wanted.len(), 4);
    assert_eq!(reported.wanted[1], "harbor.corp/acme/acme/tool:2 of acme");
    assert_eq!(reported.warnings, [""; 0]);
}

#[test]
fn an_image_at_harbor_stays_and_is_wanted_where_its_project_is_managed() {
    let sent = pod(json!({}), &[("a", "harbor.corp/hub/library/nginx"), ("b", "harbor.corp/other/x")]);
    let reported = admit(&rules_to("hub"), &sent, None);
    assert_eq!((reported.operations, reported.wanted), (0, vec!["harbor.corp/hub/library/nginx of hub".to_owned()]));
}

#[test]
fn a_record_that_a_user_sent_is_discarded_unless_it_is_what_the_rules_do() {
    let rules = rules_to("hub");
    let table = [
        // Nothing rewritten: removed.
        (json!({KEY: "{}", "x": "y"}), "registry.corp/a", None),
        (json!({KEY: null}), "registry.corp/a", None),
        (json!({KEY: r#"{"containers/a":"nginx:evil"}"#}), "harbor.corp/hub/library/nginx", None),
        (json!({KEY: r#"{"containers/b":"nginx"}"#}), "harbor.corp/hub/library/nginx", None),
        (json!({KEY: "not json"}), "harbor.corp/hub/library/nginx", None),
        // Rewritten: replaced.
        (json!({KEY: r#"{"containers/a":"evil"}"#}), "nginx", Some(r#"{"containers/a":"nginx"}"#)),
        (json!({KEY: "{"}), "docker.io/nginx", Some(r#"{"containers/a":"docker.io/nginx"}"#)),
        // A copy of an admitted Pod, or a second call of the API server: the same result as the first time.
        (
            json!({KEY: r#"{"containers/a":"nginx","volumes/x":"y"}"#}),
            "harbor.corp/hub/library/nginx",
            Some(r#"{"containers/a":"nginx"}"#),
        ),
    ];
    for (annotations, image, record) in table {
        let reported = admit(&rules, &pod(annotations.clone(), &[("a", image)]), None);
        assert_eq!(reported.pod["metadata"]["annotations"][KEY].as_str(), record, "{annotations} {image}");
        let has_key = reported.pod["metadata"]["annotations"].as_object().unwrap().contains_key(KEY);
        assert_eq!(has_key, record.is_some(), "{annotations} {image}");
    }
}

#[test]
fn the_annotation_finds_its_place_whatever_metadata_there_is() {
    for metadata in [json!(null), json!({}), json!({"annotations": null}), json!({"annotations": {"a~b/c": "d"}})] {
        let mut sent = pod(json!({}), &[("a", "nginx")]);
        sent["metadata"] = metadata.clone();
        let reported = admit(&rules_to("hub"), &sent, None);
        assert_eq!(reported.pod["metadata"]["annotations"][KEY], r#"{"containers/a":"nginx"}"#, "{metadata}");
    }
    let reported = admit(&rules_to("hub"), &json!({"spec": {"containers": [{"name": "a", "image": "nginx"}]}}), None);
    assert_eq!(reported.pod["metadata"]["annotations"][KEY], r#"{"containers/a":"nginx"}"#);
}

#[test]
fn a_record_that_would_make_the_pod_invalid_is_not_written() {
    let sent = pod(json!({"big": "x".repeat(MAX_ANNOTATIONS - KEY.len() - 10)}), &[("a", "nginx")]);
    let reported = admit(&rules_to("hub"), &sent, None);
    assert_eq!(reported.pod["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx");
    assert_eq!(reported.pod["metadata"]["annotations"], sent["metadata"]["annotations"]);
    assert!(reported.warnings[0].contains("no room"), "{:?}", reported.warnings);
}

#[test]
fn images_that_cannot_be_read_are_left_with_a_warning_that_names_the_container() {
    let names: Vec<String> = (0..20).map(|index| format!("c{index}")).collect();
    let containers: Vec<_> = names.iter().map(|name| (&**name, "Nginx")).collect();
    let reported = admit(&rules_to("hub"), &pod(json!({}), &containers), None);
    assert_eq!((reported.operations, reported.warnings.len()), (0, 9));
    assert_eq!(
        reported.warnings[0],
        "harbor-pilot: the image of container \"c0\" was not rewritten: repository name must be lowercase"
    );
    assert_eq!(reported.warnings[8], "harbor-pilot: 12 more images were not rewritten");

    let unusual = "x\r\nSet-Cookie: ".to_owned() + &"ä".repeat(100);
    let reported = admit(&rules_to("hub"), &pod(json!({}), &[(&unusual, " "), ("empty", "")]), None);
    assert_eq!(reported.warnings.len(), 1);
    assert!(reported.warnings[0].len() < 256 && reported.warnings[0].chars().all(|c| c == ' ' || c.is_ascii_graphic()));
}

#[test]
fn the_mirror_of_a_static_pod_is_left_as_the_kubelet_wrote_it() {
    let reported = admit(&rules_to("hub"), &pod(json!({"kubernetes.io/config.mirror": "x"}), &[("a", "nginx")]), None);
    assert_eq!((reported.operations, reported.wanted.len()), (0, 0));
}

#[test]
fn an_update_of_other_fields_changes_nothing_whether_or_not_the_pod_was_admitted_by_us() {
    let rules = rules_to("hub");
    for old in [
        pod(json!({}), &[("a", "nginx"), ("b", "Bad")]),
        pod(json!({KEY: r#"{"containers/a":"nginx"}"#}), &[("a", "harbor.corp/old/library/nginx")]),
    ] {
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"new": "label"});
        new["metadata"]["annotations"]["new"] = json!("annotation");
        let reported = admit(&rules, &new, Some(&old));
        assert_eq!((reported.operations, reported.wanted.len(), reported.warnings.len()), (0, 0, 0), "{old}");
    }
}

#[test]
fn a_manifest_applied_again_gets_the_old_image_back_whatever_the_rules_say_now() {
    let annotations = json!({KEY: r#"{"containers/a":"nginx","containers/b":"redis"}"#});
    let old = pod(annotations, &[("a", "harbor.corp/before/library/nginx"), ("b", "harbor.corp/before/library/redis")]);
    for (rules, annotations) in
        [(rules_to("hub"), old["metadata"]["annotations"].clone()), (Rules::default(), json!({"mine": "x"}))]
    {
        let reported = admit(&rules, &pod(annotations, &[("a", "nginx"), ("b", "redis")]), Some(&old));
        assert_eq!(reported.pod["spec"], old["spec"]);
        assert_eq!(reported.pod["metadata"]["annotations"][KEY], old["metadata"]["annotations"][KEY]);
        assert_eq!(reported.wanted.len(), 0);
    }
}

#[test]
fn only_the_changed_image_of_an_update_is_looked_at_and_recorded() {
    let old =
        pod(json!({KEY: r#"{"containers/b":"redis"}"#}), &[("a", "nginx"), ("b", "harbor.corp/before/library/redis")]);
    let mut new = old.clone();
    new["spec"]["containers"] = json!([
        {"name": "b", "image": "redis:8"},
        {"name": "a", "image": "nginx"},
    ]);
    let reported = admit(&rules_to("hub"), &new, Some(&old));
    assert_eq!(reported.pod["spec"]["containers"][0]["image"], "harbor.corp/hub/library/redis:8");
    assert_eq!(reported.pod["spec"]["containers"][1]["image"], "nginx");
    assert_eq!(reported.pod["metadata"]["annotations"][KEY], r#"{"containers/b":"redis:8"}"#);
    assert_eq!(reported.wanted, ["harbor.corp/hub/library/redis:8 of hub"]);

    new["spec"]["containers"][0]["image"] = json!("registry.corp/redis");
    let reported = admit(&rules_to("hub"), &new, Some(&old));
    assert_eq!(reported.pod["metadata"]["annotations"], json!({}), "the record of an image that went is dropped");
}

#[test]
fn by_way_of_the_subresource_only_new_ephemeral_containers_change() {
    let with = |debuggers: Value| {
        let mut pod = pod(json!({}), &[("a", "nginx")]);
        pod["spec"]["ephemeralContainers"] = debuggers;
        pod
    };
    let old = with(json!([{"name": "d1", "image": "busybox"}]));
    let new = with(json!([{"name": "d1", "image": "busybox"}, {"name": "d2", "image": "alpine"}]));
    let reported = admit_as(&rules_to("hub"), &new, Some(&old), |pod, old| PodChange::EphemeralContainers {
        pod,
        old: old.unwrap(),
    });
    let mut expected = new;
    expected["spec"]["ephemeralContainers"][1]["image"] = json!("harbor.corp/hub/library/alpine");
    assert_eq!((reported.pod, reported.operations), (expected, 1));
}

fn some_image() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "nginx",
        "redis:8",
        "ghcr.io/acme/a",
        "ghcr.io/b",
        "harbor.corp/hub/library/nginx",
        "harbor.corp/acme/acme/a",
        "harbor.corp/x/y",
        "Bad",
        "",
        "docker.io/nginx",
    ])
    .prop_map(str::to_owned)
}

fn some_pod() -> impl Strategy<Value = Value> {
    let record = prop::option::of(prop::collection::btree_map(
        prop::sample::select(vec!["containers/c0", "containers/c1", "initContainers/c0", "volumes/c0", "x"]),
        some_image(),
        0..4,
    ));
    let images = || prop::collection::vec(some_image(), 0..3);
    (record, images(), images(), images()).prop_map(|(record, containers, inits, volumes)| {
        let named = |images: Vec<String>| -> Vec<Value> {
            let named = |(index, image)| json!({"name": format!("c{index}"), "image": image});
            images.into_iter().enumerate().map(named).collect()
        };
        let volumes: Vec<_> = named(volumes)
            .into_iter()
            .map(|v| json!({"name": v["name"], "image": {"reference": v["image"]}}))
            .collect();
        let annotations = record.map(|record| json!({KEY: serde_json::to_string(&record).unwrap()}));
        json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": named(containers), "initContainers": named(inits), "volumes": volumes},
        })
    })
}

proptest! {
    #[test]
    fn admitting_twice_is_admitting_once(sent in some_pod(), old in prop::option::of(some_pod())) {
        let rules = rules_to("hub");
        // The old Pod was admitted earlier, with other rules.
        let old = old.map(|old| admit(&rules_to("before"), &old, None).pod);
        let once = admit(&rules, &sent, old.as_ref());
        let twice = admit(&rules, &once.pod, old.as_ref());
        prop_assert_eq!(twice.operations, 0, "{} became {}", once.pod, twice.pod);
        prop_assert_eq!(once.pod, twice.pod);
    }
}

fn with_secret(secret: &str) -> Rules {
    let rule = |name: &str, matched: &str, secret: Option<&str>| Rule {
        name: name.to_owned(),
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: name.to_owned(),
        terms: RewriteTerms { pull_secret_name: secret.map(str::to_owned), ..RewriteTerms::default() },
        ..Rule::default()
    };
    Rules::compile([rule("hub", "docker.io", Some(secret)), rule("acme", "ghcr.io/acme", None)])
}

#[test]
fn a_rule_s_pull_secret_comes_beside_those_that_are_there_and_only_for_rewritten_images() {
    let table = [
        (json!(null), "nginx", json!([{"name": "harbor"}])),
        (json!([]), "nginx", json!([{"name": "harbor"}])),
        (json!([{"name": "own"}]), "nginx", json!([{"name": "own"}, {"name": "harbor"}])),
        (json!([{"name": "harbor"}]), "nginx", json!([{"name": "harbor"}])),
        (json!([{"name": "own"}]), "ghcr.io/acme/app", json!([{"name": "own"}])),
        (json!([{"name": "own"}]), "quay.io/app", json!([{"name": "own"}])),
        (json!([{"name": "own"}]), "harbor.corp/hub/library/nginx", json!([{"name": "own"}])),
    ];
    for (secrets, image, expected) in table {
        let mut pod = pod(json!({}), &[("app", image), ("beside", image)]);
        pod["spec"]["imagePullSecrets"] = secrets;
        let admitted = admit(&with_secret("harbor"), &pod, None).pod;
        assert_eq!(admitted["spec"]["imagePullSecrets"], expected, "{image}");
        assert_eq!(admit(&with_secret("harbor"), &admitted, None).pod, admitted, "asked again");
    }
}

#[test]
fn an_update_never_touches_pull_secrets() {
    let old = pod(json!({}), &[("app", "quay.io/app")]);
    let new = pod(json!({}), &[("app", "nginx")]);
    let admitted = admit(&with_secret("harbor"), &new, Some(&old)).pod;
    assert_eq!(admitted["spec"]["containers"][0]["image"], "harbor.corp/hub/library/nginx");
    assert_eq!(admitted["spec"].get("imagePullSecrets"), None);
}

#[test]
fn a_pod_is_left_alone_only_where_its_namespace_lets_it() {
    let mut pod = pod(json!({}), &[("app", "nginx")]);
    let allowed: std::collections::BTreeMap<_, _> = [(ALLOW_EXEMPT.to_owned(), "true".to_owned())].into();
    let refused = [(ALLOW_EXEMPT.to_owned(), "false".to_owned())].into();
    for (label, namespace, stays, warns) in [
        (Some("true"), Some(&allowed), true, false),
        (Some("false"), Some(&allowed), false, false),
        (None, Some(&allowed), false, false),
        (Some("true"), Some(&refused), false, true),
        (Some("true"), None, false, true),
    ] {
        pod["metadata"]["labels"] = label.map_or(json!({}), |label| json!({EXEMPT: label}));
        let text = pod.to_string();
        let view: Pod<'_> = crate::json_scan::read(text.as_bytes()).unwrap();
        let subject = PodScope { namespace: "shop", namespace_labels: namespace, labels: view.labels() };
        let outcome = decide(PodChange::Create { pod: &view }, &rules_to("hub"), &subject);
        assert_eq!(!outcome.changes_anything(), stays, "{label:?} {namespace:?}");
        assert_eq!(outcome.warnings().iter().any(|warning| warning.contains(ALLOW_EXEMPT)), warns, "{label:?}");
    }
}

#[test]
fn the_images_of_named_containers_are_kept() {
    let annotations = json!({KEEP_IMAGES: "app, data"});
    let mut pod = pod(annotations, &[("app", "nginx"), ("apple", "nginx")]);
    pod["spec"]["volumes"] = json!([{"name": "data", "image": {"reference": "redis"}}]);
    let admitted = admit(&rules_to("hub"), &pod, None).pod;
    assert_eq!(admitted["spec"]["containers"][0]["image"], "nginx");
    assert_eq!(admitted["spec"]["containers"][1]["image"], "harbor.corp/hub/library/nginx");
    assert_eq!(admitted["spec"]["volumes"][0]["image"]["reference"], "redis");
}

#[test]
fn decide_warns_about_images_that_stay_while_harbor_is_unavailable() {
    let rule = Rule {
        name: "hub".to_owned(),
        matches: vec!["docker.io".to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: "hub".to_owned(),
        unavailable: true,
        ..Rule::default()
    };
    let reported = admit(&Rules::compile([rule]), &pod(json!({}), &[("app", "nginx")]), None);
    assert_eq!(reported.operations, 0);
    assert_eq!(
        reported.warnings,
        [
            "harbor-pilot: the image of container \"app\" was not rewritten: harbor.corp is unavailable, and ProxyProject hub does not rewrite images meanwhile"
        ]
    );
}

#[test]
fn decide_leaves_images_that_are_never_pulled_and_placeholders_of_other_webhooks() {
    let mut sent = pod(json!({}), &[("local", "thisisfine:v1"), ("side", "busybox:1.36"), ("istio-proxy", "auto")]);
    sent["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    sent["spec"]["containers"][1]["imagePullPolicy"] = json!("IfNotPresent");
    sent["spec"]["initContainers"] = json!([{"name": "envoy", "image": "injector-envoy-image"}]);
    sent["spec"]["volumes"] =
        json!([{"name": "v", "image": {"reference": "harbor.corp/hub/x", "pullPolicy": "Never"}}]);
    let reported = admit(&rules_to("hub"), &sent, None);
    let mut expected = sent;
    expected["spec"]["containers"][1]["image"] = json!("harbor.corp/hub/library/busybox:1.36");
    expected["metadata"]["annotations"][KEY] = json!(r#"{"containers/side":"busybox:1.36"}"#);
    assert_eq!(reported.pod, expected);
    assert_eq!(reported.wanted, ["harbor.corp/hub/library/busybox:1.36 of hub"], "what is never pulled is not warmed");
    assert_eq!(reported.warnings, [""; 0]);

    // Its webhook has acted, and the API server calls again.
    let mut injected = reported.pod;
    injected["spec"]["containers"][2]["image"] = json!("istio/proxyv2:1.27");
    let reported = admit(&rules_to("hub"), &injected, None);
    assert_eq!(reported.pod["spec"]["containers"][2]["image"], "harbor.corp/hub/istio/proxyv2:1.27");
    let record = r#"{"containers/side":"busybox:1.36","containers/istio-proxy":"istio/proxyv2:1.27"}"#;
    assert_eq!(reported.pod["metadata"]["annotations"][KEY], record);
}

#[test]
fn decide_gives_no_image_back_for_an_original_that_it_cannot_be_made_from() {
    let old = |original: &str| {
        let record = json!({"containers/a": original}).to_string();
        pod(json!({KEY: record}), &[("a", "harbor.corp/hub/library/nginx:1")])
    };
    for (original, becomes) in [
        ("evil.example/x", "evil.example/x"),
        ("redis:8", "harbor.corp/hub/library/redis:8"),
        ("nginx:2", "harbor.corp/hub/library/nginx:2"),
        ("nginx:1", "harbor.corp/hub/library/nginx:1"),
    ] {
        let reported = admit(&rules_to("hub"), &pod(json!({}), &[("a", original)]), Some(&old(original)));
        assert_eq!(reported.pod["spec"]["containers"][0]["image"], becomes);
    }
    // A forged entry does not survive an update of another field.
    let mut labelled = old("evil.example/x");
    labelled["metadata"]["annotations"] = json!({"mine": "x"});
    let reported = admit(&rules_to("hub"), &labelled, Some(&old("evil.example/x")));
    assert_eq!(reported.pod["metadata"]["annotations"], json!({"mine": "x"}));
}

#[test]
fn decide_within_gives_up_what_exceeds_the_budget() {
    let rule = |index: usize| Rule {
        name: format!("r{index}"),
        created: 1,
        matches: vec!["docker.io".to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: format!("p{index}"),
        terms: serde_json::from_value(json!({"exclude": ["docker.io/library/nginx", "**/*:latest"]})).unwrap(),
        ..Rule::default()
    };
    let rules = Rules::compile((0..1_000).map(rule));
    let names: Vec<String> = (0..2_000).map(|index| format!("c{index}")).collect();
    let decide = |count: usize| {
        let containers: Vec<_> = names[..count].iter().map(|name| (name.as_str(), "nginx")).collect();
        let text = pod(json!({}), &containers).to_string();
        let view: Pod<'_> = crate::json_scan::read(text.as_bytes()).unwrap();
        let request = PodChange::Create { pod: &view };
        decide_within(request, &rules, &PodScope::default(), &StepBudget::of_review())
            .map(|outcome| outcome.rewritten())
    };
    assert_eq!(decide(10), Ok(0));
    assert_eq!(decide(2_000), Err(BudgetExhausted));
}

#[test]
fn outcome_names_each_secret_and_each_rule_once_however_many_there_are() {
    let rule = |index: usize| Rule {
        name: format!("r{index}"),
        created: 1,
        matches: vec![format!("h{index}.example")],
        pull_host: "harbor.corp".to_owned(),
        project: format!("p{index}"),
        terms: RewriteTerms { pull_secret_name: Some(format!("s{}", index % 30)), ..RewriteTerms::default() },
        ..Rule::default()
    };
    let rules = Rules::compile((0..50).map(rule));
    let images: Vec<String> = (0..100).map(|index| format!("h{}.example/x", index % 50)).collect();
    let names: Vec<String> = (0..100).map(|index| format!("c{index}")).collect();
    let containers: Vec<_> = names.iter().zip(&images).map(|(name, image)| (name.as_str(), image.as_str())).collect();
    let mut sent = pod(json!({}), &containers);
    sent["spec"]["imagePullSecrets"] = json!([{"name": "s7"}, {"name": "other"}, {}]);
    let text = sent.to_string();
    let view: Pod<'_> = crate::json_scan::read(text.as_bytes()).unwrap();
    let outcome = decide(PodChange::Create { pod: &view }, &rules, &PodScope::default());
    assert_eq!(outcome.acted(), (0..50).map(|index| format!("r{index}")).collect::<Vec<_>>());
    let secrets: Vec<_> = (0..30).filter(|index| *index != 7).map(|index| format!("s{index}")).collect();
    assert_eq!(outcome.pull_secrets().iter().map(|name| name.to_string()).collect::<Vec<_>>(), secrets);
    for (index, image) in images.iter().enumerate() {
        let expected = format!("harbor.corp/p{}/{}", index % 50, image.split_once('/').unwrap().1);
        assert_eq!(outcome.image(ImageLocation::Containers, index), Some(&*expected));
    }
    assert_eq!(outcome.image(ImageLocation::InitContainers, 0), None);
}
