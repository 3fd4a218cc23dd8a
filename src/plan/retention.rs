//! Retention: changes the policy that Harbor created for a project, and never creates a second one. Harbor validates almost
//! nothing.

use k8s_openapi::jiff::Timestamp;

use super::{Drift, Refusal, cron::Cron};
use crate::{
    api::{
        Reason,
        retention::{Pattern, Retention, RetentionRule},
    },
    harbor::model,
};

/// The desired retention of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Desired {
    /// No policy: all artifacts stay.
    Nothing,
    /// A policy with these rules and this schedule; its IDs have no meaning.
    Policy(model::RetentionPolicy),
}

/// A request to Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// POST /retentions: there is none.
    Create(model::RetentionPolicy),
    /// PUT /retentions/{id}.
    Update(model::RetentionPolicy),
    /// DELETE /retentions/{id}.
    Delete(i64),
}

/// Reads the retention of the spec.
///
/// # Errors
/// A [`Refusal`] for values that Harbor would refuse, and for a schedule that would hang it.
pub fn desired(spec: &Retention, now: Timestamp) -> Result<Desired, Refusal> {
    let refuse = |message: String| Refusal { reason: Reason::InvalidSpec, message };
    if spec.rules.is_empty() {
        return Ok(Desired::Nothing);
    }
    if !spec.schedule.is_empty() {
        Cron::that_fires(&spec.schedule, now).map_err(|why| refuse(format!("spec.retention.schedule: {why}")))?;
    }
    let rules: Vec<model::RetentionRule> = spec.rules.iter().map(rule).collect();
    for (number, rule) in rules.iter().enumerate() {
        if rule.template.is_empty() {
            let all = "pulledWithinDays, pushedWithinDays, latestPulled, latestPushed and always";
            return Err(refuse(format!("spec.retention.rules[{number}] must have one of {all}")));
        }
        if let Some(earlier) = rules.iter().take(number).position(|other| other == rule) {
            let message = "are equal, which Harbor refuses; remove one";
            return Err(refuse(format!("spec.retention.rules[{earlier}] and [{number}] {message}")));
        }
    }
    let schedule = model::RetentionSchedule { cron: spec.schedule.clone() };
    Ok(Desired::Policy(model::RetentionPolicy {
        id: 0,
        algorithm: "or".to_owned(),
        rules,
        trigger: model::RetentionTrigger { kind: "Schedule".to_owned(), settings: schedule },
        scope: model::RetentionScope { level: "project".to_owned(), reference: 0 },
    }))
}

/// Returns the ID of a project's policy.
pub fn id_of(project: &model::Project) -> Option<i64> {
    project.metadata.get("retention_id")?.parse().ok()
}

/// Returns the request for the policy of an existing project. `have` is the observed policy.
pub fn step(
    desired: &Desired,
    project: &model::Project,
    have: Option<&model::RetentionPolicy>,
    drift: &mut Vec<Drift>,
) -> Option<Step> {
    let id = id_of(project);
    let mut differs = |have: String, want: String| drift.push(Drift { field: "retention".to_owned(), have, want });
    let (want, id) = match (desired, id) {
        (Desired::Nothing, None) => return None,
        (Desired::Nothing, Some(id)) => {
            differs(have.map_or_else(|| format!("policy {id}"), described), "no policy".to_owned());
            return Some(Step::Delete(id));
        }
        (Desired::Policy(want), None) => {
            differs("no policy".to_owned(), described(want));
            return Some(Step::Create(want.of(project.project_id, 0)));
        }
        (Desired::Policy(want), Some(id)) => (want, id),
    };
    let same = |have: &model::RetentionPolicy| {
        (&have.algorithm, &have.rules, &have.trigger) == (&want.algorithm, &want.rules, &want.trigger)
    };
    if have.is_some_and(same) {
        return None;
    }
    differs(have.map_or_else(|| format!("policy {id}"), described), described(want));
    Some(Step::Update(want.of(project.project_id, id)))
}

fn rule(spec: &RetentionRule) -> model::RetentionRule {
    let counted = [
        ("nDaysSinceLastPull", spec.pulled_within_days),
        ("nDaysSinceLastPush", spec.pushed_within_days),
        ("latestPulledN", spec.latest_pulled),
        ("latestPushedK", spec.latest_pushed),
    ];
    let counted = counted.into_iter().find_map(|(template, count)| Some((template, count?)));
    let always = spec.always.then_some("always");
    let template = counted.map(|(template, _)| template).or(always).unwrap_or_default();
    let mut tags = selector(spec.tags.as_ref(), "matches", "excludes");
    if let Some(untagged) = spec.untagged {
        tags.extras = format!("{{\"untagged\":{untagged}}}");
    }
    let repositories = selector(spec.repositories.as_ref(), "repoMatches", "repoExcludes");
    model::RetentionRule {
        disabled: spec.disabled,
        action: "retain".to_owned(),
        template: template.to_owned(),
        params: counted.into_iter().map(|(template, count)| (template.to_owned(), count.into())).collect(),
        tag_selectors: vec![tags],
        scope_selectors: [("repository".to_owned(), vec![repositories])].into(),
    }
}

fn selector(pattern: Option<&Pattern>, matches: &str, excludes: &str) -> model::RetentionSelector {
    let excluded = pattern.and_then(|pattern| pattern.excludes.as_deref());
    let matched = pattern.and_then(|pattern| pattern.matches.as_deref()).unwrap_or("**");
    model::RetentionSelector {
        kind: "doublestar".to_owned(),
        decoration: if excluded.is_some() { excludes } else { matches }.to_owned(),
        pattern: excluded.unwrap_or(matched).to_owned(),
        extras: String::new(),
    }
}

/// Returns a policy as text for users.
fn described(policy: &model::RetentionPolicy) -> String {
    let rules = policy.rules.iter().map(|rule| {
        let count = rule.params.get(&rule.template).map_or_else(String::new, |count| format!(" {count}"));
        let named = |selectors: &[model::RetentionSelector]| {
            let named = |selector: &model::RetentionSelector| {
                format!(" {} {}{}", selector.decoration, selector.pattern, selector.extras)
            };
            selectors
                .iter()
                .filter(|selector| selector.pattern != "**" || !selector.extras.is_empty())
                .map(named)
                .collect::<String>()
        };
        let repositories: String = rule.scope_selectors.values().map(|selectors| named(selectors)).collect();
        let disabled = if rule.disabled { " (disabled)" } else { "" };
        format!("{}{count}{repositories}{}{disabled}", rule.template, named(&rule.tag_selectors))
    });
    let rules: Vec<String> = rules.collect();
    let rules = if rules.is_empty() { "no rule".to_owned() } else { rules.join(", ") };
    match policy.trigger.settings.cron.as_str() {
        "" => format!("{rules}, never run"),
        cron => format!("{rules} at {cron}"),
    }
}

#[cfg(test)]
mod tests;
