//! Applies an event to a status: pulls, failures and waits. [`super::check`] applies the checks of Harbor.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    super::phase::{DeferredBy, Phase},
    display::{attestations, explain, foreign, how},
    scan_blocking::blocks_pulls,
};
use crate::{
    api::{
        CachedImageStatus, ConditionType, Conditions, Platform, Reason,
        cached_image::{IndexState, PlatformStatus, Require},
        condition::{self, since},
    },
    prewarm::{
        puller::{PulledImage, PulledManifest},
        rate_limiter::RateRefusal,
        scan::worst,
        timing::PrewarmTiming,
        verify::Verification,
    },
    reconcile::ReconcileError,
    registry::RetryClass,
    text::count,
};

/// Interval of the check whether a limit was raised.
const LIMIT_LOOK: Duration = Duration::from_secs(300);

/// Interval of the check whether Harbor has recovered; it sends no request.
const AWAY_LOOK: Duration = Duration::from_secs(15);

/// The result of a step.
#[derive(Debug, Clone, Copy)]
pub enum ImageEvent<'a> {
    /// Warming begins. The string gives the reason for the condition's message.
    Begun(&'a str),
    /// The pull succeeded.
    Warmed(&'a PulledImage),
    /// The pull, or its preparation, failed.
    Failed(&'a ReconcileError),
    /// The upstream must not be asked before a later time.
    Deferred(&'a RateRefusal),
    /// Harbor is not asked for now. The string gives the reason for the condition's message.
    Away(&'a str),
    /// Harbor's inventory was checked.
    Looked(&'a Verification),
    /// The check of Harbor's inventory failed.
    LookFailed(&'a ReconcileError),
}

/// The inputs of [`super::next`] besides the event.
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

/// A status under change. Each method returns the time until the requeue.
pub(super) struct StatusTransition<'a> {
    pub(super) status: CachedImageStatus,
    pub(super) conditions: Conditions,
    /// The phase before the event, and that which an event entered.
    pub(super) phase: Phase,
    pub(super) require: Require,
    /// The image's own spec names the platforms.
    pub(super) explicit: bool,
    pub(super) setting: &'a EventContext<'a>,
}

impl StatusTransition<'_> {
    pub(super) fn begun(&mut self, why: &str) -> Duration {
        self.place();
        self.enter(Phase::Pulling);
        self.conditions.progressing(Reason::Pulling, why);
        Duration::ZERO
    }

    pub(super) fn warmed(&mut self, warmed: &PulledImage) -> Duration {
        self.place();
        let known = std::mem::take(&mut self.status.platforms);
        let child = |child: &PulledManifest| {
            let known = known.iter().find(|known| known.digest == child.digest.as_str());
            // For a manifest that Harbor refuses to serve, keep the sizes known before.
            let sizes = known.filter(|_| child.refused.is_some()).map(|known| (known.layers, known.bytes));
            let (layers, bytes) = sizes.unwrap_or((child.layers, child.bytes));
            PlatformStatus {
                platform: child.platform.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string),
                digest: child.digest.to_string(),
                layers,
                bytes,
                stored: false,
                foreign_layers: child.foreign,
                scan: known.and_then(|known| known.scan.clone()),
            }
        };
        self.status.digest = Some(warmed.digest.to_string());
        self.status.index_children = warmed.index_children;
        self.status.index = warmed.nested.then_some(IndexState::Nested);
        self.status.platforms = warmed.children.iter().map(child).collect();
        self.status.attestations = attestations(warmed);
        self.sum_scans();
        self.status.warmed_at = Some(Time(condition::whole_seconds(self.setting.now)));
        self.enter(Phase::Verifying);
        let fetches = warmed.fetches();
        let pulled = warmed.children.iter().filter(|child| child.refused.is_none()).count();
        let message = format!("pulled {} of {}: {}", count(pulled, "manifest"), warmed.digest, how(warmed));
        self.conditions.progressing(Reason::Verifying, message);
        let waiting = "not verified since the pull";
        self.conditions.set_unknown(ConditionType::OfflineByDigest, Reason::Verifying, waiting);
        if self.setting.pinned {
            self.conditions.remove(ConditionType::OfflineByTag);
        } else {
            self.conditions.set_unknown(ConditionType::OfflineByTag, Reason::Verifying, waiting);
        }
        // Without waiting: the manifests already show this.
        if warmed.nested {
            self.set_offline(false, Reason::NestedIndex, &explain(self.setting.image, Reason::NestedIndex, None));
        }
        if let Some(foreign) = foreign(&self.status.platforms) {
            self.set_offline(false, Reason::ForeignLayer, &foreign);
        }
        if fetches.is_over() { Duration::ZERO } else { self.setting.timing.first_look }
    }

    pub(super) fn failed(&mut self, failure: &ReconcileError) -> Duration {
        self.failed_times(self.phase.attempts().saturating_add(1), failure)
    }

    pub(super) fn failed_times(&mut self, attempts: u32, failure: &ReconcileError) -> Duration {
        self.place();
        let pause = match failure.class {
            RetryClass::Retry => self.backoff(attempts, Duration::ZERO),
            RetryClass::Wait(None) => self.backoff(attempts, self.setting.timing.backoff * 3),
            RetryClass::Wait(Some(named)) => named.max(self.backoff(1, Duration::ZERO)),
            RetryClass::Stalled => self.setting.timing.backoff_max,
        };
        if blocks_pulls(failure.reason) {
            self.conditions.set(ConditionType::PullBlocked, true, failure.reason, &failure.message);
        } else {
            self.conditions.remove(ConditionType::PullBlocked);
        }
        self.conditions.failed(failure);
        self.enter(Phase::BackingOff { attempts, until: self.after(pause) });
        pause
    }

    /// An upstream that must not be asked is no failure of the image, so its backoff does not grow. Images that wait for one
    /// upstream requeue spread over half a minute; one that is refused again keeps its status.
    pub(super) fn deferred(&mut self, refused: &RateRefusal) -> Duration {
        let spread = Duration::from_secs(30).mul_f64(self.setting.jitter.clamp(0.0, 1.0));
        let pause = since(self.setting.now, refused.until()) + spread;
        let is_known = self.reason() == Some(refused.reason()) && self.phase.until().is_some();
        if !is_known {
            self.place();
            self.conditions.progressing(refused.reason(), refused.to_string());
            let until = self.after(pause);
            self.enter(match self.phase {
                Phase::BackingOff { attempts, .. } => Phase::BackingOff { attempts, until },
                Phase::Pending | Phase::Pulling | Phase::Deferred { .. } | Phase::Verifying | Phase::Settled { .. } => {
                    Phase::Deferred { by: DeferredBy::Upstream, until: Some(until) }
                }
            });
        }
        pause.min(LIMIT_LOOK)
    }

    /// Keeps the known state and postpones the step.
    pub(super) fn unreachable(&mut self, why: &str) -> Duration {
        let is_ready = condition::is_true(&self.status.conditions, ConditionType::Ready);
        // A failed check of Harbor set this reason, or this method did.
        let is_known = matches!(self.reason(), Some(Reason::InstanceNotReady | Reason::HarborUnreachable));
        if is_ready || is_known {
            return AWAY_LOOK;
        }
        let until = match self.phase {
            Phase::BackingOff { .. } => return AWAY_LOOK,
            Phase::Pending | Phase::Pulling => Some(None),
            Phase::Deferred { until, .. } => Some(until),
            Phase::Verifying | Phase::Settled { .. } => None,
        };
        if let Some(until) = until {
            self.enter(Phase::Deferred { by: DeferredBy::Harbor, until });
        }
        self.conditions.progressing(Reason::InstanceNotReady, why);
        AWAY_LOOK
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        phase.record(&mut self.status);
    }

    /// The reason of Ready before the event.
    fn reason(&self) -> Option<Reason> {
        condition::reason(&self.status.conditions, ConditionType::Ready)
    }

    /// Aggregates the scans of the manifests.
    pub(super) fn sum_scans(&mut self) {
        let scans = self.status.platforms.iter().map(|child| (child.digest.as_str(), child.scan.as_ref()));
        let any = self.status.platforms.iter().any(|child| child.scan.is_some());
        self.status.scan = any.then(|| worst(scans)).flatten();
    }

    pub(super) fn set_offline(&mut self, served: bool, reason: Reason, message: &str) {
        self.conditions.set(ConditionType::OfflineByDigest, served, reason, message);
        if !self.setting.pinned {
            self.conditions.set(ConditionType::OfflineByTag, served, reason, message);
        }
    }

    pub(super) fn place(&mut self) {
        self.status.image = Some(self.setting.image.to_owned()).filter(|image| !image.is_empty());
        self.status.proxy_project = Some(self.setting.proxy_project.to_owned()).filter(|name| !name.is_empty());
    }

    /// The time after `pause`, in whole seconds, rounded up.
    pub(super) fn after(&self, pause: Duration) -> Timestamp {
        let seconds = i64::try_from(pause.as_secs() + u64::from(pause.subsec_nanos() > 0)).unwrap_or(i64::MAX);
        let at = self.setting.now.as_second().saturating_add(seconds);
        Timestamp::from_second(at).unwrap_or(Timestamp::MAX)
    }

    fn backoff(&self, attempts: u32, least: Duration) -> Duration {
        let timing = self.setting.timing;
        let doubled = timing.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.max(least).min(timing.backoff_max).mul_f64(0.75 + 0.5 * self.setting.jitter.clamp(0.0, 1.0))
    }
}
