//! Stores prewarm requests as CachedImages: the backend is the durable queue.

use std::collections::HashSet;

use arc_swap::ArcSwap;

use super::backend::Resources;
use crate::{
    controller::cached_image::cached_image_for,
    prewarm::{PrewarmReceiver, PrewarmRequest, expiry::ImageOrigin},
    telemetry::prewarm_queue::{PrewarmQueueMetrics, StoreOutcome},
};

/// Calls `create` with each prewarm request until every sender is dropped, except those of the ProxyProjects in `manual`.
pub async fn store<F: Future<Output = StoreOutcome>>(
    mut offers: PrewarmReceiver,
    metrics: &PrewarmQueueMetrics,
    manual: &ArcSwap<HashSet<String>>,
    create: impl Fn(PrewarmRequest) -> F,
) {
    while let Some(offer) = offers.next().await {
        let image = offer.image.clone();
        let is_manual = manual.load().contains(&offer.proxy_project);
        let outcome = if is_manual { None } else { Some(create(offer).await) };
        if !matches!(outcome, Some(StoreOutcome::Created | StoreOutcome::Known)) {
            // The image may be requested again before the queue would forget it.
            offers.forget(&image);
        }
        outcome.inspect(|outcome| metrics.count(*outcome));
    }
}

/// Creates the CachedImage of a prewarm request. Does not change an existing one.
pub async fn create(backend: &impl Resources, offer: &PrewarmRequest, source: ImageOrigin) -> StoreOutcome {
    match backend.create(&cached_image_for(offer, source)).await {
        Ok(()) => {
            tracing::info!(image = %offer.image, namespace = offer.namespace, "created a CachedImage");
            StoreOutcome::Created
        }
        Err(error) if error.is_conflict() => StoreOutcome::Known,
        Err(error) => {
            // The next Pod, or the controller's next list of Pods, enqueues it again.
            tracing::warn!(%error, image = %offer.image, "the CachedImage was not created; the next request creates it");
            StoreOutcome::Failed
        }
    }
}
