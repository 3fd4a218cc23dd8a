//! The source of resources and the sink of their state: an API server, or manifests in files.

use std::{collections::HashSet, fmt::Debug, time::Duration};

use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::{
    Resource,
    api::Preconditions,
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use super::{image_usage::ImageUsage, node_platforms::NodePlatforms};
use crate::{
    api::{CachedImage, ImagePolicy},
    controller::{EventMessage, ReconciledKind, SecretValue},
};

/// The events of a watch: the complete list, then changes.
pub type WatchStream<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// A kind that the engine watches.
pub trait WatchedKind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// Name of the kind in metrics and logs.
    const NAME: &'static str;
}

impl<K: ReconciledKind> WatchedKind for K {
    const NAME: &'static str = K::KIND;
}

impl WatchedKind for ImagePolicy {
    const NAME: &'static str = "ImagePolicy";
}

impl WatchedKind for PartialObjectMeta<Namespace> {
    const NAME: &'static str = "Namespace";
}

/// Reads resources, and creates CachedImages: all that admission needs.
pub trait Resources: Clone + Send + Sync + 'static {
    /// Watches a kind. After an error the stream continues by itself.
    fn watch<K: WatchedKind>(&self) -> WatchStream<K>;

    /// Creates a CachedImage.
    fn create(&self, image: &CachedImage) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The source of resources and the sink of their state. The default methods are those of a backend without nodes, Pods and
/// watched Secrets.
pub trait Backend: Resources {
    /// Writes the status.
    fn write_status<K: ReconciledKind>(
        &self,
        object: &K,
        status: &K::Status,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Writes the finalizers, if the object still has its resourceVersion. Returns the new object.
    fn write_finalizers<K: ReconciledKind>(
        &self,
        object: &K,
        finalizers: Vec<String>,
    ) -> impl Future<Output = Result<K, Error>> + Send;

    /// Deletes a CachedImage, if it matches the preconditions.
    fn delete(&self, name: &str, preconditions: Preconditions) -> impl Future<Output = Result<(), Error>> + Send;

    /// Publishes an Event. The engine also logs it.
    fn publish(
        &self,
        about: &ObjectReference,
        message: &EventMessage,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads a Secret; `None` when it does not exist.
    fn secret(&self, name: &str) -> impl Future<Output = Result<Option<SecretValue>, String>> + Send;

    /// The names of Secrets that change from now on.
    fn secret_changes(&self) -> broadcast::Receiver<String>;

    /// Watches the Secrets that were read, until dropped. `referenced` returns the names still in use.
    fn follow_secrets(
        &self,
        _referenced: impl Fn() -> HashSet<String> + Send + Sync,
    ) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The platforms of the nodes.
    fn platforms(&self) -> &NodePlatforms;

    /// Keeps the platforms up to date until dropped. Calls `added` when a new platform appears.
    fn follow_platforms(&self, _added: impl Fn() + Send + Sync) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Follows the objects that name images until dropped: records and enqueues the images that they need.
    fn follow_image_sources(&self, _usage: &ImageUsage) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Lists the objects that name images once: records and enqueues the images that they need. Returns which of the images
    /// `among` are in use.
    fn images_in_use(
        &self,
        _usage: &ImageUsage,
        _among: &HashSet<String>,
    ) -> impl Future<Output = Result<HashSet<String>, Error>> + Send {
        std::future::ready(Ok(HashSet::new()))
    }
}

/// Errors of requests to a backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request failed.
    #[error("{operation}: {source}")]
    Api {
        /// The operation that failed.
        operation: &'static str,
        /// The error of the client.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("{operation}: the API server did not answer within {} s", after.as_secs())]
    Timeout {
        /// The operation that timed out.
        operation: &'static str,
        /// The timeout.
        after: Duration,
    },
}

impl Error {
    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether another client changed the object first, or it exists already.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the API server answered and refused the request.
    pub fn is_api_response(&self) -> bool {
        self.code().is_some()
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }
}
