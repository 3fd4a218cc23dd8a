//! ImagePolicy: which images Pods may run.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{common::Interval, scan::FoundSeverity};

/// Which images Pods may run. Pods are checked at admission after rewriting; Pod templates of workloads are checked as rules
/// would rewrite them.
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
    doc = "Which images Pods may run. Images are checked after rewriting.",
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
    .message("the policy checks nothing: set allowed, requireDigest, forbidLatest or vulnerability"))]
pub struct ImagePolicySpec {
    /// What happens to a Pod with an image that the policy does not allow.
    pub action: PolicyAction,
    /// Registries, and projects in them, that images may come from. Absent: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    pub allowed: Vec<AllowedRegistry>,
    /// Whether an image must have a digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_digest: bool,
    /// Whether to forbid the tag `latest`. An image without tag and digest has it, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forbid_latest: bool,
    /// How vulnerable an image may be, by the scan of Harbor when the image was cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerability: Option<Vulnerability>,
    /// Namespaces whose Pods are checked. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods that are checked, by their labels. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<LabelSelector>,
    /// Images, namespaces, or images in namespaces, that the policy skips.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub exemptions: Vec<Exemption>,
    /// What happens to images that are not from an allowed registry only because Harbor is unavailable and their rule does not
    /// rewrite them then (`whenUnavailable: Original`). Used with the action `Enforce` only.
    #[serde(default)]
    pub during_outage: DuringOutage,
}

/// How vulnerable an image may be. A verdict belongs to a digest. An image with a digest uses its verdict; another image uses the
/// verdict of the digest that its tag pointed to at the last check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vulnerability {
    /// The highest allowed severity.
    pub max_severity: MaxSeverity,
    /// What happens to an image without a verdict: it was not scanned, its scan failed, its tag has moved since, its verdict is
    /// older than `maxAge`, or the image is unknown.
    #[serde(default)]
    pub on_unscanned: OnUnscanned,
    /// Maximum age of a verdict; an older one is ignored. A new scan is requested at half of that age. At least an hour.
    #[serde(default = "week")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h')")
        .message("maxAge must be at least 1h: Harbor scans each image twice in that time"))]
    pub max_age: Interval,
}

/// The highest allowed severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MaxSeverity {
    /// No vulnerability.
    None,
    /// Low, negligible, or of unknown severity.
    Low,
    /// Medium and below.
    Medium,
    /// High and below.
    High,
    /// Any severity: the image only must be scanned.
    Critical,
}

impl MaxSeverity {
    /// Returns the worst finding that is allowed.
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
    /// It is treated as too vulnerable.
    Deny,
}

fn week() -> Interval {
    Interval::from_secs(7 * 24 * 3600)
}

/// What happens to a Pod with an image that a policy does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyAction {
    /// It is rejected. Workloads with such a template are admitted with a warning.
    Enforce,
    /// It is admitted with a warning, which kubectl prints.
    Warn,
    /// It is admitted. The API server's audit log names the violated policy.
    Audit,
}

/// How a policy with the action `Enforce` acts while Harbor is unavailable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DuringOutage {
    /// Pods are rejected as usual.
    #[default]
    Enforce,
    /// Pods are admitted with a warning.
    Warn,
}

/// A registry that images may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedRegistry {
    /// `host` or `host:port`, as in image references. Letter case is ignored; the port must match.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$")
    )]
    pub host: String,
    /// Globs for the first component of the repository, which is the project in Harbor: `dockerhub`, `team-*`. Absent: all
    /// projects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(glob, !glob.contains('/'))").message("projects must be names or globs without '/'"))]
    pub projects: Vec<String>,
}

/// An exemption: images that match one of `images`, in one of `namespaces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.images) || has(self.namespaces)")
    .message("the exemption exempts nothing: set images, namespaces or both"))]
pub struct Exemption {
    /// Globs for the full form of the image that a Pod would run, such as `docker.io/library/*` or `**/*:latest`. Absent: all
    /// images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(glob, glob.matches('^([^/]*[.*?{\\\\[]|[^/]*:[^/]*/|localhost/)'))")
        .message("images must begin with a host or a wildcard, such as docker.io/library/nginx or **/nginx"))]
    pub images: Vec<String>,
    /// Names of namespaces. Absent: all namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// The reason for the exemption, as documentation.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// Returns the shortest maximum age of a verdict over all policies; `None` if no policy uses verdicts.
pub fn shortest_max_age<'p>(policies: impl IntoIterator<Item = &'p ImagePolicy>) -> Option<Duration> {
    let going = policies.into_iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    going.filter_map(|policy| Some(policy.spec.vulnerability?.max_age.duration())).min()
}

/// Returns the highest severity that all policies allow; `None` if no policy uses scans.
pub fn lowest_ceiling<'p>(policies: impl IntoIterator<Item = &'p ImagePolicy>) -> Option<FoundSeverity> {
    let active = policies.into_iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    active.filter_map(|policy| Some(policy.spec.vulnerability?.max_severity.ceiling())).min()
}

/// Observed state of a policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagePolicyStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
}
