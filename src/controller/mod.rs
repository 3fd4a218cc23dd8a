//! Reconciles resources into Harbor: observe → plan → apply → status, one file per kind.
//!
//! In: a resource and a [`ResourceStore`] of the resources it refers to. Out: a [`ReconcileResult`] with its next status, Events and
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

pub use crate::reconcile::{EventMessage, FinalizeResult, ReconcileError, ReconcileResult};

use crate::plan::ownership_marker::Marker;

/// Requeue time while an external problem has to be resolved first.
pub const RECHECK: Duration = Duration::from_secs(30);

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
