//! Images that admission sends to the prewarm queue.

use std::sync::Arc;

use crate::image::ImageRef;

/// An image to prewarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrewarmTarget {
    /// The image at Harbor, as the kubelet pulls it.
    pub image: ImageRef,
    /// Name of the ProxyProject of the image.
    pub proxy_project: Arc<str>,
}
