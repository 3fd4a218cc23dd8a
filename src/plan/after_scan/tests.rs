//! One image and several, through pushes, scans, retries and refusals.

use proptest::prelude::*;

use super::*;

const PENDING: &str = "current image with \"Pending\" status of vulnerability scanning cannot be pulled due to …";
const FOUND: &str = "current image with 2 vulnerabilities cannot be pulled due to configured policy in …";

fn refusal(image: &str, message: &str, execution: i64) -> RefusedImage {
    RefusedImage { image: image.to_owned(), message: message.to_owned(), execution }
}

fn scan(digest: &str, verdict: ScanOutcome) -> Option<Scan> {
    Some(Scan { digest: digest.to_owned(), verdict, refusal: None })
}

fn pending() -> ScanOutcome {
    ScanOutcome::Unfinished("Pending".to_owned())
}

fn done(severity: &str, total: i64) -> ScanOutcome {
    ScanOutcome::Done { severity: severity.to_owned(), total }
}

/// One reconcile of one image, `gate/app:v1`.
fn look(held: &[BlockedImage], refused: &[RefusedImage], state: Option<Scan>, considered: i64) -> Vec<BlockedImage> {
    let scans = BTreeMap::from([("gate/app:v1".to_owned(), state)]);
    decide(&Observed { held, refused, scans: &scans, considered, running: &[] })
}

fn states(held: &[BlockedImage]) -> Vec<BlockedImageState> {
    held.iter().map(|held| held.state).collect()
}

#[test]
fn a_clean_image_waits_for_its_scan_is_tried_once_and_forgotten() {
    let first = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", pending()), 5);
    assert_eq!(states(&first), [BlockedImageState::WaitingForScan]);
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
    assert_eq!(states(&held), [BlockedImageState::Refused]);
    assert_eq!((held[0].severity.as_deref(), held[0].vulnerabilities), (Some("Critical"), Some(2)));
    // Each later run of the policy gets the same refusal.
    let again = [refusal("gate/app:v1", FOUND, 9)];
    assert_eq!(look(&held, &again, scan("a", done("Critical", 2)), 9), held);
    // The image is pushed again, and scanned again.
    let pushed = [refusal("gate/app:v1", PENDING, 10)];
    for verdict in [pending(), done("Critical", 2)] {
        assert_eq!(look(&held, &pushed, scan("a", verdict), 10), held);
    }
    for (changed, expected) in [
        (scan("b", done("None", 0)), BlockedImageState::Retrying),
        (scan("a", done("Low", 1)), BlockedImageState::Retrying),
        (scan("b", pending()), BlockedImageState::WaitingForScan),
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
    assert_eq!(states(&refused), [BlockedImageState::Refused]);
    // The retries end, whatever Harbor reports.
    let mut held = retrying;
    for try_ in 9..20 {
        held = look(&held, &[refusal("gate/app:v1", PENDING, try_ - 1)], scan("a", done("None", 0)), try_ - 1);
        started(&mut held, try_);
    }
    assert_eq!((states(&held), held[0].tries), (vec![BlockedImageState::Refused], MOST_TRIES));
}

#[test]
fn an_image_that_the_registry_does_not_give_after_its_scan_is_held_back_without_another_run() {
    let waiting = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", pending()), 5);
    let mut bad = scan("a", done("High", 2)).unwrap();
    assert!(should_ask_registry(Some(&waiting[0]), &bad) && should_ask_registry(None, &bad));
    bad.refusal = Some(FOUND.to_owned());
    let held = look(&waiting, &[], Some(bad.clone()), 5);
    assert_eq!((states(&held), held[0].reason.as_str()), (vec![BlockedImageState::Refused], FOUND));
    assert!(!should_ask_registry(Some(&held[0]), &bad), "it is not asked again");
    assert!(!should_ask_registry(Some(&waiting[0]), &scan("a", pending()).unwrap()), "nor before the scan is done");
    bad.refusal = Some(PENDING.to_owned());
    assert_eq!(states(&look(&waiting, &[], Some(bad), 5)), [BlockedImageState::WaitingForScan]);
}

#[test]
fn a_push_while_the_image_is_tried_again_is_another_matter() {
    let mut held = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", done("None", 0)), 5);
    started(&mut held, 6);
    let pushed = [refusal("gate/app:v1", PENDING, 7)];
    let scans = BTreeMap::from([("gate/app:v1".to_owned(), scan("b", pending()))]);
    let under_way = Observed { held: &held, refused: &pushed, scans: &scans, considered: 7, running: &[6] };
    assert_eq!(states(&decide(&under_way)), [BlockedImageState::WaitingForScan]);
    // The same digest is pushed again after the copy.
    let again = look(&held, &pushed, scan("a", done("None", 0)), 7);
    assert!(again.iter().all(wants_run), "{again:?}");
}

#[test]
fn a_refusal_from_before_the_new_try_does_not_count_against_it() {
    let waiting = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", done("None", 0)), 5);
    assert!(waiting.iter().all(wants_run));
    let mut retrying = waiting;
    started(&mut retrying, 7);
    let late = [refusal("gate/app:v1", PENDING, 6)];
    assert_eq!(states(&look(&retrying, &late, scan("a", done("None", 0)), 6)), [BlockedImageState::Retrying]);
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
    let mut held = decide(&Observed { held: &[], refused: &refused, scans: &scans, considered: 7, running: &[] });
    assert_eq!(held.iter().filter(|held| wants_run(held)).count(), 2);
    started(&mut held, 8);
    let after = decide(&Observed { held: &held, refused: &[], scans: &scans, considered: 8, running: &[] });
    assert_eq!(after.iter().map(|held| held.image.as_str()).collect::<Vec<_>>(), ["gate/b:v1"]);
}

#[test]
fn a_scan_that_failed_is_waited_for_and_says_what_to_do() {
    for (verdict, word) in [(ScanOutcome::Unfinished("Error".to_owned()), "again"), (ScanOutcome::Unscanned, "on push")]
    {
        let held = look(&[], &[refusal("gate/app:v1", PENDING, 5)], scan("a", verdict), 5);
        assert_eq!(states(&held), [BlockedImageState::WaitingForScan]);
        assert!(held[0].reason.contains(word), "{held:?}");
    }
}

#[test]
fn the_list_is_bounded_and_keeps_what_is_worked_on() {
    let refused: Vec<RefusedImage> = (0..200).map(|at| refusal(&format!("gate/app:v{at}"), FOUND, at)).collect();
    let mut scans: BTreeMap<String, Option<Scan>> =
        refused.iter().map(|refused| (refused.image.clone(), scan("a", done("High", 2)))).collect();
    scans.insert("gate/app:v199".to_owned(), scan("a", pending()));
    let held = decide(&Observed { held: &[], refused: &refused, scans: &scans, considered: 200, running: &[] });
    assert_eq!((held.len(), held[0].image.as_str()), (MOST, "gate/app:v199"));
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn execution(id: i64, status: &str) -> ReplicationExecution {
    let end_time = (status != "InProgress").then(|| at(id));
    ReplicationExecution { id, status: status.to_owned(), start_time: Some(at(id)), end_time, ..Default::default() }
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
    assert_eq!(batch(None, &[], &[], 10, at(0)), ExecutionBatch::default());
    assert_eq!(read(Some(700), 100), (vec![3, 7], 7, vec![8]), "Harbor was rebuilt");
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
    let wait = Observed { held: &held, refused: &[], scans: &scans, considered: 7, running: &going.running };
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

/// An event for the image of one tag.
#[derive(Debug, Clone)]
enum Happening {
    /// A push with this digest; the event-based execution finds it unscanned.
    Push(u8),
    /// The scan ends with this number of findings.
    Scanned(i64),
    /// The image is scanned again.
    Rescan,
    /// A user runs the policy.
    Run,
    /// The controller reconciles.
    Look,
    /// The controller crashes: it reconciles, and stores nothing.
    Crash,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        2 => (0..3_u8).prop_map(Happening::Push),
        3 => (0..3_i64).prop_map(Happening::Scanned),
        1 => Just(Happening::Rescan),
        1 => Just(Happening::Run),
        8 => Just(Happening::Look),
        1 => Just(Happening::Crash),
    ];
    prop::collection::vec(one, 0..80)
}

/// A Harbor with one image, in a project that allows pulls only of images without findings.
#[derive(Debug, Default)]
struct Gate {
    digest: String,
    verdict: Option<i64>,
    executions: Vec<(ReplicationExecution, Option<RefusedImage>)>,
    copied: Option<String>,
    /// Whether the registry answers.
    answers: bool,
}

impl Gate {
    fn execute(&mut self, trigger: &str) -> i64 {
        let id = self.executions.len() as i64 + 1;
        let message = match self.verdict {
            None => Some(PENDING),
            Some(0) => None,
            Some(_) => Some(FOUND),
        };
        let refused = message.map(|message| refusal("gate/app:v1", message, id));
        if refused.is_none() {
            self.copied = Some(self.digest.clone());
        }
        let status = if refused.is_some() { "Failed" } else { "Succeed" };
        self.executions.push((ReplicationExecution { trigger: trigger.to_owned(), ..execution(id, status) }, refused));
        id
    }

    fn scan(&self, held: Option<&BlockedImage>) -> Option<Scan> {
        if self.digest.is_empty() {
            return None;
        }
        let mut scan = scan(&self.digest, self.verdict.map_or_else(pending, |total| done("High", total)))?;
        let is_bad = self.verdict.is_some_and(|total| total > 0);
        scan.refusal = (self.answers && is_bad && should_ask_registry(held, &scan)).then(|| FOUND.to_owned());
        Some(scan)
    }

    /// One reconcile, and the run that it asks for. Returns the held images, and whether the policy ran.
    fn look(&mut self, held: &[BlockedImage], before: Option<i64>) -> (Vec<BlockedImage>, i64, bool) {
        let all: Vec<ReplicationExecution> = self.executions.iter().map(|(execution, _)| execution.clone()).collect();
        let batch = batch(before, held, &all, 10, at(0));
        let read = self.executions.iter().filter(|(execution, _)| batch.failed.contains(&execution.id));
        let refused: Vec<RefusedImage> = read.filter_map(|(_, refused)| refused.clone()).collect();
        let scans = BTreeMap::from([("gate/app:v1".to_owned(), self.scan(held.first()))]);
        let look =
            Observed { held, refused: &refused, scans: &scans, considered: batch.considered, running: &batch.running };
        let mut held = decide(&look);
        let runs = held.iter().any(wants_run);
        if runs {
            let id = self.execute("manual");
            started(&mut held, id);
        }
        (held, batch.considered, runs)
    }
}

proptest! {
    #[test]
    fn whatever_happens_an_image_is_tried_once_for_each_verdict_and_a_clean_one_arrives(
        happenings in happenings(),
        answers in any::<bool>(),
    ) {
        let mut gate = Gate { answers, ..Gate::default() };
        let (mut held, mut considered) = (Vec::new(), None);
        let (mut tries, mut verdicts) = (0, 0);
        for happening in happenings {
            match happening {
                Happening::Push(digest) => {
                    gate.digest = format!("sha256:{digest}");
                    gate.verdict = None;
                    gate.execute("event_based");
                }
                Happening::Scanned(total) if !gate.digest.is_empty() => {
                    verdicts += 1;
                    gate.verdict = Some(total);
                }
                Happening::Rescan => gate.verdict = None,
                Happening::Run => drop(gate.execute("manual")),
                Happening::Look => {
                    let (next, until, ran) = gate.look(&held, considered);
                    (held, considered) = (next, Some(until));
                    tries += usize::from(ran);
                }
                Happening::Crash => drop(gate.look(&held, considered)),
                Happening::Scanned(_) => {}
            }
        }
        prop_assert!(tries <= verdicts, "{tries} tries for {verdicts} verdicts");
        // The retries end after any history.
        for _ in 0..4 {
            let (next, until, _) = gate.look(&held, considered);
            (held, considered) = (next, Some(until));
        }
        let rest = gate.look(&held, considered);
        prop_assert!(!rest.2 && rest.0 == held, "it goes on: {rest:?} after {held:?}");
        match gate.verdict {
            Some(0) => {
                prop_assert_eq!(gate.copied.as_ref(), Some(&gate.digest), "a clean image was not copied: {:?}", held);
                prop_assert!(held.is_empty(), "{held:?}");
            }
            Some(_) => prop_assert!(held.iter().all(|held| held.state == BlockedImageState::Refused), "{held:?}"),
            None => {}
        }
    }
}
