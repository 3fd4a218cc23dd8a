//! The backend over an API server.

use std::{collections::HashSet, sync::Arc};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use serde_json::json;
use tokio::sync::broadcast;

use super::{
    Error, FIELD_MANAGER, admitted_namespaces::AdmittedNamespaces, bounded, events::Events, image_usage::PodImages,
    nodes, secrets::SecretStore, watch::watch, workload_watch::ImageSources,
};
use crate::{
    api::CachedImage,
    controller::{EventMessage, ReconciledKind, SecretValue},
    engine::{
        Backend, Resources,
        backend::{WatchStream, WatchedKind},
        image_usage::ImageUsage,
        node_platforms::NodePlatforms,
    },
    telemetry::watches::WatchMetrics,
};

/// Reads resources from an API server, and creates CachedImages.
#[derive(Clone)]
pub struct ApiResources {
    /// The client.
    pub client: Client,
    /// Counts lists and failures of watches.
    pub watches: WatchMetrics,
}

/// The backend of a cluster.
#[derive(Clone)]
pub struct ApiBackend {
    resources: ApiResources,
    events: Arc<Events>,
    secrets: Arc<SecretStore>,
    platforms: NodePlatforms,
    images: PodImages,
}

impl ApiResources {
    /// Watches what this API serves.
    pub(super) fn watch_as<K: super::watch::Watched>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        kind: &'static str,
    ) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K> {
        watch(api, config, kind, &self.watches)
    }
}

impl ApiBackend {
    /// Reads Secrets of this namespace, and the images of Pods and of workloads whose Pods reach admission.
    pub fn new(resources: ApiResources, namespace: &str, admitted: AdmittedNamespaces) -> Self {
        Self {
            events: Arc::new(Events::new(resources.client.clone())),
            secrets: Arc::new(SecretStore::new(resources.client.clone(), namespace)),
            platforms: NodePlatforms::default(),
            images: PodImages { admitted, warned: Arc::default() },
            resources,
        }
    }

    fn api<K: ReconciledKind>(&self) -> Api<K> {
        Api::all(self.resources.client.clone())
    }

    fn sources<'a>(&'a self, usage: &'a ImageUsage) -> ImageSources<'a> {
        ImageSources { resources: &self.resources, images: &self.images, usage }
    }
}

impl Resources for ApiResources {
    fn watch<K: WatchedKind>(&self) -> WatchStream<K> {
        self.watch_as(Api::all(self.client.clone()), watcher::Config::default(), K::NAME).boxed()
    }

    async fn create(&self, image: &CachedImage) -> Result<(), Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let api: Api<CachedImage> = Api::all(self.client.clone());
        bounded("creating a CachedImage", api.create(&parameters, image)).await.map(drop)
    }
}

impl Resources for ApiBackend {
    fn watch<K: WatchedKind>(&self) -> WatchStream<K> {
        self.resources.watch()
    }

    async fn create(&self, image: &CachedImage) -> Result<(), Error> {
        self.resources.create(image).await
    }
}

impl Backend for ApiBackend {
    async fn write_status<K: ReconciledKind>(&self, object: &K, status: &K::Status) -> Result<(), Error> {
        let name = object.name_any();
        let patch = Patch::Apply(json!({
            "apiVersion": K::api_version(&()),
            "kind": K::KIND,
            "metadata": {"name": name},
            "status": status,
        }));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        bounded("writing the status", self.api::<K>().patch_status(&name, &parameters, &patch)).await.map(drop)
    }

    /// Carries the resourceVersion, because other controllers also change the list of finalizers.
    async fn write_finalizers<K: ReconciledKind>(&self, object: &K, finalizers: Vec<String>) -> Result<K, Error> {
        let metadata = json!({"finalizers": finalizers, "resourceVersion": object.resource_version()});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        bounded("writing the finalizer", self.api::<K>().patch(&object.name_any(), &parameters, &patch)).await
    }

    async fn delete(&self, name: &str, preconditions: Preconditions) -> Result<(), Error> {
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        bounded("deleting a CachedImage", self.api::<CachedImage>().delete(name, &parameters)).await.map(drop)
    }

    async fn publish(&self, about: &ObjectReference, message: &EventMessage) -> Result<(), Error> {
        self.events.publish(about, message).await
    }

    async fn secret(&self, name: &str) -> Result<Option<SecretValue>, String> {
        self.secrets.read(name).await.map_err(|error| error.to_string())
    }

    fn secret_changes(&self) -> broadcast::Receiver<String> {
        self.secrets.changes()
    }

    async fn follow_secrets(&self, referenced: impl Fn() -> HashSet<String> + Send + Sync) {
        self.secrets.follow(&self.resources.watches, referenced).await;
    }

    fn platforms(&self) -> &NodePlatforms {
        &self.platforms
    }

    async fn follow_platforms(&self, added: impl Fn() + Send + Sync) {
        nodes::follow(&self.resources, &self.platforms, added).await;
    }

    async fn follow_image_sources(&self, usage: &ImageUsage) {
        Box::pin(self.sources(usage).follow_all()).await;
    }

    async fn images_in_use(&self, usage: &ImageUsage, among: &HashSet<String>) -> Result<HashSet<String>, Error> {
        self.sources(usage).list_all(among).await
    }
}
