//! Registry: an upstream registry, or a peer, of Harbor.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    common::{AdoptionPolicy, DeletionPolicy, HarborRef, Interval, LocalRef, ManagementPolicy, OwnedObject},
    pulls::{PullLimit, UpstreamPulls},
    registry_type::{PrivateEcr, RegistryType},
};

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
        .message("Harbor accepts registry names of at most 64 characters: set spec.name to a shorter one"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Harbor", type_ = "string", json_path = ".spec.harborRef.name", priority = 1),
    printcolumn(name = "ID", type_ = "integer", json_path = ".status.id", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)")
    .message("name is immutable: create a new Registry, and new ProxyProjects that refer to it"))]
#[x_kube(validation = Rule::new("self.type == oldSelf.type").message("type is immutable: Harbor ignores a change of it"))]
#[x_kube(validation = Rule::new("self.harborRef.name == oldSelf.harborRef.name").message("harborRef is immutable"))]
#[x_kube(validation = Rule::new("self.type != 'aws-ecr' || !has(self.url) || self.url.matches('^https://(api\\\\.ecr\\\\.|[0-9]{12}\\\\.dkr\\\\.ecr(-fips)?\\\\.)[a-z0-9-]+\\\\.(amazonaws\\\\.com(\\\\.cn)?|sc2s\\\\.sgov\\\\.gov|c2s\\\\.ic\\\\.gov)/?$')")
    .message("an aws-ecr url must be https://ACCOUNT.dkr.ecr.REGION.amazonaws.com or https://api.ecr.REGION.amazonaws.com (Harbor answers 500 to anything else)"))]
#[x_kube(validation = Rule::new("has(self.url) || has(self.ecr) || self.type in ['docker-hub', 'github-ghcr', 'google-gcr', 'ecr-public', 'quay', 'quay-io']")
    .message("url is required: this type has no default (aws-ecr accepts ecr with account and region instead)"))]
#[x_kube(validation = Rule::new("!has(self.ecr) || (self.type == 'aws-ecr' && !has(self.url))")
    .message("ecr requires type aws-ecr, and no url"))]
#[x_kube(validation = Rule::new("self.type != 'aws-ecr' || has(self.credentialsSecretRef)")
    .message("aws-ecr needs credentialsSecretRef: there is no anonymous access, and Harbor crashes without keys"))]
#[x_kube(validation = Rule::new("!has(self.url) || !(self.type in ['ecr-public', 'quay-io'])")
    .message("ecr-public and quay-io have a fixed url: remove url, or use type docker-registry"))]
pub struct RegistrySpec {
    /// The HarborInstance of this registry. Immutable.
    #[serde(default)]
    pub harbor_ref: HarborRef,
    /// Name in Harbor, 1 to 64 characters. Default: `metadata.name`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub name: Option<String>,
    /// Harbor's adapter for this registry. Immutable.
    #[serde(rename = "type")]
    pub type_: RegistryType,
    /// URL of the registry, such as `https://registry.corp`. Some types have a default: `https://hub.docker.com`,
    /// `https://ghcr.io`, `https://gcr.io`, `https://public.ecr.aws`, `https://quay.io`; `aws-ecr` uses `ecr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^?#@ ]+$')")
        .message("url must begin with http:// or https://, and have no query, fragment or user: Harbor would drop them"))]
    pub url: Option<String>,
    /// Account and region of a private Amazon registry, instead of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecr: Option<PrivateEcr>,
    /// Description in Harbor, before our marker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// Secret in the operator's namespace with the keys `username` and `password` (for AWS the access key and its secret).
    /// Absent: Harbor connects to the registry without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// PEM certificate that Harbor trusts for this registry (Harbor 2.15 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
    /// Whether Harbor skips the verification of the registry's certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Pull limit for prewarming from this registry. Absent: only the limit that the registry itself reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_limit: Option<PullLimit>,
    /// Maximum number of manifests and layers that Harbor fetches concurrently from this registry, in all projects together, from
    /// 1 to 1024. Default: the limit of its HarborInstance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_concurrent_pulls: Option<u16>,
    /// Whether the controller may write to Harbor.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// What to do when Harbor has a registry of this name without our marker.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// What happens to the registry in Harbor when this resource is deleted: it stays (`Retain`), or it is deleted once no other
    /// object uses it (`Delete`). A registry has no content to purge.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self != 'Purge'")
        .message("Purge deletes images, and a registry has none: use Delete"))]
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

/// Observed state of a registry in Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
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
    /// URL of the registry, from `url`, `ecr` or `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Harbor's id of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The object in Harbor that belongs to this resource: created, adopted, or found with our marker. If a user removes the
    /// marker of this object, it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<OwnedObject>,
    /// Revision of the credentials that Harbor has: the Secret's resourceVersion, never its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_revision: Option<String>,
    /// Pulls from the registry, if they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulls: Option<UpstreamPulls>,
    /// Fields that differ between Harbor and the spec, while the controller does not change them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
}

impl Registry {
    /// Returns the name in Harbor.
    pub fn harbor_name(&self) -> &str {
        self.spec.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// Returns the URL of the registry, from `url`, `ecr` or `type`; empty if none of them has one.
    pub fn url(&self) -> Cow<'_, str> {
        let spec = &self.spec;
        match (&spec.url, &spec.ecr) {
            (Some(url), _) => Cow::Borrowed(url),
            (None, Some(ecr)) => Cow::Owned(ecr.url()),
            (None, None) => Cow::Borrowed(spec.type_.home().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn registry(spec: serde_json::Value) -> Registry {
        Registry::new("up", serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_line_is_enough_for_the_registries_that_everybody_knows() {
        let amazon = |region: &str| json!({"type": "aws-ecr", "ecr": {"account": "123456789012", "region": region}});
        for (spec, adapter, url) in [
            (json!({"type": "docker-hub"}), "docker-hub", "https://hub.docker.com"),
            (json!({"type": "github-ghcr"}), "github-ghcr", "https://ghcr.io"),
            (json!({"type": "google-gcr"}), "google-gcr", "https://gcr.io"),
            (json!({"type": "google-gcr", "url": "https://eu.gcr.io"}), "google-gcr", "https://eu.gcr.io"),
            (json!({"type": "ecr-public"}), "docker-registry", "https://public.ecr.aws"),
            (json!({"type": "quay-io"}), "docker-registry", "https://quay.io"),
            (json!({"type": "quay"}), "quay", "https://quay.io"),
            (amazon("eu-central-1"), "aws-ecr", "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com"),
            (amazon("us-gov-west-1"), "aws-ecr", "https://123456789012.dkr.ecr.us-gov-west-1.amazonaws.com"),
            (amazon("cn-north-1"), "aws-ecr", "https://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"),
            (amazon("us-iso-east-1"), "aws-ecr", "https://123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov"),
            (amazon("us-isob-east-1"), "aws-ecr", "https://123456789012.dkr.ecr.us-isob-east-1.sc2s.sgov.gov"),
        ] {
            let registry = registry(spec.clone());
            assert_eq!((registry.spec.type_.adapter(), registry.url().as_ref()), (adapter, url), "{spec}");
        }
    }

    #[test]
    fn every_adapter_that_harbor_lists_has_a_type_of_its_name() {
        for name in [
            "ali-acr",
            "aws-ecr",
            "azure-acr",
            "docker-hub",
            "docker-registry",
            "github-ghcr",
            "google-gcr",
            "harbor",
            "huawei-SWR",
            "jfrog-artifactory",
            "tencent-tcr",
            "volcengine-cr",
            "quay",
        ] {
            let registry = registry(json!({"type": name, "url": "https://registry.corp"}));
            assert_eq!(registry.spec.type_.adapter(), name);
        }
    }
}
