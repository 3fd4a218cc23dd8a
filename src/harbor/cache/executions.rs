//! Executions of replication policies: one list has the newest of all policies, and each read continues where the last one
//! ended.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::Timestamp;

use super::shared_read::SharedRead;
use crate::harbor::{Client, Error, model::ReplicationExecution};

/// Maximum number of pages that are read to find where the last read ended. Older executions are requested for each policy.
const PAGES: usize = 10;
/// Executions in one page, and maximum number of stored ones of one policy.
const MOST: usize = 100;
/// Executions that are requested of a policy if only the newest matters.
const A_FEW: usize = 5;

/// The known executions of one Harbor.
#[derive(Debug, Default)]
pub(super) struct ExecutionCache {
    known: SharedRead<CachedExecutions>,
}

#[derive(Debug, Default)]
struct CachedExecutions {
    /// When the list was last requested.
    begun: Option<Timestamp>,
    /// The lowest id in that list.
    lowest: i64,
    /// All executions with a higher id have been seen.
    floor: i64,
    /// The highest id that was seen.
    top: i64,
    /// The newest of each policy, by id.
    policies: HashMap<i64, BTreeMap<i64, ReplicationExecution>>,
    /// How many of the newest were requested for each policy.
    asked: HashMap<i64, usize>,
}

impl ExecutionCache {
    /// Returns executions of a policy, the newest first: the newest of all, and those that are newer than `after`.
    pub(super) async fn of(
        &self,
        client: &Client,
        policy: i64,
        after: Option<i64>,
        since: Timestamp,
    ) -> Result<Vec<ReplicationExecution>, Error> {
        self.follow(client, since).await?;
        let ask = self.known.lock().must_ask(policy, after);
        if let Some(limit) = ask {
            let found = client.admitted(client.replication_executions(policy, limit)).await?;
            self.known.lock().answered(policy, limit, found);
        }
        Ok(self.known.lock().newest_first(policy))
    }

    /// Records a new policy: it has no executions that the list does not show.
    pub(super) fn insert_new(&self, policy: i64) {
        self.known.lock().answered(policy, MOST, Vec::new());
    }

    /// Records the start of an execution: the list must be read again.
    pub(super) fn started(&self) {
        self.known.lock().begun = None;
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.known.lock() = CachedExecutions::default();
    }

    /// Reads the list, unless it was read at `since` or later.
    async fn follow(&self, client: &Client, since: Timestamp) -> Result<(), Error> {
        let is_fresh = |known: &CachedExecutions| known.begun.is_some_and(|begun| begun >= since);
        let read = async {
            let top = self.known.lock().top;
            client.admitted(newest(client, (top > 0).then_some(top))).await
        };
        self.known.refresh(is_fresh, read, |known, begun, (found, ended)| known.merge(begun, found, ended)).await
    }
}

/// Reads the newest executions down to the id `until`, or one page of them; also returns whether these are all.
async fn newest(client: &Client, until: Option<i64>) -> Result<(Vec<ReplicationExecution>, bool), Error> {
    let mut all = Vec::new();
    for page in 1..=PAGES {
        let found = client.replication_executions_page(page).await?;
        let ended = found.len() < MOST;
        let meets = found.last().is_some_and(|last| until.is_none_or(|until| last.id <= until));
        all.extend(found);
        if ended || meets {
            return Ok((all, ended));
        }
    }
    Ok((all, false))
}

impl CachedExecutions {
    fn merge(&mut self, begun: Timestamp, found: Vec<ReplicationExecution>, ended: bool) {
        let ids = || found.iter().map(|execution| execution.id);
        let (lowest, highest) = (ids().min().unwrap_or(0), ids().max().unwrap_or(0));
        // Ids that restart at 1 belong to another Harbor.
        if highest < self.top || lowest > self.top && !ended {
            *self = Self { floor: lowest - 1, ..Self::default() };
        }
        if ended {
            self.floor = 0;
        }
        (self.begun, self.lowest, self.top) = (Some(begun), lowest, highest);
        found.into_iter().for_each(|execution| self.take(execution));
    }

    /// Returns how many executions of the policy to request, if the list is not sufficient.
    fn must_ask(&self, policy: i64, after: Option<i64>) -> Option<usize> {
        let limit = if after.is_some() { MOST } else { A_FEW };
        let known = self.policies.get(&policy);
        // A running execution below the ids of the list may have ended since.
        let sunken = |execution: &ReplicationExecution| !execution.is_final() && execution.id < self.lowest;
        if known.is_some_and(|known| known.values().any(sunken)) {
            return Some(limit);
        }
        let has_newest = after.is_none() && known.is_some();
        let has_all = self.floor == 0 || after.is_some_and(|after| after >= self.floor);
        let was_asked = self.asked.get(&policy).is_some_and(|asked| *asked >= limit);
        (!has_newest && !has_all && !was_asked).then_some(limit)
    }

    fn answered(&mut self, policy: i64, limit: usize, found: Vec<ReplicationExecution>) {
        self.asked.insert(policy, limit);
        found.into_iter().for_each(|execution| self.take(execution));
    }

    fn take(&mut self, execution: ReplicationExecution) {
        let of_policy = self.policies.entry(execution.policy_id).or_default();
        of_policy.insert(execution.id, execution);
        if of_policy.len() > MOST {
            of_policy.pop_first();
        }
    }

    fn newest_first(&self, policy: i64) -> Vec<ReplicationExecution> {
        self.policies.get(&policy).into_iter().flat_map(|known| known.values().rev()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn execution(id: i64, policy_id: i64, running: bool) -> ReplicationExecution {
        let end_time = (!running).then(|| at(10));
        let status = if running { ReplicationExecution::IN_PROGRESS } else { ReplicationExecution::SUCCEED };
        ReplicationExecution { id, policy_id, end_time, status: status.to_owned(), ..Default::default() }
    }

    /// A page of ended executions of policy 1, `from` downwards.
    fn page(from: i64) -> Vec<ReplicationExecution> {
        (from - 99..=from).rev().map(|id| execution(id, 1, false)).collect()
    }

    #[test]
    fn executions_in_a_short_list_need_no_other_request() {
        let mut known = CachedExecutions::default();
        known.merge(at(1), vec![execution(2, 7, false), execution(1, 8, false)], true);
        for policy in [7, 8, 9] {
            assert_eq!((known.must_ask(policy, None), known.must_ask(policy, Some(0))), (None, None));
        }
        assert_eq!(known.newest_first(7).len(), 1);
    }

    #[test]
    fn a_policy_that_a_long_list_does_not_show_is_asked_once() {
        let mut known = CachedExecutions::default();
        known.merge(at(1), page(500), false);
        assert_eq!(known.must_ask(1, None), None);
        assert_eq!(known.must_ask(1, Some(400)), None, "all after 400 have been seen");
        assert_eq!(known.must_ask(1, Some(399)), Some(MOST));
        assert_eq!(known.must_ask(2, None), Some(A_FEW));
        known.answered(2, A_FEW, vec![execution(17, 2, false)]);
        assert_eq!(known.must_ask(2, None), None);
        assert_eq!(known.must_ask(2, Some(3)), Some(MOST));
        known.merge(at(2), page(510), false);
        assert_eq!((known.floor, known.must_ask(2, None)), (400, None), "the list goes on where it ended");
    }

    #[test]
    fn executions_with_a_gap_in_the_list_are_read_again() {
        let mut known = CachedExecutions::default();
        known.merge(at(1), page(500), false);
        known.answered(2, A_FEW, vec![execution(17, 2, false)]);
        known.merge(at(2), page(5000), false);
        assert_eq!(known.must_ask(2, None), Some(A_FEW));
        assert_eq!(known.must_ask(1, Some(450)), Some(MOST));
    }

    #[test]
    fn an_execution_that_runs_long_is_asked_for_once_the_list_shows_it_no_more() {
        let mut known = CachedExecutions::default();
        known.merge(at(1), vec![execution(3, 2, true)], true);
        assert_eq!(known.must_ask(2, None), None);
        let mut later = page(103);
        later.pop();
        known.merge(at(2), later.into_iter().filter(|execution| execution.id > 3).collect(), false);
        assert_eq!(known.must_ask(2, None), Some(A_FEW));
        known.answered(2, A_FEW, vec![execution(3, 2, false)]);
        assert_eq!(known.must_ask(2, None), None);
    }

    #[test]
    fn executions_with_restarted_ids_are_of_another_harbor() {
        let mut known = CachedExecutions::default();
        known.merge(at(1), page(500), false);
        known.merge(at(2), vec![execution(1, 3, false)], true);
        assert!(known.newest_first(1).is_empty() && known.newest_first(3).len() == 1);
    }
}
