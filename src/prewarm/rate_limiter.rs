//! Limits what prewarming requests from one upstream: N manifests in a period, none while the upstream limits the rate, and one
//! image at a time while it does not answer.
//!
//! [`RateLimitState`] is pure. [`RateLimiter`] shares one account between all images of an upstream. One answer of 429, or none, counts
//! for all of them, and after the pause one image tries first, not all. Images of other upstreams keep their workers.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use parking_lot::Mutex;

use crate::{
    api::{PullLimit, Reason, UpstreamPulls, condition::whole_seconds},
    transport::{CircuitState, Denied},
};

/// See [`Account::pause`].
const PAUSE: Duration = Duration::from_secs(60);
/// The longest pause that this module computes.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// While one image tries whether the pause is over, the other images retry after this time.
const TRIAL: Duration = Duration::from_secs(15);
/// The number of used manifests in the status is rounded up to a multiple of the limit divided by this number, so that it
/// changes rarely.
const STEPS: u32 = 20;

/// Counts the requests to one upstream, and decides whether more are allowed now.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimitState {
    limit: Option<PullLimit>,
    /// The first pause after a 429 without `Retry-After`; it doubles with each refusal.
    pause: Duration,
    /// Start of the period, and the manifests requested in it.
    period: Option<(Timestamp, u32)>,
    /// The pause after a 429, and whether one image tries if it is over.
    rest: CircuitState,
    /// After the upstream did not answer: one image at a time, so that its images do not occupy the workers of others. Not kept
    /// over a restart.
    silence: CircuitState,
    /// Refusals in a row; at least 1 during a pause.
    refusals: u32,
}

/// Why no request is allowed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateRefusal {
    /// The upstream limits the rate.
    #[error("the upstream limits the rate of pulls; requests are paused until {until}")]
    Paused {
        /// End of the pause.
        until: Timestamp,
    },
    /// Another image tries whether the upstream serves again.
    #[error("the upstream limited the rate of pulls; another image probes it")]
    Trial {
        /// Time to retry.
        until: Timestamp,
    },
    /// The upstream did not answer.
    #[error("the upstream did not answer; another image probes it")]
    Silent {
        /// Time to retry.
        until: Timestamp,
    },
    /// `spec.pullLimit` of the Registry is used up.
    #[error(
        "spec.pullLimit of its Registry is used up: {used} of {limit} manifests; the next period starts at {until}"
    )]
    UsedUp {
        /// End of the period.
        until: Timestamp,
        /// Manifests requested in this period.
        used: u32,
        /// Manifests allowed in a period.
        limit: u32,
    },
}

impl RateRefusal {
    /// Returns the time to retry.
    pub fn until(&self) -> Timestamp {
        match self {
            Self::Paused { until } | Self::Trial { until } | Self::Silent { until } | Self::UsedUp { until, .. } => {
                *until
            }
        }
    }

    /// Returns the reason for a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Paused { .. } | Self::Trial { .. } | Self::UsedUp { .. } => Reason::RateLimited,
            Self::Silent { .. } => Reason::UpstreamUnhealthy,
        }
    }
}

/// The result of a request to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamResult {
    /// The upstream served this many manifests.
    Served(u32),
    /// The upstream limits the rate (429), with the time of `Retry-After` if it sent one.
    Limited(Option<Duration>),
    /// The upstream did not answer, but Harbor did.
    Silent,
    /// The upstream answered, but not with the requested content.
    Wrong,
    /// Another failure; the upstream's part in it is unknown.
    Failed,
}

impl Default for RateLimitState {
    fn default() -> Self {
        Self {
            limit: None,
            pause: PAUSE,
            period: None,
            rest: CircuitState::Closed,
            silence: CircuitState::Closed,
            refusals: 0,
        }
    }
}

impl RateLimitState {
    /// Sets the first pause after a 429 without `Retry-After`. The default is one minute; it doubles up to one hour.
    #[must_use]
    pub fn with_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Restores an account from `spec.pullLimit` and the status of a Registry.
    pub fn from_status(limit: Option<PullLimit>, pulls: Option<&UpstreamPulls>) -> Self {
        let Some(pulls) = pulls else { return Self { limit, ..Self::default() } };
        let since = pulls.since.as_ref().map(|time| time.0);
        Self {
            limit,
            period: since.map(|since| (since, pulls.manifests.unwrap_or(0))),
            rest: pulls.paused_until.as_ref().map(|time| CircuitState::Open(time.0)).unwrap_or_default(),
            refusals: pulls.refusals.unwrap_or(0),
            ..Self::default()
        }
    }

    /// Returns what the Registry's status stores; `None` if there is nothing to store.
    pub fn to_status(&self) -> Option<UpstreamPulls> {
        let limit = self.limit.as_ref();
        let period = limit.zip(self.period).map(|(limit, (since, used))| {
            let step = (limit.manifests / STEPS).max(1);
            (Time(whole_seconds(since)), used.div_ceil(step).saturating_mul(step).min(limit.manifests.max(used)))
        });
        let pulls = UpstreamPulls {
            paused_until: self.rest.until().map(|until| Time(whole_seconds(until))),
            refusals: Some(self.refusals).filter(|refusals| *refusals > 0),
            since: period.as_ref().map(|(since, _)| since.clone()),
            manifests: period.map(|(_, used)| used),
        };
        Some(pulls).filter(|pulls| *pulls != UpstreamPulls::default())
    }

    /// Reserves requests for this many manifests.
    ///
    /// # Errors
    /// [`RateRefusal`] with the time to retry.
    pub fn ask(&mut self, manifests: u32, now: Timestamp) -> Result<(), RateRefusal> {
        self.rest.check(now).map_err(|held| match held {
            Denied::Until(until) => RateRefusal::Paused { until },
            Denied::Probing => RateRefusal::Trial { until: after(now, TRIAL) },
        })?;
        self.silence.check(now).map_err(|_| RateRefusal::Silent { until: after(now, TRIAL) })?;
        if let Some(limit) = &self.limit {
            let period = limit.per.duration();
            let (since, used) = self.period.filter(|(since, _)| after(*since, period) > now).unwrap_or((now, 0));
            let next = used.saturating_add(manifests);
            // A single image with more manifests than the limit would otherwise never be allowed.
            if next > limit.manifests && used > 0 {
                return Err(RateRefusal::UsedUp { until: after(since, period), used, limit: limit.manifests });
            }
            self.period = Some((since, next));
        }
        self.rest.begin();
        self.silence.begin();
        Ok(())
    }

    /// Records the result of the requests that [`RateLimitState::ask`] reserved as `asked` manifests.
    pub fn settle(&mut self, asked: u32, answer: UpstreamResult, now: Timestamp) {
        self.ask_over();
        match answer {
            UpstreamResult::Silent => return self.silence.fail(now),
            UpstreamResult::Failed => return,
            UpstreamResult::Served(_) | UpstreamResult::Limited(_) | UpstreamResult::Wrong => self.silence.succeed(),
        }
        match answer {
            UpstreamResult::Served(served) => {
                self.refusals = 0;
                self.rest.succeed();
                if let Some((_, used)) = &mut self.period {
                    *used = used.saturating_sub(asked).saturating_add(served);
                }
            }
            UpstreamResult::Limited(named) => self.limited(named, now),
            UpstreamResult::Silent | UpstreamResult::Wrong | UpstreamResult::Failed => {}
        }
    }

    /// Ends the trial, whatever its result was.
    fn ask_over(&mut self) {
        self.rest.release();
        self.silence.release();
    }

    /// Records a 429 on a request that was not reserved with [`RateLimitState::ask`].
    pub fn limited(&mut self, named: Option<Duration>, now: Timestamp) {
        let was_open = self.rest.is_open(now);
        // Requests that were in flight at the first refusal are refused too; they count as one refusal.
        if !was_open {
            self.refusals = self.refusals.saturating_add(1);
        }
        let own = self.pause.saturating_mul(1 << self.refusals.saturating_sub(1).min(10)).min(PAUSE_MAX);
        let until = after(now, named.unwrap_or(if was_open { Duration::ZERO } else { own }));
        self.rest.fail(self.rest.until().map_or(until, |end| end.max(until)));
    }

    /// Returns whether the account is paused after a 429.
    pub fn is_paused(&self, now: Timestamp) -> bool {
        self.rest.is_open(now)
    }
}

/// One account, shared by all its clones.
#[derive(Clone, Default)]
pub struct RateLimiter {
    account: Arc<Mutex<RateLimitState>>,
    changed: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allowance").field("account", &*self.account.lock()).finish_non_exhaustive()
    }
}

impl RateLimiter {
    /// Shares this account. Calls the callback after each change of what [`RateLimitState::to_status`] returns.
    pub fn new(account: RateLimitState, changed: impl Fn() + Send + Sync + 'static) -> Self {
        Self { account: Arc::new(Mutex::new(account)), changed: Some(Arc::new(changed)) }
    }

    /// Reserves requests for this many manifests.
    ///
    /// # Errors
    /// [`RateRefusal`] with the time to retry.
    pub fn ask(&self, manifests: u32, now: Timestamp) -> Result<RatePermit, RateRefusal> {
        self.change(|account| account.ask(manifests, now))?;
        Ok(RatePermit { allowance: self.clone(), manifests, settled: false })
    }

    /// See [`RateLimitState::limited`].
    pub fn limited(&self, named: Option<Duration>, now: Timestamp) {
        self.change(|account| account.limited(named, now));
    }

    /// See [`RateLimitState::is_paused`].
    pub fn is_paused(&self, now: Timestamp) -> bool {
        self.account.lock().is_paused(now)
    }

    /// Replaces the limit from now on.
    pub fn limit(&self, limit: Option<PullLimit>) {
        self.account.lock().limit = limit;
    }

    /// See [`RateLimitState::to_status`].
    pub fn to_remember(&self) -> Option<UpstreamPulls> {
        self.account.lock().to_status()
    }

    fn change<T>(&self, change: impl FnOnce(&mut RateLimitState) -> T) -> T {
        let (value, news) = {
            let mut account = self.account.lock();
            let before = account.to_status();
            let value = change(&mut account);
            (value, account.to_status() != before)
        };
        if let Some(changed) = self.changed.as_ref().filter(|_| news) {
            changed();
        }
        value
    }
}

/// A reservation of requests to an upstream. If it is dropped without [`RatePermit::settle`], its manifests stay counted.
#[derive(Debug)]
pub struct RatePermit {
    allowance: RateLimiter,
    manifests: u32,
    settled: bool,
}

impl RatePermit {
    /// Records the result of the requests.
    pub fn settle(mut self, answer: UpstreamResult, now: Timestamp) {
        self.settled = true;
        self.allowance.change(|account| account.settle(self.manifests, answer, now));
    }
}

impl Drop for RatePermit {
    fn drop(&mut self) {
        if !self.settled {
            self.allowance.account.lock().ask_over();
        }
    }
}

fn after(moment: Timestamp, time: Duration) -> Timestamp {
    moment.checked_add(time).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::api::Interval;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn limited_to(manifests: u32, seconds: u64) -> RateLimitState {
        RateLimitState::from_status(Some(PullLimit { manifests, per: Interval::from_secs(seconds) }), None)
    }

    #[test]
    fn a_period_has_so_many_manifests_and_the_next_one_as_many_again() {
        let mut account = limited_to(5, 100);
        for second in [0, 10] {
            account.ask(2, at(second)).unwrap();
            account.settle(2, UpstreamResult::Served(2), at(second));
        }
        let refused = account.ask(2, at(20)).unwrap_err();
        assert_eq!(refused, RateRefusal::UsedUp { until: at(100), used: 4, limit: 5 });
        account.ask(1, at(30)).unwrap();
        assert_eq!(account.ask(1, at(99)).unwrap_err().until(), at(100));
        account.ask(2, at(100)).unwrap();
        assert_eq!(account.ask(5, at(101)).unwrap_err().until(), at(200), "the period begins with its first pull");
    }

    #[test]
    fn what_was_not_asked_for_is_given_back_and_an_image_larger_than_the_limit_goes_alone() {
        let mut account = limited_to(4, 100);
        account.ask(3, at(0)).unwrap();
        account.settle(3, UpstreamResult::Served(1), at(1));
        account.ask(3, at(2)).unwrap();
        account.settle(3, UpstreamResult::Failed, at(3));
        assert!(account.ask(1, at(4)).is_err(), "what failed may have been counted by the upstream");
        account.ask(9, at(100)).unwrap();
        assert!(account.ask(1, at(101)).is_err());
    }

    #[test]
    fn account_lets_one_image_at_a_time_try_an_upstream_that_did_not_answer() {
        let mut account = RateLimitState::default();
        for _ in 0..4 {
            account.ask(1, at(0)).unwrap();
        }
        (0..4).for_each(|_| account.settle(1, UpstreamResult::Silent, at(60)));
        account.ask(1, at(61)).unwrap();
        assert_eq!(account.ask(1, at(62)).unwrap_err(), RateRefusal::Silent { until: at(77) }, "another image tries");
        account.settle(1, UpstreamResult::Silent, at(121));
        account.ask(1, at(122)).unwrap();
        account.settle(1, UpstreamResult::Failed, at(123));
        account.ask(1, at(124)).unwrap();
        assert!(account.ask(1, at(125)).is_err(), "what failed elsewhere says nothing of the upstream");
        account.settle(1, UpstreamResult::Wrong, at(126));
        assert!((0..4).all(|_| account.ask(1, at(127)).is_ok()), "it answers, though not as it should");
        assert_eq!(account.to_status(), None);
    }

    #[test]
    fn a_refusal_pauses_all_and_the_pauses_double_until_something_is_served() {
        let mut account = RateLimitState::default();
        let mut now = 0;
        for pause in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            account.ask(1, at(now)).unwrap();
            account.settle(1, UpstreamResult::Limited(None), at(now));
            assert_eq!(account.ask(1, at(now + pause - 1)), Err(RateRefusal::Paused { until: at(now + pause) }));
            now += pause;
        }
        account.ask(1, at(now)).unwrap();
        account.settle(1, UpstreamResult::Served(1), at(now));
        assert_eq!(account, RateLimitState::default());
    }

    #[test]
    fn images_that_were_under_way_together_are_refused_once() {
        let mut account = RateLimitState::default();
        for _ in 0..4 {
            account.ask(1, at(0)).unwrap();
        }
        for second in 1..=4 {
            account.settle(1, UpstreamResult::Limited(None), at(second));
        }
        assert_eq!((account.refusals, account.rest.until()), (1, Some(at(61))));
        account.limited(Some(Duration::from_secs(600)), at(5));
        assert_eq!((account.refusals, account.rest.until()), (1, Some(at(605))), "the longest wait that was named");
    }

    #[test]
    fn after_a_pause_one_image_tries_and_the_others_wait_for_it() {
        let allowance = RateLimiter::default();
        allowance.limited(Some(Duration::from_secs(30)), at(0));
        assert!(allowance.is_paused(at(29)) && !allowance.is_paused(at(30)));
        let trial = allowance.ask(1, at(30)).unwrap();
        assert_eq!(allowance.ask(1, at(31)).unwrap_err(), RateRefusal::Trial { until: at(46) });
        drop(trial);
        let trial = allowance.ask(1, at(32)).unwrap();
        trial.settle(UpstreamResult::Served(1), at(33));
        let leaves: Vec<_> = (0..10).map(|_| allowance.ask(1, at(34)).unwrap()).collect();
        assert_eq!(leaves.len(), 10);
    }

    #[test]
    fn a_restart_forgets_neither_pause_nor_use() {
        let mut account = limited_to(100, 3600);
        account.ask(13, at(0)).unwrap();
        account.settle(13, UpstreamResult::Limited(Some(Duration::from_secs(900))), at(0));
        let status = account.to_status().unwrap();
        assert_eq!((status.manifests, status.refusals), (Some(15), Some(1)));
        let mut after = RateLimitState::from_status(account.limit, Some(&status));
        assert_eq!(after.ask(1, at(899)), Err(RateRefusal::Paused { until: at(900) }));
        after.ask(80, at(901)).unwrap();
        after.settle(80, UpstreamResult::Served(80), at(902));
        assert!(matches!(after.ask(6, at(903)), Err(RateRefusal::UsedUp { used: 95, .. })));
    }

    #[test]
    fn rate_limiter_reports_its_state_on_change_and_rarely() {
        let calls = Arc::new(AtomicU32::new(0));
        let counter = calls.clone();
        let allowance = RateLimiter::new(limited_to(1000, 3600), move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..1000 {
            allowance.ask(1, at(0)).unwrap().settle(UpstreamResult::Served(1), at(0));
        }
        assert_eq!(calls.load(Ordering::Relaxed), STEPS);
        allowance.limited(None, at(1));
        assert_eq!(calls.load(Ordering::Relaxed), STEPS + 1);
        assert_eq!(RateLimitState::default().to_status(), None);
    }
}
