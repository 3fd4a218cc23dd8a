//! What a project of Harbor does about vulnerabilities.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether images are scanned, and which of them may not be pulled. These belong together: prevention without a severity, or
/// without scans, blocks more than anyone wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.prevent || has(self.severity)")
    .message("prevent needs a severity, from which on images are blocked"))]
pub struct Vulnerabilities {
    /// Harbor refuses to serve an image that has a vulnerability of `severity` or worse, or that is not scanned yet. The first
    /// pull through a proxy project is never judged: Harbor has nothing to scan before it.
    #[serde(default)]
    pub prevent: bool,
    /// The least severity that is blocked. Needed with `prevent`; without it, absent is not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Harbor scans each image when it is stored. Default true.
    #[serde(default = "yes")]
    pub auto_scan: bool,
}

fn yes() -> bool {
    true
}

/// How bad a vulnerability is.
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
    /// Critical alone.
    Critical,
}

impl Severity {
    /// As Harbor keeps it.
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

/// Vulnerabilities that do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.system || (size(self.items) == 0 && !has(self.expiresAt))")
    .message("system takes the list of the whole Harbor: items and expiresAt would say nothing"))]
pub struct CveAllowlist {
    /// The list of the whole Harbor is taken, and the project's own is left alone. Default false.
    #[serde(default)]
    pub system: bool,
    /// Identifiers such as `CVE-2024-3094`, each once. Empty: nothing is let through.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub items: Vec<String>,
    /// When the list ends, to the second. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}
