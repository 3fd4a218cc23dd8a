use std::collections::BTreeMap;

use super::*;
use crate::harbor::model::ScanSummary;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn time(second: i64) -> Option<Time> {
    Some(Time(at(second)))
}

fn artifact(status: &str, severity: &str, ended: i64) -> Artifact {
    let summary = ScanSummary {
        scan_status: status.to_owned(),
        severity: severity.to_owned(),
        end_time: Some(at(ended)),
        ..ScanSummary::default()
    };
    Artifact { scan_overview: [("report".to_owned(), summary)].into(), ..Artifact::default() }
}

fn done(severity: &str, scanned: i64) -> ScanStatus {
    ScanStatus {
        state: ScanState::Scanned,
        severity: Some(severity.to_owned()),
        total: Some(0),
        fixable: Some(0),
        scanned_at: time(scanned),
        ..ScanStatus::default()
    }
}

const WANTED: ScanTerms = ScanTerms { wanted: true, blocks: false, max_age: None };

#[test]
fn a_verdict_stands_until_there_is_a_new_one() {
    let known = ScanStatus { requested_at: time(100), requests: Some(1), ..done("High", 10) };
    let table = [
        (artifact("Success", "None", 10), ScanState::Scanned, Some("None"), Some(1)),
        (artifact("Success", "None", 110), ScanState::Scanned, Some("None"), None),
        (artifact("Pending", "", -1), ScanState::Scanning, Some("High"), Some(1)),
        (artifact("Error", "", 110), ScanState::Failed, Some("High"), Some(1)),
        (artifact("Stopped", "", 110), ScanState::Failed, Some("High"), Some(1)),
        // Harbor forgets the results of a scanner that was removed.
        (Artifact::default(), ScanState::Unscanned, None, Some(1)),
    ];
    for (artifact, state, severity, requests) in table {
        let scan = read(&artifact, Some(&known));
        assert_eq!((scan.state, scan.severity.as_deref(), scan.requests), (state, severity, requests), "{artifact:?}");
    }
    let lacking = ScanStatus { state: ScanState::NoScanner, ..ScanStatus::default() };
    assert_eq!(read(&Artifact::default(), Some(&lacking)).state, ScanState::NoScanner);
    assert_eq!(read(&artifact("Success", "Low", 5), Some(&lacking)).state, ScanState::Scanned);
    let never = Artifact { scan_overview: BTreeMap::new(), ..artifact("Success", "None", -1_800_000_000) };
    assert_eq!(read(&never, None), ScanStatus::default());
}

#[test]
fn harbor_is_asked_once_and_after_failures_more_and_more_seldom() {
    let timing = PrewarmTiming::default();
    let state = |state, requests| ScanStatus {
        state,
        requests: Some(requests),
        requested_at: (requests > 0).then(|| Time(at(0))),
        ..ScanStatus::default()
    };
    use ScanState::{Failed, NoScanner, Scanning, Unscanned};
    // State and requests so far, the second after the last one, whether one is due.
    let table = [
        (state(Unscanned, 0), 0, true),
        (state(Scanning, 1), 7200, false),
        (state(Unscanned, 1), 9, false),
        (state(Unscanned, 1), 10, true),
        (state(Failed, 0), 0, true),
        (state(Failed, 2), 19, false),
        (state(Failed, 2), 20, true),
        (state(Failed, 30), 3599, false),
        (state(Failed, 30), 3600, true),
        (state(NoScanner, 1), 3599, false),
        (state(NoScanner, 1), 3600, true),
    ];
    for (scan, second, due) in table {
        assert_eq!(is_due(&scan, &WANTED, false, at(second), &timing), due, "{scan:?} after {second} s");
        assert_eq!(is_due(&scan, &ScanTerms::default(), true, at(second), &timing), due, "refused: {scan:?}");
        assert!(!is_due(&scan, &ScanTerms::default(), false, at(second), &timing), "no policy uses it: {scan:?}");
    }
}

#[test]
fn a_verdict_is_renewed_at_half_of_its_age_and_only_where_age_matters() {
    let timing = PrewarmTiming::default();
    let terms = ScanTerms { max_age: Some(Duration::from_secs(7200)), ..WANTED };
    for (second, due) in [(3599, false), (3600, true), (8000, true)] {
        assert_eq!(is_due(&done("Low", 0), &terms, false, at(second), &timing), due, "{second}");
        assert!(!is_due(&done("Low", 0), &WANTED, false, at(second), &timing));
    }
    let asked = ScanStatus { requested_at: time(3600), requests: Some(1), ..done("Low", 0) };
    assert!(!is_due(&asked, &terms, false, at(3605), &timing), "not twice");
    let found = |scan| found(vec![Some(scan)], &[], &terms, Duration::ZERO, at(600), &timing);
    assert_eq!(found(done("Low", 0)).again, Some(Duration::from_secs(3000)));
}

#[test]
fn what_harbor_answers_to_a_request_is_kept_with_what_to_do_about_it() {
    use harbor::Error;
    let operation = || "POST /scan".to_owned();
    let message = || "no available scanner for project: 3".to_owned();
    let table = [
        (Ok(()), ScanState::Scanning, None),
        (Err(Error::Conflict { message: message() }), ScanState::Scanning, None),
        (
            Err(Error::Precondition { message: message() }),
            ScanState::NoScanner,
            Some("project: 3; configure a scanner in Harbor"),
        ),
        (
            Err(Error::Forbidden { operation: operation(), message: message() }),
            ScanState::Unscanned,
            Some("permission Scan"),
        ),
        (
            Err(Error::Refused { operation: operation(), status: 400, message: "does not support".to_owned() }),
            ScanState::Unscanned,
            Some("does not support"),
        ),
    ];
    for (answer, state, reported) in table {
        let scan = asked(ScanStatus::default(), &answer, at(5));
        assert_eq!((scan.state, scan.requests, scan.requested_at.clone()), (state, Some(1), time(5)), "{answer:?}");
        assert_eq!(scan.message.is_some(), reported.is_some());
        assert!(reported.is_none_or(|reported| scan.message.unwrap().contains(reported)), "{answer:?}");
    }
}

#[test]
fn a_scan_is_waited_for_and_not_for_ever() {
    let timing = PrewarmTiming::default();
    let scanning = ScanStatus { state: ScanState::Scanning, requested_at: time(0), ..ScanStatus::default() };
    let table = [(4, true, Some(5)), (100, true, Some(25)), (800, true, Some(60)), (900, false, None)];
    for (second, waits, again) in table {
        let found = found(vec![Some(scanning.clone()), None], &[], &WANTED, Duration::ZERO, at(second), &timing);
        assert_eq!((found.waits, found.again), (waits, again.map(Duration::from_secs)), "{second}");
    }
    let unwanted = found(vec![Some(scanning)], &[false], &ScanTerms::default(), Duration::ZERO, at(4), &timing);
    assert!(!unwanted.waits);
}

#[test]
fn scan_of_an_image_is_the_worst_of_its_manifests() {
    let pending = ScanStatus { state: ScanState::Scanning, ..ScanStatus::default() };
    let [low, bad, unusual] =
        [("Low", 5), ("Critical", 3), ("Apocalyptic", 1)].map(|(word, scanned)| done(word, scanned));
    type Row<'r> = (&'r [Option<&'r ScanStatus>], ScanState, Option<&'r str>, Option<&'r str>);
    let table: [Row<'_>; 6] = [
        (&[Some(&low), Some(&bad)], ScanState::Scanned, Some("Critical"), Some("b")),
        (&[Some(&bad), Some(&low)], ScanState::Scanned, Some("Critical"), Some("a")),
        (&[Some(&bad), Some(&pending)], ScanState::Scanning, Some("Critical"), Some("a")),
        (&[Some(&pending), Some(&low)], ScanState::Scanning, Some("Low"), Some("b")),
        (&[Some(&bad), Some(&unusual)], ScanState::Scanned, Some("Apocalyptic"), Some("b")),
        (&[None, Some(&low)], ScanState::Unscanned, Some("Low"), Some("b")),
    ];
    for (scans, state, severity, digest) in table {
        let worst = worst(["a", "b"].into_iter().zip(scans.iter().copied())).unwrap();
        assert_eq!(
            (worst.state, worst.severity.as_deref(), worst.digest.as_deref()),
            (state, severity, digest),
            "{scans:?}"
        );
    }
}
