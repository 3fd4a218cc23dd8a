//! What an image needs of the world around it: where it is warmed, for whom, and what may be asked for it.

use std::sync::Arc;

use super::{
    allowance::Allowance,
    puller::{Progress, Puller},
    scan::Terms,
    silence::Silence,
};
use crate::{
    api::{CachedImage, Platform},
    harbor,
    image::ImageRef,
};

/// What an image needs of the world around it.
pub trait Surroundings: Send + Sync {
    /// Maps `spec.image` to a managed proxy project, from memory.
    ///
    /// # Errors
    /// [`Unresolved`] when that is not possible now.
    fn resolve(&self, image: &str) -> Result<Resolved, Unresolved>;

    /// The platforms of the cluster's nodes; `None` while none is known. Empty means all platforms of an image.
    fn cluster_platforms(&self) -> Option<Vec<Platform>>;

    /// What is wanted of the scans of images of a ProxyProject. Nothing, unless somebody goes by them.
    fn scan_terms(&self, proxy_project: &str) -> Terms {
        let _ = proxy_project;
        Terms::default()
    }

    /// Who is told how the pull of an image comes along.
    fn progress(&self, image: &CachedImage) -> Arc<dyn Progress> {
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
    /// What may be asked of the upstream.
    pub allowance: Allowance,
    /// Why Harbor is not to be asked, as its HarborInstance says.
    pub away: Option<String>,
    /// Whether Harbor did not answer lately.
    pub silence: Silence,
}

/// Why an image cannot be warmed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It is no image reference.
    #[error("the image is not valid: {0}")]
    InvalidImage(String),
    /// No rule maps it, and it names no managed proxy project.
    #[error("no ProxyProject that serves maps {0}: create one, or wait for it to be Ready")]
    NotProxied(String),
    /// The Harbor of its ProxyProject cannot be used yet.
    #[error("HarborInstance {0} is not ready")]
    InstanceNotReady(String),
}
