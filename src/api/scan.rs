//! Scan results of an image.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::named;

/// The result of Harbor's scanner for a manifest.
///
/// Severity, counts and time are those of the last completed scan. They stay while another scan is running or has failed, because
/// a result belongs to a digest: it becomes old, but not wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScanStatus {
    /// State of the last scan. For an image: the least advanced state of its manifests.
    pub state: ScanState,
    /// The worst finding, as Harbor names it: `None`, `Unknown`, `Negligible`, `Low`, `Medium`, `High`, `Critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Number of vulnerabilities of any severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
    /// Number of them that a newer version of a package fixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixable: Option<u32>,
    /// Time of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_at: Option<Time>,
    /// For an image: the manifest of severity, counts and time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why there is no newer result, and how to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When Harbor was last asked for a scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Time>,
    /// Number of scan requests since the last completed scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
}

/// State of a scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ScanState {
    /// Completed.
    Scanned,
    /// Running, or requested.
    Scanning,
    /// No scan was started.
    #[default]
    Unscanned,
    /// Stopped.
    Failed,
    /// The project has no scanner.
    NoScanner,
}

named! {
/// Harbor's names of severities, mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoundSeverity {
    /// No vulnerability was found.
    None,
    /// Not rated.
    Unknown,
    /// Negligible.
    Negligible,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
    /// An unknown name: treated as the worst.
    Unheard,
}
}

impl FoundSeverity {
    /// Parses Harbor's name.
    pub fn of(word: &str) -> Self {
        word.parse().unwrap_or(Self::Unheard)
    }
}
