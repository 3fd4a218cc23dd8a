//! Which scan results ImagePolicies require, and the results that CachedImages have, as the API server has them.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use kube::{Api, Client, runtime::watcher};
use tokio::sync::watch::Receiver;

use super::{
    watch::watch,
    watch_map::{follow, follow_together},
};
use crate::{
    active_config::ActiveConfig,
    api::{
        CachedImage, FoundSeverity, ImagePolicy,
        image_policy::{lowest_ceiling, shortest_max_age},
    },
    policy::{ScanIndex, ScanRecord},
    telemetry::watches::WatchMetrics,
};

/// Changes within this time after the first count as one: indexing ten thousand images again takes milliseconds, and a
/// burst changes each image several times.
const TOGETHER: Duration = Duration::from_millis(500);

/// Which scan results ImagePolicies require. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ScanRequirements {
    max_age: Arc<ArcSwap<Option<Duration>>>,
    ceiling: Arc<ArcSwap<Option<FoundSeverity>>>,
}

impl ScanRequirements {
    /// The shortest maximum age of a scan result that a policy accepts; `None` when no policy uses scans.
    pub fn max_age(&self) -> Option<Duration> {
        **self.max_age.load()
    }

    /// The worst severity that all policies admit; `None` when none uses scans.
    pub fn ceiling(&self) -> Option<FoundSeverity> {
        **self.ceiling.load()
    }

    /// Follows ImagePolicies until dropped.
    pub(super) async fn follow(&self, client: Client, watches: &WatchMetrics) {
        let policies = watch(Api::<ImagePolicy>::all(client), watcher::Config::default(), "ImagePolicy", watches);
        follow(policies, "ImagePolicies", Arc::new, |policies| {
            self.ceiling.store(Arc::new(lowest_ceiling(policies.values().map(AsRef::as_ref))));
            self.max_age.store(Arc::new(shortest_max_age(policies.values().map(AsRef::as_ref))));
        })
        .await;
    }
}

/// Follows CachedImages while `wanted`, until dropped, and keeps the scan results of each. Calls `known` first when the
/// initial list is complete, then after each change.
pub(super) async fn watch_scans(
    client: Client,
    in_force: ActiveConfig,
    mut wanted: Receiver<bool>,
    watches: &WatchMetrics,
    known: impl Fn(),
) {
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        let images = watch(Api::<CachedImage>::all(client.clone()), watcher::Config::default(), "CachedImage", watches);
        let keep = |image: CachedImage| ScanRecord::of(&image);
        let followed = follow_together(images, "CachedImages", TOGETHER, keep, |records| {
            in_force.scans.store(Arc::new(ScanIndex::compile(records.values().flatten())));
            known();
        });
        tokio::select! {
            () = followed => return,
            _ = wanted.wait_for(|wanted| !*wanted) => in_force.scans.store(Arc::default()),
        }
    }
}
