//! The state machine of a CachedImage. Pure.
//!
//! ```text
//! Pending ──Begun──▶ Pulling ──Warmed──▶ Verifying ──Looked──▶ Settled ──Looked──▶ Settled
//!
//! Pulling     Failed                     ▶ BackingOff, which pulls again later
//! Pulling     Deferred, Away             ▶ Deferred, which pulls again as soon as it may
//! Verifying   Looked, not all stored     ▶ Verifying; too late: Pulling, then BackingOff
//! Settled     Looked, some was removed   ▶ Pulling
//! any         Begun                      ▶ Pulling: another spec, mapping or platform, or the tag moved
//! ```
//!
//! [`step`] returns what to do now; [`next`] returns the status after it, and when to requeue. The status alone carries the
//! state ([`Phase`]), so a restart continues where it stopped. Ready is another question than the phase: `check` sets it when
//! everything is stored, in Verifying as in Settled, and it stays until a check or a pull says otherwise.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use self::transitions::StatusTransition;
pub use self::{
    scan_blocking::refused,
    transitions::{EventContext, ImageEvent},
};
use super::phase::{DeferredBy, Phase};
use crate::{
    api::{
        CachedImage, CachedImageStatus, ConditionType, Conditions, Reason,
        condition::{self, since},
    },
    reconcile::{EventMessage, ReconcileResult},
};

mod check;
mod display;
mod scan_blocking;
mod transitions;

/// The next step for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageAction {
    /// Do nothing for this time.
    Idle(Duration),
    /// Mark the image as warming ([`ImageEvent::Begun`]).
    Begin,
    /// Pull the image.
    Warm,
    /// Check what Harbor has stored.
    Look,
    /// Check whether the tag has moved, and verify everything again.
    Refresh,
}

/// Returns the step that is due for `cached` now. `image` is the image at Harbor under today's mapping.
pub fn step(cached: &CachedImage, image: &str, now: Timestamp) -> ImageAction {
    let is_current = |status: &&CachedImageStatus| {
        status.image.as_deref() == Some(image) && status.observed_generation == cached.metadata.generation
    };
    let Some(status) = cached.status.as_ref().filter(is_current) else { return ImageAction::Begin };
    let phase = Phase::of(status);
    let pause = phase.until().map_or(Duration::ZERO, |until| since(now, until));
    match phase {
        Phase::Pending => ImageAction::Begin,
        // Whether the upstream may be asked is known without a request; a limit may have been raised.
        Phase::Pulling | Phase::Deferred { by: DeferredBy::Upstream, .. } => ImageAction::Warm,
        _ if !pause.is_zero() => ImageAction::Idle(pause),
        Phase::Deferred { by: DeferredBy::Harbor, .. } | Phase::BackingOff { .. } => ImageAction::Warm,
        Phase::Verifying => ImageAction::Look,
        Phase::Settled { .. } => ImageAction::Refresh,
    }
}

/// Returns the status of `cached` after `event`.
pub fn next(
    cached: &CachedImage,
    event: ImageEvent<'_>,
    setting: &EventContext<'_>,
) -> ReconcileResult<CachedImageStatus> {
    transition(cached, event, setting).0
}

/// Returns the result of `event`, and the phase that it entered.
fn transition(
    cached: &CachedImage,
    event: ImageEvent<'_>,
    setting: &EventContext<'_>,
) -> (ReconcileResult<CachedImageStatus>, Phase) {
    let mut status = cached.status.clone().unwrap_or_default();
    status.observed_generation = cached.metadata.generation;
    let before = condition::reason(&status.conditions, ConditionType::Ready);
    let mut change = StatusTransition {
        require: cached.spec.require,
        explicit: !cached.spec.platforms.is_empty(),
        conditions: Conditions::from_status(&status.conditions, cached.metadata.generation, setting.now),
        phase: Phase::of(&status),
        status,
        setting,
    };
    let requeue = match (change.phase, event) {
        (_, ImageEvent::Begun(why)) => change.begun(why),
        (_, ImageEvent::Warmed(warmed)) => change.warmed(warmed),
        (_, ImageEvent::Failed(failure)) => change.failed(failure),
        (_, ImageEvent::Deferred(refused)) => change.deferred(refused),
        (_, ImageEvent::Away(why)) => change.unreachable(why),
        (Phase::Verifying | Phase::Settled { .. }, ImageEvent::Looked(verdict)) => change.looked(verdict),
        (Phase::Verifying | Phase::Settled { .. }, ImageEvent::LookFailed(failure)) => change.verify_failed(failure),
        // There is nothing to check before the pull.
        (
            Phase::Pending | Phase::Pulling | Phase::Deferred { .. } | Phase::BackingOff { .. },
            ImageEvent::Looked(_) | ImageEvent::LookFailed(_),
        ) => setting.timing.look_min,
    };
    let StatusTransition { mut status, conditions, phase, .. } = change;
    status.conditions = conditions.into_list();
    let notes = event_of_change(before, &status, phase).into_iter().collect();
    (ReconcileResult { status, requeue, notes }, phase)
}

/// Returns an Event if the reason of Ready changed.
fn event_of_change(before: Option<Reason>, new: &CachedImageStatus, phase: Phase) -> Option<EventMessage> {
    let ready = condition::find(&new.conditions, ConditionType::Ready)?;
    let reason = ready.reason.parse().ok().filter(|reason| Some(*reason) != before)?;
    // An image that waits for another resource recovers without a user.
    let is_expected = matches!(
        reason,
        Reason::Pulling
            | Reason::Verifying
            | Reason::Warm
            | Reason::NotProxied
            | Reason::InstanceNotReady
            | Reason::PlatformsUnknown
            | Reason::Scanning
            | Reason::NotScanned
    );
    let mut message = ready.message.clone();
    if let Some(at) = phase.retry_at() {
        message = format!("{message}; next attempt at {at}");
    }
    Some(EventMessage { warning: !is_expected, reason, message })
}

#[cfg(test)]
mod tests;
