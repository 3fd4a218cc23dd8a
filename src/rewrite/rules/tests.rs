use super::*;
use RewriteMode::{Disabled, Enabled};
use WhenUnavailable::{Original, Rewrite};

fn rule(name: &str, created: i64, matches: &[&str], project: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        created,
        matches: matches.iter().map(|text| (*text).to_owned()).collect(),
        pull_host: "harbor.corp".to_owned(),
        project: project.to_owned(),
        ..Rule::default()
    }
}

/// The rewritten image; `stays PROJECT` at Harbor, `-` without a rule.
fn told(rules: &Rules, image: &str) -> String {
    match rules.find_for_anyone(&ImageRef::parse(image).unwrap()) {
        Decision::Rewritten { image, .. } => image.to_string(),
        Decision::AlreadyAtHarbor { rule } => format!("stays {}", rule.map_or("", |rule| rule.name())),
        Decision::TooLong { rule } => format!("too long for {}", rule.name()),
        _ => "-".to_owned(),
    }
}

#[test]
fn the_longest_match_on_whole_components_decides() {
    let rules = Rules::compile([
        rule("hub", 5, &["docker.io"], "hub"),
        rule("acme", 4, &["ghcr.io/acme"], "acme"),
        rule("tools", 9, &["ghcr.io/acme/tools/x", "h:5000/team"], "tools"),
        rule("quay", 1, &["QUAY.io/", "index.docker.io/bitnami"], "quay"),
    ]);
    assert_eq!(rules.findings(), []);
    let digest = format!("@sha256:{}", "0".repeat(64));
    let table = [
        ("nginx", "harbor.corp/hub/library/nginx".to_owned()),
        (&*format!("nginx:1{digest}"), format!("harbor.corp/hub/library/nginx:1{digest}")),
        ("docker.io/a/b/c:x", "harbor.corp/hub/a/b/c:x".to_owned()),
        ("bitnami/redis", "harbor.corp/quay/bitnami/redis".to_owned()),
        ("bitnamilegacy/redis", "harbor.corp/hub/bitnamilegacy/redis".to_owned()),
        ("ghcr.io/acme", "harbor.corp/acme/acme".to_owned()),
        ("ghcr.io/acme/app", "harbor.corp/acme/acme/app".to_owned()),
        ("ghcr.io/acme/tools", "harbor.corp/acme/acme/tools".to_owned()),
        ("ghcr.io/acme/tools/x", "harbor.corp/tools/acme/tools/x".to_owned()),
        ("ghcr.io/acme/tools/x/y/z", "harbor.corp/tools/acme/tools/x/y/z".to_owned()),
        ("ghcr.io/acme/tools/xy", "harbor.corp/acme/acme/tools/xy".to_owned()),
        ("ghcr.io/acmeplus/app", "-".to_owned()),
        ("ghcr.io/app", "-".to_owned()),
        ("ghcr.io:443/acme/app", "-".to_owned()),
        ("GHCR.io/acme/app", "harbor.corp/acme/acme/app".to_owned()),
        ("quay.io/a", "harbor.corp/quay/a".to_owned()),
        ("DOCKER.io/a", "-".to_owned()),
        ("h:5000/team/app", "harbor.corp/tools/team/app".to_owned()),
        ("h:5001/team/app", "-".to_owned()),
        ("docker.io.evil/a", "-".to_owned()),
    ];
    for (image, expected) in table {
        assert_eq!(told(&rules, image), expected, "{image}");
    }
}

#[test]
fn images_at_harbor_stay_and_name_the_rule_of_their_project() {
    let rules = Rules::compile([rule("hub", 5, &["docker.io"], "dockerhub")]);
    let table = [
        ("harbor.corp/dockerhub/library/nginx:1", "stays hub"),
        ("HARBOR.corp/dockerhub/library/nginx:1", "stays hub"),
        ("harbor.corp/other/nginx", "stays "),
        ("harbor.corp/dockerhub2/nginx", "stays "),
        ("harbor.corp.evil/dockerhub/nginx", "-"),
        ("harbor.corp:443/dockerhub/nginx", "-"),
    ];
    for (image, expected) in table {
        assert_eq!(told(&rules, image), expected, "{image}");
    }
}

#[test]
fn of_two_rules_with_one_match_the_older_wins_then_the_name_in_any_order_of_arrival() {
    let (old, young, twin) =
        (rule("z", 1, &["ghcr.io"], "z"), rule("a", 2, &["ghcr.io", "x.io"], "a"), rule("y", 1, &["GHCR.io/"], "y"));
    for rules in [vec![old.clone(), young.clone(), twin.clone()], vec![young, twin, old]] {
        let rules = Rules::compile(rules);
        assert_eq!(told(&rules, "ghcr.io/app"), "harbor.corp/y/app");
        assert_eq!(told(&rules, "x.io/app"), "harbor.corp/a/app");
        let told: Vec<_> = rules.findings().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "z: match ghcr.io belongs to the older y; remove it from one of them",
                "a: match ghcr.io belongs to the older y; remove it from one of them",
            ]
        );
    }
}

#[test]
fn what_can_match_nothing_is_told_and_the_rest_holds() {
    let broken = Rule { pull_host: "harbor".to_owned(), ..rule("broken", 0, &["docker.io"], "p") };
    let bad = ["nginx", "", "/", "a b.c", "ghcr.io/Acme", "ghcr.io//x", "https://ghcr.io", "*.io", "harbor.corp/x"];
    let mut matches = bad.to_vec();
    matches.extend(["docker.io", "docker.io"]);
    let rules = Rules::compile([rule("hub", 1, &matches, "hub"), broken]);
    assert_eq!(rules.len(), 1);
    assert_eq!(rules.findings().len(), bad.len() + 1, "{:#?}", rules.findings());
    assert_eq!(told(&rules, "nginx"), "harbor.corp/hub/library/nginx");
}

#[test]
fn an_image_that_would_become_too_long_is_left_and_told() {
    let rules = Rules::compile([rule("hub", 1, &["ghcr.io"], "dockerhub")]);
    assert_eq!(told(&rules, &format!("ghcr.io/{}", "a".repeat(246))), "too long for hub");
}

#[test]
fn without_rules_nothing_is_rewritten() {
    assert!(Rules::default().is_empty());
    assert_eq!(told(&Rules::compile([]), "nginx"), "-");
}

fn scoped(name: &str, created: i64, matched: &str, scope: serde_json::Value) -> Rule {
    let selector = |key: &str| scope.get(key).map(|value| serde_json::from_value(value.clone()).unwrap());
    let terms = RewriteTerms {
        exclude: scope.get("exclude").map_or(Vec::new(), |value| serde_json::from_value(value.clone()).unwrap()),
        namespace_selector: selector("namespaces"),
        object_selector: selector("objects"),
        ..RewriteTerms::default()
    };
    Rule { terms, ..rule(name, created, &[matched], name) }
}

/// The rule that rewrites an image of a Pod labelled `app=web`, in namespace `shop` labelled `team=shop`.
fn chosen(rules: &Rules, image: &str) -> String {
    let namespace = [("team".to_owned(), "shop".to_owned())].into();
    let text = r#"{"metadata": {"labels": {"app": "web"}}}"#;
    let pod: crate::rewrite::pod::Pod<'_> = serde_json::from_str(text).unwrap();
    let subject = Subject { namespace: "shop", namespace_labels: Some(&namespace), labels: pod.labels() };
    match rules.find(&ImageRef::parse(image).unwrap(), &subject) {
        Decision::Rewritten { rule, .. } => rule.name().to_string(),
        Decision::Mapped { image, rule } => format!("{} maps to {image}", rule.name()),
        Decision::Unavailable { rule } => format!("{} waits", rule.name()),
        _ => "-".to_owned(),
    }
}

#[test]
fn a_rule_that_does_not_speak_of_the_pod_or_the_image_leaves_room_for_the_next_one() {
    let team = |team: &str| serde_json::json!({"namespaces": {"matchLabels": {"team": team}}});
    let named = |name: &str| serde_json::json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    let app = |app: &str| serde_json::json!({"objects": {"matchLabels": {"app": app}}});
    let exclude = |glob: &str| serde_json::json!({"exclude": [glob]});
    let everything = serde_json::json!({});
    let table = [
        (vec![("a", "docker.io", team("shop"))], "a"),
        (vec![("a", "docker.io", team("bank"))], "-"),
        (vec![("a", "docker.io", named("shop"))], "a"),
        (vec![("a", "docker.io", app("web"))], "a"),
        (vec![("a", "docker.io", app("db"))], "-"),
        (vec![("a", "docker.io", exclude("docker.io/library/nginx"))], "-"),
        (vec![("a", "docker.io", exclude("docker.io/library/redis"))], "a"),
        // The longest match first, then the older one.
        (vec![("a", "docker.io", everything.clone()), ("b", "docker.io/library", team("bank"))], "a"),
        (vec![("a", "docker.io", everything.clone()), ("b", "docker.io/library", team("shop"))], "b"),
        (vec![("a", "docker.io", team("bank")), ("b", "docker.io", team("shop"))], "b"),
        (vec![("a", "docker.io", team("shop")), ("b", "docker.io", app("web"))], "a"),
        (vec![("a", "docker.io/library", exclude("**/nginx")), ("b", "docker.io", everything)], "b"),
    ];
    for (rules, expected) in table {
        let compiled =
            rules.iter().zip(0..).map(|((name, matched, scope), age)| scoped(name, age, matched, scope.clone()));
        let compiled = Rules::compile(compiled);
        assert_eq!(compiled.findings(), [], "{rules:?}");
        assert_eq!(chosen(&compiled, "nginx"), expected, "{rules:?}");
    }
}

#[test]
fn a_match_is_in_conflict_only_where_the_older_rule_leaves_no_room() {
    let team = |team: &str| serde_json::json!({"namespaces": {"matchLabels": {"team": team}}});
    let everything = serde_json::json!({});
    let exclude = serde_json::json!({"exclude": ["**/nginx"]});
    let table = [
        (everything.clone(), team("shop"), true),
        (team("shop"), everything.clone(), false),
        (team("shop"), team("bank"), false),
        (team("shop"), team("shop"), true),
        (exclude, everything, false),
    ];
    for (older, younger, conflict) in table {
        let rules =
            [scoped("older", 1, "docker.io", older.clone()), scoped("younger", 2, "docker.io", younger.clone())];
        let findings = Rules::compile(rules);
        let expected = "younger: match docker.io belongs to the older older; remove it from one of them";
        let found: Vec<_> = findings.findings().iter().map(ToString::to_string).collect();
        assert_eq!(found, if conflict { vec![expected] } else { vec![] }, "{older} {younger}");
    }
}

#[test]
fn disabled_rules_map_and_unavailable_ones_wait_unless_they_rewrite_nevertheless() {
    let rule = |unavailable, mode, when_unavailable| Rule {
        unavailable,
        terms: RewriteTerms { mode, when_unavailable, ..RewriteTerms::default() },
        ..rule("hub", 1, &["docker.io"], "hub")
    };
    let table = [
        (rule(false, Disabled, Original), "hub maps to harbor.corp/hub/library/nginx"),
        (rule(true, Enabled, Original), "hub waits"),
        (rule(true, Enabled, Rewrite), "hub"),
        (rule(false, Enabled, Original), "hub"),
        (rule(true, Disabled, Rewrite), "hub maps to harbor.corp/hub/library/nginx"),
    ];
    for (rule, expected) in table {
        let compiled = Rules::compile([rule.clone()]);
        assert_eq!(chosen(&compiled, "nginx"), expected, "{rule:?}");
        assert_eq!(told(&compiled, "nginx"), "harbor.corp/hub/library/nginx", "whoever asks: {rule:?}");
    }
}
