//! What a ReplicationRule tells: the policy in Harbor, its newest run, and what is held back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::OwnedObject;

/// What is known of a replication policy in Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationRuleStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The value of the annotation `harbor-pilot.dev/reconcile-now` that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_token: Option<String>,
    /// Ready, Reconciling, Stalled, Drifted, DeletionBlocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Harbor's id of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The policy in Harbor while it is this resource's own: it was created, adopted, or found with our marker. A marker that a person
    /// removes is restored where this agrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<OwnedObject>,
    /// Fields in which Harbor differs from the spec, while they are not being changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// When `spec.trigger.cron` fires next, while the policy is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_scheduled_time: Option<Time>,
    /// The newest execution of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_execution: Option<ExecutionStatus>,
    /// The value of the annotation `harbor-pilot.dev/run-now` that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_token: Option<String>,
    /// An execution that is about to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_run: Option<PendingRun>,
    /// With `spec.afterScan`: the newest execution whose failures are reflected in `blockedImages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered_execution: Option<i64>,
    /// With `spec.afterScan`: images that were pushed and not copied, and why. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_images: Vec<BlockedImage>,
}

/// An execution that is about to be started. It is written down first, so that a crash does not start two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRun {
    /// The value of the annotation that asked for it; absent: `spec.afterScan` did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The newest execution before it; 0 is none. A manual one after it is the one that was to be started.
    pub after_execution: i64,
}

/// One execution of a policy, as Harbor tells it; its counts lag by up to 30 s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionStatus {
    /// Harbor's id of the execution.
    pub id: i64,
    /// `InProgress`, `Succeed`, `Failed` or `Stopped`.
    pub status: String,
    /// `manual`, `scheduled` or `event_based`.
    pub trigger: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Tasks: about one a repository.
    pub total: i64,
    /// Tasks that succeeded.
    pub succeeded: i64,
    /// Tasks that failed.
    pub failed: i64,
    /// Tasks that were stopped.
    pub stopped: i64,
    /// Tasks that are under way.
    pub in_progress: i64,
    /// What Harbor says of the execution as a whole.
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
    /// What was to be copied.
    pub resource: String,
    /// The last error of the task's log.
    pub reason: String,
}

/// An image that vulnerability prevention keeps from being copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedImage {
    /// `project/repository:tag`; in place of a tag may stand a digest.
    pub image: String,
    /// What is being done about it.
    pub state: BlockedImageState,
    /// Why, for people.
    pub reason: String,
    /// The digest that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The most severe finding of the scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// How many vulnerabilities the scan found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<i64>,
    /// The execution in which the image was tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_in: Option<i64>,
    /// How often the digest was tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// What is being done about an image that was not copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum BlockedImageState {
    /// Its scan is not done.
    #[default]
    WaitingForScan,
    /// Its scan lets it through, and the policy is being run again.
    Retrying,
    /// It stays here until another image has its tag, or a scan says something else.
    Refused,
}
