//! What every reconcile returns: the next status, Events and the requeue time; or why it failed. Below [`crate::prewarm`] and
//! [`crate::controller`], which share these types.

use std::time::Duration;

use crate::{
    api::{Conditions, Reason},
    harbor,
    transport::RetryClass,
};

/// Result of one reconcile.
#[derive(Debug, Clone, PartialEq)]
pub struct ReconcileResult<Status> {
    /// The status to store; equal to the old one when nothing changed.
    pub status: Status,
    /// Maximum time until the next reconcile.
    pub requeue: Duration,
    /// Events to publish.
    pub notes: Vec<EventMessage>,
}

/// Result of one deletion attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum FinalizeResult<Status> {
    /// Harbor is in the desired state; the finalizer can be removed.
    Done(Vec<EventMessage>),
    /// The deletion is blocked.
    Blocked(ReconcileResult<Status>),
}

/// The content of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// Type `Warning`, else `Normal`.
    pub warning: bool,
    /// The reason of the Event.
    pub reason: Reason,
    /// For users; never contains a secret.
    pub message: String,
}

impl EventMessage {
    /// An Event about an action that was done.
    pub fn done(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    /// An Event about an action that failed.
    pub fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }

    /// Writes it to the log.
    pub fn log(&self, kind: &str, name: &str) {
        if self.warning {
            tracing::warn!(kind, name, reason = self.reason.as_str(), "{}", self.message);
        } else {
            tracing::info!(kind, name, reason = self.reason.as_str(), "{}", self.message);
        }
    }
}

/// Why a reconcile, or a step of it, failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcileError {
    /// Reason of the condition.
    pub reason: Reason,
    /// What a user can do.
    pub message: String,
    /// How to handle it.
    pub class: RetryClass,
}

impl ReconcileError {
    /// A failure of this class.
    pub fn new(reason: Reason, message: impl ToString, class: RetryClass) -> Self {
        Self { reason, message: message.to_string(), class }
    }

    /// A failure that another change ends: of another resource, of a Secret, or of Harbor.
    pub fn waiting(reason: Reason, message: impl ToString) -> Self {
        Self::new(reason, message, RetryClass::Wait(None))
    }

    /// A failure that lasts until a user acts.
    pub fn stalled(reason: Reason, message: impl ToString) -> Self {
        Self::new(reason, message, RetryClass::Stalled)
    }

    /// Whether another client changed Harbor after it was read (409). A plan that refuses a name is [`RetryClass::Stalled`].
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::NameConflict && self.class == RetryClass::Retry
    }
}

impl Conditions {
    /// Not ready because of `failure`, and stalled if only a user can change that.
    pub fn failed(&mut self, failure: &ReconcileError) {
        match failure.class {
            RetryClass::Retry | RetryClass::Wait(_) => self.progressing(failure.reason, &failure.message),
            RetryClass::Stalled => self.stalled(failure.reason, &failure.message),
        }
    }
}

impl From<harbor::Error> for ReconcileError {
    fn from(error: harbor::Error) -> Self {
        Self::new(error.reason(), &error, error.class())
    }
}
