//! Vulnerability scans of warm images: what Harbor's list says of them, and when to ask Harbor for another one.
//!
//! Pure. Harbor scans by itself only where a project says so, and not everything: the children of an index may stay unscanned,
//! and a verdict is never renewed. So Harbor is asked for a scan, once in each pause.

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::timing::PrewarmTiming;
use crate::{
    api::{
        FoundSeverity, ScanState, ScanStatus,
        condition::{since, whole_seconds},
    },
    harbor::{
        self,
        model::{Artifact, ScanStage},
    },
};

/// The scan options of an image. The default only reads existing scans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanTerms {
    /// Harbor is asked to scan unscanned manifests, because a policy or a user needs the verdict.
    pub wanted: bool,
    /// The project blocks pulls of vulnerable or unscanned images.
    pub blocks: bool,
    /// Maximum age of a verdict; it is renewed at half of that age. `None`: any age.
    pub max_age: Option<Duration>,
}

/// The known scans of an image after a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanFindings {
    /// For each wanted manifest, in their order; `None` for one that Harbor does not list.
    pub each: Vec<Option<ScanStatus>>,
    /// A scan is running, and is worth waiting for.
    pub waits: bool,
    /// Check again after this time, for a scan to finish or to be requested.
    pub again: Option<Duration>,
}

/// Reads what Harbor says of the scan of one manifest. `known` is the earlier status of the same digest.
pub fn read(artifact: &Artifact, known: Option<&ScanStatus>) -> ScanStatus {
    let known = known.cloned().unwrap_or_default();
    match artifact.scan_stage() {
        ScanStage::Done(scan) => {
            let count = |number: i64| Some(u32::try_from(number).unwrap_or(0));
            // Harbor writes the year 1 for never.
            let ended = scan.end_time.filter(|time| time.as_second() > 0).map(|time| Time(whole_seconds(time)));
            // A request for a newer verdict counts until that verdict exists.
            let asked = if ended == known.scanned_at { known } else { ScanStatus::default() };
            ScanStatus {
                state: ScanState::Scanned,
                severity: Some(scan.severity.clone()).filter(|severity| !severity.is_empty()),
                total: count(scan.summary.total),
                fixable: count(scan.summary.fixable),
                scanned_at: ended,
                ..asked
            }
        }
        ScanStage::UnderWay(_) => ScanStatus { state: ScanState::Scanning, message: None, ..known },
        ScanStage::Failed(scan) => {
            let message = format!("the scan ended with status {}; see the log of Harbor's scanner", scan.scan_status);
            ScanStatus { state: ScanState::Failed, message: Some(message), ..known }
        }
        // Without a scanner, Harbor does not show earlier scans either.
        ScanStage::Unscanned if known.state == ScanState::NoScanner => known,
        ScanStage::Unscanned => ScanStatus {
            state: ScanState::Unscanned,
            message: known.message,
            requested_at: known.requested_at,
            requests: known.requests,
            ..ScanStatus::default()
        },
    }
}

/// Returns whether to ask Harbor for a scan now. `refused`: Harbor refuses to serve the manifest.
pub fn is_due(scan: &ScanStatus, terms: &ScanTerms, refused: bool, now: Timestamp, timing: &PrewarmTiming) -> bool {
    asked_in(scan, terms, refused, now, timing) == Some(Duration::ZERO)
}

/// Returns the status after Harbor was asked for a scan.
pub fn asked(scan: ScanStatus, answer: &Result<(), harbor::Error>, now: Timestamp) -> ScanStatus {
    let requests = Some(scan.requests.unwrap_or(0).saturating_add(1));
    let asked = ScanStatus { requested_at: Some(Time(whole_seconds(now))), requests, message: None, ..scan };
    match answer {
        Ok(()) | Err(harbor::Error::Conflict { .. }) => ScanStatus { state: ScanState::Scanning, ..asked },
        Err(harbor::Error::Precondition { message }) => ScanStatus {
            state: ScanState::NoScanner,
            message: Some(format!(
                "{message}; configure a scanner in Harbor (Interrogation Services), or another one for the project"
            )),
            ..asked
        },
        Err(harbor::Error::Forbidden { .. }) => ScanStatus {
            message: Some(
                "our account may not start scans: grant its robot account the permission Scan, Create".to_owned(),
            ),
            ..asked
        },
        Err(error) => ScanStatus { message: Some(format!("cannot start a scan: {error}")), ..asked },
    }
}

/// Aggregates the scans of an image. `refused` states for each manifest whether Harbor refuses to serve it, and `age` is the
/// time since the pull.
pub fn found(
    each: Vec<Option<ScanStatus>>,
    refused: &[bool],
    terms: &ScanTerms,
    age: Duration,
    now: Timestamp,
    timing: &PrewarmTiming,
) -> ScanFindings {
    let mut found = ScanFindings::default();
    for (scan, refused) in each.iter().zip(refused.iter().copied().chain(std::iter::repeat(false))) {
        let Some(scan) = scan else { continue };
        let again = if scan.state == ScanState::Scanning {
            let since = scan.requested_at.as_ref().map_or(age, |time| since(time.0, now));
            // A scan that hangs is checked as rarely as a finished one.
            let worth = (terms.wanted || refused) && since < timing.offline_bound;
            found.waits |= worth;
            worth.then(|| (since / 4).clamp(timing.look_min, timing.look_max))
        } else {
            asked_in(scan, terms, refused, now, timing)
        };
        found.again = found.again.into_iter().chain(again).min();
    }
    ScanFindings { each, ..found }
}

/// Aggregates the manifests of an image: the least advanced state, and the most severe finding.
pub fn worst<'s>(manifests: impl IntoIterator<Item = (&'s str, Option<&'s ScanStatus>)>) -> Option<ScanStatus> {
    let mut worst: Option<ScanStatus> = None;
    for (digest, scan) in manifests {
        let scan = scan.cloned().unwrap_or_default();
        let (state, message) = (scan.state, scan.message.clone());
        let named = ScanStatus {
            digest: scan.scanned_at.is_some().then(|| digest.to_owned()),
            requested_at: None,
            requests: None,
            ..scan
        };
        worst = Some(match worst {
            None => named,
            Some(other) => {
                let (worse_state, worse_message) =
                    if state > other.state { (state, message) } else { (other.state, other.message.clone()) };
                let rank = |scan: &ScanStatus| scan.severity.as_deref().map(FoundSeverity::of);
                let graver = rank(&named) > rank(&other);
                ScanStatus { state: worse_state, message: worse_message, ..if graver { named } else { other } }
            }
        });
    }
    worst
}

/// Returns the time until Harbor is asked for a scan; `None`: not without a change.
fn asked_in(
    scan: &ScanStatus,
    terms: &ScanTerms,
    refused: bool,
    now: Timestamp,
    timing: &PrewarmTiming,
) -> Option<Duration> {
    let due = match scan.state {
        ScanState::Scanning => return None,
        ScanState::Scanned => {
            let scanned = scan.scanned_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
            (terms.max_age? / 2).saturating_sub(since(scanned, now))
        }
        _ if terms.wanted || refused => Duration::ZERO,
        _ => return None,
    };
    let pause = match scan.state {
        ScanState::NoScanner => timing.backoff_max,
        _ => match scan.requests.unwrap_or(0) {
            0 => Duration::ZERO,
            requests => timing.backoff.saturating_mul(1 << (requests - 1).min(20)).min(timing.backoff_max),
        },
    };
    let asked = scan.requested_at.as_ref().map_or(Duration::ZERO, |time| pause.saturating_sub(since(time.0, now)));
    Some(due.max(asked))
}

#[cfg(test)]
mod tests;
