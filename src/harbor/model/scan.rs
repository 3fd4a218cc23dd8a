//! Scans for vulnerabilities: what the list of artifacts says of them, and what the registry says to whoever pulls.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Artifact;

/// The last scan of an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ScanSummary {
    /// `Pending`, `Scheduled`, `Running`, `Success`, `Error` or `Stopped`.
    #[serde(default)]
    pub scan_status: String,
    /// The worst that was found: `None`, `Unknown`, `Negligible`, `Low`, `Medium`, `High`, `Critical`; empty until it is done.
    #[serde(default)]
    pub severity: String,
    /// How much was found.
    #[serde(default)]
    pub summary: ScanCounts,
    /// When it ended; the year 1 until then.
    #[serde(default)]
    pub end_time: Option<Timestamp>,
}

/// How much a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ScanCounts {
    /// Vulnerabilities of any severity.
    #[serde(default)]
    pub total: i64,
    /// Those of them that a newer version of a package mends.
    #[serde(default)]
    pub fixable: i64,
}

/// How far the last scan of an artifact has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanStage<'a> {
    /// There is none.
    Unscanned,
    /// It is under way.
    UnderWay(&'a ScanSummary),
    /// It was given up.
    Failed(&'a ScanSummary),
    /// It is done.
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
    /// How far its last scan has come. Of an index it says nothing: Harbor calls that done when one child is.
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

/// Whether the registry refuses an image (412) since its scan is not done, whatever it may find.
pub fn is_for_its_scan(refusal: &str) -> bool {
    refusal.contains("vulnerability scanning")
}

/// Whether the registry refuses an image (412) for what its scan found.
pub fn is_for_its_findings(refusal: &str) -> bool {
    !is_for_its_scan(refusal) && refusal.contains("vulnerability severity")
}

pub(super) fn null_is_no_scan<'de, D>(deserializer: D) -> Result<BTreeMap<String, ScanSummary>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
