//! Applies a check of Harbor to a status. [`StatusTransition::verified`] sets Ready.

use std::time::Duration;

use super::{
    super::phase::Phase,
    display::{explain, foreign, mebibytes},
    scan_blocking::{ScanBlock, is_final},
    transitions::StatusTransition,
};
use crate::{
    api::{
        ConditionType, Reason,
        cached_image::Require,
        condition::{self, since},
    },
    prewarm::{
        puller::list,
        scan::ScanFindings,
        verify::{Presence, Verification},
    },
    reconcile::ReconcileError,
    registry::RetryClass,
    text::count,
};

impl StatusTransition<'_> {
    pub(super) fn looked(&mut self, verdict: &Verification) -> Duration {
        self.place();
        for (child, stored) in self.status.platforms.iter_mut().zip(&verdict.stored) {
            child.stored = *stored;
        }
        self.status.index = verdict.index;
        for (child, scan) in self.status.platforms.iter_mut().zip(&verdict.scans.each) {
            child.scan.clone_from(scan);
        }
        self.sum_scans();
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
            self.enter(Phase::Verifying);
            return self.verify_interval(age);
        }
        // Clocks may differ: check once more soon after the pull.
        if by_tag == OfflineState::Never(Reason::PullByDigest) && age < self.setting.timing.store_bound {
            return self.settle(self.setting.timing.look_max);
        }
        self.rest(&verdict.scans)
    }

    pub(super) fn verify_failed(&mut self, failure: &ReconcileError) -> Duration {
        let ready = self.is_settled() || condition::is_true(&self.status.conditions, ConditionType::Ready);
        if failure.reason == Reason::PullBlocked || (!ready && self.age() >= self.setting.timing.store_bound) {
            return self.failed(failure);
        }
        let named = if let RetryClass::Wait(Some(named)) = failure.class { named } else { Duration::ZERO };
        let pause = named.max(self.setting.timing.look_max);
        // The last result stays true until another one is seen.
        if !ready {
            self.conditions.progressing(failure.reason, &failure.message);
            return pause;
        }
        self.settle(pause)
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

    fn incomplete(&mut self, verdict: &Verification, age: Duration) -> Duration {
        let stored = verdict.stored.iter().filter(|stored| **stored).count();
        let state = format!("{stored} of {} stored in Harbor", count(verdict.stored.len(), "manifest"));
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
        if self.is_settled() {
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
        let message = format!(
            "{state} {} s after pull {pulls}: check the quota of the project, whether Harbor is read-only, and that its registry \
             and job service run",
            age.as_secs()
        );
        self.failed_times(pulls, &ReconcileError::waiting(Reason::StoreTimeout, message))
    }

    /// Sets the status of an image that Harbor has stored but refuses to serve.
    fn blocked(&mut self, block: &ScanBlock, verdict: &Verification, age: Duration) -> Duration {
        let ScanBlock { reason, message } = block;
        self.conditions.set(ConditionType::PullBlocked, true, *reason, message);
        self.conditions.set(ConditionType::OfflineByDigest, false, *reason, "see PullBlocked");
        if verdict.by_tag.is_some() {
            self.conditions.set(ConditionType::OfflineByTag, false, *reason, "see PullBlocked");
        }
        let mut each = verdict.stored.iter().zip(&verdict.refused);
        let others_missing = each.any(|(stored, refused)| !stored && refused.is_none());
        if others_missing && self.is_settled() {
            return self.begun(&format!("{message}. Others were deleted since; pulling again"));
        }
        if others_missing && age < self.setting.timing.store_bound {
            self.conditions.progressing(*reason, format!("{message}. Harbor has not stored all of the others yet"));
            return self.verify_interval(age);
        }
        if is_final(*reason) {
            self.conditions.stalled(*reason, message);
        } else {
            self.conditions.progressing(*reason, message);
            if verdict.scans.again.is_none() && age < self.setting.timing.offline_bound {
                self.enter(Phase::Verifying);
                return self.verify_interval(age);
            }
        }
        self.rest(&verdict.scans)
    }

    /// Nothing remains but periodic checks, and the results of scans.
    fn rest(&mut self, scans: &ScanFindings) -> Duration {
        if scans.waits {
            self.enter(Phase::Verifying);
            return scans.again.unwrap_or(self.setting.timing.look_max);
        }
        let spread = self.setting.timing.refresh.mul_f64(0.9 + 0.2 * self.setting.jitter.clamp(0.0, 1.0));
        self.settle(scans.again.map_or(spread, |again| again.min(spread)))
    }

    fn settle(&mut self, pause: Duration) -> Duration {
        self.enter(Phase::Settled { until: self.after(pause) });
        pause
    }

    fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled { .. })
    }

    fn verify_interval(&self, age: Duration) -> Duration {
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
