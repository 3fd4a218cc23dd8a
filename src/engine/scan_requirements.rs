//! Which scan results ImagePolicies require.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::{
    backend::{Resources, WatchedKind},
    watch::follow,
};
use crate::api::{
    FoundSeverity, ImagePolicy,
    image_policy::{lowest_ceiling, shortest_max_age},
};

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
    pub(super) async fn follow(&self, backend: &impl Resources) {
        follow(backend.watch::<ImagePolicy>(), ImagePolicy::NAME, Arc::new, |policies| {
            self.ceiling.store(Arc::new(lowest_ceiling(policies.values().map(AsRef::as_ref))));
            self.max_age.store(Arc::new(shortest_max_age(policies.values().map(AsRef::as_ref))));
        })
        .await;
    }
}
