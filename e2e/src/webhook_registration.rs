//! Tells an API server to send Pods to a webhook of the test.

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

/// A MutatingWebhookConfiguration for Pods (CREATE and UPDATE, and `pods/ephemeralcontainers`) that points at
/// `https://127.0.0.1:PORT/mutate`. It fails open, as the product's own does.
#[derive(Debug, Clone)]
pub struct WebhookRegistration<'a> {
    /// Name of the configuration: one for each test.
    pub name: &'a str,
    /// Port of the webhook on 127.0.0.1. Its certificate must be for that address.
    pub port: u16,
    /// What the webhook's certificate is checked against: PEM, one or more certificates.
    pub ca_bundle: &'a str,
    /// Only Pods of this namespace, so that tests on one API server do not meet; `None` is every namespace.
    pub namespace: Option<&'a str>,
}

impl WebhookRegistration<'_> {
    /// Creates the configuration or brings it to this state. The API server follows within about a second: callers
    /// that need it at once repeat a dry run until the answer is theirs.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(&self, client: &Client) -> Result<()> {
        let selector = self.namespace.map_or_else(
            || json!({}),
            |namespace| json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } }),
        );
        let ca_bundle = k8s_openapi::ByteString(self.ca_bundle.as_bytes().to_vec());
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": self.name },
            "webhooks": [{
                "name": "mutate.harbor-pilot.dev",
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{}/mutate", self.port),
                    "caBundle": ca_bundle,
                },
                "rules": [{
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["pods", "pods/ephemeralcontainers"],
                    "scope": "Namespaced",
                }],
                "namespaceSelector": selector,
                "failurePolicy": "Ignore",
                "sideEffects": "NoneOnDryRun",
                "timeoutSeconds": 5,
                "reinvocationPolicy": "IfNeeded",
                "matchPolicy": "Equivalent",
                "admissionReviewVersions": ["v1"],
            }],
        });
        Api::<MutatingWebhookConfiguration>::all(client.clone())
            .patch(self.name, &PatchParams::apply("harbor-pilot-e2e").force(), &Patch::Apply(configuration))
            .await
            .with_context(|| format!("register the webhook {}", self.name))?;
        Ok(())
    }

    /// Removes the configuration.
    ///
    /// # Errors
    /// When the API server refuses, also when there is none.
    pub async fn delete(&self, client: &Client) -> Result<()> {
        Api::<MutatingWebhookConfiguration>::all(client.clone())
            .delete(self.name, &DeleteParams::default())
            .await
            .with_context(|| format!("remove the webhook {}", self.name))?;
        Ok(())
    }
}
