//! Shows the result of a reconcile in conditions, notes and the requeue time. The same for every kind.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{EventMessage, RECHECK, ReconcileError};
use crate::{
    api::{ConditionType, Conditions, Reason, condition},
    plan::Refusal,
    transport::timings::PROBE_INTERVAL,
};

/// Shortest retry interval, for a failure that just started.
const SHORTEST: Duration = Duration::from_secs(4);
/// Longest retry interval, for an object that Harbor keeps refusing.
const LONGEST: Duration = Duration::from_secs(300);

impl From<Refusal> for ReconcileError {
    fn from(Refusal { reason, message }: Refusal) -> Self {
        Self::stalled(reason, message)
    }
}

impl Conditions {
    /// Sets Ready to false because `spec.suspend` is set.
    pub(super) fn suspended(&mut self) {
        self.set(ConditionType::Ready, false, Reason::Suspended, "spec.suspend is set");
        self.remove(ConditionType::Reconciling);
        self.remove(ConditionType::Stalled);
    }

    /// Sets Ready when Harbor matches the spec. With drift and a policy that only observes, sets Drifted and Stalled.
    pub(super) fn compared(&mut self, drift: &[String], message: impl Into<String>) {
        if drift.is_empty() {
            self.remove(ConditionType::Drifted);
            self.ready(Reason::Reconciled, message);
            return;
        }
        let message = drift.join("; ");
        self.set(ConditionType::Drifted, true, Reason::Drifted, message.clone());
        // The drift stays until a user changes Harbor or the spec.
        self.stalled(Reason::Drifted, message);
    }
}

/// When to reconcile again: at the next resync, or sooner while a problem may resolve itself.
pub(super) fn requeue(conditions: &[Condition], suspended: bool, resync: Duration, now: Timestamp) -> Duration {
    if is_settled(conditions, suspended) { resync } else { resync.min(backoff(conditions, now)) }
}

/// When to reconcile an instance again. While its Harbor is unreachable, all its resources wait for this one reconcile:
/// such a Harbor receives a request at most every half minute, however long the outage lasts and whatever answers in its
/// place.
pub(super) fn probe(conditions: &[Condition], suspended: bool, interval: Duration) -> Duration {
    if is_settled(conditions, suspended) { interval } else { interval.min(PROBE_INTERVAL) }
}

/// Whether only the next resync is to wait for. A problem that needs a user is not retried sooner: a rejected password
/// that is tried every half minute may lock the account.
fn is_settled(conditions: &[Condition], suspended: bool) -> bool {
    let is = |kind| condition::is_true(conditions, kind);
    suspended || is(ConditionType::Ready) || is(ConditionType::Stalled)
}

/// Retry interval. A recovery is noticed within half a minute. When Harbor refuses only this object, the first retry comes
/// soon, and the interval grows while the failure lasts.
fn backoff(conditions: &[Condition], now: Timestamp) -> Duration {
    let is_own = matches!(
        condition::reason(conditions, ConditionType::Ready),
        Some(Reason::HarborError | Reason::HarborForbidden | Reason::HarborRefused | Reason::NameConflict)
    );
    let Some(ready) = condition::find(conditions, ConditionType::Ready).filter(|_| is_own) else { return RECHECK };
    let failed_for = now.duration_since(ready.last_transition_time.0).unsigned_abs();
    (failed_for / 4).clamp(SHORTEST, LONGEST)
}

/// Adds a note when Ready became false or changed its reason, or when other fields drifted than before.
pub(super) fn warn_of_change(before: &[Condition], after: &[Condition], notes: &mut Vec<EventMessage>) {
    let ready = |conditions| condition::find(conditions, ConditionType::Ready);
    let Some(reason) = condition::reason_if_false(after, ConditionType::Ready) else { return };
    // Only drift is reported again when its message changes: other messages may contain numbers that change with each
    // reconcile.
    let is_known = |old: &Condition, new: &Condition| {
        old.status == new.status
            && old.reason == new.reason
            && (reason != Reason::Drifted || old.message == new.message)
    };
    let Some(new) = ready(after).filter(|new| !ready(before).is_some_and(|old| is_known(old, new))) else { return };
    // Resources that are applied together wait for one another for a moment: no reason for a warning.
    let message = match reason {
        Reason::Suspended => return,
        Reason::InstanceNotReady | Reason::RegistryNotReady | Reason::RegistryNotFound | Reason::InstanceNotFound => {
            EventMessage::done(reason, &new.message)
        }
        _ => EventMessage::warning(reason, &new.message),
    };
    notes.push(message);
}

/// Adds a warning when RewriteConflict appeared, or changed its subject.
pub(super) fn warn_of_conflict(before: &[Condition], after: &[Condition], notes: &mut Vec<EventMessage>) {
    let conflict = |conditions| condition::find(conditions, ConditionType::RewriteConflict);
    if let Some(new) = conflict(after)
        && conflict(before).is_none_or(|old| old.message != new.message)
        && let Ok(reason) = new.reason.parse()
    {
        notes.push(EventMessage::warning(reason, &new.message));
    }
}

/// Sets the conditions of a resource whose deletion is blocked, and adds a note unless the last one said the same.
pub(super) fn blocked(
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
    (reason, message): (Reason, String),
) -> (Vec<Condition>, Vec<EventMessage>) {
    let message = format!("{message}; or set spec.deletionPolicy: Retain to leave it in Harbor");
    let is_known = condition::find(before, ConditionType::DeletionBlocked).is_some_and(|old| old.message == message);
    let notes = if is_known { Vec::new() } else { vec![EventMessage::warning(reason, message.clone())] };
    let mut conditions = Conditions::from_status(before, generation, now);
    conditions.set(ConditionType::DeletionBlocked, true, reason, message);
    (conditions.into_list(), notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(reason: Reason, seconds: i64) -> Duration {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Conditions::from_status(&[], None, at(0));
        conditions.progressing(reason, "…");
        requeue(&conditions.into_list(), false, Duration::from_secs(600), at(seconds))
    }

    #[test]
    fn an_object_that_fails_alone_is_tried_soon_and_then_more_and_more_seldom() {
        let seconds: Vec<u64> =
            [0, 10, 100, 1000, 10_000].map(|passed| failing(Reason::HarborError, passed).as_secs()).into();
        assert_eq!(seconds, [4, 4, 25, 250, 300]);
    }

    #[test]
    fn what_comes_back_by_itself_is_asked_for_each_half_minute_and_no_more_often() {
        for reason in [Reason::HarborUnreachable, Reason::UpstreamUnhealthy, Reason::RegistryNotReady] {
            for passed in [0, 10, 10_000] {
                assert_eq!(failing(reason, passed), RECHECK, "{reason}");
            }
        }
    }
}
