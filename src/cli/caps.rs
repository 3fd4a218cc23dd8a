//! Arguments for the maximum number of CachedImages, shared by all commands that create them.

use clap::Args;

use crate::prewarm::quota::{Caps, OF_NAMESPACE, TOTAL};

/// Maximum number of CachedImages.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Maximum number of managed CachedImages (for images of Pods or workloads). Above it, the namespaces with the most lose
    /// first: unused images, then others
    #[arg(long, default_value_t = TOTAL)]
    max_cached_images: usize,
    /// Maximum number for each namespace; further images of it are not prewarmed
    #[arg(long, default_value_t = OF_NAMESPACE)]
    max_cached_images_per_namespace: usize,
}

impl Arguments {
    /// Returns the caps.
    pub(super) fn caps(&self) -> Caps {
        Caps { total: self.max_cached_images, of_namespace: self.max_cached_images_per_namespace }
    }
}
