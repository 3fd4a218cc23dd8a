//! Reconciles resources into Harbor: observe → plan → apply → status, one file a kind.
//!
//! In: a resource and a [`Directory`] of what it refers to. Out: an [`Outcome`], its next status with Events and the time to
//! look again. Nothing here knows whether resources live in a cluster or in files; who calls it writes the status back.

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

/// Looked at again after this long, when something outside has to become right.
pub const RECHECK: Duration = Duration::from_secs(30);

/// What one look at a resource led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<Status> {
    /// The status to store.
    pub status: Status,
    /// When to look again at the latest.
    pub requeue: Duration,
    /// What a person may want to know.
    pub notes: Vec<Note>,
}

/// What the deletion of a resource led to.
#[derive(Debug, Clone, PartialEq)]
pub enum Finalized<Status> {
    /// Harbor is as it should be; the finalizer may go.
    Done(Vec<Note>),
    /// Something stands in the way.
    Blocked(Outcome<Status>),
}

/// Something that was done, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether somebody should look at it.
    pub warning: bool,
    /// Machine-readable: the name of a [`Reason`].
    pub reason: String,
    /// For people; never holds a secret.
    pub message: String,
}

impl Note {
    /// Something was done.
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

    /// Something could not be done.
    pub fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_string(), message: message.into() }
    }
}

/// Who we are: what markers are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation(pub String);

impl Installation {
    /// The marker of what a resource makes in Harbor.
    pub fn marker<K: Managed>(&self, object: &K) -> Marker {
        Marker {
            installation: self.0.clone(),
            kind: K::kind(&()).into_owned(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }
}
