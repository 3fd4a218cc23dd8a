//! The type of a registry: its adapter in Harbor, its default URL, and whether Harbor can proxy it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Harbor's registry adapters (GET /replication/adapters), `quay`, which Harbor does not list, and two registries with a fixed
/// URL.
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
    /// Harbor's adapter for Quay, for replication only.
    #[serde(rename = "quay")]
    Quay,
    /// `https://public.ecr.aws`, with the adapter `docker-registry`.
    #[serde(rename = "ecr-public")]
    EcrPublic,
    /// `https://quay.io`, with the adapter `docker-registry`, so that Harbor can proxy it.
    #[serde(rename = "quay-io")]
    QuayIo,
}

impl RegistryType {
    /// Returns the adapter's name in Harbor's API.
    pub fn adapter(self) -> &'static str {
        match self {
            Self::DockerHub => "docker-hub",
            Self::DockerRegistry | Self::EcrPublic | Self::QuayIo => "docker-registry",
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
            Self::Quay => "quay",
        }
    }

    /// Returns the default URL; `None` if the type has many.
    pub fn home(self) -> Option<&'static str> {
        match self {
            Self::DockerHub => Some("https://hub.docker.com"),
            Self::GithubGhcr => Some("https://ghcr.io"),
            Self::GoogleGcr => Some("https://gcr.io"),
            Self::EcrPublic => Some("https://public.ecr.aws"),
            Self::Quay | Self::QuayIo => Some("https://quay.io"),
            _ => None,
        }
    }

    /// Returns whether Harbor creates proxy projects for this type. For the others it answers 400.
    pub fn is_proxied(self) -> bool {
        !matches!(self, Self::HuaweiSwr | Self::TencentTcr | Self::VolcengineCr | Self::Quay)
    }
}

/// A private Amazon registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrivateEcr {
    /// The account: 12 digits, quoted, so that YAML reads them as text.
    #[schemars(regex(pattern = "^[0-9]{12}$"))]
    pub account: String,
    /// The region, such as `eu-central-1`.
    #[schemars(length(max = 32), regex(pattern = "^[a-z]{2,4}(-[a-z]+){1,3}-[0-9]{1,2}$"))]
    pub region: String,
}

impl PrivateEcr {
    /// Returns the URL.
    pub fn url(&self) -> String {
        let Self { account, region } = self;
        let domain = match region {
            region if region.starts_with("cn-") => "amazonaws.com.cn",
            region if region.starts_with("us-isob-") => "sc2s.sgov.gov",
            region if region.starts_with("us-iso-") => "c2s.ic.gov",
            _ => "amazonaws.com",
        };
        format!("https://{account}.dkr.ecr.{region}.{domain}")
    }
}
