//! Applies an event to a status.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    EventContext, PullFailure,
    display::{attestations, count, explain, foreign, how, mebibytes},
    ready_reason,
    scan_blocking::ScanBlock,
};
use crate::{
    api::{
        CachedImageStatus, ConditionType, Conditions, Reason,
        cached_image::{IndexState, PlatformStatus, Require},
        condition::{self, since},
    },
    prewarm::{
        puller::{PulledImage, PulledManifest, list},
        rate_limiter::RateRefusal,
        scan::ScanFindings,
        verify::{Presence, Verification},
    },
    registry::RetryClass,
};

/// Interval of the check whether a limit was raised.
const LIMIT_LOOK: Duration = Duration::from_secs(300);

/// Interval of the check whether Harbor has recovered; it sends no request.
const AWAY_LOOK: Duration = Duration::from_secs(15);

/// A status under change. Each method returns the time until the requeue.
pub(super) struct StatusTransition<'a> {
    pub(super) status: CachedImageStatus,
    pub(super) conditions: Conditions,
    pub(super) require: Require,
    /// The image's own spec names the platforms.
    pub(super) explicit: bool,
    pub(super) setting: &'a EventContext<'a>,
}

impl StatusTransition<'_> {
    pub(super) fn begun(&mut self, why: &str) -> Duration {
        self.place();
        self.status.attempts = None;
        self.status.next_attempt_at = None;
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
        self.status.attempts = None;
        self.status.next_attempt_at = None;
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

    pub(super) fn failed(&mut self, failure: &PullFailure) -> Duration {
        self.place();
        let attempts = self.status.attempts.unwrap_or(0).saturating_add(1);
        let pause = match failure.class {
            RetryClass::Retry => self.backoff(attempts, Duration::ZERO),
            RetryClass::Wait(None) => self.backoff(attempts, self.setting.timing.backoff * 3),
            RetryClass::Wait(Some(named)) => named.max(self.backoff(1, Duration::ZERO)),
            RetryClass::Stalled => self.setting.timing.backoff_max,
        };
        self.status.attempts = Some(attempts);
        self.report_blocked(failure);
        if failure.class == RetryClass::Stalled {
            self.conditions.stalled(failure.reason, &failure.message);
        } else {
            self.conditions.progressing(failure.reason, &failure.message);
        }
        self.resume_after(pause)
    }

    /// An upstream that must not be asked is no failure of the image, so its backoff does not grow. Images that wait for one
    /// upstream requeue spread over half a minute; one that is refused again keeps its status.
    pub(super) fn deferred(&mut self, refused: &RateRefusal) -> Duration {
        let spread = Duration::from_secs(30).mul_f64(self.setting.jitter.clamp(0.0, 1.0));
        let pause = since(self.setting.now, refused.until()) + spread;
        let reason = refused.reason();
        let is_said = ready_reason(&self.status) == Some(format!("{reason:?}").as_str());
        let known = is_said && self.status.next_attempt_at.is_some();
        if !known {
            self.place();
            self.status.attempts.get_or_insert(0);
            self.conditions.progressing(reason, refused.to_string());
            self.resume_after(pause);
        }
        pause.min(LIMIT_LOOK)
    }

    /// Keeps the known state and postpones the step.
    pub(super) fn unreachable(&mut self, why: &str) -> Duration {
        let reason = ready_reason(&self.status);
        let known = condition::is_true(&self.status.conditions, ConditionType::Ready)
            // A failed check of Harbor set this reason, or this method did.
            || [Some("InstanceNotReady"), Some("HarborUnreachable")].contains(&reason)
            || self.status.attempts.is_some_and(|attempts| attempts > 0);
        if !known {
            if reason == Some("Pulling") {
                // As for any other image that is due for a pull, whatever the rest of the status says.
                self.status.attempts = Some(0);
            }
            self.conditions.progressing(Reason::InstanceNotReady, why);
        }
        AWAY_LOOK
    }

    pub(super) fn looked(&mut self, verdict: &Verification) -> Duration {
        self.place();
        for (child, stored) in self.status.platforms.iter_mut().zip(&verdict.stored) {
            child.stored = *stored;
        }
        self.status.index = verdict.index;
        self.scanned(&verdict.scans);
        let age = self.age();
        if let Some(block) = ScanBlock::of(verdict, &self.status.platforms) {
            return self.blocked(&block, verdict, age);
        }
        self.conditions.remove(ConditionType::PullBlocked);
        if !verdict.complete() {
            return self.incomplete(verdict, age);
        }
        self.status.unstored_pulls = None;
        let by_digest = self.offline(ConditionType::OfflineByDigest, verdict.by_digest, verdict, age);
        let by_tag = match verdict.by_tag {
            Some(finding) => {
                let finding = self.untagged(finding, verdict, age);
                self.offline(ConditionType::OfflineByTag, finding, verdict, age)
            }
            None => {
                self.conditions.remove(ConditionType::OfflineByTag);
                OfflineState::Never(Reason::InvalidSpec)
            }
        };
        self.verified(by_tag, by_digest);
        let open = |offline| matches!(offline, OfflineState::Open);
        if open(by_digest) || open(by_tag) {
            self.status.next_attempt_at = None;
            return self.verify_interval(age);
        }
        // Clocks may differ: check once more soon after the pull.
        if by_tag == OfflineState::Never(Reason::PullByDigest) && age < self.setting.timing.store_bound {
            return self.resume_after(self.setting.timing.look_max);
        }
        self.rest(&verdict.scans)
    }

    /// An index that has been stored for a while without a tag gets none: Harbor knew the index before this tag was requested.
    fn untagged(&self, finding: Presence, verdict: &Verification, age: Duration) -> Presence {
        let bound = self.setting.timing.tag_bound;
        let stored = verdict.artifact.as_ref().filter(|_| verdict.index.is_some()).and_then(|listed| listed.since);
        let is_late = stored.is_some_and(|stored| since(stored, self.setting.now) >= bound && age >= bound);
        match finding {
            Presence::NotYet(Reason::Untagged) if is_late => Presence::No(Reason::PullByDigest),
            other => other,
        }
    }

    /// Nothing remains but periodic checks, and the results of scans.
    pub(super) fn rest(&mut self, scans: &ScanFindings) -> Duration {
        if scans.waits {
            self.status.next_attempt_at = None;
            return scans.again.unwrap_or(self.setting.timing.look_max);
        }
        let spread = self.setting.timing.refresh.mul_f64(0.9 + 0.2 * self.setting.jitter.clamp(0.0, 1.0));
        self.resume_after(scans.again.map_or(spread, |again| again.min(spread)))
    }

    /// Sets Ready from the verification once everything is stored.
    fn verified(&mut self, by_tag: OfflineState, by_digest: OfflineState) {
        let demanded = match self.require {
            Require::Online => OfflineState::Served,
            Require::OfflineByTag => by_tag,
            Require::OfflineByDigest => by_digest,
        };
        let missing = self.setting.missing;
        match demanded {
            _ if self.explicit && !missing.is_empty() => {
                let message = format!("the image has no child for {}; the others are stored", list(missing));
                self.conditions.stalled(Reason::PlatformMissing, message);
            }
            OfflineState::Served => {
                let bytes = self.status.platforms.iter().fold(0_u64, |sum, child| sum.saturating_add(child.bytes));
                let manifests = count(self.status.platforms.len(), "manifest");
                let mut message = format!("{manifests} with {} stored in Harbor", mebibytes(bytes));
                if !missing.is_empty() {
                    message = format!("{message}; the image has no child for {}", list(missing));
                }
                self.conditions.ready(Reason::Warm, message);
            }
            OfflineState::Open => self.conditions.progressing(
                Reason::Verifying,
                format!("everything is stored; waiting for require: {:?}", self.require),
            ),
            OfflineState::Never(Reason::InvalidSpec) => self.conditions.stalled(
                Reason::InvalidSpec,
                "require: OfflineByTag is impossible: the image is pinned to a digest. Use OfflineByDigest or Online",
            ),
            OfflineState::Never(reason) => self.conditions.stalled(
                reason,
                format!("everything is stored, but require: {:?} is not reached; see that condition", self.require),
            ),
        }
    }

    fn incomplete(&mut self, verdict: &Verification, age: Duration) -> Duration {
        let stored = verdict.stored.iter().filter(|stored| **stored).count();
        let state = format!("{stored} of {} stored in Harbor", count(verdict.stored.len(), "manifest"));
        let was_ready = self.status.next_attempt_at.is_some();
        let foreign = foreign(&self.status.platforms);
        if let Some(foreign) = &foreign {
            self.set_offline(false, Reason::ForeignLayer, foreign);
            let never = self.status.platforms.iter().filter(|child| child.foreign_layers > 0).count();
            if stored + never >= verdict.stored.len() {
                self.conditions.stalled(Reason::ForeignLayer, format!("{state}: {foreign}"));
                return self.rest(&verdict.scans);
            }
        } else {
            let unknown = "not everything is stored";
            self.conditions.set_unknown(ConditionType::OfflineByDigest, Reason::Verifying, unknown);
            if verdict.by_tag.is_some() {
                self.conditions.set_unknown(ConditionType::OfflineByTag, Reason::Verifying, unknown);
            }
        }
        if was_ready {
            return self.begun(&format!("{state}: some was deleted since; pulling again"));
        }
        let pulls = self.status.unstored_pulls.unwrap_or(0);
        if age >= self.setting.timing.store_after(pulls) {
            return self.unstored(&state, pulls.saturating_add(1), age);
        }
        self.conditions.progressing(Reason::Verifying, state);
        self.verify_interval(age)
    }

    /// Harbor did not store everything in time. It may have been read-only for a moment, and it does not retry what it could
    /// not store. The image is pulled again, the first time at once.
    fn unstored(&mut self, state: &str, pulls: u32, age: Duration) -> Duration {
        self.status.unstored_pulls = Some(pulls);
        if pulls == 1 {
            return self.begun(&format!("{state} after {} s: pulling it again", age.as_secs()));
        }
        self.status.attempts = Some(pulls - 1);
        let message = format!(
            "{state} {} s after pull {pulls}: check the quota of the project, whether Harbor is read-only, and that its registry \
             and job service run",
            age.as_secs()
        );
        self.failed(&PullFailure { reason: Reason::StoreTimeout, message, class: RetryClass::Wait(None) })
    }

    pub(super) fn verify_failed(&mut self, failure: &PullFailure) -> Duration {
        let ready =
            self.status.next_attempt_at.is_some() || ready_reason(&self.status).is_some_and(|reason| reason == "Warm");
        let blocked = matches!(failure.reason, Reason::PullBlocked);
        if blocked || (!ready && self.age() >= self.setting.timing.store_bound) {
            return self.failed(failure);
        }
        let named = if let RetryClass::Wait(Some(named)) = failure.class { named } else { Duration::ZERO };
        let pause = named.max(self.setting.timing.look_max);
        // The last result stays true until another one is seen.
        if !ready {
            self.conditions.progressing(failure.reason, &failure.message);
            return pause;
        }
        self.resume_after(pause)
    }

    /// Sets the condition for offline service, and returns whether the result is final.
    fn offline(
        &mut self,
        kind: ConditionType,
        finding: Presence,
        verdict: &Verification,
        age: Duration,
    ) -> OfflineState {
        let timing = self.setting.timing;
        let listed = verdict.artifact.as_ref();
        match finding {
            Presence::Yes(reason) => {
                self.conditions.set(kind, true, reason, explain(self.setting.image, reason, listed));
                OfflineState::Served
            }
            Presence::No(reason) => {
                self.conditions.set(kind, false, reason, explain(self.setting.image, reason, listed));
                // For a nested index, both the outer and the inner index need the time.
                let settle = if reason == Reason::NestedIndex { timing.settle * 2 } else { timing.settle };
                if age >= settle || reason == Reason::PullByDigest {
                    OfflineState::Never(reason)
                } else {
                    OfflineState::Open
                }
            }
            Presence::NotYet(reason) if age >= timing.offline_bound => {
                let message =
                    format!("{}, {} s after the pull", explain(self.setting.image, reason, listed), age.as_secs());
                let reason = if reason == Reason::Verifying { Reason::StoreTimeout } else { reason };
                self.conditions.set(kind, false, reason, message);
                OfflineState::Never(reason)
            }
            Presence::NotYet(reason) => {
                self.conditions.set_unknown(kind, reason, explain(self.setting.image, reason, listed));
                OfflineState::Open
            }
        }
    }

    fn set_offline(&mut self, served: bool, reason: Reason, message: &str) {
        self.conditions.set(ConditionType::OfflineByDigest, served, reason, message);
        if !self.setting.pinned {
            self.conditions.set(ConditionType::OfflineByTag, served, reason, message);
        }
    }

    fn place(&mut self) {
        self.status.image = Some(self.setting.image.to_owned()).filter(|image| !image.is_empty());
        self.status.proxy_project = Some(self.setting.proxy_project.to_owned()).filter(|name| !name.is_empty());
    }

    /// Schedules the next attempt after `pause`, in whole seconds, rounded up.
    fn resume_after(&mut self, pause: Duration) -> Duration {
        let seconds = i64::try_from(pause.as_secs() + u64::from(pause.subsec_nanos() > 0)).unwrap_or(i64::MAX);
        let at = self.setting.now.as_second().saturating_add(seconds);
        self.status.next_attempt_at = Timestamp::from_second(at).ok().map(Time);
        pause
    }

    fn backoff(&self, attempts: u32, least: Duration) -> Duration {
        let timing = self.setting.timing;
        let doubled = timing.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.max(least).min(timing.backoff_max).mul_f64(0.75 + 0.5 * self.setting.jitter.clamp(0.0, 1.0))
    }

    pub(super) fn verify_interval(&self, age: Duration) -> Duration {
        (age / 4).clamp(self.setting.timing.look_min, self.setting.timing.look_max)
    }

    /// Returns the time since the pull.
    fn age(&self) -> Duration {
        self.status.warmed_at.as_ref().map_or(Duration::ZERO, |time| since(time.0, self.setting.now))
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum OfflineState {
    Served,
    Open,
    Never(Reason),
}
