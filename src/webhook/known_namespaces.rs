//! Accepts prewarm requests only from Pods of namespaces that exist.
//!
//! The caller writes `request.namespace`. Without this check, a caller that invents namespaces gets the limit of new images
//! once for each name.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::handler::PrewarmSink;
use crate::rewrite::Namespaces;
use crate::telemetry::metrics::{AdmissionMetrics, DropReason};

/// Forwards prewarm requests of existing namespaces, and counts the rest as dropped. A Pod of a namespace that the watch does
/// not show yet loses nothing: the controller finds its images through its own watch.
pub fn from_known_namespaces(
    sink: PrewarmSink,
    namespaces: Arc<ArcSwap<Namespaces>>,
    metrics: &AdmissionMetrics,
) -> PrewarmSink {
    let metrics = metrics.clone();
    Arc::new(move |offer| {
        if namespaces.load().contains(&offer.namespace) {
            sink(offer);
        } else {
            metrics.count_dropped(DropReason::UnknownNamespace);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::image::ImageRef;
    use crate::prewarm::namespace_limit::NamespaceLimit;
    use crate::prewarm::queue::{PrewarmRequest, QueueBounds, queue};
    use crate::telemetry::metrics::Metrics;
    use crate::webhook::queued;

    #[test]
    fn from_known_namespaces_gives_an_invented_namespace_no_limit_of_its_own() {
        let limit = NamespaceLimit { burst: 5, per_second: 0.001 };
        let (offers, _offered) =
            queue(QueueBounds { waiting: 4096, of_namespace: Some(limit), ..QueueBounds::default() });
        let metrics = Metrics::new();
        let known: Namespaces = [("shop".to_owned(), BTreeMap::new())].into_iter().collect();
        let namespaces = Arc::new(ArcSwap::from_pointee(known));
        let sink = from_known_namespaces(queued(offers.clone(), &metrics.admission), namespaces, &metrics.admission);
        let long = "a".repeat(60_000);
        let invented = (0..1500).map(|number| format!("invented-{number}")).chain([String::new(), long]);
        for (number, namespace) in invented.chain(vec!["shop".to_owned(); 50]).enumerate() {
            let image = ImageRef::parse(&format!("harbor.example.com/hub/app:{number}")).unwrap();
            sink(PrewarmRequest { image, proxy_project: "hub".to_owned(), namespace });
        }
        assert_eq!(offers.waiting(), 5, "shop has its limit, and the others have none");
        let text = metrics.encode().unwrap();
        for line in ["unknown_namespace\"} 1502", "namespace_limit\"} 45"] {
            let line = format!("harbor_pilot_prewarm_requests_dropped_total{{reason=\"{line}");
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
