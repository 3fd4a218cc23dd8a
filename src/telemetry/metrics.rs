//! Counters and histograms, with label values from closed lists only.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::exposition::{Exposed, Exposition};
use super::labels::label_values;

/// All metrics of a process that serves admission.
#[derive(Debug)]
pub struct Metrics {
    exposition: Exposition,
    /// The metrics of admission.
    pub admission: AdmissionMetrics,
}

/// Metrics of admission. Cloning shares the counters.
#[derive(Debug, Clone)]
pub struct AdmissionMetrics {
    /// One counter for each pair of labels, created at the start, so that counting takes no lock.
    requests: [[Counter; AdmissionOutcome::ALL.len()]; OperationLabel::ALL.len()],
    duration: Histogram,
    /// Metrics of connections to the webhook's port.
    pub connections: ConnectionMetrics,
    /// Images that patches changed.
    pub images_rewritten: Counter,
    /// Images that were not modified because they could not be read or rewritten.
    pub images_skipped: Counter,
    /// Pods that arrived at `/validate` with an image that a rule rewrites: `/mutate` was down or bypassed.
    pub unmutated_pods: Counter,
    /// Prewarm requests for images.
    pub offers: Counter,
    /// Dropped prewarm requests; the controller finds those images through its own watch. One counter for each label.
    offers_dropped: [Counter; DropReason::ALL.len()],
}

/// Metrics of connections. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    /// Open connections.
    pub open: Gauge,
    /// Connections without a successful TLS handshake.
    pub tls_handshake_errors: Counter,
    /// Idle connections that were evicted for another.
    pub evicted: Counter,
    /// Refused connections: all slots were taken, and no other connection was idle.
    pub refused: Counter,
    /// Connections that were closed because they did not read their answers.
    pub stalled: Counter,
    /// Connections that were closed because they sent HTTP/2 frames without requests.
    pub flooding: Counter,
}

label_values! {
    /// Label `reason` of dropped prewarm requests.
    pub enum DropReason {
        /// The queue was full.
        Full = "full",
        /// The namespace has sent too many new images.
        NamespaceLimit = "namespace_limit",
        /// The review names a namespace that does not exist.
        UnknownNamespace = "unknown_namespace",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: DropReason,
}

label_values! {
    /// Label `operation`.
    pub enum OperationLabel {
        /// A new object.
        Create = "create",
        /// An update.
        Update = "update",
        /// Any other operation.
        Other = "other",
    }
}

label_values! {
    /// Label `outcome`.
    pub enum AdmissionOutcome {
        /// Admitted with a patch.
        Patched = "patched",
        /// Admitted as it was.
        Unchanged = "unchanged",
        /// Admitted; no decision was needed.
        Skipped = "skipped",
        /// Refused by a policy, or because it could not be read while at least one policy refuses Pods.
        Denied = "denied",
        /// Could not be read, admitted with a warning.
        Malformed = "malformed",
        /// No AdmissionReview in the answer: the body is not JSON, or the uid of its review is not known.
        Refused = "refused",
        /// An internal error, answered as malformed.
        Panicked = "panicked",
        /// Took too long, answered as malformed.
        Expired = "expired",
        /// Was too large or too slow, or found no memory; answered as malformed.
        Unread = "unread",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: OperationLabel,
    outcome: AdmissionOutcome,
}

impl Metrics {
    /// Creates all metrics at zero.
    pub fn new() -> Self {
        let mut exposition = Exposition::new();
        let admission = AdmissionMetrics::new(exposition.registry_mut());
        Self { exposition, admission }
    }

    /// Returns the exposition, to add metrics before it is shared.
    pub fn exposition_mut(&mut self) -> &mut Exposition {
        &mut self.exposition
    }

    /// Returns all metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        self.exposition.encode()
    }
}

impl Exposed for Metrics {
    fn encode(&self) -> Result<String, fmt::Error> {
        self.exposition.encode()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl AdmissionMetrics {
    /// Counts a request, and the time to answer it after its body arrived.
    pub fn count(&self, operation: OperationLabel, outcome: AdmissionOutcome, took: std::time::Duration) {
        let counter = self.requests.get(operation as usize).and_then(|row| row.get(outcome as usize));
        counter.inspect(|counter| {
            counter.inc();
        });
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a dropped prewarm request.
    pub fn count_dropped(&self, reason: DropReason) {
        self.offers_dropped.get(reason as usize).inspect(|counter| {
            counter.inc();
        });
    }

    fn new(registry: &mut Registry) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        // From 10 µs to 163.84 ms.
        let duration = Histogram::new(exponential_buckets(0.00001, 2.0, 15));
        let (rewritten, skipped_images) = (Counter::default(), Counter::default());
        let unrewritten = Counter::default();
        let (offers, dropped) = (Counter::default(), Family::<DropLabels, Counter>::default());
        registry.register("prewarm_requests", "Images that admission enqueued for prewarming", offers.clone());
        registry.register("prewarm_requests_dropped", "Prewarm requests that were dropped", dropped.clone());
        let connections = ConnectionMetrics::register(registry);
        let registry = registry.sub_registry_with_prefix("admission");
        registry.register("requests", "Admission requests", requests.clone());
        registry.register_with_unit(
            "duration",
            "Time from the end of the request body to the response",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register("images_rewritten", "Images that patches changed", rewritten.clone());
        registry.register("images_skipped", "Images that could not be read or rewritten", skipped_images.clone());
        registry.register(
            "unmutated_pods",
            "Pods that reached /validate with an image that a rule rewrites",
            unrewritten.clone(),
        );
        Self {
            requests: OperationLabel::ALL.map(|operation| {
                AdmissionOutcome::ALL.map(|outcome| requests.get_or_create_owned(&RequestLabels { operation, outcome }))
            }),
            duration,
            connections,
            images_rewritten: rewritten,
            images_skipped: skipped_images,
            unmutated_pods: unrewritten,
            offers,
            offers_dropped: DropReason::ALL.map(|reason| dropped.get_or_create_owned(&DropLabels { reason })),
        }
    }
}

impl ConnectionMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { open, tls_handshake_errors, evicted, refused, stalled, flooding } = &metrics;
        registry.register("tls_handshake_errors", "Failed TLS handshakes", tls_handshake_errors.clone());
        let registry = registry.sub_registry_with_prefix("admission");
        registry.register("connections", "Open connections", open.clone());
        registry.register(
            "connections_evicted",
            "Idle connections that were closed to admit another one",
            evicted.clone(),
        );
        registry.register("connections_refused", "Connections that were refused because of a limit", refused.clone());
        registry.register("connections_stalled", "Connections that did not read their responses", stalled.clone());
        registry.register(
            "connections_flooding",
            "Connections that sent HTTP/2 frames without requests",
            flooding.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_request_is_counted_under_its_own_labels() {
        let metrics = Metrics::new();
        for _ in 0..3 {
            metrics.admission.count(OperationLabel::Create, AdmissionOutcome::Panicked, Duration::from_micros(15));
        }
        metrics.admission.count(OperationLabel::Other, AdmissionOutcome::Patched, Duration::ZERO);
        (0..7).for_each(|_| metrics.admission.count_dropped(DropReason::NamespaceLimit));
        let text = metrics.encode().unwrap();
        for line in [
            r#"harbor_pilot_admission_requests_total{operation="create",outcome="panicked"} 3"#,
            r#"harbor_pilot_admission_requests_total{operation="other",outcome="patched"} 1"#,
            r#"harbor_pilot_admission_requests_total{operation="update",outcome="patched"} 0"#,
            r#"harbor_pilot_admission_duration_seconds_bucket{le="0.00001"} 1"#,
            r#"harbor_pilot_admission_duration_seconds_bucket{le="0.00002"} 4"#,
            r#"harbor_pilot_admission_duration_seconds_bucket{le="+Inf"} 4"#,
            "harbor_pilot_admission_duration_seconds_count 4",
            "harbor_pilot_admission_duration_seconds_sum 0.000045",
            r#"harbor_pilot_prewarm_requests_dropped_total{reason="namespace_limit"} 7"#,
            r#"harbor_pilot_prewarm_requests_dropped_total{reason="full"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn duration_has_buckets_that_double_from_10_microseconds() {
        let metrics = Metrics::new();
        for took in [Duration::ZERO, Duration::from_micros(20), Duration::from_nanos(20_001), Duration::from_secs(1)] {
            metrics.admission.count(OperationLabel::Create, AdmissionOutcome::Patched, took);
        }
        let text = metrics.encode().unwrap();
        let name = "harbor_pilot_admission_duration_seconds_";
        let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(name)).collect();
        let bounds = [
            "0.00001", "0.00002", "0.00004", "0.00008", "0.00016", "0.00032", "0.00064", "0.00128", "0.00256",
            "0.00512", "0.01024", "0.02048", "0.04096", "0.08192", "0.16384", "+Inf",
        ];
        let counts = [1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4];
        let buckets = bounds.iter().zip(counts).map(|(bound, count)| format!(r#"bucket{{le="{bound}"}} {count}"#));
        let expected: Vec<String> =
            ["sum 1.000040001".to_owned(), "count 4".to_owned()].into_iter().chain(buckets).collect();
        assert_eq!(found, expected);
    }
}
