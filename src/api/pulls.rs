//! Pull limits of an upstream, and their use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::common::Interval;

/// Maximum number of pulls from a registry for prewarming. Docker Hub, for example, counts manifests, and allows anonymous
/// clients 100 in six hours. Pulls of nodes count, too: leave a part of the limit for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullLimit {
    /// Maximum number of manifests per period, indexes included.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub manifests: u32,
    /// Length of a period, such as `6h`. It begins with the first manifest.
    pub per: Interval,
}

/// Pulls from a registry for prewarming. They are in the status so that a restart keeps them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamPulls {
    /// Prewarming from the registry is paused until this time, because it limits our request rate (429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Time>,
    /// Number of consecutive responses with a rate limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<u32>,
    /// Start of the current period of `spec.pullLimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Manifests requested in this period, rounded up to a twentieth of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifests: Option<u32>,
}
