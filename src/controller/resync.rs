//! When resources are reconciled, and how recent the reads are. All resources of one Harbor are reconciled together, once
//! an interval, from lists. Before a write or a new refusal, the object is read individually.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::{
    api::Reason,
    harbor::Freshness,
    plan::{Action, Plan, Refusal},
};

/// Maximum age of a read that a write may be based on.
pub(super) const FRESH: SignedDuration = SignedDuration::from_secs(5);
/// Added to each requeue time, so that no resource is reconciled just before the next resync.
const MARGIN: Duration = Duration::from_millis(100);

/// The time and the freshness of the reads of one reconcile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadMode {
    /// Time of the reconcile.
    pub(super) now: Timestamp,
    /// How recent reads have to be.
    pub(super) freshness: Freshness,
}

impl ReadMode {
    /// The same, with every object read individually now.
    pub(super) fn uncached(self) -> Self {
        Self { freshness: Freshness::Asked(self.now), ..self }
    }

    /// Whether a read of this time is too old to base a write on.
    pub(super) fn is_too_old(self, at: Timestamp) -> bool {
        at < self.now - FRESH
    }
}

/// Whether the plan needs no fresh read: nothing to do, or only to create an object that the status does not remember.
/// Harbor accepts only one object of a name.
pub(super) fn is_settled<Step>(plan: &Result<Plan<Step>, Refusal>, remembered: Option<i64>) -> bool {
    match plan.as_ref().map(|plan| plan.action) {
        Ok(Action::Nothing) => true,
        Ok(Action::Create) => remembered.is_none(),
        _ => false,
    }
}

/// Whether the plan found that the object in Harbor belongs to another owner.
pub(super) fn disowns<Step>(plan: &Result<Plan<Step>, Refusal>) -> bool {
    matches!(plan, Err(refusal) if matches!(refusal.reason, Reason::NameConflict | Reason::AdoptionRequired))
}

/// The resync schedule that all resources of one Harbor with the same interval share: the first of them reads the lists,
/// and the others use the same lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResyncSchedule {
    /// Time of the last resync.
    pub(super) last: Timestamp,
    /// Time until the next resync.
    pub(super) next: Duration,
}

impl ResyncSchedule {
    /// The schedule for this interval. `whose` shifts it, so that clusters do not all resync at the same time.
    pub(super) fn at(now: Timestamp, interval: Duration, whose: impl Hash) -> Self {
        let interval = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX).max(1);
        let mut hasher = DefaultHasher::new();
        whose.hash(&mut hasher);
        // Half of the hash, so that intervals that are multiples of each other resync together.
        let offset = i64::from(hasher.finish() as u32) % interval;
        let elapsed = (now.as_second() - offset).rem_euclid(interval);
        let last = Timestamp::from_second(now.as_second() - elapsed).unwrap_or(now);
        let left = SignedDuration::from_secs(interval) - now.duration_since(last);
        Self { last, next: Duration::try_from(left).unwrap_or_default() + MARGIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(millisecond).unwrap()
    }

    #[test]
    fn resync_is_due_for_all_once_an_interval() {
        let start = 1_800_000_000_000;
        let first = ResyncSchedule::at(at(start), MINUTE, "a");
        for passed in (0..600_000).step_by(777) {
            let now = at(start + passed);
            let resync = ResyncSchedule::at(now, MINUTE, "a");
            assert!(resync.last <= now && now.duration_since(resync.last) < SignedDuration::from_secs(60));
            assert!(resync.next > Duration::ZERO && resync.next <= MINUTE + MARGIN, "{resync:?}");
            assert_eq!((resync.last.as_second() - first.last.as_second()) % 60, 0);
            let then = now + SignedDuration::try_from(resync.next).unwrap();
            let next = ResyncSchedule::at(then, MINUTE, "a").last;
            assert_eq!(next.as_second(), resync.last.as_second() + 60, "each resource is due until the next resync");
            let longer = ResyncSchedule::at(now, 5 * MINUTE, "a");
            assert_eq!((resync.last.as_second() - longer.last.as_second()) % 60, 0, "multiples resync together");
        }
    }

    #[test]
    fn resync_of_another_installation_has_another_offset() {
        let now = at(1_800_000_000_000);
        let beats: std::collections::BTreeSet<_> =
            (0..20).map(|number| ResyncSchedule::at(now, Duration::from_secs(300), number).last).collect();
        assert!(beats.len() > 10, "{beats:?}");
    }

    #[test]
    fn what_was_just_read_may_be_written_by() {
        let sight = ReadMode { now: at(100_000), freshness: Freshness::Listed(at(0)) };
        assert!(!sight.is_too_old(at(96_000)) && sight.is_too_old(at(94_000)));
        assert_eq!(sight.uncached().freshness, Freshness::Asked(at(100_000)));
    }
}
