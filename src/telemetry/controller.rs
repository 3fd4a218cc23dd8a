//! Metrics of the controller: reconciles, requests to Harbor and prewarming. Label values come from closed lists, except the
//! names of HarborInstances, of which a cluster has a few.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::labels::label_values;

/// Metrics of the controller. Cloning shares them.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_duration: Family<KindLabels, Histogram, fn() -> Histogram>,
    running: Family<KindLabels, Gauge>,
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<ApiLabels, Histogram, fn() -> Histogram>,
    repeats: Family<InstanceLabels, Counter>,
    /// Running pulls of images.
    pub active_pulls: Gauge,
    pulls: Family<PullLabels, Counter>,
    pull_duration: Histogram,
    blobs: Family<BlobLabels, Counter>,
    blob_bytes: Counter,
    expired: Family<ExpiryLabels, Counter>,
    events: Family<EventLabels, Counter>,
}

label_values! {
    /// Label `outcome` of a reconcile.
    pub enum ReconcileOutcome {
        /// The resource is Ready.
        Ready = "ready",
        /// The resource is not Ready; its status has the reason.
        NotReady = "not_ready",
        /// The resource was deleted, with its objects in Harbor.
        Deleted = "deleted",
        /// The deletion of the resource is blocked.
        DeletionBlocked = "deletion_blocked",
        /// The API server did not accept a write.
        Failed = "failed",
    }
}

label_values! {
    /// Label `result` of a request.
    pub enum ResponseClass {
        /// 2xx and 3xx.
        Ok = "ok",
        /// 401 and 403.
        Denied = "denied",
        /// 404.
        NotFound = "not_found",
        /// 429.
        RateLimited = "rate_limited",
        /// Another 4xx.
        Refused = "refused",
        /// 5xx.
        Failed = "failed",
        /// No answer within the timeout.
        Timeout = "timeout",
        /// No connection, or a broken one.
        Unreachable = "unreachable",
    }
}

label_values! {
    /// Label `api`.
    pub enum ApiLabel {
        /// Harbor's API v2.0.
        Harbor = "harbor",
        /// Its registry, `/v2`.
        Registry = "registry",
    }
}

label_values! {
    /// Label `operation`.
    pub enum AccessLabel {
        /// GET and HEAD.
        Read = "read",
        /// All others.
        Write = "write",
    }
}

label_values! {
    /// Label `cause` of evicted images.
    pub enum ExpiryCauseLabel {
        /// No Pod requested the image within its lifetime.
        Unused = "unused",
        /// There were too many images.
        TooMany = "too_many",
    }
}

label_values! {
    /// Label `outcome` of an Event.
    pub enum EventOutcome {
        /// The API server accepted the Event.
        Published = "published",
        /// The API server did not accept the Event, and it is lost.
        Dropped = "dropped",
    }
}

label_values! {
    /// Label `outcome` of a blob of a pull.
    pub enum BlobOutcome {
        /// This pull brought the blob into the cache.
        Fetched = "fetched",
        /// Harbor already had the blob.
        Skipped = "skipped",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    outcome: ReconcileOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    harbor: String,
    api: ApiLabel,
    operation: AccessLabel,
    result: ResponseClass,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabels {
    harbor: String,
    api: ApiLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InstanceLabels {
    harbor: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PullLabels {
    outcome: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlobLabels {
    outcome: BlobOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExpiryLabels {
    cause: ExpiryCauseLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    outcome: EventOutcome,
}

impl ControllerMetrics {
    /// Creates metrics at zero, in no registry: for callers that do not export them.
    pub fn unregistered() -> Self {
        Self {
            reconciles: Family::default(),
            reconcile_duration: Family::new_with_constructor(seconds as fn() -> Histogram),
            running: Family::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(seconds as fn() -> Histogram),
            repeats: Family::default(),
            active_pulls: Gauge::default(),
            pulls: Family::default(),
            pull_duration: Histogram::new(exponential_buckets(0.25, 2.0, 13)),
            blobs: Family::default(),
            blob_bytes: Counter::default(),
            expired: Family::default(),
            events: Family::default(),
        }
    }

    /// Registers the metrics at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::unregistered();
        registry.register("reconciles", "Reconciles of resources", all.reconciles.clone());
        let help = "Time of one reconcile";
        registry.register_with_unit("reconcile_duration", help, Unit::Seconds, all.reconcile_duration.clone());
        registry.register("active_reconciles", "Running reconciles", all.running.clone());
        registry.register("harbor_requests", "Requests to a Harbor", all.requests.clone());
        let help = "Time to the end of the response; for a registry, to its head";
        registry.register_with_unit("harbor_request_duration", help, Unit::Seconds, all.request_duration.clone());
        registry.register(
            "harbor_request_retries",
            "Requests to a registry that were retried within a pull",
            all.repeats.clone(),
        );
        registry.register("active_pulls", "Running pulls of images", all.active_pulls.clone());
        registry.register("pulls", "Pulls of images", all.pulls.clone());
        registry.register_with_unit("pull_duration", "Time of one pull", Unit::Seconds, all.pull_duration.clone());
        registry.register("pull_blobs", "Configs and layers of pulls", all.blobs.clone());
        let help = "Bytes that pulls brought into caches";
        registry.register_with_unit("pull_fetched", help, Unit::Bytes, all.blob_bytes.clone());
        registry.register("images_expired", "CachedImages that were deleted", all.expired.clone());
        registry.register("events", "Kubernetes Events", all.events.clone());
        for outcome in BlobOutcome::ALL {
            all.blobs.get_or_create_owned(&BlobLabels { outcome });
        }
        for cause in ExpiryCauseLabel::ALL {
            all.expired.get_or_create_owned(&ExpiryLabels { cause });
        }
        for outcome in EventOutcome::ALL {
            all.events.get_or_create_owned(&EventLabels { outcome });
        }
        all
    }

    /// Exports a kind from the start, with all its counts at zero.
    pub fn expect_kind(&self, kind: &'static str) {
        for outcome in ReconcileOutcome::ALL {
            self.reconciles.get_or_create_owned(&ReconcileLabels { kind, outcome });
        }
        self.running.get_or_create_owned(&KindLabels { kind });
    }

    /// Counts a running reconcile of this kind until the result is dropped.
    pub fn begin_reconcile(&self, kind: &'static str) -> InProgress {
        let gauge = self.running.get_or_create_owned(&KindLabels { kind });
        InProgress::new(gauge)
    }

    /// Exports an instance from the start.
    pub fn expect_instance(&self, instance: &str) {
        self.repeats.get_or_create_owned(&InstanceLabels { harbor: instance.to_owned() });
    }

    /// Counts a reconcile of a resource.
    pub fn count_reconcile(&self, kind: &'static str, outcome: ReconcileOutcome, took: Duration) {
        self.reconciles.get_or_create_owned(&ReconcileLabels { kind, outcome }).inc();
        self.reconcile_duration.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// Counts a request to the Harbor of an instance.
    pub fn count_request(&self, instance: &str, what: (ApiLabel, AccessLabel), result: ResponseClass, took: Duration) {
        let (api, operation) = what;
        let labels = RequestLabels { harbor: instance.to_owned(), api, operation, result };
        self.requests.get_or_create(&labels).inc();
        let labels = ApiLabels { harbor: instance.to_owned(), api };
        self.request_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a retry of a request.
    pub fn count_repeat(&self, instance: &str) {
        self.repeats.get_or_create(&InstanceLabels { harbor: instance.to_owned() }).inc();
    }

    /// Counts a pull. `outcome` is from a closed list: the reason of a failure, or `succeeded`.
    pub fn count_pull(&self, outcome: String, took: Duration) {
        self.pulls.get_or_create(&PullLabels { outcome }).inc();
        self.pull_duration.observe(took.as_secs_f64());
    }

    /// Counts a blob of a pull.
    pub fn count_blob(&self, outcome: BlobOutcome) {
        self.blobs.get_or_create_owned(&BlobLabels { outcome }).inc();
    }

    /// Counts bytes that were pulled into a cache.
    pub fn count_fetched(&self, bytes: u64) {
        self.blob_bytes.inc_by(bytes);
    }

    /// Counts evicted CachedImages.
    pub fn count_expired(&self, cause: ExpiryCauseLabel, images: usize) {
        self.expired.get_or_create_owned(&ExpiryLabels { cause }).inc_by(images as u64);
    }

    /// Counts an Event.
    pub fn count_event(&self, outcome: EventOutcome) {
        self.events.get_or_create_owned(&EventLabels { outcome }).inc();
    }
}

/// A running task: a gauge is one higher until this is dropped.
#[derive(Debug)]
pub struct InProgress(Gauge);

impl InProgress {
    /// Increments the gauge.
    pub fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Buckets from 5 ms to 20 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 13))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exposition::{Exposed, Exposition};

    #[test]
    fn expected_kind_is_exported_at_zero_and_running_reconciles_are_counted() {
        let mut exposition = Exposition::new();
        let metrics = ControllerMetrics::register(exposition.registry_mut());
        metrics.expect_kind("Registry");
        let running = metrics.begin_reconcile("Registry");
        metrics.count_reconcile("Registry", ReconcileOutcome::NotReady, Duration::from_millis(12));
        let has = |line: &str| exposition.encode().unwrap().lines().any(|found| found == line);
        for line in [
            r#"harbor_pilot_reconciles_total{kind="Registry",outcome="ready"} 0"#,
            r#"harbor_pilot_reconciles_total{kind="Registry",outcome="not_ready"} 1"#,
            r#"harbor_pilot_reconcile_duration_seconds_count{kind="Registry"} 1"#,
            r#"harbor_pilot_active_reconciles{kind="Registry"} 1"#,
            r#"harbor_pilot_events_total{outcome="dropped"} 0"#,
        ] {
            assert!(has(line), "{line} is not in\n{}", exposition.encode().unwrap());
        }
        drop(running);
        assert!(has(r#"harbor_pilot_active_reconciles{kind="Registry"} 0"#));
    }
}
