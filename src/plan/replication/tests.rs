//! Every special case of Harbor's policies; and a plan that was applied leaves nothing to do.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::AdoptionPolicy;

fn now() -> Timestamp {
    "2026-11-21T08:00:00Z".parse().unwrap()
}

fn ours() -> Marker {
    Marker { installation: "i".to_owned(), kind: "ReplicationRule".to_owned(), name: "nightly".to_owned() }
}

fn spec(change: Value) -> ReplicationRuleSpec {
    let mut spec = json!({"source": {"registryRef": {"name": "hub"}}});
    merge(&mut spec, change);
    serde_json::from_value(spec).unwrap()
}

fn push(change: Value) -> ReplicationRuleSpec {
    let mut spec = json!({"destination": {"registryRef": {"name": "dr"}}});
    merge(&mut spec, change);
    serde_json::from_value(spec).unwrap()
}

fn merge(into: &mut Value, change: Value) {
    json_patch::merge(into, &change);
}

fn desired(spec: &ReplicationRuleSpec) -> Desired<'_> {
    Desired { name: spec.name.as_deref().unwrap_or("nightly"), spec, registry_id: 3, marker: ours() }
}

/// Returns a policy as Harbor shows it after it was sent.
fn stored(id: i64, content: &ReplicationPolicyContent) -> ReplicationPolicy {
    let mut shown = serde_json::to_value(content).unwrap();
    let fields = shown.as_object_mut().unwrap();
    // Harbor always shows `copy_by_chunk` and `single_active_replication`.
    for field in ["description", "dest_namespace", "enabled", "override", "deletion"] {
        if [json!(false), json!("")].contains(&fields[field]) {
            fields.remove(field);
        }
    }
    if fields["filters"] == json!([]) {
        fields.insert("filters".to_owned(), Value::Null);
    }
    let speed = fields["speed"].as_i64().unwrap().max(0);
    fields.insert("speed".to_owned(), json!(speed));
    if fields.contains_key("deletion") {
        fields.insert("replicate_deletion".to_owned(), json!(true));
    }
    fields.insert("id".to_owned(), json!(id));
    serde_json::from_value(shown).unwrap()
}

fn carry_out(plan: &Plan<Step>) -> ReplicationPolicy {
    match plan.steps.as_slice() {
        [Step::Create(content)] => stored(9, content),
        [Step::Update(id, content)] => stored(*id, content),
        other => panic!("one step, not {other:?}"),
    }
}

fn created(spec: &ReplicationRuleSpec) -> ReplicationPolicy {
    carry_out(&plan(&desired(spec), &Observed::default(), now()).unwrap())
}

fn marked(policy: ReplicationPolicy) -> Observed {
    Observed { marked: Some(policy), ..Observed::default() }
}

fn drift(spec: &ReplicationRuleSpec, observed: &Observed) -> Vec<String> {
    plan(&desired(spec), observed, now()).unwrap().drift.iter().map(ToString::to_string).collect()
}

fn refusal(spec: &ReplicationRuleSpec, observed: &Observed) -> Refusal {
    plan(&desired(spec), observed, now()).unwrap_err()
}

#[test]
fn a_missing_policy_is_created_enabled_with_its_marker_and_harbors_defaults() {
    let policy = created(&spec(json!({})));
    let expected = ReplicationPolicyContent {
        name: "nightly".to_owned(),
        description: "[harbor-pilot i/ReplicationRule/nightly]".to_owned(),
        src_registry: RegistryReference { id: 3 },
        enabled: true,
        ..ReplicationPolicyContent::default()
    };
    assert_eq!(policy.content, expected);
    let pushed = created(&push(json!({"enabled": false})));
    assert_eq!((pushed.content.src_registry.id, pushed.content.dest_registry.id), (0, 3));
    assert!(!pushed.content.enabled);
}

#[test]
fn replication_drift_is_named_and_repaired_in_each_field() {
    let spec = push(json!({
        "description": "to the other site", "enabled": true, "override": true, "replicateDeletions": true,
        "speedKB": 512, "copyByChunk": true, "singleActive": false, "trigger": {"type": "EventBased"},
        "destination": {"namespace": "mirror", "flattenLevels": 1},
        "filters": {"name": "production/**", "tag": {"matches": "v*"}, "labels": {"excludes": ["secret", "old"]},
            "resource": "Image"},
    }));
    let policy = created(&spec);
    assert_eq!(drift(&spec, &marked(policy.clone())), Vec::<String>::new());
    type Change = fn(&mut ReplicationPolicyContent);
    let changes: [(&str, Change); 14] = [
        ("name: other instead of nightly", |content| content.name = "other".to_owned()),
        ("description: [harbor-pilot", |content| content.description = ours().to_string()),
        ("src_registry: registry 4 instead of Harbor", |content| content.src_registry.id = 4),
        ("dest_registry: registry 4 instead of registry 3", |content| content.dest_registry.id = 4),
        ("dest_namespace: nothing instead of mirror", |content| content.dest_namespace.clear()),
        ("dest_namespace_replace_count: -1 instead of 1", |content| content.dest_namespace_replace_count = -1),
        ("filters: name production/** instead of label excludes [old,secret], name", |content| {
            content.filters.truncate(1);
        }),
        ("trigger: manual instead of event_based", |content| content.trigger = ReplicationTrigger::default()),
        ("enabled: false instead of true", |content| content.enabled = false),
        ("override: false instead of true", |content| content.override_ = false),
        ("deletion: false instead of true", |content| content.deletion = false),
        ("speed: 0 instead of 512", |content| content.speed = 0),
        ("copy_by_chunk: false instead of true", |content| content.copy_by_chunk = false),
        ("single_active_replication: true instead of false", |content| content.single_active_replication = true),
    ];
    for (expected, change) in changes {
        let mut changed = policy.clone();
        change(&mut changed.content);
        let drift = drift(&spec, &marked(changed.clone()));
        assert!(drift.len() == 1 && drift[0].starts_with(expected), "{expected}: {drift:?}");
        let repaired = carry_out(&plan(&desired(&spec), &marked(changed), now()).unwrap());
        assert_eq!(repaired, policy, "{expected}");
    }
}

#[test]
fn what_the_spec_leaves_out_is_sent_back_as_it_was_read_because_put_would_reset_it() {
    let mut policy = created(&push(json!({
        "description": "manual", "override": true, "speedKB": 64, "trigger": {"type": "EventBased"},
        "replicateDeletions": true, "destination": {"namespace": "a"}, "filters": {"name": "x/**"},
    })));
    policy.content.enabled = false;
    let spec = push(json!({"copyByChunk": true}));
    let plan = plan(&desired(&spec), &marked(policy.clone()), now()).unwrap();
    assert_eq!(plan.drift.len(), 1, "{:?}", plan.drift);
    policy.content.copy_by_chunk = true;
    assert_eq!(carry_out(&plan), policy);
}

#[test]
fn no_filter_is_not_the_same_as_filters_that_are_not_managed() {
    let policy = created(&spec(json!({"filters": {"name": "x/**"}})));
    assert!(drift(&spec(json!({})), &marked(policy.clone())).is_empty());
    assert_eq!(drift(&spec(json!({"filters": {}})), &marked(policy)), ["filters: name x/** instead of nothing"]);
    let unfiltered = created(&spec(json!({})));
    assert!(drift(&spec(json!({"filters": {}})), &marked(unfiltered)).is_empty(), "`null` is no filter");
}

#[test]
fn what_means_the_same_is_no_difference() {
    let managed = push(json!({
        "filters": {"name": "x/**", "tag": {"matches": "v*"}, "labels": {"matches": ["b", "a"]}}, "speedKB": -1,
        "trigger": {"type": "Manual"},
    }));
    let mut policy = created(&managed);
    policy.content.filters.reverse();
    for filter in &mut policy.content.filters {
        filter.decoration.clear();
        if let FilterValue::List(list) = &mut filter.value {
            list.reverse();
        }
    }
    policy.content.trigger.trigger_settings.cron = "0 0 2 * * *".to_owned();
    assert!(drift(&managed, &marked(policy)).is_empty());
}

#[test]
fn a_schedule_that_would_hang_harbor_is_refused_before_anything_is_sent() {
    let impossible = spec(json!({"trigger": {"type": "Scheduled", "cron": "0 0 2 30 2 *"}}));
    let refusal = refusal(&impossible, &Observed::default());
    assert_eq!(refusal.reason, Reason::InvalidSpec);
    assert!(refusal.message.contains("never fires"), "{}", refusal.message);
    let policy = created(&spec(json!({})));
    assert_eq!(self::refusal(&impossible, &marked(policy.clone())).reason, Reason::InvalidSpec);
    let wrong = spec(json!({"trigger": {"type": "Scheduled", "cron": "0 0 25 * * *"}}));
    assert!(self::refusal(&wrong, &marked(policy)).message.contains("hours"));
}

#[test]
fn a_glob_that_fails_each_run_is_refused() {
    for glob in ["a/{b", "a/[b", "{a,{b,c}", "a/b\\"] {
        let refusal = refusal(&spec(json!({"filters": {"name": glob}})), &Observed::default());
        assert!(refusal.message.contains("is not closed"), "{glob}: {}", refusal.message);
    }
    for glob in ["a/{b,c}/**", "{a,{b,c}}", "a/b}", "[a-c]{1,2}", "a\\{b", "[{]"] {
        assert!(
            plan(&desired(&spec(json!({"filters": {"name": glob}}))), &Observed::default(), now()).is_ok(),
            "{glob}"
        );
    }
}

#[test]
fn replication_shows_the_next_run_while_the_policy_is_enabled() {
    let nightly = spec(json!({"trigger": {"type": "Scheduled", "cron": "0 0 2 * * *"}}));
    let mut content = created(&nightly).content;
    assert_eq!(next_run(&content, now()).unwrap().to_string(), "2026-11-22T02:00:00Z");
    content.enabled = false;
    assert_eq!(next_run(&content, now()), None);
    assert_eq!(next_run(&created(&spec(json!({}))).content, now()), None);
}

#[test]
fn replication_settings_that_harbor_refuses_together_are_reported_and_not_sent() {
    let mut policy = created(&push(json!({"trigger": {"type": "EventBased"}})));
    assert!(refusal(&spec(json!({})), &marked(policy.clone())).message.contains("spec.trigger"));
    policy.content.trigger = ReplicationTrigger::default();
    policy.content.single_active_replication = true;
    let eventful = push(json!({"trigger": {"type": "EventBased"}}));
    assert!(refusal(&eventful, &marked(policy)).message.contains("spec.singleActive"));
}

#[test]
fn a_policy_is_found_by_its_marker_and_renamed() {
    let policy = created(&spec(json!({})));
    let renamed = spec(json!({"name": "each night"}));
    let policies = vec![stored(4, &ReplicationPolicyContent::default()), policy.clone()];
    let observed = Observed::among(&policies, "each night", &ours(), None);
    let plan = plan(&desired(&renamed), &observed, now()).unwrap();
    assert_eq!(carry_out(&plan).content.name, "each night");
    assert_eq!(plan.drift[0].to_string(), "name: nightly instead of each night");

    let stranger = ReplicationPolicyContent { name: "each night".to_owned(), ..ReplicationPolicyContent::default() };
    let observed = Observed::among(&[policy, stored(4, &stranger)], "each night", &ours(), None);
    assert_eq!(refusal(&renamed, &observed).reason, Reason::NameConflict);
}

#[test]
fn of_two_policies_with_one_marker_it_is_the_remembered_one_then_the_named_one() {
    let content = created(&spec(json!({}))).content;
    let copy = ReplicationPolicyContent { name: "copy".to_owned(), ..content.clone() };
    let policies = || vec![stored(3, &copy), stored(9, &content)];
    let id = |remembered| Observed::among(&policies(), "nightly", &ours(), remembered).marked.unwrap().id;
    assert_eq!((id(None), id(Some(3)), id(Some(77))), (9, 3, 9));
}

#[test]
fn replication_policy_of_another_owner_is_adopted_only_if_the_spec_says_so() {
    let manual_request = ReplicationPolicyContent {
        name: "nightly".to_owned(),
        description: "manual".to_owned(),
        src_registry: RegistryReference { id: 3 },
        override_: true,
        ..ReplicationPolicyContent::default()
    };
    let observed = Observed::among(&[stored(5, &manual_request)], "nightly", &ours(), None);
    assert_eq!(refusal(&spec(json!({})), &observed).reason, Reason::AdoptionRequired);
    let adopting = spec(json!({"adoptionPolicy": "IfExists"}));
    assert_eq!(adopting.adoption_policy, AdoptionPolicy::IfExists);
    let adopted = carry_out(&plan(&desired(&adopting), &observed, now()).unwrap());
    assert_eq!(adopted.content.description, "manual [harbor-pilot i/ReplicationRule/nightly]");
    assert!(adopted.content.override_ && !adopted.content.enabled, "what is not managed stays");

    let theirs = Marker { installation: "other".to_owned(), ..ours() };
    let taken = ReplicationPolicyContent { description: theirs.to_string(), ..manual_request };
    let observed = Observed::among(&[stored(5, &taken)], "nightly", &ours(), None);
    assert_eq!(refusal(&adopting, &observed).reason, Reason::NameConflict);
}

fn any_spec() -> impl Strategy<Value = ReplicationRuleSpec> {
    let flag = || prop::option::of(any::<bool>());
    let decorated = |value: BoxedStrategy<Value>| {
        prop::option::of((value, any::<bool>()).prop_map(|(value, excludes)| {
            if excludes { json!({"excludes": value}) } else { json!({"matches": value}) }
        }))
    };
    let filters = (
        prop::option::of("[a-z]{1,3}/\\*\\*"),
        decorated("[a-z]{1,3}\\*".prop_map(Value::from).boxed()),
        decorated(prop::collection::vec("[a-c]", 1..4).prop_map(Value::from).boxed()),
        prop::option::of(prop::sample::select(vec!["Image", "Artifact"])),
    )
        .prop_map(|(name, tag, labels, resource)| {
            without_nulls(json!({"name": name, "tag": tag, "labels": labels, "resource": resource}))
        });
    let trigger = prop::sample::select(vec![
        json!({"type": "Manual"}),
        json!({"type": "EventBased"}),
        json!({"type": "Scheduled", "cron": "0 0 2 * * *"}),
        json!({"type": "Scheduled", "cron": "0 */10 * * * 1-5"}),
    ]);
    let destination =
        (prop::option::of(prop::sample::select(vec!["", "mirror", "mirror/a"])), prop::option::of(-1..4_i32));
    (
        (any::<bool>(), destination, prop::option::of(filters), prop::option::of(trigger)),
        (flag(), flag(), flag(), flag(), flag()),
        (prop::option::of(prop_oneof![Just(-1), 1..2000_i32]), prop::option::of("[a-z ]{0,8}[a-z]")),
    )
        .prop_map(|((push, (namespace, levels), filters, trigger), flags, (speed, description))| {
            let registry = json!({"name": "other"});
            let (enabled, override_, deletions, chunk, single) = flags;
            serde_json::from_value(without_nulls(json!({
                "source": if push { Value::Null } else { json!({"registryRef": registry}) },
                "destination": without_nulls(json!({
                    "registryRef": if push { registry } else { Value::Null },
                    "namespace": namespace, "flattenLevels": levels,
                })),
                "filters": filters, "trigger": trigger, "enabled": enabled, "override": override_,
                "replicateDeletions": deletions, "copyByChunk": chunk, "singleActive": single, "speedKB": speed,
                "description": description, "adoptionPolicy": "IfExists",
            })))
            .unwrap()
        })
}

fn without_nulls(mut value: Value) -> Value {
    value.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    value
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(
        wanted in any_spec(),
        before in prop::option::of((any_spec(), any::<bool>())),
    ) {
        let observed = before.as_ref().map_or_else(Observed::default, |(before, marked)| {
            let mut content =
                overlay(&Desired { registry_id: 4, ..desired(before) }, &ReplicationPolicyContent::default());
            if !marked {
                content.description = "manual".to_owned();
            }
            Observed::among(&[stored(9, &content)], "nightly", &ours(), None)
        });
        // A refusal sends no request.
        let Ok(first) = plan(&desired(&wanted), &observed, now()) else { return Ok(()) };
        let after = match first.steps.as_slice() {
            [] => observed.policy().unwrap().clone(),
            _ => carry_out(&first),
        };
        let observed = Observed::among(&[after], "nightly", &ours(), None);
        let second = plan(&desired(&wanted), &observed, now()).unwrap();
        prop_assert!(second.is_done() && second.drift.is_empty(), "{second:?}");
    }
}
