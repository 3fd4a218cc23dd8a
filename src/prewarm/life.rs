//! The life of a CachedImage: Pending → Warming → Verifying → Ready, with failures, backoff and what can never be.
//!
//! Pure. [`step`] says what is to be done now; [`next`] says what the status becomes when it was done, and when to come back.
//! The status alone carries the state, so that a restart goes on where it stood.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

pub use self::blocked::refused;
use self::change::Change;
use super::{allowance::Refused, puller::Warmed, timing::Timing, verify::Verdict};
use crate::{
    api::{
        CachedImage, CachedImageStatus, ConditionType, Conditions, Platform, Reason,
        condition::{self, since},
    },
    registry::Class,
};

mod blocked;
mod change;
mod words;

/// What is to be done for an image now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing for that long.
    Idle(Duration),
    /// Say that it is being warmed ([`Event::Begun`]).
    Begin,
    /// Pull it.
    Warm,
    /// Look what Harbor has stored.
    Look,
    /// See whether the tag has moved, and look at everything again.
    Refresh,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Warming begins. The string says why, for people.
    Begun(&'a str),
    /// The pull is done.
    Warmed(&'a Warmed),
    /// The pull, or what goes before it, failed.
    Failed(&'a Failure),
    /// The upstream may not be asked before this time.
    Deferred(&'a Refused),
    /// Harbor is left alone for now. The string says why, for people.
    Away(&'a str),
    /// Harbor was looked at.
    Looked(&'a Verdict),
    /// Harbor could not be looked at.
    LookFailed(&'a Failure),
}

/// Why something did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the condition.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// What to do about it.
    pub class: Class,
}

impl Failure {
    /// A failure of which `message` tells people.
    pub fn new(reason: Reason, message: impl ToString, class: Class) -> Self {
        Self { reason, message: message.to_string(), class }
    }
}

/// What stands around an event.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The image at Harbor.
    pub image: &'a str,
    /// The ProxyProject that it belongs to.
    pub proxy_project: &'a str,
    /// Whether the image is pinned to a digest.
    pub pinned: bool,
    /// Wanted platforms that the image has no child for.
    pub missing: &'a [Platform],
    /// The moment.
    pub now: Timestamp,
    /// A random number from 0 to 1.
    pub jitter: f64,
    /// How long what takes.
    pub timing: &'a Timing,
}

/// The next status, and when to come back.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The whole status.
    pub status: CachedImageStatus,
    /// Come back after that time.
    pub requeue: Duration,
}

/// What is to be done for `cached` now. `image` is the image at Harbor, as it is mapped today.
pub fn step(cached: &CachedImage, image: &str, now: Timestamp) -> Step {
    let Some(status) = cached.status.as_ref().filter(|status| status.image.as_deref() == Some(image)) else {
        return Step::Begin;
    };
    if status.observed_generation != cached.metadata.generation {
        return Step::Begin;
    }
    // Whether the upstream may be asked is known without asking it: a limit may have been raised.
    let is_deferred = [Some("RateLimited"), Some("UpstreamUnhealthy")].contains(&ready_reason(status));
    let deferred = is_deferred && status.attempts == Some(0);
    if deferred {
        return Step::Warm;
    }
    if let Some(next) = &status.next_attempt_at {
        let pause = since(now, next.0);
        if !pause.is_zero() {
            return Step::Idle(pause);
        }
    }
    let warming = ready_reason(status) == Some("Warming");
    if warming || status.attempts.is_some() || status.warmed_at.is_none() || status.digest.is_none() {
        Step::Warm
    } else if status.next_attempt_at.is_none() {
        Step::Look
    } else {
        Step::Refresh
    }
}

/// What the status of `cached` becomes after `event`.
pub fn next(cached: &CachedImage, event: Event<'_>, setting: &Setting<'_>) -> Next {
    let mut status = cached.status.clone().unwrap_or_default();
    status.observed_generation = cached.metadata.generation;
    let conditions = Conditions::from_status(&status.conditions, cached.metadata.generation, setting.now);
    let mut change = Change {
        require: cached.spec.require,
        explicit: !cached.spec.platforms.is_empty(),
        status,
        conditions,
        setting,
    };
    let requeue = match event {
        Event::Begun(why) => change.begun(why),
        Event::Warmed(warmed) => change.warmed(warmed),
        Event::Failed(failure) => change.failed(failure),
        Event::Deferred(refused) => change.deferred(refused),
        Event::Away(why) => change.away(why),
        Event::Looked(verdict) => change.looked(verdict),
        Event::LookFailed(failure) => change.look_failed(failure),
    };
    let Change { mut status, conditions, .. } = change;
    status.conditions = conditions.into_list();
    Next { status, requeue }
}

/// The reason of Ready.
pub fn ready_reason(status: &CachedImageStatus) -> Option<&str> {
    condition::find(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.as_str())
}

#[cfg(test)]
mod tests;
