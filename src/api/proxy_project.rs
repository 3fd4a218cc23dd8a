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
        .message("Harbor takes project names of lower-case letters and digits, separated by single '.', '_' or '-': set spec.name"),
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
    /// The HarborInstance this belongs to. Immutable.
    #[serde(default)]
    pub harbor_ref: HarborRef,
    /// Name in Harbor, and the first part of the repository in rewritten images. Default: `metadata.name`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// The Registry that this project proxies. Immutable.
    pub registry_ref: LocalRef,
    /// Whether anyone may pull without credentials. Absent: not managed (Harbor makes a private project).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// Bandwidth from the upstream for each connection in KiB/s; -1 is unlimited. Absent: not managed. Harbor 2.12 and later.
    #[serde(default, rename = "proxySpeedKB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    #[x_kube(validation = Rule::new("self != 0").message("proxySpeedKB must be -1 (unlimited) or at least 1"))]
    pub proxy_speed_kb: Option<i32>,
    /// Connections to the upstream at once; -1 is unlimited. Absent: not managed. Harbor 2.14.1 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    #[x_kube(validation = Rule::new("self != 0").message("maxUpstreamConnections must be -1 (unlimited) or at least 1"))]
    pub max_upstream_connections: Option<i32>,
    /// Whether Harbor goes on serving a cached tag that the upstream has removed. Absent: not managed. Harbor 2.15.1 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve_removed: Option<bool>,
    /// How much the cache may store, such as `50Gi`; -1 is no limit. A full project still serves what it has not stored.
    /// Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_limit: Option<StorageLimit>,
    /// Whether images are scanned, and which may not be pulled. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vulnerabilities: Option<Vulnerabilities>,
    /// Vulnerabilities that do not count. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cve_allowlist: Option<CveAllowlist>,
    /// Harbor makes a software bill of materials of each image that is pushed. Absent: not managed. Harbor 2.11 and later.
    #[serde(default, rename = "autoSBOM", skip_serializing_if = "Option::is_none")]
    pub auto_sbom: Option<bool>,
    /// Which images stay in the cache. Absent: not managed (Harbor keeps what was pulled in the last 7 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Which images of the cluster become images of this project.
    #[serde(default)]
    pub rewrite: RewriteSpec,
    /// What is warmed in this project's cache, and for which platforms.
    #[serde(default)]
    pub prewarm: PrewarmSpec,
    /// Whether Harbor is changed, or only observed.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// What to do when Harbor has a project of this name that is not ours.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// What becomes of the project in Harbor when this resource is deleted: it stays (`Retain`), it is deleted once it is
    /// empty (`Delete`), or it is deleted with all its repositories (`Purge`).
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
    /// Hosts, or hosts and leading path, of the images to rewrite, such as `docker.io` or `ghcr.io/acme`. Default: the host
    /// of the Registry (`docker.io` for Docker Hub). The path is kept, except where a match names this project at another
    /// Harbor (`harbor.old/dockerhub`, for the project `dockerhub`): that is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub matches: Vec<String>,
    /// Which of these images, for whom and when.
    #[serde(flatten)]
    pub terms: RewriteTerms,
}

/// What a rewrite rule says beside its matches: the same as users write it, as Harbor is known to serve it, and as the
/// webhook follows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewriteTerms {
    /// Whether images are rewritten, or left as they are and only mapped to what is warmed.
    #[serde(default)]
    pub mode: RewriteMode,
    /// Images that stay as they are: globs over the full form, such as `docker.io/library/*` or `**/*:latest`. `*` stands
    /// for characters of one component, `**` for whole components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub exclude: Vec<String>,
    /// Namespaces whose Pods are rewritten. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods that are rewritten, by their labels. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_selector: Option<LabelSelector>,
    /// What becomes of images while Harbor is unavailable.
    #[serde(default)]
    pub when_unavailable: WhenUnavailable,
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson`, in the namespace of each Pod, that is added to the
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
    /// Pods keep their images; what they are at Harbor is warmed.
    Disabled,
}

/// What becomes of images while Harbor is unavailable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenUnavailable {
    /// They stay as they are, with a warning: nodes pull from the upstream.
    #[default]
    Original,
    /// They are rewritten nevertheless: for sites that reach no upstream, and nodes that have the images.
    Rewrite,
}

/// When images of a project are warmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrewarmSpec {
    /// What makes an image warm.
    #[serde(default)]
    pub mode: PrewarmMode,
    /// Platforms to warm. Default: those of the cluster's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub platforms: Vec<Platform>,
    /// How layers come into the cache.
    #[serde(default)]
    pub strategy: PullStrategy,
    /// How many manifests and layers of this project Harbor is brought to fetch at once, from 1 to 1024. Default: as many as
    /// its HarborInstance, its Registry and `maxUpstreamConnections` allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_concurrent_pulls: Option<u16>,
    /// A CachedImage that nobody wrote, and that nothing has asked for so long, is deleted; the image stays in Harbor as long as
    /// the project's retention says. Default `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<Interval>,
}

/// How layers come into the cache. A cold layer is fetched twice from the upstream when a client reads it: once for the client,
/// once for the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullStrategy {
    /// Each layer is asked for, and nobody listens: Harbor fetches it once, for the cache. One that does not come in time is
    /// read as with `Stream`.
    #[default]
    Touch,
    /// Each layer is read to its end, its digest and size checked. The upstream sends it twice.
    Stream,
    /// No layer is asked for: Harbor fetches them by itself, one by one, about 200 s after the manifest.
    ManifestsOnly,
}

/// What makes an image warm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrewarmMode {
    /// Images of Pods, at admission, and CachedImages that users wrote.
    #[default]
    OnAdmission,
    /// Only CachedImages that users wrote.
    Manual,
}

/// What is known of a project in Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProjectStatus {
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
    /// Harbor's id of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Present while the object in Harbor belongs to this resource: it was created, adopted, or found with our marker. A marker that
    /// a person removes is restored while this is the same object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<OwnedObject>,
    /// The rule that the webhook follows: present from the moment Harbor first had what the spec says, until the project is
    /// deleted, suspended or lost in Harbor. A later failure does not take it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteRuleStatus>,
    /// Fields in which Harbor differs from the spec, while they are not being changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
}

/// A rewrite rule that Harbor is known to serve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = RecursiveTransform(without_bounds))]
pub struct RewriteRuleStatus {
    /// Hosts, or hosts and leading path, of the images that are rewritten.
    pub matches: Vec<String>,
    /// Those of `matches` that name this project at another Harbor: host and path are replaced, the path is not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// Whether the upstream is Docker Hub: Harbor then serves a repository of one component from `library/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub docker_hub: bool,
    /// Host (and port) of rewritten images.
    pub host: String,
    /// Project in Harbor.
    pub project: String,
    /// `host/project`, for people.
    pub target: String,
    /// The `metadata.generation` of the spec that this rule comes from.
    pub generation: i64,
    /// `spec.rewrite` of that generation.
    #[serde(flatten)]
    pub terms: RewriteTerms,
}

/// The spec has them: a bound that is narrowed one day must not keep the status from being written.
fn without_bounds(schema: &mut Schema) {
    for bound in ["maxItems", "maxLength", "minLength"] {
        schema.remove(bound);
    }
}

impl ProxyProject {
    /// The name in Harbor.
    pub fn harbor_name(&self) -> &str {
        self.spec.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// The rule that is in force: the last known good one, unless the resource is suspended or being deleted.
    pub fn active_rule(&self) -> Option<&RewriteRuleStatus> {
        if self.spec.suspend || self.metadata.deletion_timestamp.is_some() {
            return None;
        }
        self.status.as_ref()?.rewrite.as_ref()
    }
}
