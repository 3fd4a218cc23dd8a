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
pub type ScanRequirements = Arc<ArcSwap<RequiredScans>>;

/// The requirements of all policies together; `None` when no policy uses scans.
#[derive(Debug, Default)]
pub struct RequiredScans {
    /// The shortest maximum age of a scan result that a policy accepts.
    pub max_age: Option<Duration>,
    /// The worst severity that all policies admit.
    pub ceiling: Option<FoundSeverity>,
}

/// Follows ImagePolicies until dropped.
pub(super) async fn follow_policies(backend: &impl Resources, scans: &ScanRequirements) {
    follow(backend.watch::<ImagePolicy>(), ImagePolicy::NAME, Arc::new, |policies| {
        let policies = || policies.values().map(AsRef::as_ref);
        let (max_age, ceiling) = (shortest_max_age(policies()), lowest_ceiling(policies()));
        scans.store(Arc::new(RequiredScans { max_age, ceiling }));
    })
    .await;
}
