//! Vulnerability settings of a project in Harbor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether images are scanned, and which of them Harbor refuses to serve. The fields belong together: prevention without a
/// severity, or without scans, blocks too many images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.prevent || has(self.severity)")
    .message("prevent needs a severity: images with it or a worse one are blocked"))]
pub struct Vulnerabilities {
    /// Harbor refuses to serve an image that has a vulnerability of `severity` or worse, or that is not scanned yet. The first
    /// pull through a proxy project is always allowed: Harbor has nothing to scan before it.
    #[serde(default)]
    pub prevent: bool,
    /// The lowest severity that is blocked. Required with `prevent`. Without `prevent`, absent means not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Whether Harbor scans each image when it stores it. Default true.
    #[serde(default = "yes")]
    pub auto_scan: bool,
}

fn yes() -> bool {
    true
}

/// Severity of a vulnerability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// Any vulnerability, even of unknown severity.
    None,
    /// Low and worse.
    Low,
    /// Medium and worse.
    Medium,
    /// High and worse.
    High,
    /// Critical only.
    Critical,
}

impl Severity {
    /// Returns the value in Harbor's API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Vulnerabilities to ignore.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.system || (size(self.items) == 0 && !has(self.expiresAt))")
    .message("system uses the list of the whole Harbor: remove items and expiresAt"))]
pub struct CveAllowlist {
    /// Whether to use the list of the whole Harbor; the project's own list is not modified. Default false.
    #[serde(default)]
    pub system: bool,
    /// Identifiers such as `CVE-2024-3094`, each once. Empty: no vulnerability is ignored.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub items: Vec<String>,
    /// When the list expires, to the second. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}
