//! Retention policies, of which Harbor has no list: read again in turn, a few at a time, the oldest first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::{CacheSource, Freshness};
use crate::harbor::{Error, model::RetentionPolicy};

/// Policies that are read again in one round. A hundred of them take ten intervals.
pub(super) const TURN: usize = 10;

/// The known policies, each with the time of its read.
#[derive(Debug, Default)]
pub(super) struct RetentionCache {
    known: Mutex<CachedRetention>,
}

#[derive(Debug, Default)]
struct CachedRetention {
    /// Time that identifies the round: each interval is one.
    round: Option<Timestamp>,
    /// Policies that are read in this round.
    turn: BTreeSet<i64>,
    read: HashMap<i64, (Timestamp, Arc<RetentionPolicy>)>,
}

impl RetentionCache {
    /// Returns a policy. A known one is read again in its turn, or if `freshness` requires it.
    pub(super) async fn get(
        &self,
        source: &CacheSource,
        id: i64,
        freshness: Freshness,
    ) -> Result<Arc<RetentionPolicy>, Error> {
        let known = self.known.lock().find(id, freshness);
        if let Some(policy) = known {
            return Ok(policy);
        }
        let at = Timestamp::now();
        let policy = Arc::new(source.guarded(source.client.retention(id)).await?);
        self.known.lock().read.insert(id, (at, policy.clone()));
        Ok(policy)
    }

    /// Records a write to a policy.
    pub(super) fn forget(&self, id: i64) {
        self.known.lock().read.remove(&id);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.known.lock() = CachedRetention::default();
    }
}

impl CachedRetention {
    fn find(&mut self, id: i64, freshness: Freshness) -> Option<Arc<RetentionPolicy>> {
        let since = match freshness {
            Freshness::Asked(since) => {
                return self.read.get(&id).filter(|(at, _)| *at >= since).map(|(_, policy)| policy.clone());
            }
            Freshness::Listed(since) => since,
        };
        if self.round.is_none_or(|round| round < since) {
            self.round = Some(since);
            let mut oldest: Vec<(Timestamp, i64)> = self.read.iter().map(|(id, (at, _))| (*at, *id)).collect();
            oldest.sort_unstable();
            self.turn = oldest.into_iter().filter(|(at, _)| *at < since).take(TURN).map(|(_, id)| id).collect();
        }
        if self.turn.remove(&id) {
            return None;
        }
        self.read.get(&id).map(|(_, policy)| policy.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harbor::model::{RetentionScope, RetentionTrigger};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn policy(id: i64) -> Arc<RetentionPolicy> {
        Arc::new(RetentionPolicy {
            id,
            algorithm: "or".to_owned(),
            rules: Vec::new(),
            trigger: RetentionTrigger::default(),
            scope: RetentionScope { level: "project".to_owned(), reference: id },
        })
    }

    #[test]
    fn each_round_reads_a_few_and_in_the_end_all_have_had_their_turn() {
        const COUNT: i64 = 35;
        let mut known = CachedRetention::default();
        let mut rounds_until_all = 0;
        let mut seen = BTreeSet::new();
        for id in 0..COUNT {
            assert!(known.find(id, Freshness::Listed(at(0))).is_none(), "the first time it has to be read");
            known.read.insert(id, (at(1), policy(id)));
        }
        for round in 1..=4 {
            let start = at(round * 300);
            let asked: Vec<i64> = (0..COUNT).filter(|id| known.find(*id, Freshness::Listed(start)).is_none()).collect();
            assert!(asked.len() <= TURN && !asked.is_empty(), "{asked:?}");
            assert!((0..COUNT).all(|id| known.find(id, Freshness::Listed(start)).is_some()), "once a round");
            for id in asked {
                known.read.insert(id, (start, policy(id)));
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
        let mut known = CachedRetention::default();
        known.read.insert(7, (at(100), policy(7)));
        assert!(known.find(7, Freshness::Asked(at(100))).is_some());
        assert!(known.find(7, Freshness::Asked(at(101))).is_none());
    }
}
