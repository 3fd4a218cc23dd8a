//! What is known of the vulnerabilities of an image.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::named;

/// What Harbor's scanner says of a manifest.
///
/// Severity, counts and time are those of the last scan that was done. They stay while another one is under way or has
/// failed: they are about a digest, and grow old, not wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScanStatus {
    /// How far the last scan has come; of an image the least of its manifests.
    pub state: ScanState,
    /// The worst that was found, as Harbor says it: `None`, `Unknown`, `Negligible`, `Low`, `Medium`, `High`, `Critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Vulnerabilities of any severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
    /// Those of them that a newer version of a package mends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixable: Option<u32>,
    /// When that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_at: Option<Time>,
    /// Of an image: the manifest that severity, counts and time belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why there is no newer verdict, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When Harbor was last asked to scan it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Time>,
    /// How often it was asked since the last scan that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
}

/// How far a scan has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ScanState {
    /// It is done.
    Scanned,
    /// It is under way, or was asked for.
    Scanning,
    /// There was none.
    #[default]
    Unscanned,
    /// It was given up.
    Failed,
    /// Harbor has no scanner for the project.
    NoScanner,
}

named! {
/// Harbor's words for how bad the worst finding of a scan is, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoundSeverity {
    /// Nothing was found.
    None,
    /// Not rated.
    Unknown,
    /// Hardly one.
    Negligible,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
    /// A word that we do not know: taken for the worst.
    Unheard,
}
}

impl FoundSeverity {
    /// What Harbor's word means.
    pub fn of(word: &str) -> Self {
        word.parse().unwrap_or(Self::Unheard)
    }
}
