//! Leader election with a Lease (coordination.k8s.io/v1).
//!
//! In: the answers of the API server, and the time of two clocks: a monotonic clock for all decisions, and the wall clock
//! for the times that people read in the Lease. Out: the next step.
//!
//! Two candidates never lead at the same time, as long as their clocks run at the same pace to within a fifth of the
//! lease:
//! - Every write names the version of the Lease that it replaces, so that only one of two writes succeeds.
//! - A leader counts from the moment at which it *began* to write its last renewal, for [`LeaseTiming::renew`].
//! - Others count from the moment at which they *saw* that the Lease had changed, for the longer time that the Lease
//!   itself states. Times that another clock wrote into it decide nothing.
//! - A process that lost the lead exits; no process continues the work that it did as a former leader.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};

/// The times of a Lease. All times are of a clock that continues while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTiming {
    /// How long others wait after they last saw the Lease renewed. Default 15 s.
    pub lease: Duration,
    /// How long a leader may write after it began its last successful renewal. Default 10 s.
    pub renew: Duration,
    /// Time between two tries; the jitter adds at most a fifth. Default 2 s.
    pub retry: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// Times that do not leave enough margin between one another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTiming {
    /// Two candidates might lead at the same time.
    #[error("--lease-duration must be at least 25% longer than --renew-deadline")]
    Lease,
    /// One slow answer would lose the lead.
    #[error("--renew-deadline must be at least twice --retry-period, which must be at least 100 ms")]
    Renew,
}

impl LeaseTiming {
    /// Checks that the times leave enough margin between one another.
    ///
    /// # Errors
    /// [`BadTiming`] names the times that do not.
    pub fn check(self) -> Result<Self, BadTiming> {
        if self.lease < self.renew * 5 / 4 {
            return Err(BadTiming::Lease);
        }
        if self.renew < self.retry * 2 || self.retry < Duration::from_millis(100) {
            return Err(BadTiming::Renew);
        }
        Ok(self)
    }

    /// Time until the next try; `jitter` is from 0 to 1.
    pub fn pause(&self, jitter: f64) -> Duration {
        self.retry.mul_f64(1.0 + 0.2 * jitter.clamp(0.0, 1.0))
    }
}

/// The next action.
#[derive(Debug, Clone, PartialEq)]
pub enum ElectionAction {
    /// Read the Lease, then call [`Election::read`].
    Read,
    /// Create this Lease, then call [`Election::written`].
    Create(Box<Lease>),
    /// Replace the Lease with this one, which names the version to replace, then call [`Election::written`].
    Replace(Box<Lease>),
    /// Another process leads. After [`LeaseTiming::pause`], call [`Election::stale`].
    Wait,
    /// Stop immediately and permanently.
    Lost(LeaseLoss),
}

/// Why a leader no longer leads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLoss {
    /// It could not renew in time.
    #[error("the Lease could not be renewed in time")]
    Late,
    /// The Lease names another holder.
    #[error("the Lease is held by {0}")]
    Taken(String),
}

/// One candidate, for the lifetime of its process.
#[derive(Debug, Clone)]
pub struct Election {
    name: String,
    namespace: String,
    identity: String,
    timing: LeaseTiming,
    known: ObservedLease,
    /// Whether `known` was read, or written by us, in this round.
    fresh: bool,
    /// When the last successful renewal began.
    held: Option<Duration>,
}

#[derive(Debug, Clone)]
enum ObservedLease {
    /// It never existed.
    Nothing,
    /// It existed, and has been gone since then.
    Gone(Duration),
    /// It has had this content since then.
    Found(Box<Lease>, Duration),
}

impl Election {
    /// Creates a candidate for the Lease of that name. `identity` must be unique among all processes, past and future: a
    /// stale request of another process with the same identity would look like its own.
    pub fn new(namespace: &str, name: &str, identity: &str, timing: LeaseTiming) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            timing,
            known: ObservedLease::Nothing,
            fresh: false,
            held: None,
        }
    }

    /// The next action at the time `now`. `wall` is the time that people read in the Lease.
    pub fn next(&self, now: Duration, wall: Timestamp) -> ElectionAction {
        if self.until().is_some_and(|until| now >= until) {
            return ElectionAction::Lost(LeaseLoss::Late);
        }
        if !self.fresh {
            return ElectionAction::Read;
        }
        match &self.known {
            ObservedLease::Nothing => ElectionAction::Create(self.first(wall)),
            // Another client deleted the Lease. A leader creates it again; others first give that leader the time it may
            // need to exit.
            ObservedLease::Gone(since) if self.held.is_some() || now >= *since + self.timing.lease => {
                ElectionAction::Create(self.first(wall))
            }
            ObservedLease::Gone(_) => ElectionAction::Wait,
            ObservedLease::Found(lease, since) => {
                let holder = holder(lease);
                if holder == self.identity {
                    ElectionAction::Replace(self.renewed(lease, wall))
                } else if self.held.is_some() {
                    ElectionAction::Lost(LeaseLoss::Taken(if holder.is_empty() { "none" } else { holder }.to_owned()))
                } else if holder.is_empty() || now >= *since + self.stated(lease) {
                    ElectionAction::Replace(self.taken(lease, wall))
                } else {
                    ElectionAction::Wait
                }
            }
        }
    }

    /// Records what the API server had at a moment before `now`; `None` when the Lease did not exist.
    pub fn read(&mut self, found: Option<Lease>, now: Duration) {
        self.fresh = true;
        self.known = match (found, std::mem::replace(&mut self.known, ObservedLease::Nothing)) {
            (Some(lease), ObservedLease::Found(known, since)) if same_version(&lease, &known) => {
                ObservedLease::Found(known, since)
            }
            (Some(lease), _) => ObservedLease::Found(Box::new(lease), now),
            (None, ObservedLease::Found(..)) => ObservedLease::Gone(now),
            (None, known) => known,
        };
    }

    /// Records that the API server accepted a write that began at `started`; the answer arrived at `now`.
    pub fn written(&mut self, lease: Lease, started: Duration, now: Duration) {
        self.fresh = true;
        self.known = ObservedLease::Found(Box::new(lease), now);
        // A late answer does not restore a lead that has ended.
        if self.until().is_none_or(|until| now < until) {
            self.held = Some(started);
        }
    }

    /// Marks the known Lease as outdated: time passed, or a write was refused or got no answer.
    pub fn stale(&mut self) {
        self.fresh = false;
    }

    /// Until when this candidate leads; `None` before it does.
    pub fn until(&self) -> Option<Duration> {
        self.held.map(|started| started + self.timing.renew)
    }

    /// The holder of the Lease, as far as known; empty when it has none.
    pub fn holder(&self) -> &str {
        match &self.known {
            ObservedLease::Found(lease, _) => holder(lease),
            ObservedLease::Nothing | ObservedLease::Gone(_) => "",
        }
    }

    /// The released Lease, with which another candidate can lead at once. Only for a leader that has stopped all work
    /// permanently.
    pub fn released(&self, wall: Timestamp) -> Option<Box<Lease>> {
        match &self.known {
            ObservedLease::Found(lease, _) if holder(lease) == self.identity => {
                let spec = LeaseSpec {
                    holder_identity: Some(String::new()),
                    lease_duration_seconds: Some(1),
                    acquire_time: Some(MicroTime(wall)),
                    renew_time: Some(MicroTime(wall)),
                    ..lease.spec.clone().unwrap_or_default()
                };
                Some(with_spec(lease, spec))
            }
            _ => None,
        }
    }

    /// The duration that the holder stated.
    fn stated(&self, lease: &Lease) -> Duration {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        seconds.map_or(self.timing.lease, Duration::from_secs)
    }

    fn first(&self, wall: Timestamp) -> Box<Lease> {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        let spec = LeaseSpec { lease_transitions: Some(0), ..LeaseSpec::default() };
        Box::new(Lease { metadata, spec: Some(self.held_from(spec, wall)) })
    }

    fn taken(&self, lease: &Lease, wall: Timestamp) -> Box<Lease> {
        let mut spec = lease.spec.clone().unwrap_or_default();
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        with_spec(lease, self.held_from(spec, wall))
    }

    fn held_from(&self, spec: LeaseSpec, wall: Timestamp) -> LeaseSpec {
        // In whole seconds, rounded up.
        let seconds = self.timing.lease.as_millis().div_ceil(1000);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            ..spec
        }
    }

    fn renewed(&self, lease: &Lease, wall: Timestamp) -> Box<Lease> {
        let spec = lease.spec.clone().unwrap_or_default();
        with_spec(lease, LeaseSpec { renew_time: Some(MicroTime(wall)), ..spec })
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// Keeps the metadata that was read, including the version.
fn with_spec(lease: &Lease, spec: LeaseSpec) -> Box<Lease> {
    Box::new(Lease { metadata: lease.metadata.clone(), spec: Some(spec) })
}

fn same_version(one: &Lease, other: &Lease) -> bool {
    let version = |lease: &Lease| (lease.metadata.uid.clone(), lease.metadata.resource_version.clone());
    version(one) == version(other)
}

#[cfg(test)]
mod tests;
