//! The Registry that a resource refers to, as Harbor has it.

use std::sync::Arc;

use super::{Directory, Installation, instances::Unusable, report::Failure};
use crate::{
    api::{ConditionType, HarborRef, ManagementPolicy, Reason, Registry, condition},
    harbor::{Client, model},
    plan::{Refusal, marker::Marker},
};

/// The Registry of that name, and its id, read from Harbor: an id that status remembers may name another registry by now.
/// `whose` names the kind that refers to it.
pub(super) async fn registry_in_harbor(
    directory: &dyn Directory,
    installation: &Installation,
    client: &Client,
    (name, harbor): (&str, &HarborRef),
    whose: &str,
) -> Result<(Arc<Registry>, i64), Failure> {
    let Some(registry) = directory.registry(name) else {
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
    let found = client.registry_named(registry.harbor_name()).await?;
    let observe_only = registry.spec.management_policy == ManagementPolicy::ObserveOnly;
    let ours = |registry: &model::Registry| {
        let marker = Marker::split(&registry.description).1;
        observe_only
            || marker.is_some_and(|marker| {
                marker.installation == installation.0 && marker.kind == "Registry" && marker.name == *name
            })
    };
    match found {
        Some(found) if ours(&found) => Ok((registry, found.id)),
        _ => {
            let why = registry
                .status
                .as_ref()
                .and_then(|status| condition::find(&status.conditions, ConditionType::Ready))
                .map_or_else(String::new, |ready| format!(" ({}: {})", ready.reason, ready.message));
            Err(Failure::Unusable(Unusable {
                reason: Reason::RegistryNotReady,
                message: format!("waiting for Registry {name}, which Harbor has not accepted yet{why}"),
                stalled: false,
            }))
        }
    }
}
