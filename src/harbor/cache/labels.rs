//! Labels of projects, which Harbor lists one project at a time. They are read again in turn, a few in each round.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::Freshness;

/// Projects whose labels are read again in one round.
const TURN: usize = 10;

/// When the labels of each project were read, or first requested.
#[derive(Debug, Default)]
pub(super) struct LabelCache {
    known: Mutex<CachedLabels>,
}

#[derive(Debug, Default)]
struct CachedLabels {
    /// Time that identifies the round: each interval is one.
    round: Option<Timestamp>,
    /// Projects that are read in this round.
    turn: BTreeSet<i64>,
    read: HashMap<i64, Timestamp>,
}

impl LabelCache {
    /// Returns whether to read the labels of a project that has no other work. The caller reads them then.
    pub(super) fn are_due(&self, project: i64, freshness: Freshness) -> bool {
        match freshness {
            Freshness::Asked(_) => true,
            Freshness::Listed(since) => self.known.lock().take_turn(project, since),
        }
    }

    /// Forgets everything: Harbor may be another one.
    pub(super) fn clear(&self) {
        *self.known.lock() = CachedLabels::default();
    }
}

impl CachedLabels {
    fn take_turn(&mut self, project: i64, since: Timestamp) -> bool {
        if self.round.is_none_or(|round| round < since) {
            self.round = Some(since);
            let mut oldest: Vec<(Timestamp, i64)> = self.read.iter().map(|(id, at)| (*at, *id)).collect();
            oldest.sort_unstable();
            self.turn = oldest.into_iter().filter(|(at, _)| *at < since).take(TURN).map(|(_, id)| id).collect();
        }
        let due = self.turn.remove(&project);
        if due {
            self.read.insert(project, since);
        } else {
            self.read.entry(project).or_insert(since);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_all_projects_are_due_in_turn_and_a_few_at_a_time() {
        let at = |round: i64| Timestamp::from_second(round * 300).unwrap();
        let (mut known, mut seen) = (CachedLabels::default(), BTreeSet::new());
        assert!((0..25).all(|project| !known.take_turn(project, at(0))), "nothing was wanted before");
        for round in 1..=3 {
            let due: Vec<i64> = (0..25).filter(|project| known.take_turn(*project, at(round))).collect();
            assert!(due.len() <= TURN && (0..25).all(|project| !known.take_turn(project, at(round))), "{due:?}");
            seen.extend(due);
        }
        assert_eq!(seen.len(), 25);
    }
}
