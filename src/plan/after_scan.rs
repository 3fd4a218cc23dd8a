//! Images that a project's vulnerability prevention kept from an event-based replication: which of them are worth another try.
//!
//! Harbor replicates at the push, when the scan has not begun; its registry answers 412 PROJECTPOLICYVIOLATION, the task fails,
//! and Harbor never tries again, however clean the image is found to be. An image is tried again once for each digest and
//! each verdict of a scan, so that nothing here can go round in circles.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;

use crate::{
    api::replication_rule::{HeldBack, HeldBackState},
    harbor::model::{Artifact, ReplicationExecution},
};

/// Images that status lists at most.
pub const MOST: usize = 64;

/// An execution that runs for longer does not hold up those after it.
const PATIENCE: Duration = Duration::from_secs(900);

/// An image that a task could not pull because of the project's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `project/repository:tag`; in place of a tag may stand a digest.
    pub image: String,
    /// The registry's message.
    pub message: String,
    /// The execution that the task belongs to.
    pub execution: i64,
}

/// What Harbor says of an image now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The digest that the tag names.
    pub digest: String,
    /// What its last scan came to.
    pub verdict: Verdict,
}

/// What a scan came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has not been asked for.
    Unscanned,
    /// It is under way, or was given up: Harbor's word for it.
    Unfinished(String),
    /// It is done.
    Done {
        /// The most severe finding; `None` is a word of Harbor's.
        severity: String,
        /// Findings of any severity.
        total: i64,
    },
}

/// What is known before the decision.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// From status.
    pub held: &'a [HeldBack],
    /// From executions that ended since.
    pub refused: &'a [Refused],
    /// Images that were looked at; `None` is an image that is gone.
    pub scans: &'a BTreeMap<String, Option<Scan>>,
    /// All executions up to this one, but for those that run, have ended, and their refusals are in `held` or `refused`.
    pub considered: i64,
    /// Executions that run.
    pub running: &'a [i64],
}

/// The executions whose refusals are to be read now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Those that failed.
    pub failed: Vec<i64>,
    /// Up to here all are considered then.
    pub considered: i64,
    /// Those that run.
    pub running: Vec<i64>,
}

/// What becomes of the images, for status. The policy is to be run again if one is [`wants_run`].
pub fn decide(look: &Look<'_>) -> Vec<HeldBack> {
    let mut newest: BTreeMap<&str, &Refused> = BTreeMap::new();
    for refused in look.refused {
        let known = newest.entry(&refused.image).or_insert(refused);
        if refused.execution > known.execution {
            *known = refused;
        }
    }
    let mut held: Vec<HeldBack> = look
        .held
        .iter()
        .filter_map(|held| match newest.remove(held.image.as_str()) {
            Some(refused) if is_news(held, refused) => {
                judge_refusal(Some(held), refused, look.scans.get(held.image.as_str()))
            }
            _ => go_on(held, look),
        })
        .collect();
    let new = newest.into_values().filter_map(|refused| judge_refusal(None, refused, look.scans.get(&refused.image)));
    held.extend(new);
    held.sort_by(|one, other| (one.state, &one.image).cmp(&(other.state, &other.image)));
    held.truncate(MOST);
    held
}

/// Whether an image is to be tried again by an execution that has not been started yet.
pub fn wants_run(held: &HeldBack) -> bool {
    held.state == HeldBackState::Retrying && held.retried_in.is_none()
}

/// Writes down in which execution the images are tried again.
pub fn started(held: &mut [HeldBack], execution: i64) {
    for image in held.iter_mut().filter(|image| wants_run(image)) {
        image.retried_in = Some(execution);
    }
}

/// Which executions are to be read: those that ended after `before`, the oldest first and at most `most`, and those in which
/// an image was tried again. One that runs for long does not hold up those after it. `executions` are the newest of the
/// policy. Where nothing was considered before, the latest failures are enough.
pub fn batch(
    before: Option<i64>,
    held: &[HeldBack],
    executions: &[ReplicationExecution],
    most: usize,
    now: Timestamp,
) -> Batch {
    let waited_for = |execution: &ReplicationExecution| {
        let start = execution.start_time.unwrap_or(now);
        !execution.is_final() && now.duration_since(start).unsigned_abs() < PATIENCE
    };
    let awaited = |execution: &ReplicationExecution| {
        held.iter().any(|held| held.state == HeldBackState::Retrying && held.retried_in == Some(execution.id))
    };
    let has_failed = |execution: &ReplicationExecution| execution.status == ReplicationExecution::FAILED;
    let since = before.unwrap_or(0);
    let mut all: Vec<&ReplicationExecution> = executions.iter().collect();
    all.sort_by_key(|execution| execution.id);
    let newer = all.iter().copied().filter(|execution| execution.id > since);
    let ended: Vec<&ReplicationExecution> = newer.take_while(|execution| !waited_for(execution)).collect();
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
    Batch { failed, considered, running }
}

/// The images that a task could not pull because of the project's policy, from its log.
pub fn refused(log: &str, execution: i64) -> Vec<Refused> {
    let mut found: Vec<Refused> = Vec::new();
    for line in log.lines().filter(|line| line.contains("PROJECTPOLICYVIOLATION")) {
        let Some(image) = between(line, "failed to pull the manifest of artifact ", ": http status code: 412") else {
            continue;
        };
        let body = line.split_once("body: ").map_or("", |(_, body)| body);
        let answer: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
        let message = answer.pointer("/errors/0/message").and_then(serde_json::Value::as_str).unwrap_or(body);
        if found.iter().all(|known| known.image != image) {
            found.push(Refused { image: image.to_owned(), message: message.to_owned(), execution });
        }
    }
    found
}

/// Project, repository and reference of an image of Harbor: `a/b/c:v1` is `a`, `b/c` and `v1`.
pub fn parts(image: &str) -> Option<(&str, &str, &str)> {
    let (project, rest) = image.split_once('/')?;
    // In place of a tag there may be a digest, which has a colon of its own.
    let (repository, reference) = rest.split_once(['@', ':'])?;
    Some((project, repository, reference))
}

/// What Harbor says of an artifact.
pub fn scan_of(artifact: &Artifact) -> Scan {
    let verdict = match artifact.scan_overview.values().next() {
        None => Verdict::Unscanned,
        Some(scan) if scan.scan_status == "Success" => {
            Verdict::Done { severity: scan.severity.clone(), total: scan.summary.total }
        }
        Some(scan) => Verdict::Unfinished(scan.scan_status.clone()),
    };
    Scan { digest: artifact.digest.clone(), verdict }
}

/// A refusal from before an image was tried again says nothing of that try.
fn is_news(held: &HeldBack, refused: &Refused) -> bool {
    match (held.state, held.retried_in) {
        (HeldBackState::Retrying, Some(retried_in)) => refused.execution >= retried_in,
        (HeldBackState::Retrying, None) => false,
        _ => true,
    }
}

fn judge_refusal(held: Option<&HeldBack>, refused: &Refused, scan: Option<&Option<Scan>>) -> Option<HeldBack> {
    let Some(scan) = scan else {
        // Not looked at yet: the next look will.
        return Some(HeldBack { image: refused.image.clone(), reason: refused.message.clone(), ..HeldBack::default() });
    };
    let scan = scan.as_ref()?;
    if let Some(held) = held.filter(|held| stays_refused(held, scan)) {
        return Some(held.clone());
    }
    let tried = held.is_some_and(|held| held.retried_in.is_some() && is_about(held, scan));
    let found_wanting = refused.message.contains("vulnerabilit") && !refused.message.contains("vulnerability scanning");
    match &scan.verdict {
        Verdict::Done { total, .. } if tried || (found_wanting && *total > 0) => {
            let reason = refused.message.clone();
            let retried_in = held.and_then(|held| held.retried_in);
            Some(HeldBack { retried_in, ..judged(&refused.image, scan, HeldBackState::Refused, reason) })
        }
        _ => Some(judge(&refused.image, scan)),
    }
}

/// What becomes of an image that nothing new was heard of but, perhaps, its scan.
fn go_on(held: &HeldBack, look: &Look<'_>) -> Option<HeldBack> {
    if let (HeldBackState::Retrying, Some(retried_in)) = (held.state, held.retried_in) {
        // It was not refused again, so it has been copied, or failed for a reason that is not ours.
        let under_way = retried_in > look.considered || look.running.contains(&retried_in);
        return under_way.then(|| held.clone());
    }
    match look.scans.get(&held.image) {
        None => Some(held.clone()),
        Some(None) => None,
        Some(Some(scan)) if stays_refused(held, scan) || wants_run(held) && is_about(held, scan) => Some(held.clone()),
        Some(Some(scan)) => Some(judge(&held.image, scan)),
    }
}

fn judge(image: &str, scan: &Scan) -> HeldBack {
    match &scan.verdict {
        Verdict::Unscanned => {
            let reason = "it has not been scanned: let the project scan images on push, or scan it in Harbor";
            judged(image, scan, HeldBackState::WaitingForScan, reason.to_owned())
        }
        Verdict::Unfinished(status) if matches!(status.as_str(), "Error" | "Stopped") => {
            let reason = format!("its scan ended as {status}: scan it again in Harbor");
            judged(image, scan, HeldBackState::WaitingForScan, reason)
        }
        Verdict::Unfinished(status) => {
            judged(image, scan, HeldBackState::WaitingForScan, format!("its scan is {status}"))
        }
        Verdict::Done { .. } => {
            judged(image, scan, HeldBackState::Retrying, "its scan is done: the policy is run again".to_owned())
        }
    }
}

fn judged(image: &str, scan: &Scan, state: HeldBackState, reason: String) -> HeldBack {
    let (severity, vulnerabilities) = match &scan.verdict {
        Verdict::Done { severity, total } => (Some(severity.clone()), Some(*total)),
        _ => (None, None),
    };
    HeldBack {
        image: image.to_owned(),
        state,
        reason,
        digest: Some(scan.digest.clone()),
        severity,
        vulnerabilities,
        retried_in: None,
    }
}

/// Whether an image that was refused is still the same, with the same verdict, or is being scanned anew.
fn stays_refused(held: &HeldBack, scan: &Scan) -> bool {
    let scanning = held.digest.as_ref() == Some(&scan.digest) && matches!(scan.verdict, Verdict::Unfinished(_));
    held.state == HeldBackState::Refused && (scanning || is_about(held, scan))
}

/// Whether what is held is what the scan judged.
fn is_about(held: &HeldBack, scan: &Scan) -> bool {
    let same = judged(&held.image, scan, held.state, String::new());
    (&held.digest, &held.severity, held.vulnerabilities) == (&same.digest, &same.severity, same.vulnerabilities)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: &str = "current image with \"Pending\" status of vulnerability scanning cannot be pulled due to …";
    const FOUND: &str = "current image with 2 vulnerabilities cannot be pulled due to configured policy in …";

    fn refusal(image: &str, message: &str, execution: i64) -> Refused {
        Refused { image: image.to_owned(), message: message.to_owned(), execution }
    }

    fn scan(digest: &str, verdict: Verdict) -> Option<Scan> {
        Some(Scan { digest: digest.to_owned(), verdict })
    }

    fn pending() -> Verdict {
        Verdict::Unfinished("Pending".to_owned())
    }

    fn done(severity: &str, total: i64) -> Verdict {
        Verdict::Done { severity: severity.to_owned(), total }
    }

    /// One look at one image, `gate/app:v1`.
    fn look(held: &[HeldBack], refused: &[Refused], state: Option<Scan>, considered: i64) -> Vec<HeldBack> {
        let scans = BTreeMap::from([("gate/app:v1".to_owned(), state)]);
        decide(&Look { held, refused, scans: &scans, considered, running: &[] })
    }

    fn states(held: &[HeldBack]) -> Vec<HeldBackState> {
        held.iter().map(|held| held.state).collect()
    }

    #[test]
    fn a_clean_image_waits_for_its_scan_is_tried_once_and_forgotten() {
        let first = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", pending()), 5);
        assert_eq!(states(&first), [HeldBackState::WaitingForScan]);
        let mut second = look(&first, &[], scan("a", done("None", 0)), 5);
        assert!(second.iter().all(wants_run), "{second:?}");
        started(&mut second, 6);
        assert!(!second.iter().any(wants_run));
        let third = look(&second, &[], scan("a", done("None", 0)), 5);
        assert_eq!(third, second, "the execution is under way");
        assert!(look(&third, &[], scan("a", done("None", 0)), 6).is_empty());
    }

    #[test]
    fn a_vulnerable_image_is_refused_and_not_tried_again_until_something_changes() {
        let held = look(&[], &[refusal("gate/app:v1", FOUND, 5)], scan("a", done("Critical", 2)), 5);
        assert_eq!(states(&held), [HeldBackState::Refused]);
        assert_eq!((held[0].severity.as_deref(), held[0].vulnerabilities), (Some("Critical"), Some(2)));
        // Each later run of the policy is refused it again.
        let again = [refusal("gate/app:v1", FOUND, 9)];
        assert_eq!(look(&held, &again, scan("a", done("Critical", 2)), 9), held);
        // It is pushed again, and scanned anew.
        let pushed = [refusal("gate/app:v1", PENDING, 10)];
        for verdict in [pending(), done("Critical", 2)] {
            assert_eq!(look(&held, &pushed, scan("a", verdict), 10), held);
        }
        for (changed, expected) in [
            (scan("b", done("None", 0)), HeldBackState::Retrying),
            (scan("a", done("Low", 1)), HeldBackState::Retrying),
            (scan("b", pending()), HeldBackState::WaitingForScan),
        ] {
            assert_eq!(states(&look(&held, &[], changed.clone(), 9)), [expected], "{changed:?}");
        }
        assert!(look(&held, &[], None, 9).is_empty(), "it was deleted in Harbor");
    }

    #[test]
    fn an_image_that_is_refused_again_after_its_scan_stays_so() {
        let waiting = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", pending()), 5);
        let mut retrying = look(&waiting, &[], scan("a", done("High", 3)), 5);
        started(&mut retrying, 8);
        let refused = look(&retrying, &[refusal("gate/app:v1", FOUND, 8)], scan("a", done("High", 3)), 8);
        assert_eq!(states(&refused), [HeldBackState::Refused]);
        // Whatever Harbor's words are: the same digest with the same verdict is not tried twice.
        let odd = look(&retrying, &[refusal("gate/app:v1", PENDING, 8)], scan("a", done("High", 3)), 8);
        assert_eq!(states(&odd), [HeldBackState::Refused]);
        assert_eq!(look(&odd, &[], scan("a", done("High", 3)), 9), odd);
    }

    #[test]
    fn a_refusal_from_before_the_new_try_does_not_count_against_it() {
        let waiting = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", done("None", 0)), 5);
        assert!(waiting.iter().all(wants_run));
        let mut retrying = waiting;
        started(&mut retrying, 7);
        let late = [refusal("gate/app:v1", PENDING, 6)];
        assert_eq!(states(&look(&retrying, &late, scan("a", done("None", 0)), 6)), [HeldBackState::Retrying]);
        assert!(look(&retrying, &late, scan("a", done("None", 0)), 7).is_empty());
    }

    #[test]
    fn all_images_that_were_scanned_since_share_one_run() {
        let refused =
            [refusal("gate/a:v1", PENDING, 5), refusal("gate/b:v1", PENDING, 6), refusal("gate/c:v1", PENDING, 7)];
        let scans = BTreeMap::from([
            ("gate/a:v1".to_owned(), scan("a", done("None", 0))),
            ("gate/b:v1".to_owned(), scan("b", pending())),
            ("gate/c:v1".to_owned(), scan("c", done("Low", 1))),
        ]);
        let mut held = decide(&Look { held: &[], refused: &refused, scans: &scans, considered: 7, running: &[] });
        assert_eq!(held.iter().filter(|held| wants_run(held)).count(), 2);
        started(&mut held, 8);
        let after = decide(&Look { held: &held, refused: &[], scans: &scans, considered: 8, running: &[] });
        assert_eq!(after.iter().map(|held| held.image.as_str()).collect::<Vec<_>>(), ["gate/b:v1"]);
    }

    #[test]
    fn a_scan_that_failed_is_waited_for_and_says_what_to_do() {
        for (verdict, word) in [(Verdict::Unfinished("Error".to_owned()), "again"), (Verdict::Unscanned, "on push")] {
            let held = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", verdict), 5);
            assert_eq!(states(&held), [HeldBackState::WaitingForScan]);
            assert!(held[0].reason.contains(word), "{held:?}");
        }
    }

    #[test]
    fn the_list_is_bounded_and_keeps_what_is_worked_on() {
        let refused: Vec<Refused> = (0..200).map(|at| refusal(&format!("gate/app:v{at}"), FOUND, at)).collect();
        let mut scans: BTreeMap<String, Option<Scan>> =
            refused.iter().map(|refused| (refused.image.clone(), scan("a", done("High", 2)))).collect();
        scans.insert("gate/app:v199".to_owned(), scan("a", pending()));
        let held = decide(&Look { held: &[], refused: &refused, scans: &scans, considered: 200, running: &[] });
        assert_eq!((held.len(), held[0].image.as_str()), (MOST, "gate/app:v199"));
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn execution(id: i64, status: &str) -> ReplicationExecution {
        ReplicationExecution { id, status: status.to_owned(), start_time: Some(at(id)), ..Default::default() }
    }

    #[test]
    fn executions_are_considered_once_those_before_them_have_ended() {
        let executions =
            [execution(9, "Failed"), execution(8, "InProgress"), execution(7, "Failed"), execution(3, "Failed")];
        let read = |before, now| {
            let batch = batch(before, &[], &executions, 10, at(now));
            (batch.failed, batch.considered, batch.running)
        };
        assert_eq!(read(Some(3), 100), (vec![7], 7, vec![8]));
        assert_eq!(read(Some(7), 100), (vec![], 7, vec![8]));
        assert_eq!(read(Some(7), 2000), (vec![9], 9, vec![8]), "one that hangs holds up nothing");
        assert_eq!(batch(None, &[], &[], 10, at(0)), Batch::default());
    }

    #[test]
    fn many_failures_are_read_in_their_order_and_those_of_the_past_in_part() {
        let executions: Vec<_> = (1..=30).map(|id| execution(id, "Failed")).collect();
        let first = batch(Some(5), &[], &executions, 10, at(100));
        assert_eq!((first.failed, first.considered), ((6..=15).collect(), 15));
        let begun = batch(None, &[], &executions, 10, at(100));
        assert_eq!((begun.failed, begun.considered), ((21..=30).collect(), 30));
    }

    #[test]
    fn a_long_second_try_is_read_when_it_ends_however_late() {
        let mut held = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", done("High", 1)), 5);
        started(&mut held, 6);
        let going = batch(Some(5), &held, &[execution(6, "InProgress"), execution(7, "Succeed")], 10, at(5000));
        assert_eq!((going.considered, going.running.as_slice()), (7, &[6][..]));
        let scans = BTreeMap::new();
        let wait = Look { held: &held, refused: &[], scans: &scans, considered: 7, running: &going.running };
        assert_eq!(decide(&wait), held);
        let ended = batch(Some(7), &held, &[execution(6, "Failed"), execution(7, "Succeed")], 10, at(9000));
        assert_eq!((ended.failed, ended.considered), (vec![6], 7));
    }

    #[test]
    fn the_log_of_a_task_names_the_images_that_were_refused() {
        let line = |image: &str, status: &str| {
            format!(
                "2026-11-21T08:25:51Z [ERROR] [/src/controller/replication/transfer/image/transfer.go:467]: failed to pull \
                 the manifest of artifact {image}: http status code: 412, body: {{\"errors\":[{{\"code\":\"PROJECTPOLICYVIOLATION\",\
                 \"message\":\"current image {status} cannot be pulled\"}}]}}"
            )
        };
        let digest = format!("gate/x/app:sha256:{}", "a".repeat(64));
        let log = format!(
            "{}\n{}\n{}\n2026-11-21T08:25:51Z [ERROR] [/src/x.go:1]: got error during the whole transfer period\n",
            line("gate/x/app:v1", "with 2 vulnerabilities"),
            line("gate/x/app:v1", "with 2 vulnerabilities"),
            line(&digest, "without vulnerability scanning"),
        );
        let found = refused(&log, 4);
        let seen: Vec<_> = found.iter().map(|refused| (refused.image.as_str(), refused.message.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("gate/x/app:v1", "current image with 2 vulnerabilities cannot be pulled"),
                (digest.as_str(), "current image without vulnerability scanning cannot be pulled")
            ]
        );
        assert_eq!(parts("gate/x/app:v1"), Some(("gate", "x/app", "v1")));
        assert_eq!(parts(&digest).unwrap().2, format!("sha256:{}", "a".repeat(64)));
        assert!(refused("2026-11-21T08:25:51Z [ERROR] [/src/x.go:1]: connection refused", 4).is_empty());
    }
}
