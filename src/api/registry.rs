//! Registry: an upstream registry, or a peer, that Harbor knows.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Adoption, DeletionPolicy, HarborRef, Interval, LocalRef, ManagementPolicy};

/// An upstream registry that Harbor proxies or replicates with (Harbor: Administration, Registries).
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "harbor-pilot.dev",
    version = "v1alpha1",
    kind = "Registry",
    plural = "registries",
    shortname = "hreg",
    category = "harbor",
    status = "RegistryStatus",
    derive = "PartialEq",
    cel,
    doc = "An upstream registry that Harbor proxies or replicates with.",
    validation = Rule::new("(has(self.spec.name) ? self.spec.name : self.metadata.name).size() <= 64")
        .message("Harbor takes registry names of at most 64 characters: set spec.name to a shorter one"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Harbor", type_ = "string", json_path = ".spec.harborRef.name", priority = 1),
    printcolumn(name = "ID", type_ = "integer", json_path = ".status.id", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)")
    .message("name is immutable: make a new Registry and point the ProxyProjects of a new name at it"))]
#[x_kube(validation = Rule::new("self.type == oldSelf.type").message("type is immutable: Harbor ignores a change of it"))]
#[x_kube(validation = Rule::new("self.harborRef.name == oldSelf.harborRef.name").message("harborRef is immutable"))]
#[x_kube(validation = Rule::new("self.type != 'aws-ecr' || self.url.matches('^https://(api\\\\.ecr\\\\.|[0-9]{12}\\\\.dkr\\\\.ecr(-fips)?\\\\.)[a-z0-9-]+\\\\.(amazonaws\\\\.com(\\\\.cn)?|sc2s\\\\.sgov\\\\.gov|c2s\\\\.ic\\\\.gov)/?$')")
    .message("an aws-ecr url must be https://ACCOUNT.dkr.ecr.REGION.amazonaws.com or https://api.ecr.REGION.amazonaws.com (Harbor answers 500 to anything else)"))]
pub struct RegistrySpec {
    /// The HarborInstance this belongs to. Immutable.
    #[serde(default)]
    pub harbor_ref: HarborRef,
    /// Name in Harbor, 1 to 64 characters. Default: `metadata.name`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// Harbor's adapter for this registry. Immutable.
    #[serde(rename = "type")]
    pub type_: RegistryType,
    /// Where the registry is, such as `https://ghcr.io`. Docker Hub is `https://hub.docker.com`.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^?#@ ]+$')")
        .message("url must begin with http:// or https://, and have no query, fragment or user: Harbor would drop them"))]
    pub url: String,
    /// What stands in Harbor's description, beside our marker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// Secret in the operator's namespace with the keys `username` and `password` (for AWS the access key and its secret).
    /// Absent: Harbor asks the registry anonymously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// PEM certificate that Harbor trusts for this registry (Harbor 2.14 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
    /// Harbor does not verify the registry's certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Whether Harbor is changed, or only observed.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// What to do when Harbor has a registry of this name that is not ours.
    #[serde(default)]
    pub adoption: Adoption,
    /// What becomes of the registry in Harbor when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Stops reconciling this resource.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How often Harbor is compared with the spec. Default `5m`.
    #[serde(default = "default_interval")]
    pub interval: Interval,
}

fn default_interval() -> Interval {
    Interval::from_secs(300)
}

/// Harbor's registry adapters (GET /replication/adapters), and `quay`, which registers but cannot be proxied by that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each variant is named by the adapter it stands for")]
pub enum RegistryType {
    #[serde(rename = "docker-hub")]
    DockerHub,
    #[serde(rename = "docker-registry")]
    DockerRegistry,
    #[serde(rename = "aws-ecr")]
    AwsEcr,
    #[serde(rename = "azure-acr")]
    AzureAcr,
    #[serde(rename = "github-ghcr")]
    GithubGhcr,
    #[serde(rename = "google-gcr")]
    GoogleGcr,
    #[serde(rename = "harbor")]
    Harbor,
    #[serde(rename = "jfrog-artifactory")]
    JfrogArtifactory,
    #[serde(rename = "ali-acr")]
    AliAcr,
    #[serde(rename = "huawei-SWR")]
    HuaweiSwr,
    #[serde(rename = "tencent-tcr")]
    TencentTcr,
    #[serde(rename = "volcengine-cr")]
    VolcengineCr,
}

impl RegistryType {
    /// The adapter's name in Harbor's API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DockerHub => "docker-hub",
            Self::DockerRegistry => "docker-registry",
            Self::AwsEcr => "aws-ecr",
            Self::AzureAcr => "azure-acr",
            Self::GithubGhcr => "github-ghcr",
            Self::GoogleGcr => "google-gcr",
            Self::Harbor => "harbor",
            Self::JfrogArtifactory => "jfrog-artifactory",
            Self::AliAcr => "ali-acr",
            Self::HuaweiSwr => "huawei-SWR",
            Self::TencentTcr => "tencent-tcr",
            Self::VolcengineCr => "volcengine-cr",
        }
    }
}

/// What is known of a registry in Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled, Drifted, DeletionBlocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Harbor's id of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Which revision of the credentials Harbor was last given: the Secret's resourceVersion, never its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_revision: Option<String>,
    /// Fields in which Harbor differs from the spec, while they are not being changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
}

impl Registry {
    /// The name in Harbor.
    pub fn harbor_name(&self) -> &str {
        self.spec.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}
