//! The backend of standalone mode: resources in memory, kept as an API server keeps them.
//!
//! In: manifests, and the status and finalizers that the engine writes. Out: the events of watches. Each write gives a new
//! resourceVersion, and a changed spec a new generation. An object with finalizers that is deleted gets a deletionTimestamp,
//! and goes when the last finalizer goes.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Namespace, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    ResourceExt,
    api::Preconditions,
    core::{ObjectMeta, PartialObjectMeta, PartialObjectMetaExt, Status, response::reason},
    runtime::reflector::Store,
};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::broadcast;

use super::{ManifestSet, kind_store::KindStore};
use crate::{
    api::{CachedImage, ImagePolicy, Platform, condition::whole_seconds},
    controller::{EventMessage, ReconciledKind, SecretValue, Stores},
    engine::{
        Backend, Error, Resources,
        backend::{WatchStream, WatchedKind},
        node_platforms::NodePlatforms,
        resource_store::ResourceStore,
    },
};

/// Maximum number of changed Secrets that wait for a controller. A controller that falls behind reconciles all its resources.
const BACKLOG: usize = 1024;

/// All resources with their status. Clones share them.
#[derive(Clone)]
pub struct MemoryBackend {
    kinds: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
    /// The last resourceVersion.
    version: Arc<AtomicU64>,
    secrets: Arc<RwLock<BTreeMap<String, SecretValue>>>,
    changed_secrets: broadcast::Sender<String>,
    platforms: NodePlatforms,
    /// CachedImages of the last manifests; the others came from admission and survive a reload.
    declared: Arc<Mutex<BTreeSet<String>>>,
}

impl MemoryBackend {
    /// Creates an empty backend whose Pods run on these platforms.
    pub fn new(platforms: Vec<Platform>) -> Self {
        let backend = Self {
            kinds: Arc::default(),
            version: Arc::default(),
            secrets: Arc::default(),
            changed_secrets: broadcast::Sender::new(BACKLOG),
            platforms: NodePlatforms::default(),
            declared: Arc::default(),
        };
        backend.platforms.publish(&platforms);
        backend
    }

    /// Replaces the resources with those of the manifests. Deletes resources that are missing there, gives new and changed
    /// ones a new generation, and keeps the status.
    pub fn apply(&self, manifests: &ManifestSet, now: Timestamp) {
        self.apply_secrets(&manifests.secrets);
        let namespaces = manifests.namespaces.iter().map(|(name, labels)| {
            let (name, labels) = (Some(name.clone()), Some(labels.clone()));
            ObjectMeta { name, labels, ..ObjectMeta::default() }.into_response_partial()
        });
        let namespaces: Vec<PartialObjectMeta<Namespace>> = namespaces.collect();
        self.apply_kind(&namespaces, now, |_| true, |new, _| new);
        self.apply_kind::<ImagePolicy>(&manifests.policies, now, |_| true, |new, _| new);
        self.apply_kind(&manifests.instances, now, |_| true, keep_status);
        self.apply_kind(&manifests.registries, now, |_| true, keep_status);
        self.apply_kind(&manifests.projects, now, |_| true, keep_status);
        self.apply_kind(&manifests.rules, now, |_| true, keep_status);
        let declared = manifests.images.iter().map(ResourceExt::name_any).collect();
        let before = std::mem::replace(&mut *self.declared.lock(), declared);
        self.apply_kind(&manifests.images, now, |name| before.contains(name), keep_status);
    }

    /// The resource of that name.
    pub fn get<K: WatchedKind>(&self, name: &str) -> Option<Arc<K>> {
        self.kind::<K>().get(name)
    }

    /// All resources of a kind, in the order of their names.
    pub fn all<K: WatchedKind>(&self) -> Vec<Arc<K>> {
        let mut objects = self.kind::<K>().store.state();
        objects.sort_by_key(|object| object.meta().name.clone());
        objects
    }

    /// Creates a resource.
    ///
    /// # Errors
    /// 409 when one with its name exists.
    pub fn create_object<K: WatchedKind>(&self, object: K, now: Timestamp) -> Result<(), Error> {
        self.update::<K>(&object.name_any(), |old| match old {
            Some(_) => Err(refused("creating an object", reason::ALREADY_EXISTS, 409)),
            None => Ok(Some(self.with_initial_metadata(object, now))),
        })
        .map(drop)
    }

    /// Deletes a resource. One with finalizers gets a deletionTimestamp.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when it does not match the preconditions.
    pub fn delete_object<K: WatchedKind>(
        &self,
        name: &str,
        preconditions: &Preconditions,
        now: Timestamp,
    ) -> Result<(), Error> {
        const OPERATION: &str = "deleting an object";
        self.update::<K>(name, |old| {
            let old = old.ok_or_else(|| refused(OPERATION, reason::NOT_FOUND, 404))?;
            let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
            if !is(&preconditions.uid, &old.meta().uid)
                || !is(&preconditions.resource_version, &old.meta().resource_version)
            {
                return Err(refused(OPERATION, reason::CONFLICT, 409));
            }
            if old.meta().deletion_timestamp.is_some() {
                return Ok(None);
            }
            let mut deleted = old.clone();
            deleted.meta_mut().deletion_timestamp = Some(Time(whole_seconds(now)));
            next_generation(&mut deleted);
            Ok(Some(deleted))
        })
        .map(drop)
    }

    /// Stores a status.
    ///
    /// # Errors
    /// 404 when the resource does not exist.
    pub fn set_status<K: ReconciledKind>(&self, name: &str, status: K::Status) -> Result<(), Error> {
        self.update::<K>(name, |old| match old {
            None => Err(refused("writing the status", reason::NOT_FOUND, 404)),
            Some(old) if old.status() == Some(&status) => Ok(None),
            Some(old) => Ok(Some(old.with_status(status))),
        })
        .map(drop)
    }

    /// Writes the finalizers, if the resource has this resourceVersion; `None` is any. One that is being deleted goes with
    /// the last finalizer.
    ///
    /// # Errors
    /// 404 when the resource does not exist, 409 when it has another resourceVersion.
    pub fn set_finalizers<K: WatchedKind>(
        &self,
        name: &str,
        version: Option<&str>,
        finalizers: Vec<String>,
    ) -> Result<Arc<K>, Error> {
        const OPERATION: &str = "writing the finalizers";
        let not_found = || refused(OPERATION, reason::NOT_FOUND, 404);
        let written = self.update::<K>(name, |old| {
            let old = old.ok_or_else(not_found)?;
            if version.is_some_and(|version| old.meta().resource_version.as_deref() != Some(version)) {
                return Err(refused(OPERATION, reason::CONFLICT, 409));
            }
            let mut new = old.clone();
            new.meta_mut().finalizers = Some(finalizers).filter(|finalizers| !finalizers.is_empty());
            Ok(Some(new))
        })?;
        written.ok_or_else(not_found)
    }

    /// The resources, for reconcilers that run without an engine.
    pub fn directory(&self) -> Arc<ResourceStore<Self>> {
        let stores = Stores {
            instances: self.store(),
            registries: self.store(),
            projects: self.store(),
            rules: self.store(),
            images: self.store(),
        };
        Arc::new(ResourceStore { stores, scans: Arc::default(), backend: self.clone() })
    }

    fn store<K: WatchedKind>(&self) -> Store<K> {
        self.kind::<K>().store.clone()
    }

    fn kind<K: WatchedKind>(&self) -> Arc<KindStore<K>> {
        let mut kinds = self.kinds.lock();
        let kind = kinds.entry(TypeId::of::<K>()).or_insert_with(|| Arc::new(KindStore::<K>::default()));
        // The key is the type, so the cast cannot fail.
        Arc::clone(kind).downcast().unwrap_or_default()
    }

    fn update<K: WatchedKind>(
        &self,
        name: &str,
        change: impl FnOnce(Option<&K>) -> Result<Option<K>, Error>,
    ) -> Result<Option<Arc<K>>, Error> {
        self.kind::<K>().update(name, || self.next_version(), change)
    }

    fn next_version(&self) -> String {
        (self.version.fetch_add(1, Ordering::Relaxed) + 1).to_string()
    }

    fn with_initial_metadata<K: WatchedKind>(&self, mut object: K, now: Timestamp) -> K {
        let metadata = object.meta_mut();
        metadata.generation = Some(1);
        metadata.creation_timestamp = Some(Time(whole_seconds(now)));
        metadata.uid = Some(format!("{:08}-0000-4000-8000-000000000000", self.version.fetch_add(1, Ordering::Relaxed)));
        object
    }

    fn apply_secrets(&self, secrets: &BTreeMap<String, SecretValue>) {
        let mut known = self.secrets.write();
        let revision = |secrets: &BTreeMap<String, SecretValue>, name: &str| {
            secrets.get(name).map(|secret| secret.revision.clone())
        };
        let names: BTreeSet<&String> = known.keys().chain(secrets.keys()).collect();
        let changed = names.into_iter().filter(|name| revision(&known, name) != revision(secrets, name));
        let changed: Vec<String> = changed.cloned().collect();
        known.clone_from(secrets);
        drop(known);
        for name in changed {
            // Sending fails only without a controller.
            self.changed_secrets.send(name).ok();
        }
    }

    /// Applies the manifests of a kind, and deletes objects that are missing there and that `owned` selects. `keep` copies
    /// the status of the old object.
    fn apply_kind<K: WatchedKind + Serialize>(
        &self,
        wanted: &[K],
        now: Timestamp,
        owned: impl Fn(&str) -> bool,
        keep: impl Fn(K, &K) -> K,
    ) {
        let names: BTreeSet<String> = wanted.iter().map(ResourceExt::name_any).collect();
        for name in self.all::<K>().iter().map(|object| object.name_any()) {
            if !names.contains(&name) && owned(&name) {
                // An error means that another client deleted it.
                self.delete_object::<K>(&name, &Preconditions::default(), now).ok();
            }
        }
        for object in wanted {
            let applied = self.update::<K>(&object.name_any(), |old| {
                let Some(old) = old else { return Ok(Some(self.with_initial_metadata(object.clone(), now))) };
                // The API server cannot revert a deletion. Here files are the desired state, so one that is back is kept.
                let changed = spec_of(old) != spec_of(object) || old.meta().deletion_timestamp.is_some();
                if !changed && old.annotations() == object.annotations() && old.labels() == object.labels() {
                    return Ok(None);
                }
                let mut new = object.clone();
                let metadata = new.meta_mut();
                metadata.creation_timestamp.clone_from(&old.meta().creation_timestamp);
                metadata.uid.clone_from(&old.meta().uid);
                metadata.finalizers.clone_from(&old.meta().finalizers);
                metadata.generation = old.meta().generation;
                // Changes of annotations and labels do not increase the generation.
                if changed {
                    next_generation(&mut new);
                }
                Ok(Some(keep(new, old)))
            });
            applied.ok();
        }
    }
}

impl Resources for MemoryBackend {
    fn watch<K: WatchedKind>(&self) -> WatchStream<K> {
        self.kind::<K>().watch().boxed()
    }

    async fn create(&self, image: &CachedImage) -> Result<(), Error> {
        self.create_object(image.clone(), Timestamp::now())
    }
}

impl Backend for MemoryBackend {
    async fn write_status<K: ReconciledKind>(&self, object: &K, status: &K::Status) -> Result<(), Error> {
        self.set_status::<K>(&object.name_any(), status.clone())
    }

    async fn write_finalizers<K: ReconciledKind>(&self, object: &K, finalizers: Vec<String>) -> Result<K, Error> {
        let version = object.meta().resource_version.as_deref();
        self.set_finalizers::<K>(&object.name_any(), version, finalizers).map(Arc::unwrap_or_clone)
    }

    async fn delete(&self, name: &str, preconditions: Preconditions) -> Result<(), Error> {
        self.delete_object::<CachedImage>(name, &preconditions, Timestamp::now())
    }

    /// The engine logs each Event; nothing else reads them here.
    async fn publish(&self, _: &ObjectReference, _: &EventMessage) -> Result<(), Error> {
        Ok(())
    }

    async fn secret(&self, name: &str) -> Result<Option<SecretValue>, String> {
        Ok(self.secrets.read().get(name).cloned())
    }

    fn secret_changes(&self) -> broadcast::Receiver<String> {
        self.changed_secrets.subscribe()
    }

    fn platforms(&self) -> &NodePlatforms {
        &self.platforms
    }
}

fn keep_status<K: ReconciledKind>(new: K, old: &K) -> K {
    match old.status() {
        Some(status) => new.with_status(status.clone()),
        None => new,
    }
}

fn next_generation<K: WatchedKind>(object: &mut K) {
    let generation = object.meta().generation.unwrap_or_default();
    object.meta_mut().generation = Some(generation + 1);
}

fn spec_of<K: Serialize>(object: &K) -> Option<serde_json::Value> {
    serde_json::to_value(object).ok()?.get("spec").cloned()
}

fn refused(operation: &'static str, reason: &str, code: u16) -> Error {
    let status = Status::failure(reason, reason).with_code(code).boxed();
    Error::Api { operation, source: Box::new(kube::Error::Api(status)) }
}
