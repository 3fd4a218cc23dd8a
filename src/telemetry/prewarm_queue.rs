//! Results of prewarm requests: the same for the webhook and the controller.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::label_values;

/// Counts prewarm requests that were taken from the queue. Clones share the counts; the default exports nothing.
#[derive(Debug, Clone, Default)]
pub struct PrewarmQueueMetrics {
    stored: Family<Labels, Counter>,
}

label_values! {
    /// Label `outcome`.
    pub enum StoreOutcome {
        /// A new CachedImage exists for it.
        Created = "created",
        /// A CachedImage existed already.
        Known = "known",
        /// The API server did not accept it. The next Pod, or the controller's resync of Pods, requests it again.
        Failed = "failed",
        /// Its namespace has its maximum of CachedImages.
        NamespaceFull = "namespace_full",
        /// The total number of CachedImages is at its maximum, and no other namespace has more than its own.
        Full = "full",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: StoreOutcome,
}

impl PrewarmQueueMetrics {
    /// Registers the counts at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("prewarm_requests_processed", "Prewarm requests by result", all.stored.clone());
        for outcome in StoreOutcome::ALL {
            all.stored.get_or_create_owned(&Labels { outcome });
        }
        all
    }

    /// Counts one result.
    pub fn count(&self, outcome: StoreOutcome) {
        self.stored.get_or_create_owned(&Labels { outcome }).inc();
    }
}
