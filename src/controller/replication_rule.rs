//! ReplicationRule: observe → plan → apply → status; then its executions (`executions`).

mod executions;

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use self::executions::ExecutionTracker;
use super::{
    EventMessage, FinalizeResult, RECHECK, ReconcileError, ReconcileResult, Reconcilers,
    connections::Connection,
    reconcile_context::{self, ReconcileContext},
    registry_resolver::{PlannedRegistries, RegistryResolver},
    resync::{FRESH, ReadMode, disowns},
};
use crate::{
    api::{ManagementPolicy, OwnedObject, Reason, ReplicationRule, ReplicationRuleStatus},
    harbor::{Cached, Error, Freshness, HarborCache, model},
    plan::{
        Plan, Refusal, manual_run,
        ownership_marker::Marker,
        replication::{self as plan, Observed},
    },
};

/// Requeue time for a step that is first written to the status and then carried out.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Delay after a scheduled time: Harbor starts the execution a moment later.
const AFTER_SCHEDULE: Duration = Duration::from_secs(5);
/// Maximum wait for executions to stop; after it, Harbor decides whether it can delete the policy.
const STOPPING: Duration = Duration::from_secs(60);
/// Interval of checks on an execution that is being stopped.
const STOP_CHECK: Duration = Duration::from_secs(3);

/// Reconciles a ReplicationRule's policy in Harbor with its spec, runs it on request, and reports its executions.
pub async fn reconcile(
    kinds: &Reconcilers,
    rule: &ReplicationRule,
    now: Timestamp,
) -> ReconcileResult<ReplicationRuleStatus> {
    let mut frame = ReconcileContext::open(kinds, rule, now);
    if !frame.is_suspended() {
        let mut result = ensure(kinds, rule, frame.sight, &mut frame.status, &mut frame.notes).await;
        if result.as_ref().is_err_and(ReconcileError::is_conflict) {
            // Another client changed Harbor after the read: read again and retry.
            result = ensure(kinds, rule, frame.sight.uncached(), &mut frame.status, &mut frame.notes).await;
        }
        let blocked_images = match frame.status.blocked_images.len() {
            0 => String::new(),
            1 => "; vulnerability prevention blocks 1 image".to_owned(),
            more => format!("; vulnerability prevention blocks {more} images"),
        };
        frame.conclude(result.map(|()| format!("Harbor has this replication policy as specified{blocked_images}")));
    }
    let mut outcome = frame.close();
    if !rule.spec.suspend {
        outcome.requeue = outcome.requeue.min(soonest(rule, &outcome.status, now));
    }
    outcome
}

/// Deletes a ReplicationRule's policy in Harbor, for `deletionPolicy: Delete`. Stops its running executions first.
pub async fn finalize(
    kinds: &Reconcilers,
    rule: &ReplicationRule,
    now: Timestamp,
) -> FinalizeResult<ReplicationRuleStatus> {
    match remove(kinds, rule, now).await {
        Ok(Removal::Done(notes)) => FinalizeResult::Done(notes),
        Ok(Removal::Stopping(executions)) => {
            let message = format!(
                "waiting for {executions} execution(s) of replication policy {} to stop in Harbor",
                rule.harbor_name()
            );
            match reconcile_context::blocked(kinds, rule, now, (Reason::Progressing, message)) {
                FinalizeResult::Blocked(outcome) => {
                    FinalizeResult::Blocked(ReconcileResult { requeue: STOP_CHECK, ..outcome })
                }
                done @ FinalizeResult::Done(_) => done,
            }
        }
        Err(failure) => reconcile_context::blocked(kinds, rule, now, (failure.reason, failure.message)),
    }
}

async fn ensure(
    kinds: &Reconcilers,
    rule: &ReplicationRule,
    sight: ReadMode,
    status: &mut ReplicationRuleStatus,
    notes: &mut Vec<EventMessage>,
) -> Result<(), ReconcileError> {
    let connection = kinds.connect(&rule.spec.harbor_ref).await?;
    let (now, remembered, ahead) = (sight.now, status.id, PlannedRegistries::new());
    let mut look = compare(kinds, &connection.view, rule, &ahead, remembered, sight).await?;
    if sight.is_too_old(look.at) && !look.plan.as_ref().is_ok_and(Plan::is_done) {
        look = compare(kinds, &connection.view, rule, &ahead, remembered, sight.uncached()).await?;
    }
    let Comparison { observed, plan, .. } = look;
    status.id = observed.marked.as_ref().map(|policy| policy.id);
    if disowns(&plan) || observed.policy().is_none() {
        status.owned = None;
    }
    let plan = plan?;
    let difference = plan.difference(object(rule));
    let writes = rule.spec.management_policy == ManagementPolicy::Full;
    let (id, content) = if writes {
        status.drift.clear();
        let mut now_there = observed.policy().map(|policy| (policy.id, policy.content.clone()));
        for step in plan.steps {
            now_there = Some(apply(&connection, step).await?);
            notes.push(EventMessage::done(Reason::Reconciled, difference.done()));
        }
        let Some(now_there) = now_there else { return Ok(()) };
        status.id = Some(now_there.0);
        OwnedObject::remember(&mut status.owned, status.id, now);
        now_there
    } else {
        status.drift = difference.lines();
        let Some(policy) = observed.policy() else {
            status.next_scheduled_time = None;
            return Ok(());
        };
        status.id = Some(policy.id);
        (policy.id, policy.content.clone())
    };
    if remembered != Some(id) {
        // Executions of another policy say nothing about this one.
        status.last_execution = None;
        status.pending_run = None;
        status.considered_execution = None;
        status.blocked_images.clear();
    }
    status.next_scheduled_time = plan::next_run(&content, now).map(Time);
    ExecutionTracker { connection: &connection, rule, id, enabled: content.enabled, writes, now }
        .follow(status, notes)
        .await
}

/// Result of comparing a ReplicationRule with Harbor.
pub(super) struct Comparison {
    /// The state of Harbor.
    observed: Observed,
    /// When Harbor was read.
    at: Timestamp,
    /// The steps to take, or why there are none.
    pub(super) plan: Result<Plan<plan::Step>, Refusal>,
}

/// The ReplicationRule's object in Harbor, for messages.
pub(super) fn object(rule: &ReplicationRule) -> String {
    format!("replication policy {}", rule.harbor_name())
}

/// Compares without writing.
pub(super) async fn compare(
    kinds: &Reconcilers,
    view: &HarborCache,
    rule: &ReplicationRule,
    ahead: &PlannedRegistries,
    remembered: Option<i64>,
    sight: ReadMode,
) -> Result<Comparison, ReconcileError> {
    kinds.yield_to_older(rule)?;
    let reference = RegistryResolver { kinds, view, ahead, sight };
    let (_, registry_id) = reference.registry(rule.registry_name(), &rule.spec.harbor_ref, "ReplicationRule").await?;
    let marker = kinds.installation.marker(rule);
    let desired = plan::Desired { name: rule.harbor_name(), spec: &rule.spec, registry_id, marker };
    let (mut observed, at) = observe(view, desired.name, &desired.marker, remembered, sight.freshness).await?;
    observed.owned = rule.status.as_ref().and_then(|status| status.owned.clone());
    observed.other = kinds.other(rule, observed.named.as_ref().and_then(plan::marker_of).as_ref());
    let plan = plan::plan(&desired, &observed, sight.now);
    Ok(Comparison { observed, at, plan })
}

/// Reads the policy that the status remembers; all policies when it remembers none, or when that policy is not as
/// expected.
async fn observe(
    view: &HarborCache,
    name: &str,
    ours: &Marker,
    remembered: Option<i64>,
    freshness: Freshness,
) -> Result<(Observed, Timestamp), Error> {
    if let Some(id) = remembered
        && let Cached { item: Some(policy), at } = view.policy(id, freshness).await?
        && policy.content.name == name
        && plan::marker_of(&policy).as_ref() == Some(ours)
    {
        return Ok((Observed { marked: Some(policy.as_ref().clone()), ..Observed::default() }, at));
    }
    let since = match freshness {
        Freshness::Listed(since) => since,
        // A policy can be found by its marker only in the list of all, which is read once for all rules that need it now.
        Freshness::Asked(since) => since - FRESH,
    };
    let policies = view.policies(since).await?;
    Ok((Observed::among(&policies, name, ours, remembered), since))
}

async fn apply(
    Connection { client, view, .. }: &Connection,
    step: plan::Step,
) -> Result<(i64, model::ReplicationPolicyContent), Error> {
    match step {
        plan::Step::Create(content) => {
            let id = client.create_replication_policy(&content).await?;
            view.made_policy(model::ReplicationPolicy { id, creation_time: None, content: content.clone() });
            Ok((id, content))
        }
        plan::Step::Update(id, content) => {
            let updated = client.update_replication_policy(id, &content).await;
            view.wrote_policy(id);
            updated.map(|()| (id, content))
        }
    }
}

/// Time until the next event that changes the status, or that needs an action.
fn soonest(rule: &ReplicationRule, status: &ReplicationRuleStatus, now: Timestamp) -> Duration {
    let until = |time: Timestamp| Duration::try_from(time.duration_since(now)).unwrap_or_default();
    let pending = status.pending_run.as_ref().map(|_| AT_ONCE);
    let running = status.last_execution.as_ref().and_then(|execution| {
        let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        let (start_time, end_time) = (time(&execution.start_time), time(&execution.end_time));
        let (status, total) = (execution.status.clone(), execution.total);
        manual_run::next_check(
            &model::ReplicationExecution { start_time, end_time, status, total, ..Default::default() },
            now,
        )
    });
    let scheduled = status.next_scheduled_time.as_ref().map(|time| until(time.0) + AFTER_SCHEDULE);
    let scans = rule.spec.after_scan.then_some(RECHECK);
    [pending, running, scheduled, scans].into_iter().flatten().min().unwrap_or(Duration::MAX)
}

enum Removal {
    Done(Vec<EventMessage>),
    /// Number of executions that are being stopped.
    Stopping(usize),
}

async fn remove(kinds: &Reconcilers, rule: &ReplicationRule, now: Timestamp) -> Result<Removal, ReconcileError> {
    if rule.spec.management_policy == ManagementPolicy::ObserveOnly {
        return Ok(Removal::Done(Vec::new()));
    }
    let Connection { client, view, .. } = kinds.connect(&rule.spec.harbor_ref).await?;
    let name = rule.harbor_name();
    let remembered = rule.status.as_ref().and_then(|status| status.id);
    let marker = kinds.installation.marker(rule);
    let (observed, _) = observe(&view, name, &marker, remembered, Freshness::Asked(now)).await?;
    let Some(policy) = observed.marked else {
        let left = observed.named.map(|_| {
            let message = format!("replication policy {name} in Harbor has no marker of ours and was not modified");
            EventMessage::warning(Reason::AdoptionRequired, message)
        });
        return Ok(Removal::Done(left.into_iter().collect()));
    };
    let since = rule.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let executions = client.replication_executions(policy.id, executions::MOST).await?;
    let running: Vec<_> = executions.iter().filter(|execution| !execution.is_final()).collect();
    for execution in &running {
        client.stop_replication(execution.id).await?;
    }
    if !running.is_empty() && now.duration_since(since).unsigned_abs() < STOPPING {
        return Ok(Removal::Stopping(running.len()));
    }
    let deleted = client.delete_replication_policy(policy.id).await;
    view.wrote_policy(policy.id);
    deleted?;
    Ok(Removal::Done(vec![EventMessage::done(
        Reason::Reconciled,
        format!("deleted replication policy {name} in Harbor"),
    )]))
}
