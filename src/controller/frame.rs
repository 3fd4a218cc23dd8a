//! What a look at a resource begins and ends with, whatever its kind: suspension, conditions, notes, the time to look again.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{
    Finalized, Managed, Note, Outcome, RECHECK,
    report::{self, Failure},
};
use crate::api::{
    ConditionType, Conditions, ProxyProject, ProxyProjectStatus, Reason, Registry, RegistryStatus, ReplicationRule,
    ReplicationRuleStatus,
};

/// A kind whose resources each stand for one object in Harbor.
pub(super) trait Framed: Managed<Status: Default> {
    /// `spec.suspend` and `spec.interval`.
    fn pace(&self) -> (bool, Duration);

    /// What every status has.
    fn common(status: &mut Self::Status) -> Common<'_>;
}

/// What every status has.
pub(super) struct Common<'a> {
    observed_generation: &'a mut Option<i64>,
    conditions: &'a mut Vec<Condition>,
    drift: &'a [String],
}

macro_rules! framed {
    ($kind:ty, $status:ty) => {
        impl Framed for $kind {
            fn pace(&self) -> (bool, Duration) {
                (self.spec.suspend, self.spec.interval.duration())
            }

            fn common(status: &mut $status) -> Common<'_> {
                Common {
                    observed_generation: &mut status.observed_generation,
                    conditions: &mut status.conditions,
                    drift: &status.drift,
                }
            }
        }
    };
}

framed!(Registry, RegistryStatus);
framed!(ProxyProject, ProxyProjectStatus);
framed!(ReplicationRule, ReplicationRuleStatus);

/// One look at one resource, while it lasts.
pub(super) struct Frame<'a, K: Framed> {
    object: &'a K,
    before: Vec<Condition>,
    /// The next status, without its conditions.
    pub(super) status: K::Status,
    /// The next conditions.
    pub(super) conditions: Conditions,
    /// What to tell.
    pub(super) notes: Vec<Note>,
}

impl<'a, K: Framed> Frame<'a, K> {
    /// Begins. A suspended resource is done with this.
    pub(super) fn open(object: &'a K, now: Timestamp) -> Self {
        let generation = object.meta().generation;
        let mut status = object.status().cloned().unwrap_or_default();
        let common = K::common(&mut status);
        *common.observed_generation = generation;
        let before = std::mem::take(common.conditions);
        let mut conditions = Conditions::from_status(&before, generation, now);
        conditions.remove(ConditionType::DeletionBlocked);
        if object.pace().0 {
            conditions.suspended();
        }
        Self { object, before, status, conditions, notes: Vec::new() }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_suspended(&self) -> bool {
        self.object.pace().0
    }

    /// Says what came of it; with success, in these words.
    pub(super) fn settle(&mut self, result: Result<String, Failure>) {
        match result {
            Ok(message) => self.conditions.compared(K::common(&mut self.status).drift, message),
            Err(failure) => self.conditions.failed(&failure),
        }
    }

    /// Ends.
    pub(super) fn close(mut self) -> Outcome<K::Status> {
        let (suspended, interval) = self.object.pace();
        let conditions = self.conditions.into_list();
        report::warn_of_change(&self.before, &conditions, &mut self.notes);
        report::warn_of_conflict(&self.before, &conditions, &mut self.notes);
        let requeue = report::requeue(&conditions, suspended, interval);
        *K::common(&mut self.status).conditions = conditions;
        Outcome { status: self.status, requeue, notes: self.notes }
    }
}

/// A deletion that something stands in the way of.
pub(super) fn blocked<K: Framed>(object: &K, now: Timestamp, words: (Reason, String)) -> Finalized<K::Status> {
    let generation = object.meta().generation;
    let mut status = object.status().cloned().unwrap_or_default();
    let common = K::common(&mut status);
    *common.observed_generation = generation;
    let (conditions, notes) = report::blocked(common.conditions, generation, now, words);
    *common.conditions = conditions;
    Finalized::Blocked(Outcome { status, requeue: RECHECK, notes })
}
