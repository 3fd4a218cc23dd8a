use proptest::prelude::*;
use serde_json::json;

use super::*;

fn marker() -> Marker {
    Marker { installation: "i".to_owned(), kind: "ProxyProject".to_owned(), name: "dockerhub".to_owned() }
}

fn desired() -> Desired {
    Desired {
        name: "dockerhub".to_owned(),
        registry_id: 3,
        metadata: BTreeMap::from([("public", "true".to_owned()), ("proxy_speed_kb", "-1".to_owned())]),
        storage_limit: None,
        cve_allowlist: None,
        retention: None,
        marker: marker(),
        adoption: AdoptionPolicy::Never,
    }
}

fn stored() -> model::Project {
    let metadata = [("public", "true"), ("proxy_speed_kb", "-1"), ("retention_id", "1"), ("auto_scan", "true")];
    model::Project {
        project_id: 9,
        name: "dockerhub".to_owned(),
        registry_id: Some(3),
        metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        repo_count: 5,
        ..model::Project::default()
    }
}

fn ours() -> Identity {
    Identity::Read { label: Some(model::Label { id: 1, description: marker().to_string(), ..model::Label::default() }) }
}

#[test]
fn a_project_as_specified_is_left_alone_and_unmanaged_keys_do_not_matter() {
    for identity in [Identity::Remembered, ours()] {
        let plan = plan(&desired(), &Observed { project: Some(stored()), identity, ..Observed::default() }).unwrap();
        assert!(plan.is_done(), "{plan:?}");
    }
}

#[test]
fn a_missing_project_is_created_and_then_marked() {
    let plan = plan(&desired(), &Observed::default()).unwrap();
    assert!(matches!(plan.steps.as_slice(), [Step::Create(_), Step::Mark(None, text)] if text.contains("dockerhub")));
}

/// The state of Harbor's projects after a step.
fn after(step: &Step, observed: &mut Observed) {
    match step {
        Step::Create(new) => {
            observed.project = Some(model::Project {
                project_id: 9,
                name: new.project_name.clone(),
                registry_id: Some(new.registry_id),
                metadata: new.metadata.clone(),
                ..model::Project::default()
            });
            observed.quota = Some(quota(new.storage_limit.filter(|limit| *limit != 0).unwrap_or(-1)));
        }
        Step::Mark(_, text) => {
            observed.identity = Identity::Read {
                label: Some(model::Label { id: 1, description: text.clone(), ..model::Label::default() }),
            };
        }
        Step::Remark(_, label) => observed.identity = Identity::Read { label: Some(label.clone()) },
        Step::Update(_, update) => {
            if let Some(project) = &mut observed.project {
                project.metadata.extend(update.metadata.clone());
                if let Some(list) = &update.cve_allowlist {
                    project.cve_allowlist = list.clone();
                }
            }
        }
        Step::Limit(_, limit) => observed.quota = Some(quota(*limit)),
        Step::Retention(retention::Step::Create(policy) | retention::Step::Update(policy))
        | Step::RetentionOfCreated(retention::Desired::Policy(policy)) => retain(Some(policy), observed),
        Step::Retention(retention::Step::Delete(_)) | Step::RetentionOfCreated(retention::Desired::Nothing) => {
            retain(None, observed);
        }
    }
}

fn retain(policy: Option<&model::RetentionPolicy>, observed: &mut Observed) {
    observed.retention = policy.map(|policy| policy.of(9, 1));
    if let Some(project) = &mut observed.project {
        project.metadata.remove("retention_id");
        project.metadata.extend(policy.map(|_| ("retention_id".to_owned(), "1".to_owned())));
    }
}

fn quota(storage: i64) -> model::Quota {
    model::Quota { id: 4, reference: model::QuotaReference { id: 9 }, hard: model::QuotaLimits { storage } }
}

fn assert_one_plan_is_enough(desired: &Desired, mut observed: Observed) {
    let first = plan(desired, &observed).unwrap();
    for step in &first.steps {
        after(step, &mut observed);
    }
    let second = plan(desired, &observed).unwrap();
    assert!(second.is_done() && second.drift.is_empty(), "{first:?} left {second:?}");
}

#[test]
fn the_limit_is_changed_at_the_quota_and_only_where_it_differs() {
    for (want, have, expected) in [
        (None, Some(5), None),
        (Some(1 << 30), Some(-1), Some(1 << 30)),
        (Some(1 << 30), Some(1 << 30), None),
        (Some(-1), Some(7), Some(-1)),
        (Some(-1), Some(-1), None),
        (Some(-1), None, None),
    ] {
        let desired = Desired { storage_limit: want, ..desired() };
        let observed =
            Observed { project: Some(stored()), identity: ours(), quota: have.map(quota), ..Observed::default() };
        let plan = plan(&desired, &observed).unwrap();
        assert_eq!(plan.steps, expected.map(|limit| Step::Limit(4, limit)).into_iter().collect::<Vec<_>>());
        assert_eq!(plan.drift.len(), usize::from(expected.is_some()));
        assert_one_plan_is_enough(&desired, observed);
    }
    assert_one_plan_is_enough(&Desired { storage_limit: Some(1 << 30), ..desired() }, Observed::default());
}

#[test]
fn a_limit_that_harbor_would_refuse_or_cannot_keep_is_refused_before_it() {
    for limit in [0, -2, StorageLimit::MOST + 1, i64::MAX] {
        let desired = Desired { storage_limit: Some(limit), ..desired() };
        for observed in [Observed::default(), Observed { project: Some(stored()), ..Observed::default() }] {
            let refusal = plan(&desired, &observed).unwrap_err();
            assert!(refusal.message.contains("1024Ti"), "{limit}: {}", refusal.message);
        }
    }
    let desired = Desired { storage_limit: Some(5), ..desired() };
    let refusal = plan(&desired, &Observed { project: Some(stored()), ..Observed::default() }).unwrap_err();
    assert!(refusal.message.contains("quota_per_project_enable"), "{}", refusal.message);
}

fn list(items: &[&str], expires_at: Option<i64>) -> model::CveAllowlist {
    let items = items.iter().map(|id| model::CveItem { cve_id: (*id).to_owned() }).collect();
    model::CveAllowlist { items, expires_at }
}

#[test]
fn the_allowlist_is_sent_whole_in_order_and_without_doubles_and_only_when_it_differs() {
    for (want, have, expected) in [
        (None, list(&["A"], Some(1)), None),
        (Some(list(&["B", "A"], None)), list(&["A", "B"], None), None),
        (Some(list(&["B", "A", "B"], None)), list(&["A"], None), Some(list(&["A", "B"], None))),
        (Some(list(&[], None)), list(&["A"], Some(1)), Some(list(&[], None))),
        (Some(list(&["A"], Some(9))), list(&["A"], None), Some(list(&["A"], Some(9)))),
        (Some(list(&["A"], None)), list(&["A"], Some(9)), Some(list(&["A"], None))),
    ] {
        let desired = Desired { cve_allowlist: want.clone(), ..desired() };
        let project = model::Project { cve_allowlist: have, ..stored() };
        let observed = Observed { project: Some(project), identity: ours(), ..Observed::default() };
        let plan = plan(&desired, &observed).unwrap();
        let update = expected.map(|list| model::ProjectUpdate { cve_allowlist: Some(list), ..Default::default() });
        assert_eq!(plan.steps, update.map(|update| Step::Update(Some(9), update)).into_iter().collect::<Vec<_>>());
        assert_one_plan_is_enough(&desired, observed);
        assert_one_plan_is_enough(&desired, Observed::default());
    }
}

#[test]
fn a_new_project_gets_its_allowlist_after_its_creation_since_harbor_ignores_it_there() {
    let desired = Desired { cve_allowlist: Some(list(&["A"], None)), ..desired() };
    let plan = plan(&desired, &Observed::default()).unwrap();
    let [Step::Create(_), Step::Mark(None, _), Step::Update(None, update)] = plan.steps.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(update.cve_allowlist, Some(list(&["A"], None)));
    assert!(update.metadata.is_empty());
}

#[test]
fn a_project_is_at_rest_after_one_plan_whatever_it_was_before() {
    let policy = serde_json::json!({"rules": [{"latestPushed": 3}], "schedule": "0 0 1 * * *"});
    let policy = serde_json::from_value(policy).unwrap();
    let policy = retention::desired(&policy, "2026-11-21T08:00:00Z".parse().unwrap()).unwrap();
    let unretained = {
        let mut project = stored();
        project.metadata.remove("retention_id");
        project
    };
    for retention in [None, Some(policy), Some(retention::Desired::Nothing)] {
        for limit in [None, Some(-1), Some(7)] {
            for allowed in [None, Some(list(&["B", "A"], None)), Some(list(&[], None))] {
                let desired =
                    Desired { retention: retention.clone(), storage_limit: limit, cve_allowlist: allowed, ..desired() };
                assert_one_plan_is_enough(&desired, Observed::default());
                for project in [stored(), unretained.clone()] {
                    let project = Some(project);
                    let quota = Some(quota(5));
                    assert_one_plan_is_enough(
                        &desired,
                        Observed { project, identity: ours(), quota, ..Observed::default() },
                    );
                }
            }
        }
    }
}

#[test]
fn what_this_harbor_does_not_know_is_refused_since_it_would_be_dropped_without_a_word() {
    let observed = |version: &str| Observed { version: Some(version.to_owned()), ..Observed::default() };
    let refusal = plan(&desired(), &observed("v2.10.3-1a2b3c")).unwrap_err();
    assert_eq!(refusal.reason, Reason::InvalidSpec);
    let said = "spec.proxySpeedKB needs Harbor v2.12.0 or later; this Harbor is v2.10.3";
    assert!(refusal.message.contains(said), "{}", refusal.message);
    let modest = Desired { metadata: BTreeMap::from([("public", "true".to_owned())]), ..desired() };
    assert!(!modest.needs_version());
    for (desired, version) in [(&desired(), "v2.12.0"), (&desired(), "dev"), (&modest, "v2.9.0")] {
        assert!(plan(desired, &observed(version)).is_ok(), "{version}");
    }
}

#[test]
fn only_the_keys_that_differ_are_sent() {
    let mut project = stored();
    project.metadata.insert("proxy_speed_kb".to_owned(), "bad".to_owned());
    let plan = plan(&desired(), &Observed { project: Some(project), identity: ours(), ..Observed::default() }).unwrap();
    let [Step::Update(Some(9), update)] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!(update.metadata, BTreeMap::from([("proxy_speed_kb".to_owned(), "-1".to_owned())]));
    assert_eq!(plan.drift[0].to_string(), "proxy_speed_kb: bad instead of -1");
}

#[test]
fn a_creation_that_was_cut_short_is_taken_up_and_a_stranger_is_not() {
    let unmarked = Identity::Read { label: None };
    let empty = model::Project { repo_count: 0, ..stored() };
    let resumed =
        plan(&desired(), &Observed { project: Some(empty), identity: unmarked.clone(), ..Observed::default() })
            .unwrap();
    assert!(matches!(resumed.steps.as_slice(), [Step::Mark(Some(9), _)]), "{resumed:?}");
    let refusal =
        plan(&desired(), &Observed { project: Some(stored()), identity: unmarked, ..Observed::default() }).unwrap_err();
    assert_eq!(refusal.reason, Reason::AdoptionRequired);
}

#[test]
fn plan_restores_the_label_of_a_project_with_images_that_status_remembers_and_of_no_other() {
    let owned = |id: i64| serde_json::from_value(json!({"id": id, "since": "2026-11-21T08:00:00Z"})).unwrap();
    let made = |time: &str| model::Project { creation_time: Some(time.parse().unwrap()), ..stored() };
    let before = made("2026-11-21T07:59:59Z");
    let table = [
        ("remembered", Some(owned(9)), before.clone(), true),
        ("not remembered", None, before.clone(), false),
        ("another id", Some(owned(8)), before.clone(), false),
        ("made later", Some(owned(9)), made("2026-11-21T08:02:00Z"), false),
        ("made at no known time", Some(owned(9)), stored(), false),
        ("another registry", Some(owned(9)), model::Project { registry_id: Some(4), ..before }, false),
    ];
    for (what, owned, project, restored) in table {
        let identity = Identity::Read { label: None };
        let plan = plan(&desired(), &Observed { project: Some(project), identity, owned, ..Observed::default() });
        if restored {
            let plan = plan.unwrap();
            assert!(matches!(plan.steps.as_slice(), [Step::Mark(Some(9), _)]), "{what}: {plan:?}");
            assert_eq!(plan.action, Action::Change, "{what}");
        } else {
            assert_eq!(plan.unwrap_err().reason, Reason::AdoptionRequired, "{what}");
        }
    }
}

#[test]
fn a_project_on_another_registry_is_refused_since_harbor_would_ignore_the_change() {
    let other = model::Project { registry_id: Some(4), ..stored() };
    let refusal =
        plan(&desired(), &Observed { project: Some(other), identity: ours(), ..Observed::default() }).unwrap_err();
    assert_eq!(refusal.reason, Reason::Immutable);
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let sometimes = |key: &'static str, values: Vec<&'static str>| {
        prop::option::of(prop::sample::select(values)).prop_map(move |value| value.map(|value| (key, value.to_owned())))
    };
    let metadata = (
        sometimes("public", vec!["true", "false"]),
        sometimes("proxy_speed_kb", vec!["-1", "512"]),
        sometimes("severity", vec!["high", "critical"]),
        sometimes("auto_scan", vec!["true", "false"]),
    );
    let metadata = metadata.prop_map(|(a, b, c, d)| [a, b, c, d].into_iter().flatten().collect());
    let allowlist =
        (prop::collection::vec("CVE-[1-3]", 0..4), prop::option::of(1..3_i64)).prop_map(|(ids, expires_at)| {
            let items = ids.into_iter().map(|cve_id| model::CveItem { cve_id }).collect();
            model::CveAllowlist { items, expires_at }
        });
    let rules = vec![
        json!({"rules": []}),
        json!({"rules": [{"pulledWithinDays": 7}]}),
        json!({"rules": [{"always": true, "tags": {"excludes": "v*"}}, {"latestPushed": 3}], "schedule": ""}),
        json!({"rules": [{"pushedWithinDays": 1}], "schedule": "0 0 3 * * *"}),
    ];
    let now = "2026-11-21T08:00:00Z".parse().unwrap();
    let retention = prop::sample::select(rules)
        .prop_map(move |rules| retention::desired(&serde_json::from_value(rules).unwrap(), now).unwrap());
    let limit = prop::sample::select(vec![StorageLimit::UNLIMITED, 1, 1 << 30, StorageLimit::MOST]);
    let options = (prop::option::of(limit), prop::option::of(allowlist), prop::option::of(retention), any::<bool>());
    (metadata, options).prop_map(|(metadata, (storage_limit, cve_allowlist, retention, adopts))| Desired {
        metadata,
        storage_limit,
        cve_allowlist,
        retention,
        adoption: if adopts { AdoptionPolicy::IfExists } else { AdoptionPolicy::Never },
        ..desired()
    })
}

/// Harbor with an earlier desired state, interrupted after some steps, and with changes by others since.
fn any_observed() -> impl Strategy<Value = Observed> {
    let before = prop::option::of((any_desired(), 0..8_usize));
    let since = (
        any::<bool>(),
        prop::option::of(prop::sample::select(vec!["", "another owner's", "[harbor-pilot j/ProxyProject/x]"])),
    );
    (before, since).prop_map(|(before, (has_images, label))| {
        let nothing = Observed {
            version: Some("v2.15.2".to_owned()),
            identity: Identity::Read { label: None },
            ..Observed::default()
        };
        let Some((before, steps)) = before else { return nothing };
        let mut observed = nothing;
        for step in plan(&before, &observed).unwrap().steps.iter().take(steps) {
            after(step, &mut observed);
        }
        if let Some(project) = &mut observed.project {
            project.repo_count = i64::from(has_images);
        }
        if let (Some(text), Identity::Read { label: Some(label) }) = (label, &mut observed.identity) {
            text.clone_into(&mut label.description);
        }
        observed
    })
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(wanted in any_desired(), mut observed in any_observed()) {
        // A refusal sends no request.
        let Ok(first) = plan(&wanted, &observed) else { return Ok(()) };
        for step in &first.steps {
            after(step, &mut observed);
        }
        let second = plan(&wanted, &observed).unwrap();
        prop_assert!(second.is_done() && second.drift.is_empty(), "{first:?} left {second:?}");
        let remembered = Observed { identity: Identity::Remembered, ..observed };
        prop_assert!(plan(&wanted, &remembered).unwrap().is_done());
    }

    #[test]
    fn nothing_is_planned_for_what_carries_anothers_marker(wanted in any_desired(), mut observed in any_observed()) {
        let theirs = Marker { installation: "j".to_owned(), ..marker() }.to_string();
        observed.identity = Identity::Read { label: Some(model::Label { id: 1, description: theirs, ..model::Label::default() }) };
        let plan = plan(&wanted, &observed);
        prop_assert!(observed.project.is_none() || plan.is_err(), "{plan:?}");
    }
}
