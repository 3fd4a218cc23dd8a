//! ImagePolicy: which images Pods may run.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{common::Interval, scan::FoundSeverity};

/// Which images Pods may run. Pods are judged as they arrive, after rewriting; templates of workloads as rules would rewrite them.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "harbor-pilot.dev",
    version = "v1alpha1",
    kind = "ImagePolicy",
    plural = "imagepolicies",
    shortname = "hip",
    category = "harbor",
    status = "ImagePolicyStatus",
    derive = "PartialEq",
    cel,
    doc = "Which images Pods may run. What is judged is the image that rules make of the one that was written.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Allows", type_ = "string", json_path = ".spec.allowed[*].host"),
    printcolumn(name = "Digest", type_ = "boolean", json_path = ".spec.requireDigest"),
    printcolumn(name = "NoLatest", type_ = "boolean", json_path = ".spec.forbidLatest"),
    printcolumn(name = "MaxSeverity", type_ = "string", json_path = ".spec.vulnerability.maxSeverity"),
    printcolumn(name = "Outage", type_ = "string", json_path = ".spec.duringOutage", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.allowed) || (has(self.requireDigest) && self.requireDigest) || (has(self.forbidLatest) && self.forbidLatest) || has(self.vulnerability)")
    .message("the policy asks for nothing: set allowed, requireDigest, forbidLatest or vulnerability"))]
pub struct ImagePolicySpec {
    /// What happens to a Pod with an image that the policy does not allow.
    pub action: PolicyAction,
    /// Registries, and projects there, that images may come from. Absent: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    pub allowed: Vec<AllowedRegistry>,
    /// Whether an image must name a digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_digest: bool,
    /// Whether an image may have the tag `latest`, or neither tag nor digest, which means the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forbid_latest: bool,
    /// How vulnerable an image may be, by what Harbor's scanner said of it when it was warmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerability: Option<Vulnerability>,
    /// Namespaces whose Pods are judged. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods that are judged, by their labels. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<LabelSelector>,
    /// Images, namespaces, or images in namespaces, that the policy does not speak of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub exemptions: Vec<Exemption>,
    /// What happens to images that are not from an allowed registry because Harbor is unavailable and their rule leaves
    /// them as they are then (`whenUnavailable: Original`). It matters for the action `Enforce` alone.
    #[serde(default)]
    pub during_outage: DuringOutage,
}

/// How vulnerable an image may be. A verdict belongs to a digest: an image that names one is judged by that, another one by
/// what its tag pointed to when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vulnerability {
    /// The most severe vulnerability that an image may have.
    pub max_severity: MaxSeverity,
    /// What happens to an image without a verdict: it was not scanned, its scan failed, its tag has moved since, its verdict
    /// is older than `maxAge`, or it is not known at all.
    #[serde(default)]
    pub on_unscanned: OnUnscanned,
    /// A verdict that is older is none. Harbor is asked for a new one at half of that age. At least an hour.
    #[serde(default = "week")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h')")
        .message("maxAge is an hour or longer: Harbor scans each image twice in that time"))]
    pub max_age: Interval,
}

/// The most severe vulnerability that an image may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MaxSeverity {
    /// None at all.
    None,
    /// Low, negligible, or of unknown severity.
    Low,
    /// Medium and below.
    Medium,
    /// High and below.
    High,
    /// Any; what counts is that it was scanned.
    Critical,
}

impl MaxSeverity {
    /// The worst finding that is admitted.
    pub fn ceiling(self) -> FoundSeverity {
        match self {
            Self::None => FoundSeverity::None,
            Self::Low => FoundSeverity::Low,
            Self::Medium => FoundSeverity::Medium,
            Self::High => FoundSeverity::High,
            Self::Critical => FoundSeverity::Unheard,
        }
    }
}

/// What happens to an image without a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUnscanned {
    /// It is admitted.
    Allow,
    /// It is admitted with a warning.
    #[default]
    Warn,
    /// It is treated as one that is too vulnerable.
    Deny,
}

fn week() -> Interval {
    Interval::from_secs(7 * 24 * 3600)
}

/// What happens to a Pod with an image that a policy does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyAction {
    /// It is refused. Workloads with such a template are admitted with a warning.
    Enforce,
    /// It is admitted with a warning, which kubectl prints.
    Warn,
    /// It is admitted, and the API server's audit log says which policy it violates.
    Audit,
}

/// What a policy with the action `Enforce` does while Harbor is unavailable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DuringOutage {
    /// Pods are refused as ever.
    #[default]
    Enforce,
    /// Pods are admitted with a warning.
    Warn,
}

/// A registry that images may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedRegistry {
    /// `host` or `host:port`, as images name it; the case of letters does not matter, the port does.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$")
    )]
    pub host: String,
    /// Globs over the first component of the repository, which is the project in Harbor: `dockerhub`, `team-*`. Absent:
    /// all projects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(glob, !glob.contains('/'))").message("projects are names or globs without '/'"))]
    pub projects: Vec<String>,
}

/// What a policy does not speak of: images that match one of `images`, in one of `namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.images) || has(self.namespaces)")
    .message("the exemption exempts nothing: set images, namespaces or both"))]
pub struct Exemption {
    /// Globs over the full form of the image that a Pod would run, such as `docker.io/library/*` or `**/*:latest`. Absent:
    /// all images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(glob, glob.matches('^([^/]*[.*?{\\\\[]|[^/]*:[^/]*/|localhost/)'))")
        .message("images begin with a host or a wildcard, as docker.io/library/nginx or **/nginx does"))]
    pub images: Vec<String>,
    /// Names of namespaces. Absent: all namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Why, for those who come later.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// After what time policies want no verdict any more: the shortest; `None` where none goes by scans.
pub fn shortest_max_age<'p>(policies: impl IntoIterator<Item = &'p ImagePolicy>) -> Option<Duration> {
    let going = policies.into_iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    going.filter_map(|policy| Some(policy.spec.vulnerability?.max_age.duration())).min()
}

/// The worst severity that all policies admit; `None` where none uses scans.
pub fn lowest_ceiling<'p>(policies: impl IntoIterator<Item = &'p ImagePolicy>) -> Option<FoundSeverity> {
    let active = policies.into_iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    active.filter_map(|policy| Some(policy.spec.vulnerability?.max_severity.ceiling())).min()
}

/// What is known of a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagePolicyStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}
