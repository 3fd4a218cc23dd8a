//! The bounded hand-over from admission to prewarming: offered, never awaited.

use tokio::sync::mpsc;

use crate::image::ImageRef;

/// One image that a Pod is about to need from Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The image as the kubelet will ask for it, at Harbor's pull host.
    pub image: ImageRef,
    /// Name of the ProxyProject resource whose rule made or owns the image.
    pub proxy_project: String,
    /// Namespace of the Pod, kept for the record of who asked.
    pub namespace: String,
}
