//! The metrics and the status page of the controller: requests, pulls, resources.
//!
//! In: events from its parts, and the stores of its watches. Out: metrics (states are computed at each scrape), and the
//! content of the page.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

use crate::{
    active_config::ActiveConfig,
    api::Reason,
    controller::{Connections, Stores},
    leadership::Leadership,
    prewarm::{PrewarmQueue, PullProgress},
    registry::Descriptor,
    telemetry::{
        controller::{AccessLabel, ApiLabel, BlobOutcome, ControllerMetrics, InProgress, ResponseClass},
        prewarm_queue::PrewarmQueueMetrics,
        watches::WatchMetrics,
    },
    transport::{Api, RequestObserver, RequestResult},
};

/// The metrics of the controller. Clones share them.
#[derive(Debug, Clone)]
pub struct Instruments {
    /// Metrics of the controller's own work.
    pub controller: ControllerMetrics,
    /// Results of prewarm requests.
    pub offers: PrewarmQueueMetrics,
    /// Lists and failures of the watches.
    pub watches: WatchMetrics,
    pub(super) seen: Arc<ArcSwapOption<RunningState>>,
}

/// Stores that can be shown once the controller runs.
pub(super) struct RunningState {
    pub(super) stores: Stores,
    pub(super) leadership: Leadership,
    pub(super) instances: Arc<Connections>,
    pub(super) in_force: ActiveConfig,
    pub(super) offers: PrewarmQueue,
}

impl std::fmt::Debug for RunningState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunningState")
    }
}

impl Instruments {
    /// Registers all metrics of the controller.
    pub fn register(registry: &mut Registry) -> Self {
        let (controller, offers) = (ControllerMetrics::register(registry), PrewarmQueueMetrics::register(registry));
        let watches = WatchMetrics::register(registry);
        Self { controller, offers, watches, seen: Arc::default() }
    }

    /// Whether this process leads. Without leader election it leads as soon as it runs.
    pub(super) fn leads(&self) -> bool {
        self.seen.load().as_ref().is_some_and(|seen| seen.leadership.holds())
    }

    /// Returns the observer that counts requests to the Harbor of an instance.
    pub(super) fn observer(&self, instance: &str) -> Arc<dyn RequestObserver> {
        self.controller.expect_instance(instance);
        Arc::new(RequestRecorder { metrics: self.controller.clone(), instance: instance.to_owned() })
    }

    /// Returns the observer that counts the progress of pulls.
    pub(super) fn pull(&self) -> Arc<dyn PullProgress> {
        let running = InProgress::new(Gauge::clone(&self.controller.active_pulls));
        Arc::new(PullRecorder { metrics: self.controller.clone(), begin: Instant::now(), _running: running })
    }
}

/// Counts requests to one Harbor.
#[derive(Debug)]
struct RequestRecorder {
    metrics: ControllerMetrics,
    instance: String,
}

impl RequestObserver for RequestRecorder {
    fn answered(&self, api: Api, reads: bool, answer: RequestResult, took: Duration) {
        let api = match api {
            Api::Management => ApiLabel::Harbor,
            Api::Registry => ApiLabel::Registry,
        };
        let access = if reads { AccessLabel::Read } else { AccessLabel::Write };
        self.metrics.count_request(&self.instance, (api, access), answered(answer), took);
    }

    fn repeated(&self) {
        self.metrics.count_repeat(&self.instance);
    }
}

fn answered(answer: RequestResult) -> ResponseClass {
    match answer {
        RequestResult::Timeout => ResponseClass::Timeout,
        RequestResult::Unreachable => ResponseClass::Unreachable,
        RequestResult::Malformed => ResponseClass::Failed,
        RequestResult::Status(status) => match status {
            ..400 => ResponseClass::Ok,
            401 | 403 => ResponseClass::Denied,
            404 => ResponseClass::NotFound,
            429 => ResponseClass::RateLimited,
            400..500 => ResponseClass::Refused,
            500.. => ResponseClass::Failed,
        },
    }
}

/// Counts one pull.
struct PullRecorder {
    metrics: ControllerMetrics,
    begin: Instant,
    _running: InProgress,
}

impl PullProgress for PullRecorder {
    fn received(&self, bytes: u64) {
        self.metrics.count_fetched(bytes);
    }

    fn done(&self, _: &Descriptor, stored: bool) {
        self.metrics.count_blob(if stored { BlobOutcome::Skipped } else { BlobOutcome::Fetched });
    }

    fn ended(&self, failed: Option<Reason>) {
        let outcome = failed.map_or_else(|| "succeeded".to_owned(), |reason| reason.to_string());
        self.metrics.count_pull(outcome, self.begin.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_one_class() {
        let table = [
            (200, ResponseClass::Ok),
            (307, ResponseClass::Ok),
            (401, ResponseClass::Denied),
            (404, ResponseClass::NotFound),
            (412, ResponseClass::Refused),
            (429, ResponseClass::RateLimited),
            (503, ResponseClass::Failed),
        ];
        for (status, expected) in table {
            assert_eq!(answered(RequestResult::Status(status)), expected, "{status}");
        }
    }
}
