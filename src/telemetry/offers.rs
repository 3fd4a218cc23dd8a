//! What became of images that were offered: the same for the webhook and the controller.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts of offers that were taken from the queue. Cloning shares them; the default shows nobody.
#[derive(Debug, Clone, Default)]
pub struct OfferMetrics {
    stored: Family<Labels, Counter>,
}

/// Label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Stored {
    /// There is a CachedImage for it now.
    Created,
    /// There was one already.
    Known,
    /// The API server did not take it. It is offered again by the next Pod, or by the controller's look at Pods.
    Failed,
    /// Its namespace has as many CachedImages as it may.
    NamespaceFull,
    /// There are as many CachedImages as there may be, and no other namespace has more than its own.
    Full,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Stored,
}

impl OfferMetrics {
    /// Shows them in a registry, all at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("offers_stored", "Offers written as CachedImages", all.stored.clone());
        for outcome in [Stored::Created, Stored::Known, Stored::Failed, Stored::NamespaceFull, Stored::Full] {
            all.stored.get_or_create_owned(&Labels { outcome });
        }
        all
    }

    /// Counts one.
    pub fn count(&self, outcome: Stored) {
        self.stored.get_or_create_owned(&Labels { outcome }).inc();
    }
}
