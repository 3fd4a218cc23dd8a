//! The Registry that a resource refers to, as Harbor has it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::SignedDuration;

use super::{Kinds, instances::Unusable, registry::check_host, report::Failure, sight::Sight};
use crate::{
    api::{ConditionType, HarborRef, ManagementPolicy, OwnedObject, Reason, Registry, condition},
    harbor::{Error, Freshness, View, model},
    plan::{Refusal, marker::Marker},
};

/// A Registry that many wait for is asked for no more often.
const RECENT: SignedDuration = SignedDuration::from_secs(15);

/// What is known of Registries, by name, before Harbor has them. Empty where everything is carried out at once.
pub(super) type Ahead = BTreeMap<String, Upcoming>;

/// What will become of a Registry.
#[derive(Debug, Clone)]
pub(super) enum Upcoming {
    /// It will be ours, with this id.
    Ours(i64),
    /// It will not be there, and why.
    Refused(String),
}

/// Follows references to Registries.
pub(super) struct Reference<'a> {
    pub(super) kinds: &'a Kinds,
    pub(super) view: &'a View,
    pub(super) ahead: &'a Ahead,
    pub(super) sight: Sight,
}

impl Reference<'_> {
    /// The Registry of that name, and its id, read from Harbor: an id that status remembers may name another registry by now.
    /// `whose` names the kind that refers to it.
    pub(super) async fn registry(
        &self,
        name: &str,
        harbor: &HarborRef,
        whose: &str,
    ) -> Result<(Arc<Registry>, i64), Failure> {
        let Some(registry) = self.kinds.directory.registry(name) else {
            return Err(Failure::Unusable(Unusable {
                reason: Reason::RegistryNotFound,
                message: format!("Registry {name} does not exist; create it, or a {whose} with the right registryRef"),
                stalled: false,
            }));
        };
        if registry.spec.harbor_ref != *harbor {
            return Err(Failure::Refused(Refusal {
                reason: Reason::InvalidSpec,
                message: format!(
                    "Registry {name} is of HarborInstance {}, this {whose} of {}: both must be of one",
                    registry.spec.harbor_ref.name, harbor.name
                ),
            }));
        }
        // Harbor may have it from before it was refused.
        if let Err(Refusal { reason, message }) = check_host(self.kinds, &registry) {
            return Err(waiting(format!("{name}, which is refused ({reason}: {message})")));
        }
        match self.ahead.get(name) {
            Some(Upcoming::Ours(id)) => return Ok((registry, *id)),
            Some(Upcoming::Refused(why)) => return Err(waiting(format!("{name}, which is refused ({why})"))),
            None => {}
        }
        match self.usable(&registry).await? {
            Some(id) => Ok((registry, id)),
            None => Err(waiting(format!("{name}, which Harbor has not accepted yet{}", not_ready(&registry)))),
        }
    }

    /// Harbor's id of the Registry, if that may be used. What a list does not know yet is asked for, now and then.
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
            // A person removed the marker, and it is about to be restored.
            || marker.is_none() && owned(registry).is_some_and(|owned| owned.is(found.id, found.creation_time))
    }
}

fn waiting(what: String) -> Failure {
    Failure::Unusable(Unusable {
        reason: Reason::RegistryNotReady,
        message: format!("waiting for Registry {what}"),
        stalled: false,
    })
}

fn owned(registry: &Registry) -> Option<&OwnedObject> {
    registry.status.as_ref()?.owned.as_ref()
}

fn not_ready(registry: &Registry) -> String {
    let ready = registry.status.as_ref().and_then(|status| condition::find(&status.conditions, ConditionType::Ready));
    ready.map_or_else(String::new, |ready| format!(" ({}: {})", ready.reason, ready.message))
}
