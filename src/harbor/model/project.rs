//! CVE allowlist and quota of a project.

use serde::{Deserialize, Serialize};

/// Vulnerabilities that are ignored, as a project returns them and PUT of a project accepts them. PUT replaces the whole list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CveAllowlist {
    /// The vulnerabilities. Harbor answers 500 to a duplicate.
    #[serde(deserialize_with = "super::null_is_empty")]
    pub items: Vec<CveItem>,
    /// Seconds since 1970; absent: no expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// A vulnerability.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CveItem {
    /// Such as `CVE-2024-3094`; Harbor accepts any text.
    pub cve_id: String,
}

/// A quota as GET /quotas returns it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Quota {
    pub id: i64,
    /// The project of the quota.
    #[serde(rename = "ref")]
    pub reference: QuotaReference,
    pub hard: QuotaLimits,
}

/// The project of a quota.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct QuotaReference {
    pub id: i64,
}

/// The limits of a quota. Harbor has no other resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLimits {
    /// Bytes, 1 to 2^50; -1 is no limit.
    pub storage: i64,
}

/// PUT /quotas/{id}.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuotaUpdate {
    pub hard: QuotaLimits,
}
