//! The result of a survey.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

/// The state of a cluster. Its fields are stable; new ones may be added.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Whether all resources are Ready and all kinds could be read.
    pub(crate) ready: bool,
    pub(crate) instances: SummaryList<InstanceSummary>,
    pub(crate) registries: SummaryList<RegistrySummary>,
    pub(crate) proxy_projects: SummaryList<ProjectSummary>,
    pub(crate) replication_rules: SummaryList<ReplicationSummary>,
    pub(crate) policies: SummaryList<PolicySummary>,
    pub(crate) images: ImageSummary,
    /// Resources that are not Ready, newest first. The list also has conflicts and blocked deletions; `total` does not count
    /// these.
    pub(crate) not_ready: SummaryList<NotReadyItem>,
    pub(crate) unreadable: Vec<UnreadableKind>,
}

/// The first resources of a kind, and the total number.
#[derive(Debug, Serialize)]
pub(crate) struct SummaryList<T> {
    pub(crate) total: usize,
    pub(crate) items: Vec<T>,
}

/// The fields that all kinds have.
#[derive(Debug, Serialize)]
pub(crate) struct SummaryState {
    pub(crate) name: String,
    /// `True`, `False` or `Unknown`.
    pub(crate) ready: String,
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceSummary {
    #[serde(flatten)]
    pub(crate) state: SummaryState,
    pub(crate) version: Option<String>,
    pub(crate) url: String,
    pub(crate) pull_host: String,
    pub(crate) unhealthy_components: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RegistrySummary {
    #[serde(flatten)]
    pub(crate) state: SummaryState,
    #[serde(rename = "type")]
    pub(crate) type_: String,
    pub(crate) url: String,
    pub(crate) harbor: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProjectSummary {
    #[serde(flatten)]
    pub(crate) state: SummaryState,
    /// Whether admission uses its rule.
    pub(crate) in_force: bool,
    pub(crate) matches: Vec<String>,
    pub(crate) target: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) when_unavailable: Option<String>,
    pub(crate) prewarm: String,
    pub(crate) harbor: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplicationSummary {
    #[serde(flatten)]
    pub(crate) state: SummaryState,
    pub(crate) direction: &'static str,
    pub(crate) registry: String,
    pub(crate) trigger: Option<String>,
    pub(crate) enabled: Option<bool>,
    pub(crate) blocked_images: usize,
    pub(crate) last_execution: Option<ExecutionSummary>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ExecutionSummary {
    pub(crate) status: String,
    pub(crate) trigger: String,
    pub(crate) started: Option<String>,
    pub(crate) total: i64,
    pub(crate) succeeded: i64,
    pub(crate) failed: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicySummary {
    pub(crate) name: String,
    pub(crate) action: String,
    pub(crate) allowed: Vec<String>,
    pub(crate) require_digest: bool,
    pub(crate) forbid_latest: bool,
}

/// Counts of CachedImages.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageSummary {
    pub(crate) total: usize,
    pub(crate) ready: usize,
    /// Images that were not reconciled yet.
    pub(crate) pending: usize,
    pub(crate) warming: usize,
    pub(crate) verifying: usize,
    pub(crate) failed: usize,
    pub(crate) failed_by_reason: BTreeMap<String, usize>,
    /// Bytes that Harbor stores for them.
    pub(crate) bytes: u64,
}

/// A problem of a resource.
#[derive(Debug, Serialize)]
pub(crate) struct NotReadyItem {
    pub(crate) kind: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    pub(crate) condition: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) since: Option<Timestamp>,
    /// Whether only a user can fix the problem.
    pub(crate) stalled: bool,
}

/// A kind that could not be read.
#[derive(Debug, Serialize)]
pub(crate) struct UnreadableKind {
    pub(crate) what: String,
    pub(crate) why: String,
}

impl<T> Default for SummaryList<T> {
    fn default() -> Self {
        Self { total: 0, items: Vec::new() }
    }
}

impl<T> SummaryList<T> {
    /// Counts an item, and keeps it if the list has room.
    pub(crate) fn add(&mut self, item: T, limit: usize) {
        self.total += 1;
        if self.items.len() < limit {
            self.items.push(item);
        }
    }
}
