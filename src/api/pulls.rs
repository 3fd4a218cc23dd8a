//! What warming may ask of an upstream, and what it has asked.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::common::Interval;

/// How much warming may ask of a registry. Docker Hub, for one, counts the manifests that are fetched, and allows 100 in six
/// hours to the anonymous. What nodes pull counts there, too: leave them their part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullLimit {
    /// Manifests that warming may ask for in a period, indexes included.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub manifests: u32,
    /// The length of a period, such as `6h`; it begins with the first manifest.
    pub per: Interval,
}

/// What warming has asked of a registry: here, so that a restart does not forget it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamPulls {
    /// Nothing is warmed from the registry before this time, because it limits our rate (429).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Time>,
    /// How often it did so in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<u32>,
    /// When the present period of `spec.pullLimit` began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Manifests asked for in this period, rounded up to a twentieth of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifests: Option<u32>,
}
