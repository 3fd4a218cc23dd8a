//! Status of a ReplicationRule: the policy in Harbor, its newest execution, and blocked images.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::OwnedObject;

/// Observed state of a replication policy in Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationRuleStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The last handled value of the annotation `harbor-pilot.dev/reconcile-now`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_token: Option<String>,
    /// Ready, Reconciling, Stalled, Drifted, DeletionBlocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Harbor's id of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The policy in Harbor that belongs to this resource: created, adopted, or found with our marker. If a user removes the
    /// marker of this policy, it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<OwnedObject>,
    /// Fields that differ between Harbor and the spec, while the controller does not change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// When `spec.trigger.cron` fires next, while the policy is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_scheduled_time: Option<Time>,
    /// The newest execution of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_execution: Option<ExecutionStatus>,
    /// The last handled value of the annotation `harbor-pilot.dev/run-now`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_token: Option<String>,
    /// An execution that the controller is about to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_run: Option<PendingRun>,
    /// With `spec.afterScan`: the newest execution whose failures are in `blockedImages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered_execution: Option<i64>,
    /// With `spec.afterScan`: pushed images that were not copied, and why. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_images: Vec<BlockedImage>,
}

/// An execution that the controller is about to start. It is written first, so that a crash does not start two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRun {
    /// The value of the annotation that requested it. Absent: `spec.afterScan` started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The newest execution before it; 0 is none. The next manual execution is the requested one.
    pub after_execution: i64,
}

/// One execution of a policy as Harbor reports it. Its counts lag by up to 30 s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionStatus {
    /// Harbor's id of the execution.
    pub id: i64,
    /// `InProgress`, `Succeed`, `Failed` or `Stopped`.
    pub status: String,
    /// `manual`, `scheduled` or `event_based`.
    pub trigger: String,
    /// Start time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// End time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Tasks: about one per repository.
    pub total: i64,
    /// Tasks that succeeded.
    pub succeeded: i64,
    /// Tasks that failed.
    pub failed: i64,
    /// Tasks that were stopped.
    pub stopped: i64,
    /// Tasks that are running.
    pub in_progress: i64,
    /// Harbor's message about the execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What failed, and why. At most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<TaskFailure>,
}

/// A task that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskFailure {
    /// The image or repository.
    pub resource: String,
    /// The last error of the task's log.
    pub reason: String,
}

/// An image whose copy vulnerability prevention blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedImage {
    /// `project/repository:tag`, or a digest instead of the tag.
    pub image: String,
    /// The current state of the image.
    pub state: BlockedImageState,
    /// The cause, for display.
    pub reason: String,
    /// The scanned digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The most severe finding of the scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Number of vulnerabilities that the scan found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<i64>,
    /// The execution of the last retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_in: Option<i64>,
    /// Number of retries for the digest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// The state of an image that was not copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum BlockedImageState {
    /// Its scan is not done.
    #[default]
    WaitingForScan,
    /// Its scan allows the copy, and the policy is running again.
    Retrying,
    /// It stays blocked until its tag names another image, or a scan has another result.
    Refused,
}
