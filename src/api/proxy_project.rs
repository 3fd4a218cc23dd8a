//! ProxyProject: a proxy-cache project in Harbor, with its rewrite rule and its prewarm policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, transform::RecursiveTransform};
use serde::{Deserialize, Serialize};

use super::{
    common::{AdoptionPolicy, DeletionPolicy, HarborRef, Interval, LocalRef, ManagementPolicy, OwnedObject},
    platform::Platform,
    retention::Retention,
    storage_limit::StorageLimit,
    vulnerabilities::{CveAllowlist, Vulnerabilities},
};

/// A proxy-cache project in Harbor. Its rule rewrites images at admission once Harbor serves them.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "harbor-pilot.dev",
    version = "v1alpha1",
    kind = "ProxyProject",
    shortname = "hpp",
    category = "harbor",
    status = "ProxyProjectStatus",
    derive = "PartialEq",
    cel,
    doc = "A proxy-cache project in Harbor. Its rule rewrites images at admission once Harbor serves them.",
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name).matches('^[a-z0-9]+([._-][a-z0-9]+)*$')")
        .message("Harbor accepts project names of lower-case letters and digits, separated by single '.', '_' or '-': set spec.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Rewrites", type_ = "string", json_path = ".status.rewrite.matches"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.rewrite.target"),
    printcolumn(name = "Registry", type_ = "string", json_path = ".spec.registryRef.name", priority = 1),
    printcolumn(name = "ID", type_ = "integer", json_path = ".status.id", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)")
    .message("name is immutable: Harbor cannot rename a project"))]
#[x_kube(validation = Rule::new("self.registryRef.name == oldSelf.registryRef.name")
    .message("registryRef is immutable: Harbor answers 200 to a change of it and ignores it"))]
#[x_kube(validation = Rule::new("self.harborRef.name == oldSelf.harborRef.name").message("harborRef is immutable"))]
pub struct ProxyProjectSpec {
    /// The HarborInstance of this project. Immutable.
    #[serde(default)]
    pub harbor_ref: HarborRef,
    /// Name in Harbor, and the first part of the repository in rewritten images. Default: `metadata.name`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// The Registry that this project proxies. Immutable.
    pub registry_ref: LocalRef,
    /// Whether clients may pull without credentials. Absent: not managed (Harbor creates a private project).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// Bandwidth from the upstream for each connection in KiB/s; -1 is unlimited. Absent: not managed. Harbor 2.12 and later.
    #[serde(default, rename = "proxySpeedKB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    #[x_kube(validation = Rule::new("self != 0").message("proxySpeedKB must be -1 (unlimited) or at least 1"))]
    pub proxy_speed_kb: Option<i32>,
    /// Maximum number of concurrent connections to the upstream; -1 is unlimited. Absent: not managed. Harbor 2.14.1 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    #[x_kube(validation = Rule::new("self != 0").message("maxUpstreamConnections must be -1 (unlimited) or at least 1"))]
    pub max_upstream_connections: Option<i32>,
    /// Whether Harbor keeps serving a cached tag that the upstream has removed. Absent: not managed. Harbor 2.15.1 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve_removed: Option<bool>,
    /// Maximum size of the cache, such as `50Gi`; -1 is no limit. A full project still serves images that it cannot store.
    /// Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_limit: Option<StorageLimit>,
    /// Whether images are scanned, and which of them Harbor refuses to serve. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<Vulnerabilities>,
    /// Vulnerabilities to ignore. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cve_allowlist: Option<CveAllowlist>,
    /// Whether Harbor generates an SBOM for each pushed image. Absent: not managed. Harbor 2.11 and later.
    #[serde(default, rename = "autoSBOM", skip_serializing_if = "Option::is_none")]
    pub auto_sbom: Option<bool>,
    /// Which images stay in the cache. Absent: not managed (Harbor keeps images pulled in the last 7 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Which images of the cluster are rewritten to this project.
    #[serde(default)]
    pub rewrite: RewriteSpec,
    /// Which images are cached in this project, and for which platforms.
    #[serde(default)]
    pub prewarm: PrewarmSpec,
    /// Whether the controller may write to Harbor.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// What to do when Harbor has a project of this name without our marker.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// What happens to the project in Harbor when this resource is deleted: it stays (`Retain`), it is deleted once it is empty
    /// (`Delete`), or it is deleted with all its repositories (`Purge`).
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Stops reconciling, rewriting and prewarming for this project.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How often Harbor is compared with the spec. Default `5m`.
    #[serde(default = "default_interval")]
    pub interval: Interval,
}

fn default_interval() -> Interval {
    Interval::from_secs(300)
}

/// The rewrite rule of a project.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewriteSpec {
    /// Hosts, or hosts with a leading path, of the images to rewrite, such as `docker.io` or `ghcr.io/acme`. Default: the host of
    /// the Registry (`docker.io` for Docker Hub). The path is kept. Exception: a match that names this project at another Harbor
    /// (`harbor.old/dockerhub`, for the project `dockerhub`) is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub matches: Vec<String>,
    /// Which of these images, in which namespaces and Pods, and when.
    #[serde(flatten)]
    pub terms: RewriteTerms,
}

/// The fields of a rewrite rule beside its matches: used in the spec, in the status and by the webhook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewriteTerms {
    /// Whether to rewrite images, or only to cache them.
    #[serde(default)]
    pub mode: RewriteMode,
    /// Images that are not rewritten: globs for the full form, such as `docker.io/library/*` or `**/*:latest`. `*` matches
    /// characters of one component, `**` matches whole components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub exclude: Vec<String>,
    /// Namespaces whose Pods are rewritten. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods that are rewritten, by their labels. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<LabelSelector>,
    /// What happens to images while Harbor is unavailable.
    #[serde(default)]
    pub when_unavailable: WhenUnavailable,
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson` in the namespace of each Pod. It is added to the
    /// `imagePullSecrets` of new Pods with rewritten images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pull_secret_name: Option<String>,
}

/// Whether images are rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RewriteMode {
    /// Pods get the image at Harbor.
    #[default]
    Enabled,
    /// Pods keep their images. The images are still cached in Harbor.
    Disabled,
}

/// What happens to images while Harbor is unavailable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenUnavailable {
    /// Images are not rewritten, and the response has a warning: nodes pull from the upstream.
    #[default]
    Original,
    /// Images are rewritten anyway: for clusters that cannot reach the upstream, and for nodes that have the images.
    Rewrite,
}

/// Which images of a project are cached, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmSpec {
    /// Which requests cache an image.
    #[serde(default)]
    pub mode: PrewarmMode,
    /// Platforms to cache. Default: those of the cluster's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub platforms: Vec<Platform>,
    /// How layers get into the cache.
    #[serde(default)]
    pub strategy: PullStrategy,
    /// Maximum number of manifests and layers that Harbor fetches concurrently for this project, from 1 to 1024. Default: the
    /// limits of its HarborInstance, its Registry and `maxUpstreamConnections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_concurrent_pulls: Option<u16>,
    /// A CachedImage that no user created is deleted after this time without a request. The image stays in Harbor as long as the
    /// project's retention keeps it. Default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<Interval>,
}

/// How layers get into the cache. Harbor fetches a layer that it does not store twice when a client reads it: once for the
/// client, once for the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullStrategy {
    /// Each layer is requested, and the response is closed unread: Harbor fetches it once, for the cache. A layer that Harbor
    /// does not store in time is read as with `Stream`.
    #[default]
    Touch,
    /// Each layer is read completely, and its digest and size are checked. The upstream sends it twice.
    Stream,
    /// No layer is requested: Harbor fetches layers itself, one after the other, about 200 s after the manifest.
    ManifestsOnly,
}

/// Which requests cache an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrewarmMode {
    /// Images of Pods, at admission, and CachedImages that users created.
    #[default]
    OnAdmission,
    /// Only CachedImages that users created.
    Manual,
}

/// Observed state of a project in Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProjectStatus {
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
    /// Harbor's id of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The object in Harbor that belongs to this resource: created, adopted, or found with our marker. If a user removes the
    /// marker of this object, it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<OwnedObject>,
    /// The rule that the webhook uses. It is set when Harbor first matches the spec, and removed when the project is deleted,
    /// suspended or missing in Harbor. A later failure does not remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteRuleStatus>,
    /// Fields that differ between Harbor and the spec, while the controller does not change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
}

/// A rewrite rule that Harbor serves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = RecursiveTransform(without_bounds))]
pub struct RewriteRuleStatus {
    /// Hosts, or hosts with a leading path, of the images to rewrite.
    pub matches: Vec<String>,
    /// Those of `matches` that name this project at another Harbor: host and path are replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// Whether the upstream is Docker Hub: Harbor then serves a repository of one component from `library/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub docker_hub: bool,
    /// Host (and port) of rewritten images.
    pub host: String,
    /// Project in Harbor.
    pub project: String,
    /// `host/project`, for display.
    pub target: String,
    /// The `metadata.generation` of the spec of this rule.
    pub generation: i64,
    /// `spec.rewrite` of that generation.
    #[serde(flatten)]
    pub terms: RewriteTerms,
}

/// The schema of the spec has bounds. The schema of the status has none: a bound that becomes narrower must not block status
/// updates.
fn without_bounds(schema: &mut Schema) {
    for bound in ["maxItems", "maxLength", "minLength"] {
        schema.remove(bound);
    }
}

impl ProxyProject {
    /// Returns the name in Harbor.
    pub fn harbor_name(&self) -> &str {
        self.spec.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// Returns the active rule: the last rule that Harbor served, unless the resource is suspended or being deleted.
    pub fn active_rule(&self) -> Option<&RewriteRuleStatus> {
        if self.spec.suspend || self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        self.status.as_ref()?.rewrite.as_ref()
    }
}
