use super::*;

pub(super) fn rule(name: &str, created: i64, matches: &[&str], project: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        created,
        matches: matches.iter().map(|text| (*text).to_owned()).collect(),
        pull_host: "harbor.corp".to_owned(),
        project: project.to_owned(),
        ..Rule::default()
    }
}

/// The same, with exclusions and selectors.
pub(super) fn scoped(name: &str, created: i64, matched: &str, scope: serde_json::Value) -> Rule {
    let selector = |key: &str| scope.get(key).map(|value| serde_json::from_value(value.clone()).unwrap());
    let terms = RewriteTerms {
        exclude: scope.get("exclude").map_or(Vec::new(), |value| serde_json::from_value(value.clone()).unwrap()),
        namespace_selector: selector("namespaces"),
        object_selector: selector("objects"),
        ..RewriteTerms::default()
    };
    Rule { terms, ..rule(name, created, &[matched], name) }
}

/// Returns the rewritten image; `stays PROJECT` for an image at Harbor, `-` without a rule.
pub(super) fn reported(rules: &Rules, image: &str) -> String {
    match rules.find_for_anyone(&ImageRef::parse(image).unwrap()) {
        RuleDecision::Rewritten { image, .. } => image.to_string(),
        RuleDecision::AlreadyAtHarbor { rule } => format!("stays {}", rule.map_or("", |rule| rule.name())),
        RuleDecision::TooLong { rule } => format!("too long for {}", rule.name()),
        _ => "-".to_owned(),
    }
}

#[test]
fn canonical_for_anyone_is_one_reference_for_all_spellings_of_an_image_at_harbor() {
    let hub = Rule {
        docker_hub: true,
        replaces: vec!["harbor.old/hub".to_owned()],
        ..rule("hub", 1, &["docker.io", "harbor.old/hub"], "hub")
    };
    let rules = Rules::compile([hub, rule("quay", 2, &["quay.io"], "quay")]);
    let canonical =
        |image: &str| rules.canonical_for_anyone(&ImageRef::parse(image).unwrap()).map(|image| image.to_string());
    let digest = format!("@sha256:{}", "0".repeat(64));
    let table = [
        ("bad:1", "harbor.corp/hub/library/bad:1"),
        ("harbor.corp/hub/library/bad:1", "harbor.corp/hub/library/bad:1"),
        ("HARBOR.corp/hub/library/bad:1", "harbor.corp/hub/library/bad:1"),
        ("harbor.corp:443/hub/library/bad:1", "harbor.corp/hub/library/bad:1"),
        ("Harbor.Corp:443/hub/bad:1", "harbor.corp/hub/library/bad:1"),
        ("harbor.corp/hub/bad:1", "harbor.corp/hub/library/bad:1"),
        ("harbor.old/hub/bad:1", "harbor.corp/hub/library/bad:1"),
        ("harbor.corp/hub/a/bad", "harbor.corp/hub/a/bad"),
        ("harbor.corp/quay/bad:1", "harbor.corp/quay/bad:1"),
        ("HARBOR.corp:443/quay/bad:1", "harbor.corp/quay/bad:1"),
    ];
    for (image, expected) in table {
        assert_eq!(canonical(image).as_deref(), Some(expected), "{image}");
        let pinned = format!("{image}{digest}");
        assert_eq!(canonical(&pinned), Some(format!("{expected}{digest}")), "{pinned}");
    }
    for image in ["harbor.corp/other/bad:1", "harbor.corp:444/hub/bad:1", "ghcr.io/bad:1"] {
        assert_eq!(canonical(image), None, "{image}");
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
        ("ghcr.io:443/acme/app", "harbor.corp/acme/acme/app".to_owned()),
        ("ghcr.io:80/acme/app", "-".to_owned()),
        ("GHCR.io/acme/app", "harbor.corp/acme/acme/app".to_owned()),
        ("quay.io/a", "harbor.corp/quay/a".to_owned()),
        ("DOCKER.io/a", "-".to_owned()),
        ("h:5000/team/app", "harbor.corp/tools/team/app".to_owned()),
        ("h:5001/team/app", "-".to_owned()),
        ("docker.io.evil/a", "-".to_owned()),
    ];
    for (image, expected) in table {
        assert_eq!(reported(&rules, image), expected, "{image}");
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
        ("harbor.corp:443/dockerhub/nginx", "stays hub"),
        ("harbor.corp:80/dockerhub/nginx", "-"),
    ];
    for (image, expected) in table {
        assert_eq!(reported(&rules, image), expected, "{image}");
    }
}

#[test]
fn rules_find_too_long_for_an_image_that_would_be_too_long() {
    let rules = Rules::compile([rule("hub", 1, &["ghcr.io"], "dockerhub")]);
    assert_eq!(reported(&rules, &format!("ghcr.io/{}", "a".repeat(246))), "too long for hub");
}

#[test]
fn without_rules_nothing_is_rewritten() {
    assert!(Rules::default().is_empty());
    assert_eq!(reported(&Rules::compile([]), "nginx"), "-");
}
