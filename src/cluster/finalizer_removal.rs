//! Recovery for resources whose deletion waits for a controller or a Harbor that no longer exists: removes our finalizer.
//!
//! In: the resources with the finalizer. Out: the same without it. Sends nothing to Harbor. Reads resources as untyped
//! objects, so that it also works with those of other product versions.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Error, FIELD_MANAGER, bounded, turn};
use crate::api::{ConditionType, FINALIZER, HarborInstance, ProxyProject, Registry, ReplicationRule};

/// Resources per page of a list.
const PAGE: u32 = 500;

/// Maximum number of attempts when other clients change the resource.
const TRIES: usize = 5;

/// A resource with our finalizer.
#[derive(Debug, Clone)]
pub struct FinalizedResource {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its object in Harbor, with the name there: `replication policy nightly`.
    pub object: String,
    /// Its Harbor, by address where still known.
    pub harbor: String,
    /// Time of its deletion; `None` when it is not being deleted.
    pub since: Option<Timestamp>,
    /// Why the deletion is blocked, as the controller last reported.
    pub blocked: Option<String>,
    resource: ApiResource,
}

/// Selects resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalizerScope {
    /// Resources that are being deleted.
    Deleted,
    /// All resources. A running controller adds the finalizer again.
    All,
}

/// Lists all resources with our finalizer, in the order in which Harbor could delete their objects. A kind that the API
/// server does not serve has none.
///
/// # Errors
/// [`Error`] of the API server.
pub async fn finalized_resources(client: &Client) -> Result<Vec<FinalizedResource>, Error> {
    let addresses = addresses(client).await;
    let mut held = Vec::new();
    for (resource, called) in kinds() {
        for object in list(client, &resource).await? {
            if has_finalizer(&object) {
                held.push(describe(&object, &resource, called, &addresses));
            }
        }
    }
    Ok(held)
}

/// Removes our finalizer from a resource, and no other. Returns whether it did: `false` when the resource is gone, or has
/// changed and no longer matches `which`.
///
/// # Errors
/// [`Error`] of the API server.
pub async fn remove_finalizer(client: &Client, held: &FinalizedResource, which: FinalizerScope) -> Result<bool, Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &held.resource);
    let mut tries = 0;
    loop {
        let Some(object) = bounded("reading a resource", api.get_opt(&held.name)).await? else {
            return Ok(false);
        };
        let meant = which == FinalizerScope::All || object.metadata.deletion_timestamp.is_some();
        if !meant || !has_finalizer(&object) {
            return Ok(false);
        }
        let others: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        // Carries the resourceVersion, because other controllers also change the list of finalizers.
        let metadata = json!({"finalizers": others, "resourceVersion": object.resource_version()});
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"metadata": metadata}));
        tries += 1;
        match bounded("removing the finalizer", api.patch(&held.name, &parameters, &patch)).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) if error.is_conflict() && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// The kinds that may have the finalizer, and Harbor's names for their objects.
fn kinds() -> [(ApiResource, &'static str); 3] {
    [
        (ApiResource::erase::<ReplicationRule>(&()), "replication policy"),
        (ApiResource::erase::<ProxyProject>(&()), "project"),
        (ApiResource::erase::<Registry>(&()), "registry"),
    ]
}

/// Addresses of the instances, as far as still known: used only in messages.
async fn addresses(client: &Client) -> BTreeMap<String, String> {
    let instances = list(client, &ApiResource::erase::<HarborInstance>(&())).await.unwrap_or_default();
    let address = |instance: DynamicObject| {
        let url = instance.data.pointer("/spec/url").and_then(Value::as_str)?.to_owned();
        Some((instance.metadata.name?, url))
    };
    instances.into_iter().filter_map(address).collect()
}

async fn list(client: &Client, resource: &ApiResource) -> Result<Vec<DynamicObject>, Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let mut parameters = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        match bounded("listing resources", api.list(&parameters)).await {
            Ok(page) => {
                objects.extend(page.items);
                if !turn(&mut parameters, page.metadata) {
                    return Ok(objects);
                }
            }
            // The CRD is gone, or was never installed.
            Err(error) if error.is_not_found() => return Ok(objects),
            Err(error) => return Err(error),
        }
    }
}

fn has_finalizer(object: &DynamicObject) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

fn describe(
    object: &DynamicObject,
    resource: &ApiResource,
    called: &str,
    addresses: &BTreeMap<String, String>,
) -> FinalizedResource {
    let text = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str);
    let name = object.name_any();
    let instance = text("/spec/harborRef/name").unwrap_or("default");
    let harbor = match addresses.get(instance) {
        Some(url) => format!("Harbor {url}"),
        None => format!("the Harbor of HarborInstance {instance}"),
    };
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let wanted = json!(ConditionType::DeletionBlocked.as_str());
    let blocked = conditions.into_iter().flatten().find(|condition| condition.get("type") == Some(&wanted));
    FinalizedResource {
        kind: resource.kind.clone(),
        object: format!("{called} {}", text("/spec/name").unwrap_or(&name)),
        harbor,
        since: object.meta().deletion_timestamp.as_ref().map(|time| time.0),
        blocked: blocked.and_then(|condition| condition.get("message")?.as_str().map(str::to_owned)),
        resource: resource.clone(),
        name,
    }
}
