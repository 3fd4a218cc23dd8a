//! Durations of Harbor's background work, and of the waits for it.

use std::time::Duration;

/// Minimum of all bounds on Harbor's storing, however fast Harbor is.
const LEAST: Duration = Duration::from_secs(2);

/// Durations of waits and pauses. The defaults fit a stock Harbor; tests against a faster one scale them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrewarmTiming {
    /// From the pull to the first check. Default 20 s.
    pub first_look: Duration,
    /// Minimum time between checks. Default 5 s.
    pub look_min: Duration,
    /// Maximum time between checks. Default 60 s.
    pub look_max: Duration,
    /// Time after the first pull in which Harbor must store everything, else the pull is repeated; it doubles with each pull.
    /// Default 60 s.
    pub store_first: Duration,
    /// Maximum of that time. Default 6 min.
    pub store_bound: Duration,
    /// Time in which Harbor tags a stored index, or never does: it tries every 10 s. Default 30 s.
    pub tag_bound: Duration,
    /// An index that is stored under another digest by this time stays so. Default 60 s.
    pub settle: Duration,
    /// An image that is not served offline by this time counts as not served. Default 15 min.
    pub offline_bound: Duration,
    /// Pause after the first failure; it doubles. Default 10 s.
    pub backoff: Duration,
    /// Maximum pause. Default 1 h.
    pub backoff_max: Duration,
    /// Interval between checks of an image that is Ready. Default 1 h.
    pub refresh: Duration,
}

impl Default for PrewarmTiming {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            first_look: seconds(20),
            look_min: seconds(5),
            look_max: seconds(60),
            store_first: seconds(60),
            store_bound: seconds(360),
            tag_bound: seconds(30),
            settle: seconds(60),
            offline_bound: seconds(900),
            backoff: seconds(10),
            backoff_max: seconds(3600),
            refresh: seconds(3600),
        }
    }
}

impl PrewarmTiming {
    /// Returns the timing for a Harbor that lists an image `first_look` after its pull; a stock one takes 20 s. Backoff and
    /// checks of Ready images are not scaled.
    pub fn paced(first_look: Duration) -> Self {
        let stock = Self::default();
        let factor = first_look.as_secs_f64() / stock.first_look.as_secs_f64();
        Self {
            first_look,
            look_min: stock.look_min.mul_f64(factor),
            look_max: stock.look_max.mul_f64(factor),
            // Times in a status are whole seconds.
            store_first: stock.store_first.mul_f64(factor).max(LEAST),
            store_bound: stock.store_bound.mul_f64(factor),
            tag_bound: stock.tag_bound.mul_f64(factor).max(LEAST),
            settle: stock.settle.mul_f64(factor),
            offline_bound: stock.offline_bound.mul_f64(factor),
            ..stock
        }
    }

    /// Returns the time after a pull until it is repeated, after `pulls` unsuccessful pulls before it.
    pub fn store_after(&self, pulls: u32) -> Duration {
        self.store_first.saturating_mul(1 << pulls.min(16)).min(self.store_bound)
    }

    /// Returns the timing for a pull that leaves the layers to Harbor ([`PullStrategy::ManifestsOnly`]): Harbor checks for them
    /// ten times, and then fetches them one by one.
    ///
    /// [`PullStrategy::ManifestsOnly`]: crate::api::proxy_project::PullStrategy::ManifestsOnly
    #[must_use]
    pub fn left_to_harbor(self) -> Self {
        Self {
            first_look: self.first_look * 10 + self.look_min,
            store_first: self.store_bound * 3,
            store_bound: self.store_bound * 3,
            offline_bound: self.offline_bound * 3,
            ..self
        }
    }
}
