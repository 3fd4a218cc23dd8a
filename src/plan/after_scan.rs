//! Images that a project's vulnerability prevention blocked in an event-based replication: decides which of them to retry.
//!
//! Harbor replicates at the push, before the scan starts. Its registry then answers 412 PROJECTPOLICYVIOLATION, the task
//! fails, and Harbor never retries, however clean the image is. An image is retried once for each digest and each verdict of
//! a scan, so retries cannot loop.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::manual_run::is_under_way;
use crate::{
    api::replication_rule::{BlockedImage, BlockedImageState},
    harbor::model::{Artifact, ReplicationExecution, ScanStage, is_for_its_scan},
};

/// The most images in status.
pub const MOST: usize = 64;

/// The most retries of a digest while Harbor reports that its scan is not done. (If the scan has findings, the digest is not
/// retried at all.)
const MOST_TRIES: i32 = 3;

/// An image that a task could not pull because of the project's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedImage {
    /// `project/repository:tag`, or a digest instead of the tag.
    pub image: String,
    /// The registry's message.
    pub message: String,
    /// The execution of the task.
    pub execution: i64,
}

/// Harbor's current state of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The digest of the tag.
    pub digest: String,
    /// The result of the last scan.
    pub verdict: ScanOutcome,
    /// The registry's answer to a pull now; `None` if it allows the pull, or was not asked ([`should_ask_registry`]).
    pub refusal: Option<String>,
}

/// The result of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanOutcome {
    /// No scan was requested.
    Unscanned,
    /// The scan runs or was cancelled; Harbor's status of it.
    Unfinished(String),
    /// The scan is done.
    Done {
        /// The most severe finding; `None` is one of Harbor's values.
        severity: String,
        /// The number of findings of any severity.
        total: i64,
    },
}

/// The input of the decision.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The images of status.
    pub held: &'a [BlockedImage],
    /// The refusals of executions that ended since.
    pub refused: &'a [RefusedImage],
    /// The images whose state was read; `None` for an image that does not exist any longer.
    pub scans: &'a BTreeMap<String, Option<Scan>>,
    /// All executions up to this one have ended, except the running ones, and their refusals are in `held` or `refused`.
    pub considered: i64,
    /// The running executions.
    pub running: &'a [i64],
}

/// The executions whose refusals are read now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionBatch {
    /// The executions that failed.
    pub failed: Vec<i64>,
    /// All executions up to this one are considered afterwards.
    pub considered: i64,
    /// The running executions.
    pub running: Vec<i64>,
}

/// Returns the images for status. The policy runs again if [`wants_run`] is true for one of them.
pub fn decide(look: &Observed<'_>) -> Vec<BlockedImage> {
    let mut newest: BTreeMap<&str, &RefusedImage> = BTreeMap::new();
    for refused in look.refused {
        let known = newest.entry(&refused.image).or_insert(refused);
        if refused.execution > known.execution {
            *known = refused;
        }
    }
    let mut held: Vec<BlockedImage> = look
        .held
        .iter()
        .filter_map(|held| match (newest.remove(held.image.as_str()), held.state, held.retried_in) {
            (newest, BlockedImageState::Retrying, Some(retried_in)) => evaluate_retry(held, retried_in, newest, look),
            (Some(refused), state, _) if state != BlockedImageState::Retrying => {
                evaluate_refusal(Some(held), refused, look)
            }
            _ => advance(held, look),
        })
        .collect();
    held.extend(newest.into_values().filter_map(|refused| evaluate_refusal(None, refused, look)));
    held.sort_by(|one, other| (one.state, &one.image).cmp(&(other.state, &other.image)));
    held.truncate(MOST);
    held
}

/// Returns whether an image waits for a retry by an execution that has not started.
pub fn wants_run(held: &BlockedImage) -> bool {
    held.state == BlockedImageState::Retrying && held.retried_in.is_none()
}

/// Records the execution that retries the images.
pub fn started(held: &mut [BlockedImage], execution: i64) {
    for image in held.iter_mut().filter(|image| wants_run(image)) {
        image.retried_in = Some(execution);
        image.tries += 1;
    }
}

/// Returns the executions to read: those that ended after `before`, the oldest first and at most `most`, and those that
/// retried an image. A long execution does not delay later ones. `executions` are the newest of the policy. Without a
/// `before`, only the latest failures are read.
pub fn batch(
    before: Option<i64>,
    held: &[BlockedImage],
    executions: &[ReplicationExecution],
    most: usize,
    now: Timestamp,
) -> ExecutionBatch {
    let awaited = |execution: &ReplicationExecution| {
        held.iter().any(|held| held.state == BlockedImageState::Retrying && held.retried_in == Some(execution.id))
    };
    let has_failed = |execution: &ReplicationExecution| execution.status == ReplicationExecution::FAILED;
    let mut all: Vec<&ReplicationExecution> = executions.iter().collect();
    all.sort_by_key(|execution| execution.id);
    // A reinstalled Harbor counts from 1 again.
    let before = before.filter(|before| all.last().is_none_or(|newest| newest.id >= *before));
    let since = before.unwrap_or(0);
    let newer = all.iter().copied().filter(|execution| execution.id > since);
    let ended: Vec<&ReplicationExecution> = newer.take_while(|execution| !is_under_way(execution, now)).collect();
    let mut considered = ended.last().map_or(since, |execution| execution.id);
    let mut failed: Vec<i64> =
        ended.into_iter().filter(|execution| has_failed(execution)).map(|execution| execution.id).collect();
    if before.is_none() {
        failed.drain(..failed.len().saturating_sub(most));
    } else if failed.len() > most {
        failed.truncate(most);
        considered = failed.last().copied().unwrap_or(since);
    }
    let retried = all.iter().filter(|execution| execution.id <= since && has_failed(execution) && awaited(execution));
    failed.extend(retried.map(|execution| execution.id));
    let running = all.iter().filter(|execution| !execution.is_final()).map(|execution| execution.id).collect();
    ExecutionBatch { failed, considered, running }
}

/// Returns the images that a task could not pull because of the project's policy, from its log.
pub fn refused(log: &str, execution: i64) -> Vec<RefusedImage> {
    let mut found: Vec<RefusedImage> = Vec::new();
    for line in log.lines().filter(|line| line.contains("PROJECTPOLICYVIOLATION")) {
        let Some(image) = between(line, "failed to pull the manifest of artifact ", ": http status code: 412") else {
            continue;
        };
        let body = line.split_once("body: ").map_or("", |(_, body)| body);
        let answer: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
        let message = answer.pointer("/errors/0/message").and_then(serde_json::Value::as_str).unwrap_or(body);
        if found.iter().all(|known| known.image != image) {
            found.push(RefusedImage { image: image.to_owned(), message: message.to_owned(), execution });
        }
    }
    found
}

/// Splits an image of Harbor into project, repository and reference: `a/b/c:v1` into `a`, `b/c` and `v1`.
pub fn parts(image: &str) -> Option<(&str, &str, &str)> {
    let (project, rest) = image.split_once('/')?;
    // Instead of a tag there may be a digest, which has a colon itself.
    let (repository, reference) = rest.split_once(['@', ':'])?;
    Some((project, repository, reference))
}

/// Returns Harbor's state of an artifact.
pub fn scan_of(artifact: &Artifact) -> Scan {
    let verdict = match artifact.scan_stage() {
        ScanStage::Unscanned => ScanOutcome::Unscanned,
        ScanStage::Done(scan) => ScanOutcome::Done { severity: scan.severity.clone(), total: scan.summary.total },
        ScanStage::UnderWay(scan) | ScanStage::Failed(scan) => ScanOutcome::Unfinished(scan.scan_status.clone()),
    };
    Scan { digest: artifact.digest.clone(), verdict, refusal: None }
}

/// Returns whether to ask the registry if it would allow a pull of the image now. That costs one request; a run of the policy
/// costs one task for each repository that it copies.
pub fn should_ask_registry(held: Option<&BlockedImage>, scan: &Scan) -> bool {
    let settled = |held: &BlockedImage| held.state != BlockedImageState::WaitingForScan && is_about(held, scan);
    matches!(scan.verdict, ScanOutcome::Done { .. }) && !held.is_some_and(settled)
}

/// Returns the result of a retry. Only the execution `retried_in` decides it; a refusal in a later execution is about a new
/// push.
fn evaluate_retry(
    held: &BlockedImage,
    retried_in: i64,
    newest: Option<&RefusedImage>,
    look: &Observed<'_>,
) -> Option<BlockedImage> {
    let later = newest.filter(|refused| refused.execution > retried_in);
    let same = |scan: &Scan| held.digest.as_ref() == Some(&scan.digest);
    let is_another = look.scans.get(&held.image).is_some_and(|scan| !scan.as_ref().is_some_and(same));
    if let Some(refused) = later.filter(|_| is_another) {
        return evaluate_refusal(None, refused, look);
    }
    let of_the_try = |refused: &&RefusedImage| refused.execution == retried_in && refused.image == held.image;
    if let Some(refused) = look.refused.iter().find(of_the_try) {
        return evaluate_refusal(Some(held), refused, look);
    }
    if retried_in > look.considered || look.running.contains(&retried_in) {
        return Some(held.clone());
    }
    // The retry was not refused, so the image was copied, or failed for another reason.
    evaluate_refusal(None, later?, look)
}

fn evaluate_refusal(held: Option<&BlockedImage>, refused: &RefusedImage, look: &Observed<'_>) -> Option<BlockedImage> {
    let Some(scan) = look.scans.get(&refused.image) else {
        // Its state was not read yet: the next reconcile reads it.
        let reason = refused.message.clone();
        return Some(BlockedImage { image: refused.image.clone(), reason, ..BlockedImage::default() });
    };
    let scan = scan.as_ref()?;
    let held = held.filter(|held| held.digest.as_ref() == Some(&scan.digest));
    if let Some(held) = held.filter(|held| is_still_refused(held, scan)) {
        return Some(held.clone());
    }
    let tries = held.map_or(0, |held| held.tries);
    let ScanOutcome::Done { total, .. } = scan.verdict else {
        return Some(BlockedImage { tries, ..evaluate(&refused.image, scan) });
    };
    let is_final = if is_for_its_scan(&refused.message) {
        // The scan is done now, or Harbor's answers contradict each other.
        tries >= MOST_TRIES
    } else {
        // A refusal because of findings stays, unless another scan replaced them.
        held.filter(|held| held.tries > 0)
            .map_or(refused.message.contains(&format!(" {total} ")), |held| is_about(held, scan))
    };
    let image = if is_final {
        judged(&refused.image, scan, BlockedImageState::Refused, refused.message.clone())
    } else {
        evaluate(&refused.image, scan)
    };
    Some(BlockedImage { tries, ..image })
}

/// Returns the next state of an image without new refusals; only its scan may have changed.
fn advance(held: &BlockedImage, look: &Observed<'_>) -> Option<BlockedImage> {
    match look.scans.get(&held.image) {
        None => Some(held.clone()),
        Some(None) => None,
        Some(Some(scan)) if is_still_refused(held, scan) || (wants_run(held) && is_about(held, scan)) => {
            Some(held.clone())
        }
        Some(Some(scan)) => {
            let same = held.state == BlockedImageState::WaitingForScan && held.digest.as_ref() == Some(&scan.digest);
            Some(BlockedImage { tries: if same { held.tries } else { 0 }, ..evaluate(&held.image, scan) })
        }
    }
}

fn evaluate(image: &str, scan: &Scan) -> BlockedImage {
    match &scan.verdict {
        ScanOutcome::Unscanned => {
            let reason = "it has not been scanned: enable scans on push in the project, or scan it in Harbor";
            judged(image, scan, BlockedImageState::WaitingForScan, reason.to_owned())
        }
        ScanOutcome::Unfinished(status) if matches!(status.as_str(), "Error" | "Stopped") => {
            let reason = format!("its scan ended with status {status}: scan it again in Harbor");
            judged(image, scan, BlockedImageState::WaitingForScan, reason)
        }
        ScanOutcome::Unfinished(status) => {
            judged(image, scan, BlockedImageState::WaitingForScan, format!("its scan is {status}"))
        }
        ScanOutcome::Done { .. } if scan.refusal.is_some() => {
            let reason = scan.refusal.clone().unwrap_or_default();
            let state =
                if is_for_its_scan(&reason) { BlockedImageState::WaitingForScan } else { BlockedImageState::Refused };
            judged(image, scan, state, reason)
        }
        ScanOutcome::Done { .. } => {
            judged(image, scan, BlockedImageState::Retrying, "its scan is done: the policy runs again".to_owned())
        }
    }
}

fn judged(image: &str, scan: &Scan, state: BlockedImageState, reason: String) -> BlockedImage {
    let (severity, vulnerabilities) = match &scan.verdict {
        ScanOutcome::Done { severity, total } => (Some(severity.clone()), Some(*total)),
        _ => (None, None),
    };
    BlockedImage {
        image: image.to_owned(),
        state,
        reason,
        digest: Some(scan.digest.clone()),
        severity,
        vulnerabilities,
        retried_in: None,
        tries: 0,
    }
}

/// Returns whether a refused image is unchanged, with the same verdict, or is being scanned again.
fn is_still_refused(held: &BlockedImage, scan: &Scan) -> bool {
    let scanning = held.digest.as_ref() == Some(&scan.digest) && matches!(scan.verdict, ScanOutcome::Unfinished(_));
    held.state == BlockedImageState::Refused && (scanning || is_about(held, scan))
}

/// Returns whether the scan is of the held digest.
fn is_about(held: &BlockedImage, scan: &Scan) -> bool {
    let same = judged(&held.image, scan, held.state, String::new());
    (&held.digest, &held.severity, held.vulnerabilities) == (&same.digest, &same.severity, same.vulnerabilities)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests;
