//! The metrics and the status page of the controller: requests, pulls, resources.
//!
//! In: events from its parts, and the stores of its watches. Out: metrics (states are computed at each scrape), and the
//! content of the page.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use kube::runtime::reflector::Store;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

use super::directory::ClusterDirectory;
use crate::{
    api::{CachedImage, Reason},
    controller::Instances,
    harbor::{Answer, Api, Observer},
    in_force::InForce,
    leadership::Leadership,
    prewarm::{Offers, Progress},
    registry::Descriptor,
    telemetry::{
        controller::{Access, Answered, Asked, BlobOutcome, ControllerMetrics, Running},
        offers::OfferMetrics,
        watches::Watches,
    },
};

/// The metrics of the controller. Clones share them.
#[derive(Debug, Clone)]
pub struct Meters {
    /// Metrics of the controller's own work.
    pub controller: ControllerMetrics,
    /// Results of prewarm requests.
    pub offers: OfferMetrics,
    /// Lists and failures of the watches.
    pub watches: Watches,
    pub(super) seen: Arc<ArcSwapOption<Seen>>,
}

/// Stores that can be shown once the controller runs.
pub(super) struct Seen {
    pub(super) directory: Arc<ClusterDirectory>,
    pub(super) leadership: Leadership,
    pub(super) images: Store<CachedImage>,
    pub(super) instances: Arc<Instances>,
    pub(super) in_force: InForce,
    pub(super) offers: Offers,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

impl Meters {
    /// Registers all metrics of the controller.
    pub fn register(registry: &mut Registry) -> Self {
        let (controller, offers) = (ControllerMetrics::register(registry), OfferMetrics::register(registry));
        let watches = Watches::register(registry);
        Self { controller, offers, watches, seen: Arc::default() }
    }

    /// Whether this process leads. Without leader election it leads as soon as it runs.
    pub(super) fn leads(&self) -> bool {
        self.seen.load().as_ref().is_some_and(|seen| seen.leadership.holds())
    }

    /// Returns the observer that counts requests to the Harbor of an instance.
    pub(super) fn observer(&self, instance: &str) -> Arc<dyn Observer> {
        self.controller.expect_instance(instance);
        Arc::new(Requests { metrics: self.controller.clone(), instance: instance.to_owned() })
    }

    /// Returns the observer that counts the progress of pulls.
    pub(super) fn pull(&self) -> Arc<dyn Progress> {
        let running = Running::new(Gauge::clone(&self.controller.pulls_running));
        Arc::new(Pull { metrics: self.controller.clone(), begin: Instant::now(), _running: running })
    }
}

/// Counts requests to one Harbor.
#[derive(Debug)]
struct Requests {
    metrics: ControllerMetrics,
    instance: String,
}

impl Observer for Requests {
    fn answered(&self, api: Api, reads: bool, answer: Answer, took: Duration) {
        let api = match api {
            Api::Management => Asked::Harbor,
            Api::Registry => Asked::Registry,
        };
        let access = if reads { Access::Read } else { Access::Write };
        self.metrics.count_request(&self.instance, (api, access), answered(answer), took);
    }

    fn repeated(&self) {
        self.metrics.count_repeat(&self.instance);
    }
}

fn answered(answer: Answer) -> Answered {
    match answer {
        Answer::Timeout => Answered::Timeout,
        Answer::Unreachable => Answered::Unreachable,
        Answer::Malformed => Answered::Failed,
        Answer::Status(status) => match status {
            ..400 => Answered::Ok,
            401 | 403 => Answered::Denied,
            404 => Answered::NotFound,
            429 => Answered::RateLimited,
            400..500 => Answered::Refused,
            500.. => Answered::Failed,
        },
    }
}

/// Counts one pull.
struct Pull {
    metrics: ControllerMetrics,
    begin: Instant,
    _running: Running,
}

impl Progress for Pull {
    fn received(&self, bytes: u64) {
        self.metrics.count_fetched(bytes);
    }

    fn done(&self, _: &Descriptor, stored: bool) {
        self.metrics.count_blob(if stored { BlobOutcome::Skipped } else { BlobOutcome::Fetched });
    }

    fn ended(&self, failed: Option<Reason>) {
        let outcome = failed.map_or_else(|| "Warmed".to_owned(), |reason| reason.to_string());
        self.metrics.count_pull(outcome, self.begin.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_one_class() {
        let table = [
            (200, Answered::Ok),
            (307, Answered::Ok),
            (401, Answered::Denied),
            (404, Answered::NotFound),
            (412, Answered::Refused),
            (429, Answered::RateLimited),
            (503, Answered::Failed),
        ];
        for (status, expected) in table {
            assert_eq!(answered(Answer::Status(status)), expected, "{status}");
        }
    }
}
