//! Decides between several resources for one object in Harbor: the oldest resource owns it, whichever created the object.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{ReconcileError, ReconciledKind, Reconcilers, ResourceStore};
use crate::{
    api::{ManagementPolicy, ProxyProject, Reason, Registry, ReplicationRule},
    plan::ownership_marker::{Marker, OtherOwner},
};

/// A kind whose resources each stand for one object in Harbor.
pub(super) trait OwnershipClaimant: ReconciledKind {
    /// The object that the resource stands for.
    fn claim(&self) -> OwnershipClaim<'_>;

    /// The resource of that name.
    fn find(directory: &dyn ResourceStore, name: &str) -> Option<Arc<Self>>;

    /// All resources of the kind.
    fn all(directory: &dyn ResourceStore) -> Vec<Arc<Self>>;
}

/// The object that a resource stands for.
#[derive(PartialEq, Eq)]
pub(super) struct OwnershipClaim<'a> {
    instance: &'a str,
    name: &'a str,
    writes: bool,
}

macro_rules! claimant {
    ($kind:ty, $find:ident, $all:ident) => {
        impl OwnershipClaimant for $kind {
            fn claim(&self) -> OwnershipClaim<'_> {
                let writes = self.spec.management_policy == ManagementPolicy::Full;
                OwnershipClaim { instance: &self.spec.harbor_ref.name, name: self.harbor_name(), writes }
            }

            fn find(store: &dyn ResourceStore, name: &str) -> Option<Arc<Self>> {
                store.$find(name)
            }

            fn all(store: &dyn ResourceStore) -> Vec<Arc<Self>> {
                store.$all()
            }
        }
    };
}

claimant!(Registry, registry, registries);
claimant!(ProxyProject, proxy_project, proxy_projects);
claimant!(ReplicationRule, replication_rule, replication_rules);

impl Reconcilers {
    /// Refuses writes for a resource while an older one stands for the same object.
    pub(super) fn yield_to_older<K: OwnershipClaimant>(&self, object: &K) -> Result<(), ReconcileError> {
        let claim = object.claim();
        if !claim.writes {
            return Ok(());
        }
        let all = K::all(self.directory.as_ref());
        let older = all.iter().map(AsRef::as_ref).filter(|other| other.claim() == claim && age(*other) < age(object));
        let Some(oldest) = older.min_by(|a, b| age(*a).cmp(&age(*b))) else { return Ok(()) };
        let (kind, oldest) = (K::kind(&()), oldest.meta().name.clone().unwrap_or_default());
        let message = format!(
            "{kind} {oldest} is older and has the same name {} in Harbor; set another spec.name for one of them, or delete one",
            claim.name
        );
        Err(ReconcileError::stalled(Reason::NameConflict, message))
    }

    /// The state of the resource whose marker an object has.
    pub(super) fn other<K: OwnershipClaimant>(&self, object: &K, marker: Option<&Marker>) -> OtherOwner {
        let ours = |marker: &&Marker| marker.installation == self.installation.0 && marker.kind == K::kind(&());
        let Some(marker) = marker.filter(ours) else { return OtherOwner::Present };
        match K::find(self.directory.as_ref(), &marker.name) {
            None => OtherOwner::Gone,
            Some(other) if other.claim() == object.claim() && age(object) < age(other.as_ref()) => OtherOwner::Younger,
            Some(_) => OtherOwner::Present,
        }
    }
}

/// Sorts by creation time, then by name when two were created in the same second.
fn age<K: ReconciledKind>(object: &K) -> (Option<&Time>, Option<&str>) {
    (object.meta().creation_timestamp.as_ref(), object.meta().name.as_deref())
}
