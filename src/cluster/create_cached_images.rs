//! Stores prewarm requests as CachedImages: the API server is the durable queue.

use kube::{Api, Client, api::PostParams};

use super::{FIELD_MANAGER, bounded, quota::Quota};
use crate::{
    api::CachedImage,
    controller::cached_image::cached_image_for,
    prewarm::{PrewarmReceiver, PrewarmRequest, expiry::ImageOrigin},
    telemetry::prewarm_queue::{PrewarmQueueMetrics, StoreOutcome},
};

/// Creates a CachedImage for each prewarm request until every sender is dropped, as far as the `quota` allows. Does not
/// change an existing CachedImage.
pub async fn store(
    client: Client,
    mut offers: PrewarmReceiver,
    source: ImageOrigin,
    metrics: &PrewarmQueueMetrics,
    wanted: impl Fn(&PrewarmRequest) -> bool,
    quota: Option<&Quota>,
) {
    let api: Api<CachedImage> = Api::all(client);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    while let Some(offer) = offers.next().await {
        if !wanted(&offer) {
            // The image may be requested again before the queue would forget it.
            offers.forget(&offer.image);
            continue;
        }
        if let Some(quota) = quota
            && let Err(why) = quota.make_room(&offer).await
        {
            offers.forget(&offer.image);
            metrics.count(why);
            continue;
        }
        let image = cached_image_for(&offer, source);
        match bounded("creating a CachedImage", api.create(&parameters, &image)).await {
            Ok(_) => {
                metrics.count(StoreOutcome::Created);
                if let Some(quota) = quota {
                    quota.created(&offer);
                }
                tracing::info!(image = %offer.image, namespace = offer.namespace, "created a CachedImage");
            }
            Err(error) if error.is_conflict() => metrics.count(StoreOutcome::Known),
            Err(error) => {
                // The next Pod, or the controller's next list of Pods, enqueues it again.
                offers.forget(&offer.image);
                if let Some(quota) = quota {
                    quota.miss();
                }
                metrics.count(StoreOutcome::Failed);
                tracing::warn!(%error, image = %offer.image, "prewarm request dropped");
            }
        }
    }
}
