use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-11-21T08:00:00Z".parse().unwrap()
}

fn wanted(spec: serde_json::Value) -> Result<Desired, Refusal> {
    desired(&serde_json::from_value(spec).unwrap(), now())
}

fn project(retention_id: Option<&str>) -> model::Project {
    let metadata = retention_id.map(|id| ("retention_id".to_owned(), id.to_owned())).into_iter().collect();
    model::Project { project_id: 3, metadata, ..model::Project::default() }
}

/// The policy of a new proxy project, as GET shows it.
fn created_at() -> model::RetentionPolicy {
    serde_json::from_value(json!({
        "algorithm": "or", "id": 1, "scope": {"level": "project", "ref": 3},
        "rules": [{
            "action": "retain", "id": 1, "params": {"nDaysSinceLastPull": 7}, "priority": 1, "template": "nDaysSinceLastPull",
            "scope_selectors": {"repository": [{"decoration": "repoMatches", "kind": "doublestar", "pattern": "**"}]},
            "tag_selectors": [{"decoration": "matches", "kind": "doublestar", "pattern": "**"}],
        }],
        "trigger": {"kind": "Schedule", "settings": {"cron": "0 0 0 * * *", "next_scheduled_time": "2026-11-22T00:00:00.000Z"}},
    }))
    .unwrap()
}

#[test]
fn each_rule_becomes_a_template_of_harbor() {
    for (rule, template, params) in [
        (json!({"pulledWithinDays": 7}), "nDaysSinceLastPull", json!({"nDaysSinceLastPull": 7})),
        (json!({"pushedWithinDays": 9}), "nDaysSinceLastPush", json!({"nDaysSinceLastPush": 9})),
        (json!({"latestPulled": 3}), "latestPulledN", json!({"latestPulledN": 3})),
        (json!({"latestPushed": 5}), "latestPushedK", json!({"latestPushedK": 5})),
        (json!({"always": true}), "always", json!({})),
    ] {
        let Desired::Policy(policy) = wanted(json!({"rules": [rule]})).unwrap() else { panic!("{rule}") };
        assert_eq!((policy.rules[0].template.as_str(), json!(policy.rules[0].params)), (template, params));
        assert_eq!(policy.trigger.settings.cron, "0 0 0 * * *");
    }
    let rule =
        json!({"always": true, "repositories": {"excludes": "team/**"}, "tags": {"matches": "v*"}, "untagged": false});
    let Desired::Policy(policy) = wanted(json!({"rules": [rule], "schedule": ""})).unwrap() else {
        panic!("no policy")
    };
    assert_eq!(
        json!(policy.rules[0].tag_selectors),
        json!([{"kind": "doublestar", "decoration": "matches", "pattern": "v*", "extras": "{\"untagged\":false}"}])
    );
    assert_eq!(
        json!(policy.rules[0].scope_selectors),
        json!({"repository": [{"kind": "doublestar", "decoration": "repoExcludes", "pattern": "team/**"}]})
    );
    assert_eq!(policy.trigger.settings.cron, "");
}

#[test]
fn what_harbor_refuses_or_hangs_on_is_refused_before_it() {
    let rules = json!([{"always": true}]);
    for (spec, about) in [
        (json!({"rules": rules, "schedule": "0 0 2 30 2 *"}), "never fires"),
        (json!({"rules": rules, "schedule": "@daily"}), "6 fields"),
        (json!({"rules": rules, "schedule": "30 0 2 * * *"}), "seconds"),
        (json!({"rules": [{"tags": {"matches": "v*"}}]}), "must have one of"),
        (json!({"rules": [{"always": true}, {"latestPushed": 1}, {"always": true}]}), "rules[0] and [2]"),
    ] {
        let refusal = wanted(spec.clone()).unwrap_err();
        assert!(refusal.message.contains(about), "{spec}: {}", refusal.message);
    }
}

#[test]
fn the_policy_that_harbor_made_is_changed_or_deleted_and_one_is_made_only_where_there_is_none() {
    let week = wanted(json!({"rules": [{"pulledWithinDays": 7}]})).unwrap();
    let month = wanted(json!({"rules": [{"pulledWithinDays": 30}], "schedule": "0 0 3 * * *"})).unwrap();
    let Desired::Policy(policy) = &month else { panic!("no policy") };
    let (with, without) = (project(Some("1")), project(None));
    let table = [
        (&week, &with, Some(created_at()), None),
        (&month, &with, Some(created_at()), Some(Step::Update(policy.of(3, 1)))),
        (&month, &with, None, Some(Step::Update(policy.of(3, 1)))),
        (&month, &without, None, Some(Step::Create(policy.of(3, 0)))),
        (&Desired::Nothing, &with, Some(created_at()), Some(Step::Delete(1))),
        (&Desired::Nothing, &without, None, None),
    ];
    for (desired, project, have, expected) in table {
        let mut drift = Vec::new();
        let found = step(desired, project, have.as_ref(), &mut drift);
        assert_eq!(found, expected);
        assert_eq!(drift.len(), usize::from(expected.is_some()), "{drift:?}");
        let (after, stored) = match found {
            Some(Step::Create(policy) | Step::Update(policy)) => (with.clone(), Some(policy)),
            Some(Step::Delete(_)) => (without.clone(), None),
            _ => (project.clone(), have),
        };
        assert_eq!(step(desired, &after, stored.as_ref(), &mut Vec::new()), None, "once is enough");
    }
}

#[test]
fn retention_difference_is_described_and_ignores_harbor_ids() {
    let month =
        wanted(json!({"rules": [{"pulledWithinDays": 30, "tags": {"excludes": "dev*"}}], "schedule": ""})).unwrap();
    let mut drift = Vec::new();
    step(&month, &project(Some("1")), Some(&created_at()), &mut drift);
    assert_eq!(
        drift[0].to_string(),
        "retention: nDaysSinceLastPull 7 at 0 0 0 * * * instead of nDaysSinceLastPull 30 excludes dev*, never run"
    );
}
