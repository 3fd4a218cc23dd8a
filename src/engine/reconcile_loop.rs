//! One reconcile of one resource: finalizer, outcome, status, Events. The same for every kind.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use tracing::Instrument;

use super::{
    backend::{Backend, Error},
    status_cache::StatusCache,
};
use crate::{
    api::{ConditionType, FINALIZER, condition},
    controller::{EventMessage, FinalizeResult, ReconcileResult, ReconciledKind, Reconciler},
    telemetry::controller::{ControllerMetrics, EventOutcome, ReconcileOutcome},
};

/// Stores the outcomes of one kind.
pub struct ReconcileLoop<K: ReconciledKind, R, B> {
    backend: B,
    reconciler: R,
    metrics: ControllerMetrics,
    written: Mutex<StatusCache<K::Status>>,
}

impl<K: ReconciledKind, R: Reconciler<K>, B: Backend> ReconcileLoop<K, R, B> {
    /// Creates a loop that writes to this backend and counts under the name of its kind.
    pub fn new(backend: B, reconciler: R, metrics: ControllerMetrics) -> Self {
        metrics.expect_kind(K::KIND);
        Self { backend, reconciler, metrics, written: Mutex::default() }
    }

    /// Reconciles the object once and stores the outcome. Returns when to reconcile again; `None` when the object is gone.
    ///
    /// # Errors
    /// [`Error`] when the backend did not accept the write. Nothing is lost: the next reconcile finds the same state.
    pub async fn step(&self, object: Arc<K>) -> Result<Option<Duration>, Error> {
        let begin = Instant::now();
        let _running = self.metrics.begin_reconcile(K::KIND);
        let empty = tracing::field::Empty;
        let name = object.name_any();
        let span = tracing::debug_span!("reconcile", kind = K::KIND, name, outcome = empty, otel.status_code = empty);
        let result = self.reconcile(object).instrument(span.clone()).await;
        let outcome = result.as_ref().map_or(ReconcileOutcome::Failed, |(_, outcome)| *outcome);
        span.record("outcome", tracing::field::debug(outcome));
        if outcome == ReconcileOutcome::Failed {
            span.record("otel.status_code", "ERROR");
        }
        self.metrics.count_reconcile(K::KIND, outcome, begin.elapsed());
        result.map(|(requeue, _)| requeue)
    }

    async fn reconcile(&self, object: Arc<K>) -> Result<(Option<Duration>, ReconcileOutcome), Error> {
        let object = self.newest(&object);
        if object.meta().deletion_timestamp.is_some() {
            return self.delete(&object).await;
        }
        let object = self.update_finalizer(object).await?;
        let outcome = self.reconciler.reconcile(&object, Timestamp::now()).await;
        self.store(&object, &outcome).await?;
        let ready = condition::is_true(K::conditions(&outcome.status), ConditionType::Ready);
        Ok((Some(outcome.requeue), if ready { ReconcileOutcome::Ready } else { ReconcileOutcome::NotReady }))
    }

    async fn delete(&self, object: &K) -> Result<(Option<Duration>, ReconcileOutcome), Error> {
        self.forget(object);
        if !object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok((None, ReconcileOutcome::Deleted));
        }
        if object.wants_finalizer() {
            match self.reconciler.finalize(object, Timestamp::now()).await {
                FinalizeResult::Done(notes) => self.publish(object, &notes).await,
                FinalizeResult::Blocked(outcome) => {
                    self.store(object, &outcome).await?;
                    return Ok((Some(outcome.requeue), ReconcileOutcome::DeletionBlocked));
                }
            }
        }
        match self.set_finalizer(object, false).await {
            Err(error) if error.is_not_found() => Ok((None, ReconcileOutcome::Deleted)),
            result => result.map(|_| (None, ReconcileOutcome::Deleted)),
        }
    }

    async fn update_finalizer(&self, object: K) -> Result<K, Error> {
        let has = object.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
        let wants = object.wants_finalizer();
        if has == wants {
            return Ok(object);
        }
        self.set_finalizer(&object, wants).await
    }

    async fn set_finalizer(&self, object: &K, present: bool) -> Result<K, Error> {
        let mut finalizers = object.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if present {
            finalizers.push(FINALIZER.to_owned());
        }
        let patched = self.backend.write_finalizers(object, finalizers).await?;
        // The object may be from a stale watch: when the answer has no status, keep the newer one that is already known.
        Ok(match object.status() {
            Some(status) if patched.status().is_none() => patched.with_status(status.clone()),
            _ => patched,
        })
    }

    async fn store(&self, object: &K, outcome: &ReconcileResult<K::Status>) -> Result<(), Error> {
        if object.status() != Some(&outcome.status) {
            match self.backend.write_status(object, &outcome.status).await {
                Ok(()) => self.remember(object, &outcome.status),
                // The object was deleted meanwhile and needs no status.
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.publish(object, &outcome.notes).await;
        Ok(())
    }

    async fn publish(&self, object: &K, notes: &[EventMessage]) {
        let reference = object.object_ref(&());
        for note in notes {
            // A lost Event does not fail the reconcile.
            let outcome = match self.backend.publish(&reference, note).await {
                Ok(()) => EventOutcome::Published,
                Err(error) => {
                    tracing::debug!(%error, "cannot publish an Event");
                    EventOutcome::Dropped
                }
            };
            self.metrics.count_event(outcome);
            note.log(K::KIND, &object.name_any());
        }
    }

    fn newest(&self, object: &K) -> K {
        let mut written = self.written.lock();
        match written.over(&object.name_any(), object.meta().resource_version.as_deref()) {
            Some(status) => object.with_status(status.clone()),
            None => object.clone(),
        }
    }

    fn remember(&self, object: &K, status: &K::Status) {
        if let Some(over) = object.resource_version() {
            self.written.lock().record(object.name_any(), over, status.clone(), Instant::now());
        }
    }

    fn forget(&self, object: &K) {
        self.written.lock().forget(&object.name_any());
    }
}
