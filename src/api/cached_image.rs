//! CachedImage: one image to cache in Harbor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{common::Interval, platform::Platform, scan::ScanStatus};

/// One image to cache in Harbor. CachedImages are the durable queue of prewarming; their status shows its progress.
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
    doc = "One image to cache in Harbor.",
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
    /// The image as a Pod names it (`nginx:1.27`; the rules of the ProxyProjects map it) or as it is named at Harbor
    /// (`harbor.example.com/dockerhub/library/nginx:1.27`). Immutable.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("image is immutable: create another CachedImage"))]
    pub image: String,
    /// Platforms to cache. Default: those of the ProxyProject; without any there, those of the cluster's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub platforms: Vec<Platform>,
    /// What Ready requires.
    #[serde(default)]
    pub require: Require,
    /// How often a Ready image is checked again, with a jitter of a tenth: whether its tag points to another digest, and whether
    /// Harbor still stores it. An image pinned to a digest is only checked at Harbor. Default `1h`, at least `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')").message("refreshInterval must be at least 1m"))]
    pub refresh_interval: Option<Interval>,
}

/// What Ready requires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Require {
    /// Every requested manifest and blob is stored. Harbor may need the upstream to serve the tag.
    #[default]
    Online,
    /// Also, Harbor serves the tag while the upstream is down.
    OfflineByTag,
    /// Also, Harbor serves the upstream's digest while the upstream is down.
    OfflineByDigest,
}

/// Observed state of an image in Harbor's cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachedImageStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, OfflineByTag, OfflineByDigest, PullBlocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Reference of the image at Harbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The ProxyProject of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_project: Option<String>,
    /// Digest of the upstream's index or manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Number of manifests in the upstream's index, requested or not. Absent for an image without an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_children: Option<u32>,
    /// How Harbor stores the upstream's index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexState>,
    /// Platforms of the last pull; empty if it pulled all platforms. A platform that is requested later starts another pull.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Platform>,
    /// One entry for each requested manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<PlatformStatus>,
    /// Attestations of the requested manifests (provenance, SBOMs). They do not run, so they are counted apart. Absent for an
    /// image without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestations: Option<AttestationStatus>,
    /// Vulnerabilities of the image: the worst result of the requested manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanStatus>,
    /// When the complete image was last fetched through Harbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmed_at: Option<Time>,
    /// Attempts since the last success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Consecutive pulls after which Harbor did not store everything in time. Absent after a pull that it stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unstored_pulls: Option<u32>,
    /// Earliest time of the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Time>,
    /// When a Pod or a workload with the image was last seen or admitted, to within a quarter of `expireAfter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_requested_at: Option<Time>,
    /// Namespaces that requested the image, newest first, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requested_by: Vec<String>,
    /// When the CachedImage is deleted, unless the image is requested before or a Pod still runs it. Absent for a CachedImage
    /// that a user created: it is not deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

impl CachedImageStatus {
    /// Bytes of the image that Harbor stores, as the manifests state them.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.platforms.iter().filter(|child| child.stored);
        stored.fold(0, |sum, child| sum.saturating_add(child.bytes))
    }
}

/// How Harbor stores an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IndexState {
    /// Not stored (yet): Harbor stores an index only after its children.
    Absent,
    /// Stored with every child.
    Complete,
    /// Stored with the cached children only, so under another digest.
    Trimmed,
    /// The index lists another index, and Harbor has not stored it. The manifests of the inner index are stored.
    Nested,
}

/// Attestations of the requested manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationStatus {
    /// Number of attestation manifests that the upstream's index lists for the requested manifests.
    pub found: u32,
    /// Number of these that are stored: fetched through Harbor with their blobs by the last pull, or before.
    pub fetched: u32,
    /// Why the others are missing. The image runs without them; after some minutes Harbor drops them from its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One manifest of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// Platform of the manifest; `unknown` for an artifact without one.
    pub platform: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Number of layers.
    pub layers: u32,
    /// Size of config and layers in bytes, as the manifest states it.
    pub bytes: u64,
    /// Whether Harbor stores the manifest, its config and every layer.
    pub stored: bool,
    /// Foreign layers (as in Windows images). Neither the upstream nor Harbor has them, so Harbor never stores the manifest.
    #[serde(default, skip_serializing_if = "is_none")]
    pub foreign_layers: u32,
    /// Vulnerabilities of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<ScanStatus>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires a reference")]
fn is_none(number: &u32) -> bool {
    *number == 0
}
