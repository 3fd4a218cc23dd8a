//! HarborInstance: one Harbor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::common::{Interval, LocalRef};

/// One Harbor that this cluster pulls through.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "harbor-pilot.dev",
    version = "v1alpha1",
    kind = "HarborInstance",
    shortname = "hinst",
    category = "harbor",
    status = "HarborInstanceStatus",
    derive = "PartialEq",
    cel,
    doc = "One Harbor that this cluster pulls through.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Pull host", type_ = "string", json_path = ".status.pullHost"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HarborInstanceSpec {
    /// URL of Harbor's API, such as `https://harbor.example.com`. A path is not supported.
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+/?$')")
        .message("url must be http:// or https://, a host and an optional port, without path, query or user"))]
    pub url: String,
    /// Host (and port) in image references. Default: the host and port of `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9.-]+(:[0-9]{1,5})?$') && (self.contains('.') || self.contains(':') || self == 'localhost')")
        .message("pullHost must be a host with a dot or a port, such as harbor.example.com or harbor:8443: container runtimes read any other name as a Docker Hub repository"))]
    pub pull_host: Option<String>,
    /// PEM certificates to trust for `url`, in addition to the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
    /// Secret in the operator's namespace with the keys `username` and `password`, of a system robot account or a user. A request
    /// of a user costs Harbor 50 times as much as one of a robot.
    pub credentials_secret_ref: LocalRef,
    /// Path of the token service for image pulls of this operator, at the host of `url`. The credentials are sent only to this
    /// path and to `/api/v2.0`. Default `/service/token`, which is Harbor's own. Set it only if a proxy in front of Harbor has
    /// its own token service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$')")
        .message("tokenPath must be a path such as /service/token, without query"))]
    pub token_path: Option<String>,
    /// Hosts that Registries of this Harbor may name: names or addresses, with `*` for any characters, each with or without a
    /// port, such as `ghcr.io`, `*.corp.example`, `10.0.0.5:5000`. Harbor connects to the host of a Registry, and may reach hosts
    /// that tenants cannot. Absent or empty: all hosts except link-local and metadata addresses, which must be listed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 255)))]
    #[x_kube(validation = Rule::new("self.all(host, host.matches('^[^/@{} ]+$'))")
        .message("allowedRegistryHosts must be hosts such as ghcr.io, *.corp.example or 10.0.0.5:5000: no scheme, path or CIDR"))]
    pub allowed_registry_hosts: Vec<String>,
    /// Maximum number of concurrent requests of this operator to Harbor, from 1 to 64. Default 4.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 64))]
    pub max_concurrent_requests: u16,
    /// Interval of Harbor's health check. Default `30s`.
    #[serde(default = "default_interval")]
    pub interval: Interval,
    /// Stops all work for this Harbor. Admission continues with the active rules.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
}

fn default_concurrency() -> u16 {
    4
}

fn default_interval() -> Interval {
    Interval::from_secs(30)
}

impl HarborInstanceSpec {
    /// Returns the host and port in image references of this Harbor.
    pub fn effective_pull_host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        self.pull_host.as_deref().unwrap_or_else(|| rest.trim_end_matches('/'))
    }
}

/// Observed state of a Harbor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HarborInstanceStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The last handled value of the annotation `harbor-pilot.dev/reconcile-now`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reconcile_token: Option<String>,
    /// Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// Harbor's version, from /systeminfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Host (and port) in image references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_host: Option<String>,
    /// Components that Harbor reports as unhealthy, from /health.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unhealthy_components: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str, pull_host: Option<&str>) -> HarborInstanceSpec {
        HarborInstanceSpec {
            url: url.to_owned(),
            pull_host: pull_host.map(str::to_owned),
            ca_bundle: None,
            credentials_secret_ref: LocalRef { name: "harbor".to_owned() },
            token_path: None,
            allowed_registry_hosts: Vec::new(),
            max_concurrent_requests: 4,
            interval: Interval::from_secs(30),
            suspend: false,
        }
    }

    #[test]
    fn the_pull_host_is_the_host_of_the_url_unless_it_is_given() {
        assert_eq!(spec("https://harbor.example.com/", None).effective_pull_host(), "harbor.example.com");
        assert_eq!(spec("http://127.0.0.1:8080", None).effective_pull_host(), "127.0.0.1:8080");
        assert_eq!(spec("http://harbor-core", Some("harbor.example.com")).effective_pull_host(), "harbor.example.com");
    }

    #[test]
    fn a_url_with_a_path_and_a_pull_host_that_means_docker_hub_are_refused() {
        let valid = |url, host| HarborInstance::new("default", spec(url, host)).validate_cel();
        assert!(valid("https://harbor.example.com", Some("harbor.example.com:8443")).is_ok());
        assert!(valid("https://harbor.example.com/registry", None).is_err());
        assert!(valid("https://admin:x@harbor.example.com", None).is_err());
        let error = valid("https://harbor.example.com", Some("harbor")).unwrap_err();
        assert!(error.to_string().contains("Docker Hub"), "{error}");
    }

    #[test]
    fn token_path_is_a_path_and_nothing_else() {
        let table = [
            ("/service/token", true),
            ("/auth/v1/token", true),
            ("service/token", false),
            ("//evil.test/token", false),
            ("/service/../api/v2.0/users", false),
            ("/service/token?x=y", false),
            ("/", false),
        ];
        for (path, valid) in table {
            let spec = HarborInstanceSpec { token_path: Some(path.to_owned()), ..spec("https://harbor.test", None) };
            assert_eq!(HarborInstance::new("default", spec).validate_cel().is_ok(), valid, "{path}");
        }
    }
}
