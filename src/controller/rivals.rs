//! Decides between several resources for one object in Harbor: the oldest resource owns it, whichever created the object.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Directory, Kinds, Managed, report::Failure};
use crate::{
    api::{ManagementPolicy, ProxyProject, Reason, Registry, ReplicationRule},
    plan::{
        Refusal,
        marker::{Marker, Other},
    },
};

/// A kind whose resources each stand for one object in Harbor.
pub(super) trait Claimant: Managed {
    /// The object that the resource stands for.
    fn claim(&self) -> Claim<'_>;

    /// The resource of that name.
    fn find(directory: &dyn Directory, name: &str) -> Option<Arc<Self>>;

    /// All resources of the kind.
    fn all(directory: &dyn Directory) -> Vec<Arc<Self>>;
}

/// The object that a resource stands for.
#[derive(PartialEq, Eq)]
pub(super) struct Claim<'a> {
    instance: &'a str,
    name: &'a str,
    writes: bool,
}

macro_rules! claimant {
    ($kind:ty, $find:ident, $all:ident) => {
        impl Claimant for $kind {
            fn claim(&self) -> Claim<'_> {
                let writes = self.spec.management_policy == ManagementPolicy::Full;
                Claim { instance: &self.spec.harbor_ref.name, name: self.harbor_name(), writes }
            }

            fn find(directory: &dyn Directory, name: &str) -> Option<Arc<Self>> {
                directory.$find(name)
            }

            fn all(directory: &dyn Directory) -> Vec<Arc<Self>> {
                directory.$all()
            }
        }
    };
}

claimant!(Registry, registry, registries);
claimant!(ProxyProject, proxy_project, proxy_projects);
claimant!(ReplicationRule, replication_rule, replication_rules);

impl Kinds {
    /// Refuses writes for a resource while an older one stands for the same object.
    pub(super) fn yield_to_older<K: Claimant>(&self, object: &K) -> Result<(), Failure> {
        let claim = object.claim();
        if !claim.writes {
            return Ok(());
        }
        let all = K::all(self.directory.as_ref());
        let older = all.iter().map(AsRef::as_ref).filter(|other| other.claim() == claim && age(*other) < age(object));
        let Some(oldest) = older.min_by(|a, b| age(*a).cmp(&age(*b))) else { return Ok(()) };
        let (kind, oldest) = (K::kind(&()), oldest.meta().name.clone().unwrap_or_default());
        Err(Failure::Refused(Refusal {
            reason: Reason::NameConflict,
            message: format!(
                "{kind} {oldest} is older and stands for {} in Harbor; give one of the two another spec.name, or delete one",
                claim.name
            ),
        }))
    }

    /// The state of the resource whose marker an object has.
    pub(super) fn other<K: Claimant>(&self, object: &K, marker: Option<&Marker>) -> Other {
        let ours = |marker: &&Marker| marker.installation == self.installation.0 && marker.kind == K::kind(&());
        let Some(marker) = marker.filter(ours) else { return Other::Present };
        match K::find(self.directory.as_ref(), &marker.name) {
            None => Other::Gone,
            Some(other) if other.claim() == object.claim() && age(object) < age(other.as_ref()) => Other::Younger,
            Some(_) => Other::Present,
        }
    }
}

/// Sorts by creation time, then by name when two were created in the same second.
fn age<K: Managed>(object: &K) -> (Option<&Time>, Option<&str>) {
    (object.meta().creation_timestamp.as_ref(), object.meta().name.as_deref())
}
