//! The active rules: those of the ProxyProjects that Harbor is known to serve.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::rules::Reach;
use super::{Rule, RuleWarning, Rules};
use crate::api::condition::{find, reason_if_false};
use crate::api::{ConditionType, HarborInstance, ProxyProject, Reason, RewriteRuleStatus};

/// How long a Harbor must be unreachable before rules act on it: a restart is not an outage.
pub const OUTAGE_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Compiles the rules of the projects that serve: `status.rewrite` where it is present and the resource is neither suspended
/// nor being deleted. Ignores parts of the spec that Harbor does not have yet. `unavailable` returns whether the
/// HarborInstance of a name is unavailable; see [`unavailable`].
pub fn active_rules<'a>(
    projects: impl IntoIterator<Item = &'a ProxyProject>,
    unavailable: impl Fn(&str) -> bool,
) -> Rules {
    Rules::compile(projects.into_iter().filter_map(|project| {
        let serving = project.active_rule()?;
        Some(rule_of(project, serving, unavailable(&project.spec.harbor_ref.name)))
    }))
}

/// Returns the findings of one project's rule against the other serving rules.
pub fn conflicts<'a>(
    projects: impl IntoIterator<Item = &'a ProxyProject>,
    project: &ProxyProject,
    rule: &RewriteRuleStatus,
) -> Vec<RuleWarning> {
    // Compiles only the neighbours of each project: compiling all rules each time would take quadratic time.
    let reach = Reach::of(&rule.matches);
    let others = projects.into_iter().filter(|other| other.metadata.name != project.metadata.name);
    let others = others.filter_map(|other| Some((other, other.active_rule()?)));
    let neighbours = others.filter(|(_, other)| reach.meets(&other.matches, &other.host));
    let others = neighbours.map(|(other, serving)| rule_of(other, serving, false));
    let own = rule_of(project, rule, false);
    let name = own.name.clone();
    let compiled = Rules::compile(others.chain([own]));
    compiled.findings().iter().filter(|finding| finding.rule() == name).cloned().collect()
}

/// Returns the names of the unavailable HarborInstances: those that have not answered, or failed, for [`OUTAGE_AFTER`]. An
/// instance is available again with the first good answer.
pub fn unavailable<'a>(instances: impl IntoIterator<Item = &'a HarborInstance>, now: Timestamp) -> BTreeSet<String> {
    let unreachable = instances.into_iter().filter(|instance| is_unavailable(instance, now));
    unreachable.filter_map(|instance| instance.metadata.name.clone()).collect()
}

/// Returns a rule in the form that the compiler takes.
pub(super) fn rule_of(project: &ProxyProject, rule: &RewriteRuleStatus, unavailable: bool) -> Rule {
    let RewriteRuleStatus { matches, replaces, docker_hub, host, project: harbor_project, terms, .. } = rule.clone();
    Rule {
        name: project.metadata.name.clone().unwrap_or_default(),
        created: project.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        matches,
        replaces,
        docker_hub,
        pull_host: host,
        project: harbor_project,
        terms,
        unavailable,
    }
}

fn is_unavailable(instance: &HarborInstance, now: Timestamp) -> bool {
    let conditions = instance.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let is_unreachable = reason_if_false(conditions, ConditionType::Ready).is_some_and(Reason::means_unreachable);
    let since = find(conditions, ConditionType::Ready).map(|ready| ready.last_transition_time.0);
    is_unreachable && since.is_some_and(|since| now.duration_since(since) >= OUTAGE_AFTER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        image::ImageRef,
        rewrite::{PodScope, RuleDecision},
    };

    fn project(name: &str, suspend: bool, serving: bool) -> ProxyProject {
        let rewrite = serving.then(|| {
            json!({"rewrite": {"matches": ["docker.io"], "host": "harbor.example.com", "project": name,
                   "target": format!("harbor.example.com/{name}"), "generation": 1}})
        });
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": name},
            "spec": {"registryRef": {"name": "hub"}, "suspend": suspend}, "status": rewrite,
        }))
        .unwrap()
    }

    fn rewritten(projects: &[ProxyProject]) -> Option<String> {
        match active_rules(projects, |_| false).find(&ImageRef::parse("nginx").unwrap(), &PodScope::default()) {
            RuleDecision::Rewritten { image, .. } => Some(image.to_string()),
            _ => None,
        }
    }

    #[test]
    fn only_what_harbor_serves_rewrites() {
        assert_eq!(rewritten(&[project("hub", false, false)]), None);
        assert_eq!(rewritten(&[project("hub", true, true)]), None);
        assert_eq!(rewritten(&[project("hub", false, true)]).unwrap(), "harbor.example.com/hub/library/nginx");
    }

    fn reported(name: &str, created: i64, matches: &[&str], host: &str) -> ProxyProject {
        let created = Timestamp::from_second(1_800_000_000 + created).unwrap().to_string();
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject",
            "metadata": {"name": name, "creationTimestamp": created}, "spec": {"registryRef": {"name": "hub"}},
            "status": {"rewrite": {"matches": matches, "host": host, "project": name,
                       "target": format!("{host}/{name}"), "generation": 1}},
        }))
        .unwrap()
    }

    proptest::proptest! {
        /// Each project gets its own part of all findings, although not all rules are compiled for it.
        #[test]
        fn conflicts_of_each_project_cover_all_its_neighbours(
            projects in proptest::collection::vec(
                (0..3_i64, proptest::collection::vec(0..7_usize, 1..4), 0..3_usize), 1..8,
            ),
        ) {
            const MATCHES: [&str; 7] =
                ["docker.io", "index.docker.io", "GHCR.io", "ghcr.io/acme", "harbor.corp", "other.corp/x", "nonsense"];
            const HOSTS: [&str; 3] = ["harbor.corp", "Other.corp", "bad host"];
            let projects: Vec<ProxyProject> = projects.iter().enumerate().map(|(index, (created, matches, host))| {
                let matches: Vec<&str> = matches.iter().map(|index| MATCHES[*index]).collect();
                reported(&format!("p{index}"), *created, &matches, HOSTS[*host])
            }).collect();
            let all = active_rules(&projects, |_| false);
            for project in &projects {
                let name = project.metadata.name.as_deref().unwrap();
                let own: Vec<_> = all.findings().iter().filter(|finding| finding.rule() == name).cloned().collect();
                let rule = project.active_rule().unwrap();
                proptest::prop_assert_eq!(conflicts(&projects, project, rule), own);
            }
        }
    }

    fn instance(name: &str, status: &str, reason: &str, since: &str) -> HarborInstance {
        let condition =
            json!({"type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": since});
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "HarborInstance", "metadata": {"name": name},
            "spec": {"url": "https://harbor.example.com", "credentialsSecretRef": {"name": "harbor"}},
            "status": {"conditions": [condition]},
        }))
        .unwrap()
    }

    #[test]
    fn a_harbor_is_unavailable_once_it_has_not_answered_for_a_minute() {
        let since = "2026-01-01T00:00:00Z";
        let after = |seconds| since.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds);
        let table = [
            ("False", "HarborUnreachable", 59, false),
            ("False", "HarborUnreachable", 60, true),
            ("False", "HarborError", 3600, true),
            // Harbor answers: an account without write permission does not block pulls.
            ("False", "HarborUnauthorized", 3600, false),
            ("True", "Healthy", 3600, false),
            ("Unknown", "HarborUnreachable", 3600, false),
        ];
        for (status, reason, seconds, expected) in table {
            let instance = instance("default", status, reason, since);
            assert_eq!(is_unavailable(&instance, after(seconds)), expected, "{status} {reason} {seconds} s");
        }
    }

    #[test]
    fn unavailable_names_each_unavailable_instance() {
        let since = "2026-01-01T00:00:00Z";
        let instances = [
            instance("near", "True", "Healthy", since),
            instance("far", "False", "HarborUnreachable", since),
            instance("restarting", "False", "HarborUnreachable", "2026-01-01T00:59:30Z"),
            instance("broken", "False", "HarborError", since),
        ];
        let unreachable = unavailable(&instances, "2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(unreachable.iter().map(String::as_str).collect::<Vec<_>>(), ["broken", "far"]);
    }

    #[test]
    fn active_rules_wait_only_for_their_own_instance() {
        let projects = [project("hub", false, true)];
        for (unreachable, waits) in [("default", true), ("other", false)] {
            let rules = active_rules(&projects, |instance| instance == unreachable);
            let decision = rules.find(&ImageRef::parse("nginx").unwrap(), &PodScope::default());
            assert_eq!(matches!(decision, RuleDecision::Unavailable { .. }), waits, "{unreachable}");
        }
    }

    #[test]
    fn conflicts_of_a_project_are_only_its_own() {
        let projects = [project("a-older", false, true), project("b-younger", false, true)];
        let found = |index: usize| {
            let rule = projects[index].active_rule().unwrap();
            conflicts(&projects, &projects[index], rule).len()
        };
        assert_eq!((found(0), found(1)), (0, 1), "both were made at once, so that the name decides");
    }
}
