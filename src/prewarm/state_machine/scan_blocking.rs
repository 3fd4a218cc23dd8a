//! Why Harbor refuses to serve an image that it has stored. Pure.

use crate::{
    api::{Reason, ScanState, ScanStatus, cached_image::PlatformStatus},
    harbor::model::{is_for_its_findings, is_for_its_scan},
    prewarm::verify::Verification,
    reconcile::ReconcileError,
    registry::RetryClass,
};

/// Maximum number of manifests that a message names.
const NAMED: usize = 3;

/// What prevents the image from being pulled.
pub(super) struct ScanBlock {
    pub(super) reason: Reason,
    pub(super) message: String,
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

/// Whether a pull that failed for this reason shows that Harbor refuses to serve the image. Credentials without rights are
/// refused too ([`Reason::PullBlocked`]), but other clients may pull.
pub(super) fn blocks_pulls(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::VulnerabilitiesFound | Reason::NoScanner | Reason::Scanning | Reason::ScanFailed | Reason::NotScanned
    )
}

/// The failure of a pull that the registry refuses (412), with its message `refusal`. `scan` is the known scan status.
pub fn refused(refusal: &str, scan: Option<&ScanStatus>) -> ReconcileError {
    let reason = reason_of(refusal, scan);
    let class = if is_final(reason) { RetryClass::Stalled } else { RetryClass::Wait(None) };
    ReconcileError::new(reason, format!("Harbor refuses to serve a manifest: {refusal}. {}", advice(reason)), class)
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
pub(super) fn is_final(reason: Reason) -> bool {
    matches!(reason, Reason::VulnerabilitiesFound | Reason::PullBlocked | Reason::NoScanner)
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
        Reason::Scanning => "its scan is running".to_owned(),
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
