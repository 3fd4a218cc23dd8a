//! The environment of an image: where it is cached, for which platforms, and the limits of its upstream.

use std::sync::Arc;

use super::{
    puller::{PullProgress, Puller},
    rate_limiter::RateLimiter,
    scan::ScanTerms,
};
use crate::{
    api::{CachedImage, Platform},
    harbor,
    image::ImageRef,
};

/// The environment of the images: mapping, platforms, scan options and progress.
pub trait Environment: Send + Sync {
    /// Maps `spec.image` to a managed proxy project, from memory.
    ///
    /// # Errors
    /// [`Unresolved`] when that is not possible now.
    fn resolve(&self, image: &str) -> Result<Resolved, Unresolved>;

    /// Returns the platforms of the cluster's nodes; `None` while none is known. Empty means all platforms of an image.
    fn cluster_platforms(&self) -> Option<Vec<Platform>>;

    /// Returns the scan options for images of a ProxyProject. The default asks for no scan.
    fn scan_terms(&self, proxy_project: &str) -> ScanTerms {
        let _ = proxy_project;
        ScanTerms::default()
    }

    /// Returns the receiver of an image's pull progress.
    fn progress(&self, image: &CachedImage) -> Arc<dyn PullProgress> {
        let _ = image;
        Arc::new(())
    }
}

/// Where an image is warmed.
#[derive(Clone)]
pub struct Resolved {
    /// The image at Harbor.
    pub image: ImageRef,
    /// Name of the ProxyProject resource.
    pub proxy_project: String,
    /// `spec.prewarm.platforms` of that ProxyProject; empty: those of the cluster.
    pub platforms: Vec<Platform>,
    /// Pulls through the Harbor of that ProxyProject.
    pub puller: Puller,
    /// The API of that Harbor, which lists what it stores.
    pub harbor: harbor::Client,
    /// Limits the requests to the upstream.
    pub allowance: RateLimiter,
    /// Why Harbor must not be asked, from the status of its HarborInstance.
    pub away: Option<String>,
}

/// Why an image cannot be warmed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The image is not a valid reference.
    #[error("the image is not valid: {0}")]
    InvalidImage(String),
    /// No rule maps it, and it names no managed proxy project.
    #[error("no active ProxyProject maps {0}: create one, or wait until it is Ready")]
    NotProxied(String),
    /// The Harbor of its ProxyProject is not ready.
    #[error("HarborInstance {0} is not ready")]
    InstanceNotReady(String),
}
