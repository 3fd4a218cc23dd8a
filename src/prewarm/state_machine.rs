//! The state machine of a CachedImage: Pending → Pulling → Verifying → Ready, with failures, backoff and permanent errors.
//!
//! Pure. [`step`] returns what to do now; [`next`] returns the status after it, and when to requeue. The status alone carries
//! the state, so a restart continues where it stopped.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

pub use self::scan_blocking::refused;
use self::transitions::StatusTransition;
use super::{puller::PulledImage, rate_limiter::RateRefusal, timing::PrewarmTiming, verify::Verification};
use crate::{
    api::{
        CachedImage, CachedImageStatus, ConditionType, Conditions, Platform, Reason,
        condition::{self, since},
    },
    registry::RetryClass,
};

mod display;
mod scan_blocking;
mod transitions;

/// The next step for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageAction {
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
pub enum ImageEvent<'a> {
    /// The pull begins. The string gives the reason for the condition's message.
    Begun(&'a str),
    /// The pull succeeded.
    Warmed(&'a PulledImage),
    /// The pull, or its preparation, failed.
    Failed(&'a PullFailure),
    /// The upstream must not be asked before a later time.
    Deferred(&'a RateRefusal),
    /// Harbor is not asked for now. The string gives the reason for the condition's message.
    Away(&'a str),
    /// Harbor's inventory was checked.
    Looked(&'a Verification),
    /// The check of Harbor's inventory failed.
    LookFailed(&'a PullFailure),
}

/// A failed step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFailure {
    /// Reason for the condition.
    pub reason: Reason,
    /// Message for the condition.
    pub message: String,
    /// How to handle the failure.
    pub class: RetryClass,
}

impl PullFailure {
    /// Creates a failure with this message.
    pub fn new(reason: Reason, message: impl ToString, class: RetryClass) -> Self {
        Self { reason, message: message.to_string(), class }
    }
}

/// The inputs of [`next`] besides the event.
#[derive(Debug, Clone, Copy)]
pub struct EventContext<'a> {
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
    pub timing: &'a PrewarmTiming,
}

/// The next status, and when to requeue.
#[derive(Debug, Clone, PartialEq)]
pub struct NextStatus {
    /// The complete status.
    pub status: CachedImageStatus,
    /// Requeue after this time.
    pub requeue: Duration,
}

/// Returns the step that is due for `cached` now. `image` is the image at Harbor under today's mapping.
pub fn step(cached: &CachedImage, image: &str, now: Timestamp) -> ImageAction {
    let Some(status) = cached.status.as_ref().filter(|status| status.image.as_deref() == Some(image)) else {
        return ImageAction::Begin;
    };
    if status.observed_generation != cached.metadata.generation {
        return ImageAction::Begin;
    }
    // Whether the upstream may be asked is known without a request; a limit may have been raised.
    let is_deferred = [Some("RateLimited"), Some("UpstreamUnhealthy")].contains(&ready_reason(status));
    let deferred = is_deferred && status.attempts == Some(0);
    if deferred {
        return ImageAction::Warm;
    }
    if let Some(next) = &status.next_attempt_at {
        let pause = since(now, next.0);
        if !pause.is_zero() {
            return ImageAction::Idle(pause);
        }
    }
    let warming = ready_reason(status) == Some("Pulling");
    if warming || status.attempts.is_some() || status.warmed_at.is_none() || status.digest.is_none() {
        ImageAction::Warm
    } else if status.next_attempt_at.is_none() {
        ImageAction::Look
    } else {
        ImageAction::Refresh
    }
}

/// Returns the status of `cached` after `event`.
pub fn next(cached: &CachedImage, event: ImageEvent<'_>, setting: &EventContext<'_>) -> NextStatus {
    let mut status = cached.status.clone().unwrap_or_default();
    status.observed_generation = cached.metadata.generation;
    let conditions = Conditions::from_status(&status.conditions, cached.metadata.generation, setting.now);
    let mut change = StatusTransition {
        require: cached.spec.require,
        explicit: !cached.spec.platforms.is_empty(),
        status,
        conditions,
        setting,
    };
    let requeue = match event {
        ImageEvent::Begun(why) => change.begun(why),
        ImageEvent::Warmed(warmed) => change.warmed(warmed),
        ImageEvent::Failed(failure) => change.failed(failure),
        ImageEvent::Deferred(refused) => change.deferred(refused),
        ImageEvent::Away(why) => change.unreachable(why),
        ImageEvent::Looked(verdict) => change.looked(verdict),
        ImageEvent::LookFailed(failure) => change.verify_failed(failure),
    };
    let StatusTransition { mut status, conditions, .. } = change;
    status.conditions = conditions.into_list();
    NextStatus { status, requeue }
}

/// Returns the reason of the Ready condition.
pub fn ready_reason(status: &CachedImageStatus) -> Option<&str> {
    condition::find(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.as_str())
}

#[cfg(test)]
mod tests;
