//! Arguments about the number of CachedImages, the same for every command that creates them.

use clap::Args;

use crate::prewarm::quota::{Caps, OF_NAMESPACE, TOTAL};

/// How many CachedImages there may be.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// CachedImages at most that exist because Pods or workloads name the images. Beyond it the namespaces with the most lose first:
    /// images that are not in use, then others
    #[arg(long, default_value_t = TOTAL)]
    max_cached_images: usize,
    /// The same for each namespace: further images of it are not warmed
    #[arg(long, default_value_t = OF_NAMESPACE)]
    max_cached_images_per_namespace: usize,
}

impl Arguments {
    /// The caps.
    pub(super) fn caps(&self) -> Caps {
        Caps { total: self.max_cached_images, of_namespace: self.max_cached_images_per_namespace }
    }
}
