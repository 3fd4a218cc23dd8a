//! Reconciles resources into Harbor: observe → plan → apply → status, one file per kind.
//!
//! In: a resource and a [`Directory`] of the resources it refers to. Out: an [`Outcome`] with its next status, Events and
//! the requeue time. Nothing here depends on whether resources live in a cluster or in files; the caller writes the status
//! back.

use std::time::Duration;

pub mod allowances;
pub mod cached_image;
pub mod directory;
mod frame;
pub mod instance;
pub mod instances;
pub mod needs;
pub mod preview;
pub mod proxy_project;
pub mod reconciler;
pub mod registry;
pub mod replication_rule;
mod report;
mod rivals;
mod sight;
mod upstream;

pub use directory::{Directory, SecretValue};
pub use instances::Instances;
pub use preview::{Preview, Subjects, Verdict};
pub use reconciler::{Kinds, Managed, Reconciler};

use crate::{api::Reason, plan::marker::Marker};

/// Requeue time while an external problem has to be resolved first.
pub const RECHECK: Duration = Duration::from_secs(30);

/// Result of one reconcile.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<Status> {
    /// The status to store.
    pub status: Status,
    /// Maximum time until the next reconcile.
    pub requeue: Duration,
    /// Notes for users.
    pub notes: Vec<Note>,
}

/// Result of one deletion attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Finalized<Status> {
    /// Harbor is in the desired state; the finalizer can be removed.
    Done(Vec<Note>),
    /// The deletion is blocked.
    Blocked(Outcome<Status>),
}

/// An action that was done, or that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether it needs a user's attention.
    pub warning: bool,
    /// Machine-readable: the name of a [`Reason`].
    pub reason: String,
    /// For users; never contains a secret.
    pub message: String,
}

impl Note {
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
    pub fn marker<K: Managed>(&self, object: &K) -> Marker {
        Marker {
            installation: self.0.clone(),
            kind: K::kind(&()).into_owned(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }
}
