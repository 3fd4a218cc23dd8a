//! The phase of a CachedImage, and its place in the status. Pure.
//!
//! The CRD has no field for the phase: it follows from `attempts`, `nextAttemptAt`, `warmedAt`, `digest` and the reason of
//! Ready. [`Phase::of`] and [`Phase::record`] are the only code that knows how.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::api::{CachedImageStatus, ConditionType, Reason, condition};

/// What happens next with a CachedImage. Whether it is Ready is another question: an image stays Ready while it is verified again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No reconcile started a pull.
    Pending,
    /// A pull is due now.
    Pulling,
    /// A pull is due, and must wait, which is no failure of the image.
    Deferred {
        /// What it waits for.
        by: DeferredBy,
        /// Retry then; `None`: at the next reconcile.
        until: Option<Timestamp>,
    },
    /// Pulls failed.
    BackingOff {
        /// Failed pulls in a row, at least 1.
        attempts: u32,
        /// Retry then.
        until: Timestamp,
    },
    /// Pulled; Harbor has more to store, to tag or to scan.
    Verifying,
    /// Harbor has done what it will do; periodic checks follow.
    Settled {
        /// The next check.
        until: Timestamp,
    },
}

/// What a pull waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeferredBy {
    /// The rate limit of the upstream, or an upstream that does not answer.
    Upstream,
    /// Harbor, which does not answer.
    Harbor,
}

impl Phase {
    /// The phase that `status` shows.
    pub fn of(status: &CachedImageStatus) -> Self {
        let next = status.next_attempt_at.as_ref().map(|time| time.0);
        let reason = condition::reason(&status.conditions, ConditionType::Ready);
        match status.attempts {
            Some(0) => match reason {
                Some(Reason::RateLimited | Reason::UpstreamUnhealthy) => {
                    Self::Deferred { by: DeferredBy::Upstream, until: next }
                }
                _ => Self::Deferred { by: DeferredBy::Harbor, until: next },
            },
            Some(attempts) => Self::BackingOff { attempts, until: next.unwrap_or(Timestamp::UNIX_EPOCH) },
            None => match (reason, status.warmed_at.is_some() && status.digest.is_some()) {
                (None | Some(Reason::Pending), false) => Self::Pending,
                (Some(Reason::Pulling), _) | (_, false) => Self::Pulling,
                (_, true) => next.map_or(Self::Verifying, |until| Self::Settled { until }),
            },
        }
    }

    /// Writes the phase. The caller sets the reason of Ready, and of a pulled image its time and digest.
    pub fn record(self, status: &mut CachedImageStatus) {
        let (attempts, next) = match self {
            Self::Pending | Self::Pulling | Self::Verifying => (None, None),
            Self::Deferred { until, .. } => (Some(0), until),
            Self::BackingOff { attempts, until } => (Some(attempts.max(1)), Some(until)),
            Self::Settled { until } => (None, Some(until)),
        };
        status.attempts = attempts;
        status.next_attempt_at = next.map(Time);
    }

    /// When the phase ends by itself, if it names a time.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Self::Pending | Self::Pulling | Self::Verifying => None,
            Self::Deferred { until, .. } => until,
            Self::BackingOff { until, .. } | Self::Settled { until } => Some(until),
        }
    }

    /// When the next pull is due, if an earlier one failed or had to wait.
    pub fn retry_at(self) -> Option<Timestamp> {
        match self {
            Self::Deferred { until, .. } => until,
            Self::BackingOff { until, .. } => Some(until),
            Self::Pending | Self::Pulling | Self::Verifying | Self::Settled { .. } => None,
        }
    }

    /// Pulls that failed in a row.
    pub fn attempts(self) -> u32 {
        match self {
            Self::BackingOff { attempts, .. } => attempts,
            Self::Pending | Self::Pulling | Self::Deferred { .. } | Self::Verifying | Self::Settled { .. } => 0,
        }
    }
}
