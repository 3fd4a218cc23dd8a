//! The Registry that a resource refers to, and its object in Harbor.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::SignedDuration;

use super::{ReconcileError, Reconcilers, registry::check_host, resync::ReadMode};
use crate::{
    api::{ConditionType, HarborRef, ManagementPolicy, OwnedObject, Reason, Registry, condition},
    harbor::{Error, Freshness, HarborCache, model},
    plan::{Refusal, ownership_marker::Marker},
};

/// Minimum interval of individual reads of a Registry that many resources wait for.
const RECENT: SignedDuration = SignedDuration::from_secs(15);

/// Expected state of Registries by name, before Harbor has them. Empty when all plans are carried out immediately.
pub(super) type PlannedRegistries = BTreeMap<String, PlannedRegistry>;

/// Expected state of a Registry.
#[derive(Debug, Clone)]
pub(super) enum PlannedRegistry {
    /// It will be ours, with this id.
    Ours(i64),
    /// It will not exist, for this reason.
    Refused(String),
}

/// Resolves references to Registries.
pub(super) struct RegistryResolver<'a> {
    pub(super) kinds: &'a Reconcilers,
    pub(super) view: &'a HarborCache,
    pub(super) ahead: &'a PlannedRegistries,
    pub(super) sight: ReadMode,
}

impl RegistryResolver<'_> {
    /// The Registry of that name, and its id as read from Harbor: an id in the status may belong to another registry by
    /// now. `whose` is the kind that refers to it.
    pub(super) async fn registry(
        &self,
        name: &str,
        harbor: &HarborRef,
        whose: &str,
    ) -> Result<(Arc<Registry>, i64), ReconcileError> {
        let Some(registry) = self.kinds.directory.registry(name) else {
            let message = format!("Registry {name} does not exist; create it, or a {whose} with another registryRef");
            return Err(ReconcileError::waiting(Reason::RegistryNotFound, message));
        };
        if registry.spec.harbor_ref != *harbor {
            let message = format!(
                "Registry {name} belongs to HarborInstance {}, and this {whose} to {}: both must have the same HarborInstance",
                registry.spec.harbor_ref.name, harbor.name
            );
            return Err(ReconcileError::stalled(Reason::InvalidSpec, message));
        }
        // Harbor may have the registry from before its host was refused.
        if let Err(Refusal { reason, message }) = check_host(self.kinds, &registry) {
            return Err(waiting(format!("{name}, which is refused ({reason}: {message})")));
        }
        match self.ahead.get(name) {
            Some(PlannedRegistry::Ours(id)) => return Ok((registry, *id)),
            Some(PlannedRegistry::Refused(why)) => return Err(waiting(format!("{name}, which is refused ({why})"))),
            None => {}
        }
        match self.usable(&registry).await? {
            Some(id) => Ok((registry, id)),
            None => Err(waiting(format!("{name}, which Harbor has not accepted yet{}", not_ready(&registry)))),
        }
    }

    /// Harbor's id of the Registry, if it may be used. A registry that is missing in the list is read individually at
    /// intervals.
    async fn usable(&self, registry: &Registry) -> Result<Option<i64>, Error> {
        let recently = Freshness::Asked(self.sight.now - RECENT);
        for freshness in [self.sight.freshness, recently] {
            let seen = self.view.registry(registry.harbor_name(), freshness).await?;
            if let Some(found) = seen.item.filter(|found| self.may_use(registry, found)) {
                return Ok(Some(found.id));
            }
        }
        Ok(None)
    }

    fn may_use(&self, registry: &Registry, found: &model::Registry) -> bool {
        let marker = Marker::split(&found.description).1;
        registry.spec.management_policy == ManagementPolicy::ObserveOnly
            || marker == Some(self.kinds.installation.marker(registry))
            // A user removed the marker, and the Registry is about to restore it.
            || marker.is_none() && owned(registry).is_some_and(|owned| owned.is(found.id, found.creation_time))
    }
}

fn waiting(what: String) -> ReconcileError {
    ReconcileError::waiting(Reason::RegistryNotReady, format!("waiting for Registry {what}"))
}

fn owned(registry: &Registry) -> Option<&OwnedObject> {
    registry.status.as_ref()?.owned.as_ref()
}

fn not_ready(registry: &Registry) -> String {
    let ready = registry.status.as_ref().and_then(|status| condition::find(&status.conditions, ConditionType::Ready));
    ready.map_or_else(String::new, |ready| format!(" ({}: {})", ready.reason, ready.message))
}
