//! What belongs to a project and has a document of its own: its quota.

use serde::{Deserialize, Serialize};

/// A quota as GET /quotas shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Quota {
    /// Harbor's id.
    pub id: i64,
    /// Whose quota it is.
    #[serde(rename = "ref")]
    pub reference: QuotaReference,
    /// The limits.
    pub hard: QuotaLimits,
}

/// Whose quota it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct QuotaReference {
    /// Harbor's id of the project.
    pub id: i64,
}

/// The limits of a quota. Harbor knows no other resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLimits {
    /// Bytes, 1 to 2^50; -1 is no limit.
    pub storage: i64,
}

/// PUT /quotas/{id}.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuotaUpdate {
    /// The limits.
    pub hard: QuotaLimits,
}
