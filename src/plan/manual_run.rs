//! Executions of a replication policy: at most one for each request of a user, even if the controller stops at any moment.
//!
//! Harbor's executions cannot carry an ID of ours. So the request is first written to status, with the newest execution
//! before it. A manual execution after that one fulfils the request, whether the controller or a user started it.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::{api::replication_rule::PendingRun, harbor::model::ReplicationExecution};

/// The longest time by which Harbor's status of an execution lags its tasks.
const LAG: Duration = Duration::from_secs(30);
/// The shortest interval for reading an execution again.
const SHORTEST: Duration = Duration::from_secs(2);

/// The longest time to wait for an execution: Harbor may have lost a longer one.
const PATIENCE: Duration = Duration::from_secs(900);

/// The next action for a requested run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManualRun {
    /// No run is requested.
    None,
    /// Write this to status; the next reconcile starts the run.
    Prepare(PendingRun),
    /// Start the run now.
    Start,
    /// This execution is the requested run.
    Started(i64),
}

/// Decides on a run. `token` is the value of the annotation, `done` the last token that was handled, `scanned` whether
/// blocked images can be copied now. `executions` are the newest of the policy.
pub fn run(
    token: Option<&str>,
    done: Option<&str>,
    scanned: bool,
    pending: Option<&PendingRun>,
    executions: &[ReplicationExecution],
) -> ManualRun {
    let newest = executions.iter().map(|execution| execution.id).max().unwrap_or(0);
    if let Some(pending) = pending {
        if pending.after_execution > newest {
            // A reinstalled Harbor counts from 1 again.
            return ManualRun::Prepare(PendingRun { after_execution: newest, ..pending.clone() });
        }
        let ours = executions.iter().filter(|execution| is_manual(execution) && execution.id > pending.after_execution);
        return ours.map(|execution| execution.id).min().map_or(ManualRun::Start, ManualRun::Started);
    }
    let token = token.filter(|token| Some(*token) != done);
    if token.is_none() && !scanned {
        return ManualRun::None;
    }
    ManualRun::Prepare(PendingRun { token: token.map(str::to_owned), after_execution: newest })
}

/// Returns whether an execution is running, and recent enough to wait for its end.
pub fn is_under_way(execution: &ReplicationExecution, now: Timestamp) -> bool {
    let start = execution.start_time.unwrap_or(now);
    !execution.is_final() && now.duration_since(start).unsigned_abs() < PATIENCE
}

/// Returns whether an execution copies the whole policy. Images that are scanned meanwhile share the next run.
pub fn is_busy(executions: &[ReplicationExecution], now: Timestamp) -> bool {
    executions.iter().any(|execution| is_manual(execution) && is_under_way(execution, now))
}

/// Returns when to read an execution again that Harbor may still change: the longer it runs, the later.
pub fn next_check(execution: &ReplicationExecution, now: Timestamp) -> Option<Duration> {
    if execution.is_settled(now) {
        return None;
    }
    let elapsed = execution.start_time.map_or(Duration::ZERO, |start| now.duration_since(start).unsigned_abs());
    Some((elapsed / 4).clamp(SHORTEST, LAG))
}

fn is_manual(execution: &ReplicationExecution) -> bool {
    execution.trigger == "manual"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution(id: i64, trigger: &str) -> ReplicationExecution {
        ReplicationExecution { id, trigger: trigger.to_owned(), ..ReplicationExecution::default() }
    }

    fn pending(token: Option<&str>, after_execution: i64) -> PendingRun {
        PendingRun { token: token.map(str::to_owned), after_execution }
    }

    #[test]
    fn a_new_token_is_written_down_before_it_starts_anything() {
        let executions = [execution(7, "scheduled"), execution(5, "manual")];
        assert_eq!(run(None, None, false, None, &executions), ManualRun::None);
        assert_eq!(run(Some("a"), Some("a"), false, None, &executions), ManualRun::None);
        let wish = pending(Some("b"), 7);
        assert_eq!(run(Some("b"), Some("a"), false, None, &executions), ManualRun::Prepare(wish.clone()));
        assert_eq!(run(Some("b"), Some("a"), false, Some(&wish), &executions), ManualRun::Start);
    }

    #[test]
    fn after_a_crash_between_start_and_status_the_execution_is_found_again() {
        let wish = pending(Some("b"), 7);
        let executions = [execution(9, "event_based"), execution(8, "manual"), execution(7, "scheduled")];
        assert_eq!(run(Some("b"), Some("a"), false, Some(&wish), &executions), ManualRun::Started(8));
    }

    #[test]
    fn manual_run_is_recorded_again_after_harbor_was_rebuilt() {
        let wish = pending(Some("b"), 700);
        let executions = [execution(2, "manual")];
        assert_eq!(run(Some("b"), None, false, Some(&wish), &executions), ManualRun::Prepare(pending(Some("b"), 2)));
        assert_eq!(run(Some("b"), None, false, Some(&wish), &[]), ManualRun::Prepare(pending(Some("b"), 0)));
    }

    #[test]
    fn a_run_after_scans_needs_no_token_and_takes_one_along() {
        assert_eq!(run(None, None, true, None, &[]), ManualRun::Prepare(pending(None, 0)));
        assert_eq!(run(Some("a"), None, true, None, &[]), ManualRun::Prepare(pending(Some("a"), 0)));
    }

    #[test]
    fn what_is_scanned_during_a_run_waits_for_its_end_but_not_for_ever() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let running = |trigger| ReplicationExecution { start_time: Some(at(1000)), ..execution(3, trigger) };
        assert!(is_busy(&[running("event_based"), running("manual")], at(1060)));
        assert!(!is_busy(&[running("event_based")], at(1060)));
        assert!(!is_busy(&[running("manual")], at(5000)));
    }

    #[test]
    fn a_running_execution_is_looked_at_soon_and_a_long_one_less_often() {
        let start = Timestamp::from_second(1000).unwrap();
        let running = ReplicationExecution {
            status: ReplicationExecution::IN_PROGRESS.to_owned(),
            start_time: Some(start),
            ..ReplicationExecution::default()
        };
        let after = |seconds: i64| next_check(&running, Timestamp::from_second(1000 + seconds).unwrap());
        assert_eq!(after(0), Some(SHORTEST));
        assert_eq!(after(40), Some(Duration::from_secs(10)));
        assert_eq!(after(4000), Some(LAG));
        let failed = ReplicationExecution { status: ReplicationExecution::FAILED.to_owned(), ..running };
        assert!(next_check(&failed, start).is_some(), "its end has not been written");
        let ended = ReplicationExecution { end_time: Some(start), ..failed };
        assert_eq!(next_check(&ended, start), None);
        let stopped = ReplicationExecution { status: ReplicationExecution::STOPPED.to_owned(), ..ended };
        assert!(next_check(&stopped, start).is_some(), "it may yet turn out to have failed");
    }
}
