//! What admission offered and a crash lost: the images at Harbor of the Pods that are there.
//!
//! Pods are streamed and never stored; the queue and the API server drop what is known already.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use super::backoff;
use crate::{
    image::ImageRef,
    prewarm::queue::{Offer, Offers},
    rewrite::{Decision, Rules},
};

/// Follows the Pods until dropped, and offers their images that lie in a managed project.
pub async fn follow(client: Client, rules: Arc<ArcSwap<Rules>>, offers: Offers) {
    let api: Api<Pod> = Api::all(client);
    // Finished Pods need nothing.
    let config = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let mut events = watcher(api, config).backoff(backoff()).boxed();
    loop {
        match events.try_next().await {
            Ok(Some(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => {
                let namespace = pod.metadata.namespace.unwrap_or_default();
                let rules = rules.load();
                for image in pod.spec.iter().flat_map(images) {
                    if let Some(offer) = offer_of(&rules, image, &namespace) {
                        offers.offer(offer);
                    }
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watching Pods"),
        }
    }
}

fn offer_of(rules: &Rules, image: &str, namespace: &str) -> Option<Offer> {
    let image = ImageRef::parse(image).ok()?;
    match rules.find_for_anyone(&image) {
        Decision::AlreadyAtHarbor { rule: Some(rule) } => {
            Some(Offer { proxy_project: rule.name().to_string(), image, namespace: namespace.to_owned() })
        }
        _ => None,
    }
}

fn images(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.containers.iter().filter_map(|container| container.image.as_deref());
    let init = spec.init_containers.iter().flatten().filter_map(|container| container.image.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|container| container.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    containers.chain(init).chain(ephemeral).chain(volumes)
}
