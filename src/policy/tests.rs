use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::api::{ImagePolicy, RewriteRuleStatus, proxy_project::RewriteTerms};
use crate::rewrite::pod::JsonStr;
use crate::rewrite::{BudgetExhausted, PodScope, StepBudget};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn policy(name: &str, spec: Value) -> ImagePolicy {
    let object = json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ImagePolicy", "metadata": {"name": name}, "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn compiled(spec: Value) -> Policies {
    let policies = Policies::compile([&policy("only-harbor", spec)]);
    assert_eq!(policies.findings(), []);
    policies
}

fn enforced(rest: Value) -> Policies {
    let mut spec = json!({"action": "Enforce"});
    spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    compiled(spec)
}

fn shop() -> BTreeMap<String, String> {
    [("team".to_owned(), "shop".to_owned())].into()
}

fn judged(image: &str) -> JudgedImage<'_> {
    JudgedImage { noun: "container", name: "web", sent: image, image, unavailable: false, note: ForeignReason::None }
}

fn judge(policies: &Policies, image: &str) -> PolicyResult {
    let labels = shop();
    let subject = PodScope { namespace: "shop", namespace_labels: Some(&labels), labels: &[] };
    policies.evaluate(&subject, [judged(image)], None)
}

fn refuses(policies: &Policies, image: &str) -> bool {
    judge(policies, image).is_denied()
}

#[test]
fn nothing_but_the_allowed_registry_passes_for_it() {
    let policies = enforced(json!({"allowed": [{"host": "harbor.corp"}]}));
    let table = [
        ("harbor.corp/hub/nginx:1", false),
        ("HARBOR.corp/hub/nginx:1", false),
        (&*format!("harbor.corp/hub/nginx@{DIGEST}"), false),
        ("nginx", true),
        ("harbor.corp.evil/x", true),
        ("evil.harbor.corp/x", true),
        ("harbor.corpevil.example/x", true),
        ("harbor.corp@x", true),
        ("user@harbor.corp/x", true),
        ("harbor.corp:443/x", false),
        ("harbor.corp:4430/x", true),
        ("harbor.corp:443:443/x", true),
        ("harbor.corp:80/hub/x", true),
        ("harbor.corp./hub/x", true),
        ("harbor.corp", true),
        ("harbor.corp\u{430}/hub/x", true),
        ("evil.example/harbor.corp/hub/x", true),
        ("https://harbor.corp/hub/x", true),
        ("harbor.corp//hub/x", true),
        (" harbor.corp/hub/x", true),
        ("harbor.corp/hub/x ", true),
        ("my_host.example/app", true),
        ("docker.io/harbor.corp/x", true),
        ("", true),
    ];
    for (image, expected) in table {
        assert_eq!(refuses(&policies, image), expected, "{image:?}");
    }
    let with_port = enforced(json!({"allowed": [{"host": "Harbor.corp:8443"}]}));
    assert!(!refuses(&with_port, "harbor.corp:8443/hub/x"));
    assert!(refuses(&with_port, "harbor.corp/hub/x"));
    let address = enforced(json!({"allowed": [{"host": "[fd00::1]:5000"}]}));
    assert!(!refuses(&address, "[FD00::1]:5000/hub/x"));
}

#[test]
fn projects_are_whole_components() {
    let policies = enforced(json!({"allowed": [
        {"host": "harbor.corp", "projects": ["dockerhub", "team-*"]},
        {"host": "index.docker.io", "projects": ["library"]},
    ]}));
    let table = [
        ("harbor.corp/dockerhub/library/nginx", false),
        ("harbor.corp/team-a/app", false),
        ("harbor.corp/dockerhub2/nginx", true),
        ("harbor.corp/my-dockerhub/nginx", true),
        ("harbor.corp/team/app", true),
        ("harbor.corp/other/dockerhub/app", true),
        ("harbor.corp/dockerhub", true),
        ("nginx", false),
        ("docker.io/library/nginx", false),
        ("bitnami/redis", true),
    ];
    for (image, expected) in table {
        assert_eq!(refuses(&policies, image), expected, "{image}");
    }
}

#[test]
fn latest_is_a_tag_or_none_and_a_digest_is_what_it_says() {
    let digest = |image: &str| format!("{image}@{DIGEST}");
    let table = [
        ("h.example/app:1".to_owned(), false, true),
        ("h.example/app:latest".to_owned(), true, true),
        ("h.example/app".to_owned(), true, true),
        (digest("h.example/app"), false, false),
        (digest("h.example/app:latest"), false, false),
        ("h.example/app:latest-2".to_owned(), false, true),
        ("h.example:5000/app".to_owned(), true, true),
        ("not an image".to_owned(), true, true),
    ];
    let (no_latest, with_digest) = (enforced(json!({"forbidLatest": true})), enforced(json!({"requireDigest": true})));
    for (image, latest, unpinned) in table {
        assert_eq!(refuses(&no_latest, &image), latest, "{image}");
        assert_eq!(refuses(&with_digest, &image), unpinned, "{image}");
    }
}

#[test]
fn a_refusal_names_the_container_the_image_the_policy_and_the_fix() {
    let only_harbor = enforced(json!({"allowed": [{"host": "harbor.corp", "projects": ["dockerhub", "team-*"]}]}));
    let reported = |policies: &Policies, image: &str| judge(policies, image).denials().join("\n");
    assert_eq!(
        reported(&only_harbor, "nginx:1.27"),
        "container \"web\": image \"nginx:1.27\" is not from an allowed registry (policy only-harbor allows \
         harbor.corp/{dockerhub,team-*}); push it to Harbor or ask for a rule"
    );
    assert_eq!(
        reported(&enforced(json!({"forbidLatest": true})), "nginx"),
        "container \"web\": image \"nginx\" has no fixed tag (policy only-harbor forbids latest); name a version or a \
         digest"
    );
    assert_eq!(
        reported(&enforced(json!({"requireDigest": true})), "nginx:1"),
        "container \"web\": image \"nginx:1\" has no digest (policy only-harbor requires one); append @sha256:..."
    );
    assert_eq!(
        reported(&only_harbor, "Nginx"),
        "container \"web\": image \"Nginx\" is not a valid image reference (policy only-harbor); write host/project/name:tag"
    );
    let rewritten = JudgedImage { image: "harbor.corp/hub/library/nginx", ..judged("nginx") };
    let denials = only_harbor.evaluate(&PodScope::default(), [rewritten], None).denials();
    assert!(
        denials[0].contains("image \"nginx\", which becomes \"harbor.corp/hub/library/nginx\", is not"),
        "{denials:?}"
    );
}

#[test]
fn the_action_says_what_a_violation_does() {
    for (action, denials, warnings) in [("Enforce", 1, 0), ("Warn", 0, 1), ("Audit", 0, 0)] {
        let policies = compiled(json!({"action": action, "forbidLatest": true}));
        let judgement = judge(&policies, "nginx");
        assert_eq!((judgement.denials().len(), judgement.warnings().len()), (denials, warnings), "{action}");
        assert_eq!(judgement.audit().as_deref(), Some("only-harbor=1"), "{action}");
        let clean = judge(&policies, "nginx:1");
        assert!(clean.is_clean() && clean.audit().is_none() && clean.warnings().is_empty(), "{action}");
    }
}

#[test]
fn selectors_say_whose_images_are_judged() {
    let by_namespace = enforced(json!({"forbidLatest": true, "namespaceSelector": {"matchLabels": {"team": "shop"}}}));
    let by_name = enforced(json!({"forbidLatest": true,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}));
    let by_label = enforced(json!({"forbidLatest": true,
        "objectSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}));
    let (shop, other) = (shop(), BTreeMap::new());
    let tier = [(JsonStr("tier".into()), JsonStr("web".into()))];
    let table = [
        (&by_namespace, "shop", Some(&shop), &[][..], true),
        (&by_namespace, "bank", Some(&other), &[][..], false),
        (&by_name, "shop", None, &[][..], true),
        (&by_name, "bank", None, &[][..], false),
        (&by_label, "shop", None, &tier[..], true),
        (&by_label, "shop", None, &[][..], false),
    ];
    for (policies, namespace, namespace_labels, labels, expected) in table {
        let judgement = policies.evaluate(&PodScope { namespace, namespace_labels, labels }, [judged("nginx")], None);
        assert_eq!(judgement.is_denied(), expected, "{policies:?} {namespace}");
    }
}

#[test]
fn a_namespace_that_was_just_made_is_no_way_past_a_policy() {
    let selector = json!({"matchLabels": {"team": "shop"}});
    let subject = PodScope { namespace: "new", ..PodScope::default() };
    let strict = enforced(json!({"forbidLatest": true, "namespaceSelector": selector}));
    let denials = strict.evaluate(&subject, [judged("nginx")], None).denials();
    assert!(denials[0].ends_with("the labels of the namespace are not known yet, try again"), "{denials:?}");
    assert!(strict.evaluate(&subject, [judged("nginx:1")], None).is_clean());
    let lenient = compiled(json!({"action": "Warn", "forbidLatest": true, "namespaceSelector": selector}));
    assert!(lenient.evaluate(&subject, [judged("nginx")], None).is_clean());
}

#[test]
fn an_exemption_needs_its_image_and_its_namespace() {
    let policies = enforced(json!({"allowed": [{"host": "harbor.corp"}], "exemptions": [
        {"images": ["docker.io/library/busybox", "quay.io/cni/**"], "reason": "debugging"},
        {"namespaces": ["legacy"], "reason": "goes in June"},
        {"images": ["ghcr.io/**"], "namespaces": ["ci"], "reason": "builders"},
    ]}));
    let table = [
        ("shop", "busybox:1.36", false),
        ("shop", "quay.io/cni/a/b", false),
        ("shop", "busybox2", true),
        ("shop", "docker.io.evil/library/busybox", true),
        ("legacy", "nginx", false),
        ("legacy", "No Image", false),
        ("shop", "No Image", true),
        ("ci", "ghcr.io/acme/x", false),
        ("shop", "ghcr.io/acme/x", true),
        ("ci", "nginx", true),
    ];
    for (namespace, image, expected) in table {
        let subject = PodScope { namespace, ..PodScope::default() };
        assert_eq!(policies.evaluate(&subject, [judged(image)], None).is_denied(), expected, "{namespace} {image}");
    }
}

#[test]
fn an_outage_softens_only_what_it_causes_and_only_where_the_policy_says_so() {
    let spec =
        |outage: &str| json!({"allowed": [{"host": "harbor.corp"}], "forbidLatest": true, "duringOutage": outage});
    let judge = |outage: &str, image: &str, unavailable: bool| {
        let judged = JudgedImage { unavailable, ..judged(image) };
        let judgement = enforced(spec(outage)).evaluate(&PodScope::default(), [judged], None);
        (judgement.is_denied(), judgement.warnings())
    };
    let (denied, warnings) = judge("Warn", "nginx:1", true);
    assert!(!denied && warnings[0].ends_with("admitted while Harbor is unavailable"), "{warnings:?}");
    assert!(judge("Warn", "nginx:latest", true).0, "the tag has nothing to do with the outage");
    assert!(judge("Warn", "ghcr.io/x/y:1", false).0, "no rule waits for Harbor with this one");
    assert!(judge("Enforce", "nginx:1", true).0);
}

#[test]
fn a_pair_that_would_refuse_every_pod_in_an_outage_is_found() {
    let rule = |when: &str, matched: &str| RewriteRuleStatus {
        matches: vec![matched.to_owned()],
        terms: RewriteTerms {
            when_unavailable: serde_json::from_value(json!(when)).unwrap(),
            ..RewriteTerms::default()
        },
        ..RewriteRuleStatus::default()
    };
    let harbor = json!([{"host": "harbor.corp"}]);
    let table = [
        (json!({"action": "Enforce", "allowed": harbor}), rule("Original", "docker.io"), true),
        (json!({"action": "Enforce", "allowed": harbor}), rule("Rewrite", "docker.io"), false),
        (json!({"action": "Enforce", "allowed": harbor, "duringOutage": "Warn"}), rule("Original", "docker.io"), false),
        (json!({"action": "Warn", "allowed": harbor}), rule("Original", "docker.io"), false),
        (json!({"action": "Enforce", "forbidLatest": true}), rule("Original", "docker.io"), false),
        (
            json!({"action": "Enforce", "allowed": [{"host": "harbor.corp"}, {"host": "docker.io"}]}),
            rule("Original", "docker.io/bitnami"),
            false,
        ),
    ];
    for (spec, rule, expected) in table {
        let findings = compiled(spec.clone()).outage_findings([("hub", &rule)]);
        assert_eq!(!findings.is_empty(), expected, "{spec} {rule:?}");
    }
}

#[test]
fn policy_parts_that_are_invalid_are_reported_and_allow_nothing() {
    let policies = Policies::compile([
        &policy(
            "scope",
            json!({"action": "Enforce", "forbidLatest": true,
            "objectSelector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}),
        ),
        &policy("host", json!({"action": "Enforce", "allowed": [{"host": "https://harbor.corp"}]})),
        &policy("project", json!({"action": "Enforce", "allowed": [{"host": "harbor.corp", "projects": ["[a"]}]})),
        &policy(
            "exempt",
            json!({"action": "Enforce", "requireDigest": true,
            "exemptions": [{"images": ["nginx"], "reason": "x"}]}),
        ),
    ]);
    let reported: Vec<String> = policies.findings().iter().map(ToString::to_string).collect();
    assert_eq!(reported.len(), 4, "{reported:#?}");
    assert!(
        reported.iter().any(|reported| reported.starts_with("policy scope is not active: objectSelector")),
        "{reported:#?}"
    );
    assert_eq!(policies.len(), 3);
    let judgement = judge(&policies, "harbor.corp/hub/nginx:1");
    assert_eq!(judgement.audit().as_deref(), Some("exempt=1,host=1,project=1"));
}

#[test]
fn messages_are_few_short_and_plain() {
    let policies = enforced(json!({"allowed": [{"host": "harbor.corp"}]}));
    let long = format!("evil.example/{}", "a".repeat(240));
    let nasty = "ev\u{1f}il\r\nX: \u{e9}\u{4e2d}\"";
    let images: Vec<String> =
        (0..30).map(|index| if index % 2 == 0 { long.clone() } else { nasty.to_owned() }).collect();
    let name = "n".repeat(300);
    let judged = images.iter().map(|image| JudgedImage { name: &name, ..judged(image) });
    let denials = policies.evaluate(&PodScope::default(), judged, None).denials();
    assert_eq!(denials.len(), 9);
    assert_eq!(denials[8], "and 22 more");
    for text in &denials {
        assert!(text.len() < 768 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    }
}

#[test]
fn judge_within_gives_up_what_exceeds_the_budget_and_never_admits_it() {
    let harbor = json!([{"host": "harbor.corp", "projects": ["hub", "team-*"]}]);
    let exemptions = json!([{"images": ["quay.io/**", "ghcr.io/**"], "reason": "x"}]);
    let given: Vec<ImagePolicy> = (0..400)
        .map(|index| {
            policy(&format!("p{index}"), json!({"action": "Enforce", "allowed": harbor, "exemptions": exemptions}))
        })
        .collect();
    let images: Vec<String> = (0..4_000).map(|index| format!("harbor.corp/hub/app:{index}")).collect();
    let judge = |policies: usize, images: &[String]| {
        let policies = Policies::compile(&given[..policies]);
        let images = images.iter().map(|image| judged(image));
        policies
            .evaluate_within(&PodScope::default(), images, None, &StepBudget::of_review())
            .map(|judgement| judgement.is_denied())
    };
    assert_eq!(judge(40, &images[..300]), Ok(false));
    assert_eq!(judge(400, &images[..10]), Ok(false));
    assert_eq!(judge(400, &images), Err(BudgetExhausted));
    assert_eq!(judge(40, &images), Err(BudgetExhausted));
}
