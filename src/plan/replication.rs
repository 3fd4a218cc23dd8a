//! Replication policies. PUT resets the fields that it does not name, so unmanaged fields are copied from the observed
//! policy. The marker is in the description, and finds a policy under any name.

use std::borrow::Borrow;

use k8s_openapi::jiff::Timestamp;

use super::{
    Action, Drift, Plan, Refusal, TO_BE_CREATED,
    cron::Cron,
    ownership_marker,
    ownership_marker::{Marker, OtherOwner},
};
use crate::{
    api::{
        OwnedObject, Reason, ReplicationRuleSpec,
        replication_rule::{Filters, ResourceType, Trigger, TriggerType},
    },
    harbor::model::{
        FilterValue, RegistryReference, ReplicationFilter, ReplicationPolicy, ReplicationPolicyContent,
        ReplicationTrigger, TriggerSettings,
    },
};

const MATCHES: &str = "matches";
const EXCLUDES: &str = "excludes";

/// The desired state of a ReplicationRule.
#[derive(Debug, Clone)]
pub struct Desired<'a> {
    /// Name in Harbor.
    pub name: &'a str,
    /// The spec, as the API server accepted it.
    pub spec: &'a ReplicationRuleSpec,
    /// Harbor's ID of the registry at the other end.
    pub registry_id: i64,
    /// Our marker.
    pub marker: Marker,
}

/// The observed state for the plan.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The policy with our marker.
    pub marked: Option<ReplicationPolicy>,
    /// The policy of the desired name, if it is another one.
    pub named: Option<ReplicationPolicy>,
    /// The state of the resource that the marker names, if it is another one of ours.
    pub other: OtherOwner,
    /// The policy that was ours at the last reconcile, from status.
    pub owned: Option<OwnedObject>,
}

impl Observed {
    /// Finds both among all policies of Harbor. Several policies carry the marker only if a user copied it; then the one in
    /// status wins, or the one with the name, or the oldest.
    pub fn among(
        policies: &[impl Borrow<ReplicationPolicy>],
        name: &str,
        ours: &Marker,
        remembered: Option<i64>,
    ) -> Self {
        let policies = || policies.iter().map(Borrow::borrow);
        let rank = |policy: &ReplicationPolicy| (Some(policy.id) != remembered, policy.content.name != name, policy.id);
        let is_ours = |policy: &&ReplicationPolicy| marker_of(policy).as_ref() == Some(ours);
        let marked = policies().filter(is_ours).min_by_key(|policy| rank(policy)).cloned();
        let id = marked.as_ref().map(|policy| policy.id);
        let named = policies().find(|policy| policy.content.name == name && Some(policy.id) != id).cloned();
        Self { marked, named, ..Self::default() }
    }

    /// Returns the policy of the rule, ours or not.
    pub fn policy(&self) -> Option<&ReplicationPolicy> {
        self.marked.as_ref().or(self.named.as_ref())
    }
}

/// Returns the marker of a policy.
pub fn marker_of(policy: &ReplicationPolicy) -> Option<Marker> {
    Marker::split(&policy.content.description).1
}

/// A request to Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// POST /replication/policies.
    Create(ReplicationPolicyContent),
    /// PUT /replication/policies/{id}.
    Update(i64, ReplicationPolicyContent),
}

/// Plans the steps from `observed` to `desired`.
///
/// # Errors
/// A [`Refusal`] when the policy is not ours, its name is taken, its schedule would hang Harbor, or the spec conflicts with
/// the fields that it does not manage.
pub fn plan(desired: &Desired<'_>, observed: &Observed, now: Timestamp) -> Result<Plan<Step>, Refusal> {
    let name = desired.name;
    if let (Some(marked), Some(other)) = (&observed.marked, &observed.named) {
        return Err(Refusal {
            reason: Reason::NameConflict,
            message: format!(
                "replication policy {} cannot be renamed to {name} in Harbor, which has another policy ({}) of that name; set another spec.name",
                marked.content.name, other.id
            ),
        });
    }
    let Some(have) = observed.policy() else {
        let want = overlay(desired, &ReplicationPolicyContent { enabled: true, ..ReplicationPolicyContent::default() });
        check(&want, now)?;
        return Ok(Plan { action: Action::Create, steps: vec![Step::Create(want)], drift: Vec::new() });
    };
    let found = marker_of(have);
    // Its ID, its name and the registry at its other end are those of our policy: a user removed the marker.
    let ends = [have.content.src_registry.id, have.content.dest_registry.id];
    let restored = observed.marked.is_none()
        && found.is_none()
        && observed.owned.as_ref().is_some_and(|owned| owned.is(have.id, have.creation_time))
        && ends.contains(&desired.registry_id);
    if observed.marked.is_none() && !restored {
        let object = format!("replication policy {name}");
        ownership_marker::may_write(
            &desired.marker,
            found.as_ref(),
            observed.other,
            desired.spec.adoption_policy,
            &object,
        )?;
    }
    let want = overlay(desired, &have.content);
    check(&want, now)?;
    let drift = differences(&have.content, &want);
    let steps = if drift.is_empty() { Vec::new() } else { vec![Step::Update(have.id, want)] };
    let action = match (&observed.marked, steps.is_empty()) {
        (_, true) => Action::Nothing,
        (None, false) if !restored => Action::Adopt,
        (_, false) => Action::Change,
    };
    Ok(Plan { action, steps, drift })
}

/// Returns the next scheduled run of the policy.
pub fn next_run(content: &ReplicationPolicyContent, now: Timestamp) -> Option<Timestamp> {
    let scheduled = content.enabled && content.trigger.type_ == ReplicationTrigger::SCHEDULED;
    scheduled.then(|| Cron::parse(&content.trigger.trigger_settings.cron).ok()?.next(now))?
}

/// Returns the policy to send: the fields of the spec, and the observed values where the spec has none.
fn overlay(desired: &Desired<'_>, base: &ReplicationPolicyContent) -> ReplicationPolicyContent {
    let spec = desired.spec;
    let registry = RegistryReference { id: desired.registry_id };
    let (src_registry, dest_registry) =
        if spec.source.is_some() { (registry, RegistryReference::LOCAL) } else { (RegistryReference::LOCAL, registry) };
    let destination = spec.destination.as_ref();
    let text = Marker::split(&base.description).0;
    let levels = destination.and_then(|destination| destination.flatten_levels);
    ReplicationPolicyContent {
        name: desired.name.to_owned(),
        description: desired.marker.write(spec.description.as_deref().unwrap_or(text)),
        src_registry,
        dest_registry,
        dest_namespace: destination
            .and_then(|destination| destination.namespace.clone())
            .unwrap_or_else(|| base.dest_namespace.clone()),
        dest_namespace_replace_count: levels
            .and_then(|levels| i8::try_from(levels).ok())
            .unwrap_or(base.dest_namespace_replace_count),
        filters: spec.filters.as_ref().map_or_else(|| base.filters.clone(), filters),
        trigger: spec.trigger.as_ref().map_or_else(|| base.trigger.clone(), trigger),
        enabled: spec.enabled.unwrap_or(base.enabled),
        override_: spec.override_.unwrap_or(base.override_),
        deletion: spec.replicate_deletions.unwrap_or(base.deletion),
        // Harbor stores any negative speed as 0, which means no limit.
        speed: spec.speed_kb.unwrap_or(base.speed).max(0),
        copy_by_chunk: spec.copy_by_chunk.unwrap_or(base.copy_by_chunk),
        single_active_replication: spec.single_active.unwrap_or(base.single_active_replication),
    }
}

fn filters(spec: &Filters) -> Vec<ReplicationFilter> {
    let filter = |type_: &str, value: FilterValue, decoration: &str| ReplicationFilter {
        type_: type_.to_owned(),
        value,
        decoration: decoration.to_owned(),
    };
    let decorated = |type_: &str, matches: Option<FilterValue>, excludes: Option<FilterValue>| {
        let decorated = [(matches, MATCHES), (excludes, EXCLUDES)].into_iter();
        let decorated = decorated.filter_map(|(value, decoration)| Some(filter(type_, value?, decoration)));
        decorated.collect::<Vec<_>>()
    };
    let text = |value: &String| FilterValue::Text(value.clone());
    let list = |value: &Vec<String>| FilterValue::List(value.clone());
    let mut filters = Vec::new();
    if let Some(name) = &spec.name {
        filters.push(filter(ReplicationFilter::NAME, text(name), ""));
    }
    if let Some(tag) = &spec.tag {
        let (matches, excludes) = (tag.matches.as_ref().map(text), tag.excludes.as_ref().map(text));
        filters.extend(decorated(ReplicationFilter::TAG, matches, excludes));
    }
    if let Some(labels) = &spec.labels {
        let (matches, excludes) = (labels.matches.as_ref().map(list), labels.excludes.as_ref().map(list));
        filters.extend(decorated(ReplicationFilter::LABEL, matches, excludes));
    }
    if let Some(resource) = spec.resource {
        let resource = match resource {
            ResourceType::Image => "image",
            ResourceType::Artifact => "artifact",
        };
        filters.push(filter(ReplicationFilter::RESOURCE, FilterValue::Text(resource.to_owned()), ""));
    }
    filters
}

fn trigger(spec: &Trigger) -> ReplicationTrigger {
    let type_ = match spec.type_ {
        TriggerType::Manual => ReplicationTrigger::MANUAL,
        TriggerType::Scheduled => ReplicationTrigger::SCHEDULED,
        TriggerType::EventBased => ReplicationTrigger::EVENT_BASED,
    };
    let cron = spec.cron.clone().unwrap_or_default();
    ReplicationTrigger { type_: type_.to_owned(), trigger_settings: TriggerSettings { cron } }
}

/// Refuses a policy that must not be sent, whether the spec or the observed policy causes the problem.
fn check(want: &ReplicationPolicyContent, now: Timestamp) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal { reason: Reason::InvalidSpec, message });
    for filter in &want.filters {
        if let FilterValue::Text(glob) = &filter.value
            && let Some(bracket) = unclosed(glob)
        {
            let type_ = &filter.type_;
            return refuse(format!(
                "spec.filters.{type_} `{glob}`: `{bracket}` is not closed, and each run would fail"
            ));
        }
    }
    if want.trigger.type_ == ReplicationTrigger::SCHEDULED {
        let cron = Cron::that_fires(&want.trigger.trigger_settings.cron, now);
        if let Err(message) = cron {
            return refuse(format!("spec.trigger.cron {message}"));
        }
    }
    if want.trigger.type_ == ReplicationTrigger::EVENT_BASED {
        if want.dest_registry == RegistryReference::LOCAL {
            return refuse(
                "the policy in Harbor is event-based, which is not possible for a policy that pulls: set spec.trigger"
                    .to_owned(),
            );
        }
        if want.single_active_replication {
            return refuse(
                "Harbor refuses single_active_replication with an event-based trigger: set spec.singleActive: false, or another spec.trigger"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// Returns the first unclosed character of a glob: a brace, a bracket or an escape. Harbor accepts such a filter and fails
/// when it runs. A closing character without an opening one matches itself.
fn unclosed(glob: &str) -> Option<char> {
    let (mut braces, mut class, mut escaped) = (0_usize, false, false);
    for character in glob.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ']' => class = false,
            _ if class => {}
            '[' => class = true,
            '{' => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    let open = [(escaped, '\\'), (class, '['), (braces > 0, '{')];
    open.into_iter().find_map(|(is_open, character)| is_open.then_some(character))
}

fn differences(have: &ReplicationPolicyContent, want: &ReplicationPolicyContent) -> Vec<Drift> {
    let flag = |value: bool| value.to_string();
    let registry = |reference: RegistryReference| match reference {
        RegistryReference::LOCAL => "Harbor".to_owned(),
        RegistryReference { id: TO_BE_CREATED } => "the registry to be created".to_owned(),
        RegistryReference { id } => format!("registry {id}"),
    };
    let fields = [
        ("name", have.name.clone(), want.name.clone()),
        ("description", have.description.clone(), want.description.clone()),
        ("src_registry", registry(have.src_registry), registry(want.src_registry)),
        ("dest_registry", registry(have.dest_registry), registry(want.dest_registry)),
        ("dest_namespace", have.dest_namespace.clone(), want.dest_namespace.clone()),
        (
            "dest_namespace_replace_count",
            have.dest_namespace_replace_count.to_string(),
            want.dest_namespace_replace_count.to_string(),
        ),
        ("filters", described_filters(&have.filters), described_filters(&want.filters)),
        ("trigger", described_trigger(&have.trigger), described_trigger(&want.trigger)),
        ("enabled", flag(have.enabled), flag(want.enabled)),
        ("override", flag(have.override_), flag(want.override_)),
        ("deletion", flag(have.deletion), flag(want.deletion)),
        ("speed", have.speed.max(0).to_string(), want.speed.max(0).to_string()),
        ("copy_by_chunk", flag(have.copy_by_chunk), flag(want.copy_by_chunk)),
        ("single_active_replication", flag(have.single_active_replication), flag(want.single_active_replication)),
    ];
    let differing = fields.into_iter().filter(|(_, have, want)| have != want);
    differing.map(|(field, have, want)| Drift { field: field.to_owned(), have, want }).collect()
}

/// Returns filters as text: equal for equal meaning, in any order, with or without an explicit `matches`.
fn described_filters(filters: &[ReplicationFilter]) -> String {
    let mut words: Vec<String> = filters
        .iter()
        .map(|filter| {
            let decorated = [ReplicationFilter::TAG, ReplicationFilter::LABEL].contains(&filter.type_.as_str());
            let decoration = match filter.decoration.as_str() {
                "" if decorated => MATCHES,
                other => other,
            };
            let value = match &filter.value {
                FilterValue::Text(text) => text.clone(),
                FilterValue::List(list) => {
                    let mut list = list.clone();
                    list.sort_unstable();
                    list.dedup();
                    format!("[{}]", list.join(","))
                }
                FilterValue::Other(other) => other.to_string(),
            };
            let words = [filter.type_.as_str(), decoration, value.as_str()];
            words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    words.sort_unstable();
    words.join(", ")
}

/// Harbor stores the settings of any trigger, and uses those of a scheduled one alone.
fn described_trigger(trigger: &ReplicationTrigger) -> String {
    if trigger.type_ == ReplicationTrigger::SCHEDULED {
        format!("{} {}", trigger.type_, trigger.trigger_settings.cron)
    } else {
        trigger.type_.clone()
    }
}

#[cfg(test)]
mod tests;
