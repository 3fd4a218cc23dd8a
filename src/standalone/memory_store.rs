//! Resources and their status in memory, instead of an API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use parking_lot::RwLock;
use serde_json::Value;

use super::ManifestSet;
use crate::{
    api::{
        CachedImage, FoundSeverity, HarborInstance, Platform, ProxyProject, Registry, ReplicationRule,
        condition::whole_seconds,
        image_policy::{lowest_ceiling, shortest_max_age},
    },
    controller::{ReconciledKind, ResourceStore, SecretValue},
};

type ResourceMap<K> = BTreeMap<String, Arc<K>>;

/// All resources with their status.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<StoreState>,
    platforms: Vec<Platform>,
}

/// The content of the world.
#[derive(Debug, Default)]
pub struct StoreState {
    instances: ResourceMap<HarborInstance>,
    registries: ResourceMap<Registry>,
    projects: ResourceMap<ProxyProject>,
    rules: ResourceMap<ReplicationRule>,
    images: ResourceMap<CachedImage>,
    secrets: BTreeMap<String, SecretValue>,
    scan_max_age: Option<Duration>,
    scan_ceiling: Option<FoundSeverity>,
    /// CachedImages from the files; the others came from admission and survive a reload.
    declared: BTreeSet<String>,
}

/// A kind that the world stores.
pub trait StoredKind: ReconciledKind {
    /// Its objects.
    fn shelf(state: &StoreState) -> &ResourceMap<Self>;
    /// Its objects, mutable.
    fn shelf_mut(state: &mut StoreState) -> &mut ResourceMap<Self>;
}

macro_rules! kept {
    ($kind:ty, $field:ident) => {
        impl StoredKind for $kind {
            fn shelf(state: &StoreState) -> &ResourceMap<Self> {
                &state.$field
            }

            fn shelf_mut(state: &mut StoreState) -> &mut ResourceMap<Self> {
                &mut state.$field
            }
        }
    };
}

kept!(HarborInstance, instances);
kept!(Registry, registries);
kept!(ProxyProject, projects);
kept!(ReplicationRule, rules);
kept!(CachedImage, images);

impl MemoryStore {
    /// Creates an empty world whose Pods run on these platforms.
    pub fn new(platforms: Vec<Platform>) -> Self {
        Self { state: RwLock::default(), platforms }
    }

    /// Replaces the resources with those of the manifests. Deletes resources that are missing there, gives new and changed
    /// ones a new generation, and keeps the status.
    pub fn apply(&self, manifests: &ManifestSet, now: Timestamp) {
        let mut state = self.state.write();
        state.secrets.clone_from(&manifests.secrets);
        state.scan_max_age = shortest_max_age(&manifests.policies);
        state.scan_ceiling = lowest_ceiling(&manifests.policies);
        replace(&mut state.instances, &manifests.instances, now, |_| true);
        replace(&mut state.registries, &manifests.registries, now, |_| true);
        replace(&mut state.projects, &manifests.projects, now, |_| true);
        replace(&mut state.rules, &manifests.rules, now, |_| true);
        let declared: BTreeSet<String> =
            manifests.images.iter().filter_map(|image| image.metadata.name.clone()).collect();
        let before = std::mem::replace(&mut state.declared, declared);
        replace(&mut state.images, &manifests.images, now, |name| before.contains(name));
    }

    /// Adds a resource unless one with its name exists. Returns whether it was added.
    pub fn add<K: StoredKind>(&self, object: K, now: Timestamp) -> bool {
        let mut state = self.state.write();
        let name = object.meta().name.clone().unwrap_or_default();
        let shelf = K::shelf_mut(&mut state);
        if shelf.contains_key(&name) {
            return false;
        }
        shelf.insert(name, Arc::new(with_initial_metadata(object, now)));
        true
    }

    /// The resource of that name.
    pub fn get<K: StoredKind>(&self, name: &str) -> Option<Arc<K>> {
        K::shelf(&self.state.read()).get(name).cloned()
    }

    /// All resources of a kind, in the order of their names.
    pub fn all<K: StoredKind>(&self) -> Vec<Arc<K>> {
        K::shelf(&self.state.read()).values().cloned().collect()
    }

    /// Stores a status if the resource still exists. Returns whether that changed anything.
    pub fn set_status<K: StoredKind>(&self, name: &str, status: K::Status) -> bool {
        let mut state = self.state.write();
        match K::shelf_mut(&mut state).get_mut(name) {
            Some(object) if object.status() != Some(&status) => {
                *object = Arc::new(object.with_status(status));
                true
            }
            _ => false,
        }
    }

    /// Removes a resource.
    pub fn remove<K: StoredKind>(&self, name: &str) {
        K::shelf_mut(&mut self.state.write()).remove(name);
    }
}

impl ResourceStore for MemoryStore {
    fn instance(&self, name: &str) -> Option<Arc<HarborInstance>> {
        self.get(name)
    }

    fn registry(&self, name: &str) -> Option<Arc<Registry>> {
        self.get(name)
    }

    fn proxy_project(&self, name: &str) -> Option<Arc<ProxyProject>> {
        self.get(name)
    }

    fn registries(&self) -> Vec<Arc<Registry>> {
        self.all()
    }

    fn replication_rule(&self, name: &str) -> Option<Arc<ReplicationRule>> {
        self.get(name)
    }

    fn proxy_projects(&self) -> Vec<Arc<ProxyProject>> {
        self.all()
    }

    fn replication_rules(&self) -> Vec<Arc<ReplicationRule>> {
        self.all()
    }

    fn scan_max_age(&self) -> Option<Duration> {
        self.state.read().scan_max_age
    }

    fn scan_ceiling(&self) -> Option<FoundSeverity> {
        self.state.read().scan_ceiling
    }

    fn node_platforms(&self) -> Vec<Platform> {
        self.platforms.clone()
    }

    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<SecretValue>, String>> {
        let found = self.state.read().secrets.get(name).cloned();
        std::future::ready(Ok(found)).boxed()
    }
}

fn replace<K: ReconciledKind>(shelf: &mut ResourceMap<K>, wanted: &[K], now: Timestamp, may_go: impl Fn(&str) -> bool) {
    let name_of = |object: &K| object.meta().name.clone().unwrap_or_default();
    let names: BTreeSet<String> = wanted.iter().map(name_of).collect();
    shelf.retain(|name, object| {
        if names.contains(name) || !may_go(name) {
            return true;
        }
        if object.wants_finalizer() {
            let mut deleted = object.as_ref().clone();
            deleted.meta_mut().deletion_timestamp.get_or_insert(Time(whole_seconds(now)));
            *object = Arc::new(deleted);
            return true;
        }
        false
    });
    for object in wanted {
        match shelf.get_mut(&name_of(object)) {
            None => {
                shelf.insert(name_of(object), Arc::new(with_initial_metadata(object.clone(), now)));
            }
            Some(old) => {
                let changed = spec_of(old.as_ref()) != spec_of(object) || old.meta().deletion_timestamp.is_some();
                if changed || words_of(old.as_ref()) != words_of(object) {
                    let mut new = object.clone();
                    new.meta_mut().creation_timestamp.clone_from(&old.meta().creation_timestamp);
                    // Changes of annotations and labels do not increase the generation.
                    new.meta_mut().generation = old.meta().generation.map(|generation| generation + i64::from(changed));
                    *old = Arc::new(match old.status() {
                        Some(status) => new.with_status(status.clone()),
                        None => new,
                    });
                }
            }
        }
    }
}

fn with_initial_metadata<K: ReconciledKind>(mut object: K, now: Timestamp) -> K {
    object.meta_mut().generation = Some(1);
    object.meta_mut().creation_timestamp = Some(Time(whole_seconds(now)));
    object
}

fn words_of<K: ReconciledKind>(object: &K) -> impl PartialEq {
    (object.meta().annotations.clone().unwrap_or_default(), object.meta().labels.clone().unwrap_or_default())
}

fn spec_of<K: ReconciledKind>(object: &K) -> Option<Value> {
    serde_json::to_value(object).ok()?.get("spec").cloned()
}
