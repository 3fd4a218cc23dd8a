//! Results of a policy's executions, and the start of new ones.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::super::{EventMessage, ReconcileError, connections::Connection};
use crate::{
    api::{
        Reason, ReplicationRule, ReplicationRuleStatus,
        condition::whole_seconds,
        replication_rule::{BlockedImage, BlockedImageState, ExecutionStatus, TaskFailure},
    },
    harbor::{
        Client, Error,
        model::{ReplicationExecution, ReplicationTask, replication_failure},
    },
    plan::{
        after_scan::{self, RefusedImage, Scan},
        manual_run::{self, ManualRun},
    },
    registry,
};

/// Maximum number of executions checked before a policy is deleted.
pub(super) const MOST: usize = 100;
/// Maximum age of the list of executions, which all rules share.
const RECENT: SignedDuration = SignedDuration::from_secs(2);
/// Maximum number of failures in the status.
const FAILURES: usize = 10;
/// Maximum number of failed tasks per execution that are checked for refused images.
const TASKS: usize = 64;
/// Maximum number of failed executions per reconcile that are checked for refused images.
const EXECUTIONS: usize = 10;
/// Maximum number of images per reconcile that stay refused and are checked for a changed scan.
const REFUSED: usize = 8;
/// Seconds per step of the rotation through these images.
const TURN: i64 = 30;
/// Maximum length of a reason, in bytes.
const REASON: usize = 512;

/// Follows the executions of one policy.
pub(super) struct ExecutionTracker<'a> {
    pub(super) connection: &'a Connection,
    pub(super) rule: &'a ReplicationRule,
    /// Harbor's id of the policy.
    pub(super) id: i64,
    /// Whether the policy is enabled in Harbor.
    pub(super) enabled: bool,
    /// Whether we may write.
    pub(super) writes: bool,
    pub(super) now: Timestamp,
}

impl ExecutionTracker<'_> {
    /// Reads the executions once, and runs the policy if requested.
    pub(super) async fn follow(
        &self,
        status: &mut ReplicationRuleStatus,
        notes: &mut Vec<EventMessage>,
    ) -> Result<(), ReconcileError> {
        let after_scan = self.rule.spec.after_scan && self.writes;
        let considered = after_scan.then(|| status.considered_execution.unwrap_or(0));
        let pending = status.pending_run.as_ref().map(|pending| pending.after_execution);
        // To know whether a run started before a crash, the list must be current.
        let since = if pending.is_some() { self.now } else { self.now - RECENT };
        let after = considered.into_iter().chain(pending).min();
        let executions = self.connection.view.executions(self.id, after, since).await?;
        let mut failures = TaskLogs { client: &self.connection.client, known: HashMap::new() };
        if let Some(newest) = executions.iter().max_by_key(|execution| execution.id) {
            self.tell(newest, &mut failures, status, notes).await?;
        } else {
            status.last_execution = None;
        }
        if after_scan {
            self.block_images(&executions, &mut failures, status, notes).await?;
        } else {
            status.blocked_images.clear();
            status.considered_execution = None;
        }
        if self.writes {
            self.run(&executions, status, notes).await?;
        }
        Ok(())
    }

    /// Reports the result of the newest execution. Reads the logs of its failed tasks once, when it has ended.
    async fn tell(
        &self,
        newest: &ReplicationExecution,
        failures: &mut TaskLogs<'_>,
        status: &mut ReplicationRuleStatus,
        notes: &mut Vec<EventMessage>,
    ) -> Result<(), Error> {
        let mut next = shown(newest);
        // Redacted for successes, too: the text is from Harbor.
        let secrets = self.connection.client.secrets();
        next.message = next.message.map(|message| secrets.line(&message));
        let known = status.last_execution.as_ref();
        if let Some(known) = known.filter(|known| known.id == next.id && known.status == next.status) {
            next.failures.clone_from(&known.failures);
        } else if newest.status == ReplicationExecution::FAILED {
            let mut awaits_scan = self.rule.spec.after_scan && newest.total > 0;
            for (task, log) in failures.of(newest.id, FAILURES).await? {
                awaits_scan &= !after_scan::refused(log, newest.id).is_empty();
                let reason = replication_failure(log).unwrap_or_else(|| "its log has no error".to_owned());
                let resource = secrets.line(&clipped(task.source_repository()));
                next.failures.push(TaskFailure { resource, reason: secrets.line(&clipped(&reason)) });
            }
            // Images that vulnerability prevention refused are reported one by one, once their state is settled.
            if !awaits_scan {
                notes.push(EventMessage::warning(Reason::ExecutionFailed, failed(&next)));
            }
        }
        status.last_execution = Some(next);
        Ok(())
    }

    /// Finds the images that vulnerability prevention blocks.
    async fn block_images(
        &self,
        executions: &[ReplicationExecution],
        failures: &mut TaskLogs<'_>,
        status: &mut ReplicationRuleStatus,
        notes: &mut Vec<EventMessage>,
    ) -> Result<(), Error> {
        let held = &status.blocked_images;
        let batch = after_scan::batch(status.considered_execution, held, executions, EXECUTIONS, self.now);
        let mut refused: Vec<RefusedImage> = Vec::new();
        for execution in batch.failed.iter().copied() {
            for (_, log) in failures.of(execution, TASKS).await? {
                refused.extend(after_scan::refused(log, execution));
            }
        }
        let mut scans = BTreeMap::new();
        for image in asked(held, &refused, self.now) {
            let known = held.iter().find(|held| held.image == image);
            let scan = self.scan(&image, known).await?;
            scans.insert(image, scan);
        }
        let look = after_scan::Observed {
            held,
            refused: &refused,
            scans: &scans,
            considered: batch.considered,
            running: &batch.running,
        };
        let held_back = after_scan::decide(&look);
        let was_refused =
            |image: &str| held.iter().any(|held| held.image == image && held.state == BlockedImageState::Refused);
        for held in
            held_back.iter().filter(|held| held.state == BlockedImageState::Refused && !was_refused(&held.image))
        {
            notes.push(EventMessage::warning(
                Reason::BlockedByScan,
                format!("{} is not replicated: {}", held.image, held.reason),
            ));
        }
        status.blocked_images = held_back;
        status.considered_execution = Some(batch.considered);
        Ok(())
    }

    async fn scan(&self, image: &str, known: Option<&BlockedImage>) -> Result<Option<Scan>, Error> {
        let Some((project, repository, reference)) = after_scan::parts(image) else { return Ok(None) };
        let artifact = self.connection.client.scanned_artifact(project, repository, reference).await?;
        let mut scan = artifact.as_ref().map(after_scan::scan_of);
        if let Some(scan) = scan.as_mut().filter(|scan| after_scan::should_ask_registry(known, scan)) {
            let repository = format!("{project}/{repository}");
            let pulled = self.connection.puller.client().manifest(&repository, reference).await;
            // The next run of the policy reports any other result.
            if let Err(registry::Error::PolicyBlocked { message }) = pulled {
                scan.refusal = Some(message);
            }
        }
        Ok(scan)
    }

    async fn run(
        &self,
        executions: &[ReplicationExecution],
        status: &mut ReplicationRuleStatus,
        notes: &mut Vec<EventMessage>,
    ) -> Result<(), Error> {
        let token = self.rule.run_token();
        if !self.enabled {
            // Harbor would answer 412. A stored run that starts later, when a user enables the policy, would be a
            // surprise.
            status.pending_run = None;
            if let Some(token) = token.filter(|token| Some(*token) != status.last_run_token.as_deref()) {
                status.last_run_token = Some(token.to_owned());
                notes.push(EventMessage::warning(
                    Reason::InvalidSpec,
                    "not run: the policy is disabled; set spec.enabled: true",
                ));
            }
            return Ok(());
        }
        let scanned =
            status.blocked_images.iter().any(after_scan::wants_run) && !manual_run::is_busy(executions, self.now);
        let done = status.last_run_token.as_deref();
        let execution = match manual_run::run(token, done, scanned, status.pending_run.as_ref(), executions) {
            ManualRun::None => return Ok(()),
            ManualRun::Prepare(pending) => {
                status.pending_run = Some(pending);
                return Ok(());
            }
            ManualRun::Start => {
                let started = self.connection.client.start_replication(self.id).await;
                self.connection.view.started_execution();
                started?
            }
            ManualRun::Started(execution) => execution,
        };
        let token = status.pending_run.take().and_then(|pending| pending.token);
        let why = match &token {
            Some(token) => format!("requested by {token}"),
            None => "after scans".to_owned(),
        };
        notes.push(EventMessage::done(Reason::ExecutionStarted, format!("started execution {execution}, {why}")));
        status.last_run_token = token.or_else(|| status.last_run_token.take());
        after_scan::started(&mut status.blocked_images, execution);
        let running = ReplicationExecution {
            id: execution,
            status: ReplicationExecution::IN_PROGRESS.to_owned(),
            trigger: "manual".to_owned(),
            ..ReplicationExecution::default()
        };
        if status.last_execution.as_ref().is_none_or(|last| last.id < execution) {
            status.last_execution = Some(shown(&running));
        }
        Ok(())
    }
}

/// Logs of failed tasks, each read once.
struct TaskLogs<'a> {
    client: &'a Client,
    known: HashMap<i64, Vec<(ReplicationTask, String)>>,
}

impl TaskLogs<'_> {
    async fn of(
        &mut self,
        execution: i64,
        most: usize,
    ) -> Result<impl Iterator<Item = (&ReplicationTask, &str)>, Error> {
        if self.known.get(&execution).is_none_or(|known| known.len() < most) {
            let tasks = self.client.replication_tasks(execution).await?;
            let mut read = Vec::new();
            for task in tasks.into_iter().filter(|task| task.status == "Failed").take(most) {
                let log = self.client.replication_task_log(execution, task.id).await?;
                read.push((task, log));
            }
            self.known.insert(execution, read);
        }
        let known = self.known.get(&execution).map_or(&[][..], Vec::as_slice);
        Ok(known.iter().take(most).map(|(task, log)| (task, log.as_str())))
    }
}

/// The images whose scans are checked in this reconcile: all that were refused just now or wait, and a few of those that
/// stay refused, in rotation.
fn asked(held: &[BlockedImage], refused: &[RefusedImage], now: Timestamp) -> Vec<String> {
    let waiting = held.iter().filter(|held| held.state != BlockedImageState::Refused).map(|held| held.image.clone());
    let mut images: Vec<String> = waiting.chain(refused.iter().map(|refused| refused.image.clone())).collect();
    let settled: Vec<&BlockedImage> = held.iter().filter(|held| held.state == BlockedImageState::Refused).collect();
    let turn = usize::try_from(now.as_second() / TURN).unwrap_or(0).checked_rem(settled.len()).unwrap_or(0);
    images.extend(settled.iter().cycle().skip(turn).take(REFUSED.min(settled.len())).map(|held| held.image.clone()));
    images.sort_unstable();
    images.dedup();
    // Images beyond the limit count as waiting, and are checked in the next reconcile.
    images.truncate(after_scan::MOST + REFUSED);
    images
}

fn shown(execution: &ReplicationExecution) -> ExecutionStatus {
    let time = |time: Option<Timestamp>| time.map(|time| Time(whole_seconds(time)));
    ExecutionStatus {
        id: execution.id,
        status: execution.status.clone(),
        trigger: execution.trigger.clone(),
        start_time: time(execution.start_time),
        end_time: time(execution.end_time),
        total: execution.total,
        succeeded: execution.succeed,
        failed: execution.failed,
        stopped: execution.stopped,
        in_progress: execution.in_progress,
        message: Some(clipped(&execution.status_text)).filter(|text| !text.is_empty()),
        failures: Vec::new(),
    }
}

fn failed(execution: &ExecutionStatus) -> String {
    let mut text = format!("execution {} ({}) failed", execution.id, execution.trigger);
    if execution.total > 0 {
        text.push_str(&format!(": {} of {} tasks", execution.failed, execution.total));
    }
    if let Some(message) = &execution.message {
        text.push_str(&format!(": {message}"));
    }
    if let Some(first) = execution.failures.first() {
        text.push_str(&format!("; {}: {}", first.resource, first.reason));
    }
    text
}

fn clipped(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().map(|(at, _)| at).take_while(|at| *at <= REASON).last() {
        Some(end) if text.len() > REASON => format!("{}…", text.get(..end).unwrap_or_default()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn images_that_stay_refused_are_asked_for_in_turn_and_a_few_at_a_time() {
        let held =
            |at: usize, state| BlockedImage { image: format!("gate/app:v{at}"), state, ..BlockedImage::default() };
        let mut all: Vec<BlockedImage> = (0..60).map(|at| held(at, BlockedImageState::Refused)).collect();
        all.push(held(60, BlockedImageState::WaitingForScan));
        let mut seen = BTreeSet::new();
        for look in 0..60 {
            let asked = asked(&all, &[], Timestamp::from_second(1_800_000_000 + look * TURN).unwrap());
            assert!(asked.len() == REFUSED + 1 && asked.contains(&"gate/app:v60".to_owned()), "{asked:?}");
            seen.extend(asked);
        }
        assert_eq!(seen.len(), 61);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = clipped(&"ä".repeat(600));
        assert!(cut.len() < 520 && cut.ends_with('…'), "{}", cut.len());
        assert_eq!(clipped(" short\n"), "short");
    }
}
