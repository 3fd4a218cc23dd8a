//! The types of Harbor's API, limited to the fields in use.
//!
//! Harbor omits false and empty fields from its answers. So every field that may be absent has a default, and a value that was
//! read equals the value that was written. A field has Harbor's name, and a comment where that does not say enough.
#![allow(missing_docs, reason = "Harbor's API documents them")]

mod project;
mod replication;
mod retention;
mod scan;

use std::collections::BTreeMap;

pub use project::{CveAllowlist, CveItem, Quota, QuotaLimits, QuotaReference, QuotaUpdate};
pub use replication::{
    FilterValue, RegistryReference, ReplicationExecution, ReplicationFilter, ReplicationPolicy,
    ReplicationPolicyContent, ReplicationTask, ReplicationTrigger, StartReplication, TriggerSettings,
    replication_failure,
};
pub use retention::{
    RetentionPolicy, RetentionRule, RetentionSchedule, RetentionScope, RetentionSelector, RetentionTrigger,
};
pub(crate) use scan::StartScan;
use scan::null_is_no_scan;
pub use scan::{ScanCounts, ScanStage, ScanSummary, is_for_its_findings, is_for_its_scan};
use serde::{Deserialize, Serialize};

/// GET /systeminfo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SystemInfo {
    /// Harbor sends it only to an authenticated account.
    pub harbor_version: Option<String>,
}

/// GET /health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `healthy` or `unhealthy`.
    pub status: String,
    /// core, database, jobservice, portal, redis, registry, registryctl, trivy.
    pub components: Vec<ComponentHealth>,
}

/// One component of Harbor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ComponentHealth {
    pub name: String,
    /// `healthy` or `unhealthy`.
    pub status: String,
}

/// A registry as GET returns it. Harbor returns the secret as `*****`; this type omits it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Registry {
    pub id: i64,
    pub name: String,
    #[serde(rename = "type", default)]
    pub type_: String,
    /// As Harbor normalizes it: without trailing `/`, query and user.
    #[serde(default)]
    pub url: String,
    /// Free text; contains the marker.
    #[serde(default)]
    pub description: String,
    /// The credential without its secret.
    #[serde(default)]
    pub credential: RegistryCredential,
    #[serde(default)]
    pub insecure: bool,
    #[serde(default)]
    pub ca_certificate: String,
    /// `healthy` or `unhealthy`, from Harbor's own check every 5 minutes.
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub creation_time: Option<jiff::Timestamp>,
}

impl Registry {
    /// Returns whether the upstream failed Harbor's last check: until the next check Harbor proxies nothing of it.
    pub fn is_unhealthy(&self) -> bool {
        self.status == "unhealthy"
    }
}

/// The readable part of a registry's credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RegistryCredential {
    /// User name or access key; empty without a credential.
    pub access_key: String,
}

/// POST /registries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewRegistry {
    /// 1 to 64 characters.
    pub name: String,
    #[serde(rename = "type")]
    pub type_: String,
    pub url: String,
    /// Free text; contains the marker.
    pub description: String,
    /// Absent: anonymous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<NewCredential>,
    pub insecure: bool,
    /// PEM certificates; absent: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<String>,
}

/// A credential to send to Harbor.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct NewCredential {
    /// Always `basic`.
    #[serde(rename = "type")]
    pub type_: &'static str,
    pub access_key: String,
    pub access_secret: String,
}

impl std::fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCredential").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// PUT /registries/{id}: merges; `None` keeps a field. A changed `url` without the secret would clear the secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct RegistryUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Free text; contains the marker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `basic` if an access key is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_type: Option<&'static str>,
    /// User name or access key; empty clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Password or secret key; empty clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
    /// PEM certificates; empty clears them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<String>,
}

impl std::fmt::Debug for RegistryUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryUpdate")
            .field("url", &self.url)
            .field("description", &self.description)
            .field("access_key", &self.access_key)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

/// POST /registries/ping of an endpoint that is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegistryPing {
    #[serde(rename = "type")]
    pub type_: String,
    pub url: String,
    pub insecure: bool,
}

/// A project as GET returns it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Project {
    pub project_id: i64,
    pub name: String,
    /// Id of the proxied registry; absent in other projects.
    #[serde(default)]
    pub registry_id: Option<i64>,
    /// Strings, whatever their meaning: `public`, `proxy_speed_kb`, `max_upstream_conn`, …
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub creation_time: Option<jiff::Timestamp>,
    #[serde(default)]
    pub repo_count: i64,
    #[serde(default)]
    pub cve_allowlist: CveAllowlist,
}

/// POST /projects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewProject {
    /// Lower-case letters, digits and single separators.
    pub project_name: String,
    pub registry_id: i64,
    /// Strings only: a JSON boolean is 422.
    pub metadata: BTreeMap<String, String>,
    /// Bytes, or -1; absent: Harbor's default. Harbor reads it only from an administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_limit: Option<i64>,
}

/// PUT /projects/{id}: merges the metadata key by key, hardly validated; an omitted field keeps its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProjectUpdate {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cve_allowlist: Option<CveAllowlist>,
}

/// GET /projects/{id}/_deletable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Deletable {
    /// Absent when false.
    pub deletable: bool,
    /// Why the project cannot be deleted.
    pub message: String,
}

/// A label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Harbor's id; not sent.
    #[serde(default, skip_serializing)]
    pub id: i64,
    /// Unique in its project.
    pub name: String,
    /// Contains the marker.
    #[serde(default)]
    pub description: String,
    /// `p` for a label of a project, `g` for a global one.
    #[serde(default)]
    pub scope: String,
    /// The project, for scope `p`.
    #[serde(default)]
    pub project_id: i64,
}

/// A repository of a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// Name, with the project's name in front.
    pub name: String,
}

/// An artifact of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Artifact {
    pub digest: String,
    #[serde(default)]
    pub manifest_media_type: String,
    /// When Harbor stored it, by Harbor's clock (RFC 3339).
    #[serde(default)]
    pub push_time: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub tags: Vec<Tag>,
    /// Media type of a report → the last scan; empty without a scan, and if it was not requested.
    #[serde(default, deserialize_with = "null_is_no_scan")]
    pub scan_overview: BTreeMap<String, ScanSummary>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub references: Vec<Reference>,
}

/// A tag of an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Tag {
    pub name: String,
}

/// A child of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Reference {
    pub child_digest: String,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}
