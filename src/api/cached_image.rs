//! CachedImage: one image that is to be warm in Harbor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{common::Interval, platform::Platform, scan::ScanStatus};

/// One image to be warm in Harbor: the durable queue and the visible truth of prewarming.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "harbor-pilot.dev",
    version = "v1alpha1",
    kind = "CachedImage",
    shortname = "hci",
    category = "harbor",
    status = "CachedImageStatus",
    derive = "PartialEq",
    cel,
    doc = "One image to be warm in Harbor: the durable queue and the visible truth of prewarming.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Platforms", type_ = "string", json_path = ".status.wanted"),
    printcolumn(
        name = "By tag",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"OfflineByTag\")].status"
    ),
    printcolumn(
        name = "By digest",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"OfflineByDigest\")].status"
    ),
    printcolumn(name = "Severity", type_ = "string", json_path = ".status.scan.severity"),
    printcolumn(name = "Last requested", type_ = "date", json_path = ".status.lastRequestedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Attestations", type_ = "integer", priority = 1, json_path = ".status.attestations.fetched"),
    printcolumn(name = "Scan", type_ = "string", priority = 1, json_path = ".status.scan.state"),
    printcolumn(name = "Requested by", type_ = "string", priority = 1, json_path = ".status.requestedBy"),
    printcolumn(name = "Next attempt", type_ = "string", priority = 1, json_path = ".status.nextAttemptAt"),
    printcolumn(name = "Expires", type_ = "string", priority = 1, json_path = ".status.expiresAt"),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageSpec {
    /// The image, as a Pod would name it (`nginx:1.27`, mapped by the rules of the ProxyProjects) or as it is at Harbor
    /// (`harbor.example.com/dockerhub/library/nginx:1.27`). Immutable.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("image is immutable: make another CachedImage"))]
    pub image: String,
    /// Platforms to warm. Default: those of the ProxyProject, else those of the cluster's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub platforms: Vec<Platform>,
    /// What Ready waits for.
    #[serde(default)]
    pub require: Require,
    /// How often an image that is Ready is looked at again, to within a tenth: whether its tag moved, and whether Harbor still
    /// has it. An image that is pinned to a digest is only looked for at Harbor. Default `1h`, at least `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')").message("refreshInterval must be at least 1m"))]
    pub refresh_interval: Option<Interval>,
}

/// What Ready waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Require {
    /// Every wanted manifest and blob is stored; the upstream may be asked for the tag.
    #[default]
    Online,
    /// And the tag is served while the upstream is down.
    OfflineByTag,
    /// And the upstream's digest is served while the upstream is down.
    OfflineByDigest,
}

/// What is known of an image in Harbor's cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, OfflineByTag, OfflineByDigest, PullBlocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The image at Harbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The ProxyProject that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_project: Option<String>,
    /// Digest of the upstream's index or manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Number of manifests in the upstream's index, wanted or not; absent for an image without an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_children: Option<u32>,
    /// What Harbor made of the upstream's index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexState>,
    /// The platforms that the last pull was for; empty after one for all platforms. One that is wanted later starts another
    /// pull.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Platform>,
    /// One entry for each manifest that was wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<PlatformStatus>,
    /// What describes the wanted manifests (provenance, bills of materials), counted apart from them: it runs nowhere. Absent for an
    /// image without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestations: Option<AttestationStatus>,
    /// What is known of its vulnerabilities: of the wanted manifests the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanStatus>,
    /// When all of it was last fetched through Harbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmed_at: Option<Time>,
    /// Attempts since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Pulls in a row after which Harbor had not stored everything in time; absent after one that it stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstored_pulls: Option<u32>,
    /// Not tried again before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Time>,
    /// When a Pod or a workload that names the image was last seen, or was admitted; to within a quarter of `expireAfter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_requested_at: Option<Time>,
    /// Namespaces of those who asked for it, the newest first, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requested_by: Vec<String>,
    /// When it is deleted unless it is asked for before, or something still runs it. Absent for one that a user made: that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

impl CachedImageStatus {
    /// What Harbor has stored of the image, in bytes as the manifests state them.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.platforms.iter().filter(|child| child.stored);
        stored.fold(0, |sum, child| sum.saturating_add(child.bytes))
    }
}

/// What Harbor made of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndexState {
    /// Not stored (yet): Harbor stores an index only after its children.
    Absent,
    /// Stored with every child.
    Complete,
    /// Stored with the cached children only, so under another digest.
    Trimmed,
    /// It lists an index, and Harbor has not stored it. The manifests of the inner index are stored.
    Nested,
}

/// Attestations of the wanted manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationStatus {
    /// Number of attestation manifests that the upstream's index lists for the wanted manifests.
    pub found: u32,
    /// Of these, fetched through Harbor with their blobs by the last pull, or stored before.
    pub fetched: u32,
    /// Why the others were not fetched. The image runs without them; Harbor leaves them out of its index after some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One manifest of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// Platform of the manifest, `unknown` for an artifact without one.
    pub platform: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Number of layers.
    pub layers: u32,
    /// Size of config and layers in bytes, as the manifest states it.
    pub bytes: u64,
    /// Whether manifest, config and every layer are stored in Harbor.
    pub stored: bool,
    /// Foreign layers (as of Windows), which neither the upstream nor Harbor holds: Harbor never stores a manifest with one.
    #[serde(default, skip_serializing_if = "is_none")]
    pub foreign_layers: u32,
    /// What is known of its vulnerabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanStatus>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_none(number: &u32) -> bool {
    *number == 0
}
