//! The state machine of a CachedImage: Pending → Warming → Verifying → Ready, with failures, backoff and permanent errors.
//!
//! Pure. [`step`] returns what to do now; [`next`] returns the status after it, and when to requeue. The status alone carries
//! the state, so a restart continues where it stopped.

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

/// The next step for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Do nothing for this time.
    Idle(Duration),
    /// Mark the image as warming ([`Event::Begun`]).
    Begin,
    /// Pull the image.
    Warm,
    /// Check what Harbor has stored.
    Look,
    /// Check whether the tag has moved, and verify everything again.
    Refresh,
}

/// The result of a step.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Warming begins. The string gives the reason for the condition's message.
    Begun(&'a str),
    /// The pull succeeded.
    Warmed(&'a Warmed),
    /// The pull, or its preparation, failed.
    Failed(&'a Failure),
    /// The upstream must not be asked before a later time.
    Deferred(&'a Refused),
    /// Harbor is not asked for now. The string gives the reason for the condition's message.
    Away(&'a str),
    /// Harbor's inventory was checked.
    Looked(&'a Verdict),
    /// The check of Harbor's inventory failed.
    LookFailed(&'a Failure),
}

/// A failed step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Reason for the condition.
    pub reason: Reason,
    /// Message for the condition.
    pub message: String,
    /// How to handle the failure.
    pub class: Class,
}

impl Failure {
    /// Creates a failure with this message.
    pub fn new(reason: Reason, message: impl ToString, class: Class) -> Self {
        Self { reason, message: message.to_string(), class }
    }
}

/// The inputs of [`next`] besides the event.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The image at Harbor.
    pub image: &'a str,
    /// The ProxyProject of the image.
    pub proxy_project: &'a str,
    /// Whether the image is pinned to a digest.
    pub pinned: bool,
    /// Wanted platforms that the image has no child for.
    pub missing: &'a [Platform],
    /// The current time.
    pub now: Timestamp,
    /// A random number from 0 to 1.
    pub jitter: f64,
    /// Durations of waits and pauses.
    pub timing: &'a Timing,
}

/// The next status, and when to requeue.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The complete status.
    pub status: CachedImageStatus,
    /// Requeue after this time.
    pub requeue: Duration,
}

/// Returns the step that is due for `cached` now. `image` is the image at Harbor under today's mapping.
pub fn step(cached: &CachedImage, image: &str, now: Timestamp) -> Step {
    let Some(status) = cached.status.as_ref().filter(|status| status.image.as_deref() == Some(image)) else {
        return Step::Begin;
    };
    if status.observed_generation != cached.metadata.generation {
        return Step::Begin;
    }
    // Whether the upstream may be asked is known without a request; a limit may have been raised.
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

/// Returns the status of `cached` after `event`.
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

/// Returns the reason of the Ready condition.
pub fn ready_reason(status: &CachedImageStatus) -> Option<&str> {
    condition::find(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.as_str())
}

#[cfg(test)]
mod tests;
