//! Retention policies and labels of projects, of which Harbor has no list: they are read again in rounds, a few in each, the
//! oldest first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::Freshness;
use crate::harbor::{Client, Error, model::RetentionPolicy};

/// Objects that are read again in one round. A hundred of them take ten intervals.
pub(super) const TURN: usize = 10;

/// The known objects by id, each with the time of its read.
#[derive(Debug)]
struct Rounds<V> {
    /// Time that identifies the round: each interval is one.
    round: Option<Timestamp>,
    /// Objects that are read in this round.
    turn: BTreeSet<i64>,
    read: HashMap<i64, (Timestamp, V)>,
}

impl<V> Default for Rounds<V> {
    fn default() -> Self {
        Self { round: None, turn: BTreeSet::new(), read: HashMap::new() }
    }
}

impl<V> Rounds<V> {
    /// Returns whether a known object is due in the round of `since`, once.
    fn take_turn(&mut self, id: i64, since: Timestamp) -> bool {
        if self.round.is_none_or(|round| round < since) {
            self.round = Some(since);
            let mut oldest: Vec<(Timestamp, i64)> = self.read.iter().map(|(id, (at, _))| (*at, *id)).collect();
            oldest.sort_unstable();
            self.turn = oldest.into_iter().filter(|(at, _)| *at < since).take(TURN).map(|(_, id)| id).collect();
        }
        self.turn.remove(&id)
    }
}

/// The known retention policies.
#[derive(Debug, Default)]
pub(super) struct RetentionCache(Mutex<Rounds<Arc<RetentionPolicy>>>);

impl RetentionCache {
    /// Returns a policy. A known one is read again in its turn, or if `freshness` requires it.
    pub(super) async fn get(
        &self,
        client: &Client,
        id: i64,
        freshness: Freshness,
    ) -> Result<Arc<RetentionPolicy>, Error> {
        let known = find(&mut self.0.lock(), id, freshness);
        if let Some(policy) = known {
            return Ok(policy);
        }
        let at = Timestamp::now();
        let policy = Arc::new(client.admitted(client.retention(id)).await?);
        self.0.lock().read.insert(id, (at, policy.clone()));
        Ok(policy)
    }

    /// Records a write to a policy.
    pub(super) fn forget(&self, id: i64) {
        self.0.lock().read.remove(&id);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.0.lock() = Rounds::default();
    }
}

fn find<V: Clone>(known: &mut Rounds<V>, id: i64, freshness: Freshness) -> Option<V> {
    let is_due = match freshness {
        Freshness::Asked(since) => known.read.get(&id).is_none_or(|(at, _)| *at < since),
        Freshness::Listed(since) => known.take_turn(id, since),
    };
    known.read.get(&id).filter(|_| !is_due).map(|(_, value)| value.clone())
}

/// When the labels of each project were read, or first requested.
#[derive(Debug, Default)]
pub(super) struct LabelCache(Mutex<Rounds<()>>);

impl LabelCache {
    /// Returns whether to read the labels of a project that has no other work. The caller reads them then.
    pub(super) fn are_due(&self, project: i64, freshness: Freshness) -> bool {
        match freshness {
            Freshness::Asked(_) => true,
            Freshness::Listed(since) => {
                let mut known = self.0.lock();
                let due = known.take_turn(project, since);
                if due || !known.read.contains_key(&project) {
                    known.read.insert(project, (since, ()));
                }
                due
            }
        }
    }

    /// Forgets everything: Harbor may be another one.
    pub(super) fn clear(&self) {
        *self.0.lock() = Rounds::default();
    }
}

/// Locks; the state is valid even after a panic.
#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn each_round_reads_a_few_and_in_the_end_all_have_had_their_turn() {
        const COUNT: i64 = 35;
        let mut known = Rounds::default();
        let mut rounds_until_all = 0;
        let mut seen = BTreeSet::new();
        for id in 0..COUNT {
            assert!(find(&mut known, id, Freshness::Listed(at(0))).is_none(), "the first time it has to be read");
            known.read.insert(id, (at(1), id));
        }
        for round in 1..=4 {
            let start = at(round * 300);
            let mut find = |id| find(&mut known, id, Freshness::Listed(start));
            let asked: Vec<i64> = (0..COUNT).filter(|id| find(*id).is_none()).collect();
            assert!(asked.len() <= TURN && !asked.is_empty(), "{asked:?}");
            assert!((0..COUNT).all(|id| find(id).is_some()), "once a round");
            for id in asked {
                known.read.insert(id, (start, id));
                seen.insert(id);
            }
            if seen.len() == usize::try_from(COUNT).unwrap() {
                rounds_until_all = round;
            }
        }
        assert_eq!(rounds_until_all, 4);
    }

    #[test]
    fn what_is_about_to_be_written_is_read_whosever_turn_it_is() {
        let mut known = Rounds::default();
        known.read.insert(7, (at(100), "policy"));
        assert!(find(&mut known, 7, Freshness::Asked(at(100))).is_some());
        assert!(find(&mut known, 7, Freshness::Asked(at(101))).is_none());
    }

    #[test]
    fn labels_of_all_projects_are_due_in_turn_and_a_few_at_a_time() {
        let round = |round: i64| Freshness::Listed(at(round * 300));
        let (known, mut seen) = (LabelCache::default(), BTreeSet::new());
        assert!((0..25).all(|project| !known.are_due(project, round(0))), "nothing was wanted before");
        for number in 1..=3 {
            let due: Vec<i64> = (0..25).filter(|project| known.are_due(*project, round(number))).collect();
            assert!(due.len() <= TURN && (0..25).all(|project| !known.are_due(project, round(number))), "{due:?}");
            seen.extend(due);
        }
        assert_eq!(seen.len(), 25);
    }
}
