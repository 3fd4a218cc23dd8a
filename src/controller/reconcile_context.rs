//! Start and end of every reconcile, the same for all kinds: suspension, conditions, notes, requeue time.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{
    EventMessage, FinalizeResult, RECHECK, ReconcileError, ReconcileResult, ReconciledKind, Reconcilers,
    resync::{ReadMode, ResyncSchedule},
    status_report,
};
use crate::{
    api::{
        ConditionType, Conditions, HarborRef, ProxyProject, ProxyProjectStatus, Reason, Registry, RegistryStatus,
        ReplicationRule, ReplicationRuleStatus, common,
    },
    harbor::Freshness,
};

/// A kind whose resources each stand for one object in Harbor.
pub(super) trait HarborObject: ReconciledKind<Status: Default> {
    /// The common fields of every spec.
    fn terms(&self) -> CommonSpec<'_>;

    /// The common fields of every status.
    fn common(status: &mut Self::Status) -> CommonStatus<'_>;
}

/// The common fields of every spec.
pub(super) struct CommonSpec<'a> {
    harbor: &'a HarborRef,
    suspended: bool,
    interval: Duration,
}

/// The common fields of every status.
pub(super) struct CommonStatus<'a> {
    observed_generation: &'a mut Option<i64>,
    last_reconcile_token: &'a mut Option<String>,
    conditions: &'a mut Vec<Condition>,
    drift: &'a mut [String],
}

macro_rules! framed {
    ($kind:ty, $status:ty) => {
        impl HarborObject for $kind {
            fn terms(&self) -> CommonSpec<'_> {
                CommonSpec {
                    harbor: &self.spec.harbor_ref,
                    suspended: self.spec.suspend,
                    interval: self.spec.interval.duration(),
                }
            }

            fn common(status: &mut $status) -> CommonStatus<'_> {
                CommonStatus {
                    observed_generation: &mut status.observed_generation,
                    last_reconcile_token: &mut status.last_reconcile_token,
                    conditions: &mut status.conditions,
                    drift: &mut status.drift,
                }
            }
        }
    };
}

framed!(Registry, RegistryStatus);
framed!(ProxyProject, ProxyProjectStatus);
framed!(ReplicationRule, ReplicationRuleStatus);

/// One reconcile of one resource, in progress.
pub(super) struct ReconcileContext<'a, K: HarborObject> {
    kinds: &'a Reconcilers,
    object: &'a K,
    before: Vec<Condition>,
    resync: ResyncSchedule,
    /// Time of the reconcile, and how recent its reads must be.
    pub(super) sight: ReadMode,
    /// The next status, without its conditions.
    pub(super) status: K::Status,
    /// The next conditions.
    pub(super) conditions: Conditions,
    /// Notes to publish.
    pub(super) notes: Vec<EventMessage>,
}

impl<'a, K: HarborObject> ReconcileContext<'a, K> {
    /// Starts a reconcile. A suspended resource needs nothing more.
    pub(super) fn open(kinds: &'a Reconcilers, object: &'a K, now: Timestamp) -> Self {
        let generation = object.meta().generation;
        let terms = object.terms();
        let mut status = object.status().cloned().unwrap_or_default();
        let common = K::common(&mut status);
        *common.observed_generation = generation;
        let resync = ResyncSchedule::at(now, terms.interval, (&kinds.installation.0, &terms.harbor.name));
        let asked_for = common::is_requested(object.meta(), common.last_reconcile_token);
        let freshness = if asked_for { Freshness::Asked(now) } else { Freshness::Listed(resync.last) };
        let sight = ReadMode { now, freshness };
        let before = std::mem::take(common.conditions);
        let mut conditions = Conditions::from_status(&before, generation, now);
        conditions.remove(ConditionType::DeletionBlocked);
        if terms.suspended {
            conditions.suspended();
        }
        Self { kinds, object, before, resync, sight, status, conditions, notes: Vec::new() }
    }

    /// Whether the resource is suspended.
    pub(super) fn is_suspended(&self) -> bool {
        self.object.terms().suspended
    }

    /// Sets the conditions from the result; on success with this message.
    pub(super) fn conclude(&mut self, result: Result<String, ReconcileError>) {
        match result {
            Ok(message) => self.conditions.compared(K::common(&mut self.status).drift, message),
            Err(failure) => self.conditions.failed(&failure),
        }
    }

    /// Ends the reconcile.
    pub(super) fn close(mut self) -> ReconcileResult<K::Status> {
        let suspended = self.is_suspended();
        // Messages of successes are redacted, too: they contain text from Harbor, such as names, descriptions and results
        // of executions.
        let secrets = self.kinds.instances.secrets(&self.object.terms().harbor.name);
        let mut conditions = self.conditions.into_list();
        conditions.iter_mut().for_each(|condition| condition.message = secrets.line(&condition.message));
        self.notes.iter_mut().for_each(|note| note.message = secrets.line(&note.message));
        K::common(&mut self.status).drift.iter_mut().for_each(|line| *line = secrets.line(line));
        status_report::warn_of_change(&self.before, &conditions, &mut self.notes);
        status_report::warn_of_conflict(&self.before, &conditions, &mut self.notes);
        let requeue = status_report::requeue(&conditions, suspended, self.resync.next, self.sight.now);
        *K::common(&mut self.status).conditions = conditions;
        ReconcileResult { status: self.status, requeue, notes: self.notes }
    }
}

/// The result of a deletion that is blocked.
pub(super) fn blocked<K: HarborObject>(
    kinds: &Reconcilers,
    object: &K,
    now: Timestamp,
    (reason, message): (Reason, String),
) -> FinalizeResult<K::Status> {
    let words = (reason, kinds.instances.secrets(&object.terms().harbor.name).line(&message));
    let generation = object.meta().generation;
    let mut status = object.status().cloned().unwrap_or_default();
    let common = K::common(&mut status);
    *common.observed_generation = generation;
    let (conditions, notes) = status_report::blocked(common.conditions, generation, now, words);
    *common.conditions = conditions;
    FinalizeResult::Blocked(ReconcileResult { status, requeue: RECHECK, notes })
}
