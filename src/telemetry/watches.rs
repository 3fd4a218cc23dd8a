//! Metrics of watches of the API server, by kind.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts watches. Clones share the counts; the default exports nothing.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    lists: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
}

impl WatchMetrics {
    /// Registers the counts.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register("watch_lists", "Lists that started or restarted a watch", all.lists.clone());
        registry.register("watch_errors", "Failed watches; they retry", all.failures.clone());
        all
    }

    /// Counts a list at the start of a watch.
    pub fn listed(&self, kind: &'static str) {
        self.lists.get_or_create_owned(&Labels { kind }).inc();
        self.failures.get_or_create_owned(&Labels { kind });
    }

    /// Counts a failed watch.
    pub fn failed(&self, kind: &'static str) {
        self.lists.get_or_create_owned(&Labels { kind });
        self.failures.get_or_create_owned(&Labels { kind }).inc();
    }
}
