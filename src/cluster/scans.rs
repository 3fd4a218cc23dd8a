//! What scans are wanted for, and what they found, as the API server has it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use kube::{Api, Client, runtime::watcher};
use tokio::sync::watch::Receiver;

use super::{
    follow::{follow, follow_together},
    watch::watch,
};
use crate::{
    api::{
        CachedImage, FoundSeverity, ImagePolicy,
        image_policy::{lowest_ceiling, shortest_max_age},
    },
    in_force::InForce,
    policy::{Record, Scans},
    telemetry::watches::Watches,
};

/// Changes that come within this time after one count as one: ten thousand images are indexed anew in milliseconds, and a
/// burst changes each of them several times.
const TOGETHER: Duration = Duration::from_millis(500);

/// What ImagePolicies want of scans. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ScanDemand {
    max_age: Arc<ArcSwap<Option<Duration>>>,
    ceiling: Arc<ArcSwap<Option<FoundSeverity>>>,
}

impl ScanDemand {
    /// After what time they want no verdict any more; `None` where none goes by scans.
    pub fn max_age(&self) -> Option<Duration> {
        **self.max_age.load()
    }

    /// The worst severity that all of them admit; `None` where none uses scans.
    pub fn ceiling(&self) -> Option<FoundSeverity> {
        **self.ceiling.load()
    }

    /// Follows ImagePolicies until dropped.
    pub(super) async fn follow(&self, client: Client, watches: &Watches) {
        let policies = watch(Api::<ImagePolicy>::all(client), watcher::Config::default(), "ImagePolicy", watches);
        follow(policies, "ImagePolicies", Arc::new, |policies| {
            self.ceiling.store(Arc::new(lowest_ceiling(policies.values().map(AsRef::as_ref))));
            self.max_age.store(Arc::new(shortest_max_age(policies.values().map(AsRef::as_ref))));
        })
        .await;
    }
}

/// Follows CachedImages while it is `wanted`, until dropped, and keeps of each what its scans found. Calls `known` after each
/// change, for the first time when the first list is complete.
pub(super) async fn remember(
    client: Client,
    in_force: InForce,
    mut wanted: Receiver<bool>,
    watches: &Watches,
    known: impl Fn(),
) {
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        let images = watch(Api::<CachedImage>::all(client.clone()), watcher::Config::default(), "CachedImage", watches);
        let keep = |image: CachedImage| Record::of(&image);
        let followed = follow_together(images, "CachedImages", TOGETHER, keep, |records| {
            in_force.scans.store(Arc::new(Scans::compile(records.values().flatten())));
            known();
        });
        tokio::select! {
            () = followed => return,
            _ = wanted.wait_for(|wanted| !*wanted) => in_force.scans.store(Arc::default()),
        }
    }
}
