//! Offers become CachedImages: the durable queue is the API server.

use kube::{Api, Client, api::PostParams};

use super::{FIELD_MANAGER, bounded};
use crate::{
    api::CachedImage,
    controller::cached_image::offered,
    prewarm::{Offer, OfferReceiver, lifetime::Source},
    telemetry::offers::{OfferMetrics, Stored},
};

/// Writes offers as CachedImages until every sender is gone. One that exists already is left as it is.
pub async fn store(
    client: Client,
    mut offers: OfferReceiver,
    source: Source,
    metrics: &OfferMetrics,
    wanted: impl Fn(&Offer) -> bool,
) {
    let api: Api<CachedImage> = Api::all(client);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    while let Some(offer) = offers.next().await {
        if !wanted(&offer) {
            // It may be wanted before the queue would forget it.
            offers.forget(&offer.image);
            continue;
        }
        let image = offered(&offer, source);
        match bounded("creating a CachedImage", api.create(&parameters, &image)).await {
            Ok(_) => {
                metrics.count(Stored::Created);
                tracing::info!(image = %offer.image, namespace = offer.namespace, "to be warmed");
            }
            Err(error) if error.is_conflict() => metrics.count(Stored::Known),
            Err(error) => {
                // The next Pod, or the controller's own look at the Pods, offers it again.
                offers.forget(&offer.image);
                metrics.count(Stored::Failed);
                tracing::warn!(%error, image = %offer.image, "offer lost for now");
            }
        }
    }
}
