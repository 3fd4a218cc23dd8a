//! Reconciles resources into Harbor: observe → plan → apply → status, one file per kind.
//!
//! In: a resource and a [`Directory`] of the resources it refers to. Out: an [`Outcome`] with its next status, Events and
//! the requeue time. Nothing here depends on whether resources live in a cluster or in files; the caller writes the status
//! back.

use std::time::Duration;

pub mod cached_image;
pub mod connections;
pub mod instance;
mod ownership_conflict;
pub mod preview;
pub mod proxy_project;
pub mod rate_limits;
mod reconcile_context;
pub mod reconciler;
pub mod registry;
mod registry_resolver;
pub mod replication_rule;
pub mod required_permissions;
pub mod resource_store;
mod resync;
mod status_report;

pub use connections::Connections;
pub use preview::{Preview, PreviewInput, PreviewResult};
pub use reconciler::{ReconciledKind, Reconciler, Reconcilers};
pub use resource_store::{ResourceStore, SecretValue, Stores};

use crate::{api::Reason, plan::ownership_marker::Marker};

/// Requeue time while an external problem has to be resolved first.
pub const RECHECK: Duration = Duration::from_secs(30);

/// Result of one reconcile.
#[derive(Debug, Clone, PartialEq)]
pub struct ReconcileResult<Status> {
    /// The status to store.
    pub status: Status,
    /// Maximum time until the next reconcile.
    pub requeue: Duration,
    /// Notes for users.
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

/// An action that was done, or that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// Whether it needs a user's attention.
    pub warning: bool,
    /// Machine-readable: the name of a [`Reason`].
    pub reason: String,
    /// For users; never contains a secret.
    pub message: String,
}

impl EventMessage {
    /// A note about an action that was done.
    pub fn done(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_string(), message: message.into() }
    }

    /// Writes it to the log.
    pub fn log(&self, kind: &str, name: &str) {
        if self.warning {
            tracing::warn!(kind, name, reason = self.reason, "{}", self.message);
        } else {
            tracing::info!(kind, name, reason = self.reason, "{}", self.message);
        }
    }

    /// A note about an action that failed.
    pub fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_string(), message: message.into() }
    }
}

/// The identity of this installation, part of every marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation(pub String);

impl Installation {
    /// The marker of the object that a resource creates in Harbor.
    pub fn marker<K: ReconciledKind>(&self, object: &K) -> Marker {
        Marker {
            installation: self.0.clone(),
            kind: K::kind(&()).into_owned(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }
}
