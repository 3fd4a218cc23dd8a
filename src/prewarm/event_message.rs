//! Events for changes of a status. Pure.

use super::state_machine;
use crate::api::{CachedImageStatus, ConditionType, Reason, condition};

/// The content of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Type `Warning`, else `Normal`.
    pub warning: bool,
    /// The new reason of Ready.
    pub reason: String,
    /// The message, one sentence.
    pub message: String,
}

impl Note {
    /// Returns a note if the reason of Ready changed.
    pub fn of_change(old: &CachedImageStatus, new: &CachedImageStatus) -> Option<Self> {
        let ready = condition::find(&new.conditions, ConditionType::Ready)?;
        if state_machine::ready_reason(old) == Some(ready.reason.as_str()) {
            return None;
        }
        // An image that waits for another resource recovers without a user.
        let expected = [
            Reason::Pulling,
            Reason::Verifying,
            Reason::Warm,
            Reason::NotProxied,
            Reason::InstanceNotReady,
            Reason::PlatformsUnknown,
            Reason::Scanning,
            Reason::NotScanned,
        ];
        let warning = !expected.iter().any(|reason| format!("{reason:?}") == ready.reason);
        let mut message = ready.message.clone();
        if let Some(next) = new.next_attempt_at.as_ref().filter(|_| new.attempts.is_some()) {
            message = format!("{message}; next attempt at {}", next.0);
        }
        Some(Note { warning, reason: ready.reason.clone(), message })
    }
}
