//! Vulnerability scans: their summary in the list of artifacts, and the registry's messages to clients that pull.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Artifact;

/// The last scan of an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ScanSummary {
    /// `Pending`, `Scheduled`, `Running`, `Success`, `Error` or `Stopped`.
    pub scan_status: String,
    /// The highest severity that was found: `None`, `Unknown`, `Negligible`, `Low`, `Medium`, `High`, `Critical`; empty until
    /// it is done.
    pub severity: String,
    pub summary: ScanCounts,
    /// End time; the year 1 until then.
    pub end_time: Option<Timestamp>,
}

/// Counts of the vulnerabilities that a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ScanCounts {
    /// Vulnerabilities of any severity.
    pub total: i64,
    /// Those that a newer version of a package fixes.
    pub fixable: i64,
}

/// The stage of an artifact's last scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanStage<'a> {
    /// There is no scan.
    Unscanned,
    /// The scan is pending or running.
    UnderWay(&'a ScanSummary),
    /// The scan failed or was stopped.
    Failed(&'a ScanSummary),
    /// The scan is done.
    Done(&'a ScanSummary),
}

/// POST …/scan.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StartScan {
    pub(crate) scan_type: &'static str,
}

impl StartScan {
    pub(crate) const VULNERABILITY: Self = Self { scan_type: "vulnerability" };
}

impl Artifact {
    /// Returns the stage of its last scan. It is not reliable for an index: Harbor reports that as done when one child is.
    pub fn scan_stage(&self) -> ScanStage<'_> {
        match self.scan_overview.values().next() {
            None => ScanStage::Unscanned,
            Some(scan) => match scan.scan_status.as_str() {
                "Success" => ScanStage::Done(scan),
                "Error" | "Stopped" => ScanStage::Failed(scan),
                _ => ScanStage::UnderWay(scan),
            },
        }
    }
}

/// Returns whether the registry refuses an image (412) because its scan is not done, whatever the scan will find.
pub fn is_for_its_scan(refusal: &str) -> bool {
    refusal.contains("vulnerability scanning")
}

/// Returns whether the registry refuses an image (412) because of the findings of its scan.
pub fn is_for_its_findings(refusal: &str) -> bool {
    !is_for_its_scan(refusal) && refusal.contains("vulnerability severity")
}

pub(super) fn null_is_no_scan<'de, D>(deserializer: D) -> Result<BTreeMap<String, ScanSummary>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
