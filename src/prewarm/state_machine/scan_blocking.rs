//! The effect of scans on a status, and of images that Harbor has stored but refuses to serve.

use std::time::Duration;

use super::{PullFailure, transitions::StatusTransition};
use crate::{
    api::{ConditionType, Reason, ScanState, ScanStatus, cached_image::PlatformStatus},
    harbor::model::{is_for_its_findings, is_for_its_scan},
    prewarm::{
        scan::{ScanFindings, worst},
        verify::Verification,
    },
    registry::RetryClass,
};

/// Maximum number of manifests that a message names.
const NAMED: usize = 3;

/// What prevents the image from being pulled.
pub(super) struct ScanBlock {
    reason: Reason,
    message: String,
}

impl ScanBlock {
    /// `None` if Harbor serves every wanted manifest that was requested.
    pub(super) fn of(verdict: &Verification, platforms: &[PlatformStatus]) -> Option<Self> {
        let mut blocked: Vec<(Reason, String)> = platforms
            .iter()
            .zip(&verdict.refused)
            .filter_map(|(child, refusal)| Some((child, refusal.as_deref()?)))
            .map(|(child, refusal)| {
                let reason = reason_of(refusal, child.scan.as_ref());
                (reason, format!("{}: {}", child.platform, why(reason, refusal, child.scan.as_ref())))
            })
            .collect();
        // First what needs a person; the others may still resolve without one.
        blocked.sort_by_key(|(reason, _)| !is_final(*reason));
        let reason = blocked.first()?.0;
        let more = blocked.len().saturating_sub(NAMED);
        let named: Vec<&str> = blocked.iter().take(NAMED).map(|(_, why)| why.as_str()).collect();
        let mut message = format!("Harbor refuses to serve {}", named.join("; "));
        if more > 0 {
            message = format!("{message}; and {more} more");
        }
        Some(Self { reason, message: format!("{message}. {}", advice(reason)) })
    }
}

impl StatusTransition<'_> {
    pub(super) fn scanned(&mut self, found: &ScanFindings) {
        for (child, scan) in self.status.platforms.iter_mut().zip(&found.each) {
            child.scan.clone_from(scan);
        }
        self.sum_scans();
    }

    /// Aggregates the scans of the manifests.
    pub(super) fn sum_scans(&mut self) {
        let scans = self.status.platforms.iter().map(|child| (child.digest.as_str(), child.scan.as_ref()));
        let any = self.status.platforms.iter().any(|child| child.scan.is_some());
        self.status.scan = any.then(|| worst(scans)).flatten();
    }

    /// Sets the status of an image that Harbor has stored but refuses to serve.
    pub(super) fn blocked(&mut self, block: &ScanBlock, verdict: &Verification, age: Duration) -> Duration {
        let ScanBlock { reason, message } = block;
        self.status.attempts = None;
        self.conditions.set(ConditionType::PullBlocked, true, *reason, message);
        self.conditions.set(ConditionType::OfflineByDigest, false, *reason, "see PullBlocked");
        if verdict.by_tag.is_some() {
            self.conditions.set(ConditionType::OfflineByTag, false, *reason, "see PullBlocked");
        }
        let mut each = verdict.stored.iter().zip(&verdict.refused);
        let others_missing = each.any(|(stored, refused)| !stored && refused.is_none());
        if others_missing && self.status.next_attempt_at.is_some() {
            return self.begun(&format!("{message}. Others were deleted since; pulling again"));
        }
        if others_missing && age < self.setting.timing.store_bound {
            self.conditions.progressing(*reason, format!("{message}. Harbor has not stored all of the others yet"));
            return self.verify_interval(age);
        }
        if is_final(*reason) {
            self.conditions.stalled(*reason, message);
        } else {
            self.conditions.progressing(*reason, message);
            if verdict.scans.again.is_none() && age < self.setting.timing.offline_bound {
                self.status.next_attempt_at = None;
                return self.verify_interval(age);
            }
        }
        self.rest(&verdict.scans)
    }

    /// Sets PullBlocked after a pull that failed because Harbor refuses to serve the image; removes it after another failure.
    pub(super) fn report_blocked(&mut self, failure: &PullFailure) {
        // Credentials without rights are refused too, but other clients may pull.
        let blocks = is_final(failure.reason) && failure.reason != Reason::PullBlocked;
        if blocks || is_open(failure.reason) {
            self.conditions.set(ConditionType::PullBlocked, true, failure.reason, &failure.message);
        } else {
            self.conditions.remove(ConditionType::PullBlocked);
        }
    }
}

/// The failure of a pull that the registry refuses (412), with its message `refusal`. `scan` is the known scan status.
pub fn refused(refusal: &str, scan: Option<&ScanStatus>) -> PullFailure {
    let reason = reason_of(refusal, scan);
    let class = if is_final(reason) { RetryClass::Stalled } else { RetryClass::Wait(None) };
    PullFailure { reason, message: format!("Harbor refuses to serve a manifest: {refusal}. {}", advice(reason)), class }
}

/// The reason of a 412, from the registry's message and the scan status known by now.
fn reason_of(refusal: &str, scan: Option<&ScanStatus>) -> Reason {
    if is_for_its_findings(refusal) {
        return Reason::VulnerabilitiesFound;
    }
    if !is_for_its_scan(refusal) {
        return Reason::PullBlocked;
    }
    match scan.map(|scan| scan.state) {
        Some(ScanState::Scanning) => Reason::Scanning,
        Some(ScanState::Failed) => Reason::ScanFailed,
        Some(ScanState::NoScanner) => Reason::NoScanner,
        _ => Reason::NotScanned,
    }
}

/// Whether the refusal lasts until a person acts.
fn is_final(reason: Reason) -> bool {
    matches!(reason, Reason::VulnerabilitiesFound | Reason::PullBlocked | Reason::NoScanner)
}

/// Whether a scan may end the refusal.
fn is_open(reason: Reason) -> bool {
    matches!(reason, Reason::Scanning | Reason::ScanFailed | Reason::NotScanned)
}

fn why(reason: Reason, refusal: &str, scan: Option<&ScanStatus>) -> String {
    let said = scan.and_then(|scan| scan.message.clone());
    match reason {
        Reason::VulnerabilitiesFound => {
            let count = |number: Option<u32>| number.map_or_else(|| "an unknown number".to_owned(), |n| n.to_string());
            let scan = scan.cloned().unwrap_or_default();
            let severity = scan.severity.as_deref().unwrap_or("unknown");
            let (total, fixable) = (count(scan.total), count(scan.fixable));
            format!("{total} vulnerabilities, {fixable} of them fixable, the worst {severity}")
        }
        Reason::Scanning => "its scan is not done".to_owned(),
        Reason::ScanFailed => said.unwrap_or_else(|| "its scan failed".to_owned()),
        Reason::NoScanner => said.unwrap_or_else(|| "it has no scanner".to_owned()),
        Reason::NotScanned => said.unwrap_or_else(|| "it has not been scanned".to_owned()),
        _ => refusal.to_owned(),
    }
}

fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::VulnerabilitiesFound => {
            "Use a fixed image, or allow these vulnerabilities: cveAllowlist or vulnerabilities.severity of the ProxyProject"
        }
        Reason::Scanning => "It is checked again",
        Reason::ScanFailed => "Harbor is asked to scan it again, with backoff",
        Reason::NotScanned => "Harbor is asked to scan it",
        Reason::NoScanner => "Without a scanner set vulnerabilities.prevent: false in the ProxyProject",
        _ => "See the policies of the project in Harbor",
    }
}
