//! The `caBundle` of the webhook configurations, in each entry that calls our Service.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{super::bounded, Error, FIELD_MANAGER, reference};
use crate::tls::{rotation::CaBundle, x509::X509};

const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

/// Prefix of the annotations that make cert-manager write the `caBundle`.
const INJECTED: &str = "cert-manager.io/inject-";

/// Reads and writes the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration of one name.
pub(super) struct Configurations {
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    name: String,
    namespace: String,
    service: String,
}

/// The configurations as they were read.
pub(super) struct FoundConfigurations {
    configurations: Vec<Configuration>,
    name: String,
    /// The bundle of each entry that calls our Service, in the order of the configurations.
    pub bundles: Vec<CaBundle>,
}

/// One configuration, and the indexes of its entries in [`Found::bundles`].
struct Configuration {
    kind: &'static str,
    metadata: ObjectMeta,
    entries: Vec<(String, usize)>,
}

impl Configurations {
    pub(super) fn new(client: &Client, name: &str, namespace: &str, service: &str) -> Self {
        Self {
            mutating: Api::all(client.clone()),
            validating: Api::all(client.clone()),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        }
    }

    pub(super) async fn read(&self) -> Result<FoundConfigurations, Error> {
        let mutating = bounded("reading the MutatingWebhookConfiguration", self.mutating.get_opt(&self.name)).await?;
        let validating = self.validating.get_opt(&self.name);
        let validating = bounded("reading the ValidatingWebhookConfiguration", validating).await?;
        let mut found =
            FoundConfigurations { configurations: Vec::new(), name: self.name.clone(), bundles: Vec::new() };
        if let Some(MutatingWebhookConfiguration { metadata, webhooks }) = mutating {
            let entries = webhooks.into_iter().flatten().map(|entry| (entry.name, entry.client_config));
            self.add(&mut found, MUTATING, metadata, entries);
        }
        if let Some(ValidatingWebhookConfiguration { metadata, webhooks }) = validating {
            let entries = webhooks.into_iter().flatten().map(|entry| (entry.name, entry.client_config));
            self.add(&mut found, VALIDATING, metadata, entries);
        }
        Ok(found)
    }

    /// Writes the bundles by their indexes; other parts of the configurations do not change. Returns what it wrote.
    pub(super) async fn publish(
        &self,
        found: &FoundConfigurations,
        bundles: &[(usize, Vec<X509>)],
    ) -> Result<String, Error> {
        let wanted: HashMap<usize, &[X509]> = bundles.iter().map(|(place, bundle)| (*place, &**bundle)).collect();
        let mut written = Vec::new();
        for configuration in &found.configurations {
            if !configuration.entries.iter().any(|(_, place)| wanted.contains_key(place)) {
                continue;
            }
            // Server-side apply would remove our `caBundle` from entries that the patch leaves out.
            let entry = |(name, place): &(String, usize)| {
                let present = || found.bundles.get(*place).map(|bundle| &*bundle.trusted).unwrap_or_default();
                let bundle = wanted.get(place).copied().unwrap_or_else(present);
                json!({"name": name, "clientConfig": {"caBundle": ByteString(X509::to_pem(bundle).into_bytes())}})
            };
            let patch = json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": configuration.kind,
                "metadata": {"name": self.name, "resourceVersion": configuration.metadata.resource_version},
                "webhooks": configuration.entries.iter().map(entry).collect::<Vec<_>>(),
            });
            if configuration.kind == MUTATING {
                self.apply(&self.mutating, &patch).await?;
            } else {
                self.apply(&self.validating, &patch).await?;
            }
            written.push(configuration.kind);
        }
        let most = bundles.iter().map(|(_, bundle)| bundle.len()).max().unwrap_or_default();
        Ok(format!("caBundle of {} {}: {most} trusted", written.join(" and "), self.name))
    }

    /// The patch carries the resourceVersion that was read: it does not overwrite changes of other clients, and does not
    /// create a deleted configuration again.
    async fn apply<K>(&self, api: &Api<K>, patch: &Value) -> Result<(), Error>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        bounded("writing the caBundle", api.patch(&self.name, &parameters, &Patch::Apply(patch))).await.map(drop)
    }

    fn add(
        &self,
        found: &mut FoundConfigurations,
        kind: &'static str,
        metadata: ObjectMeta,
        entries: impl Iterator<Item = (String, WebhookClientConfig)>,
    ) {
        let kept_by = injected(metadata.annotations.as_ref()).map(|annotation| {
            format!(
                "{kind} {} has the annotation {annotation}: cert-manager keeps its caBundle. Remove the annotation, or run the \
                 controller with `--certificates external`",
                self.name
            )
        });
        let mut ours = Vec::new();
        for (name, client) in entries.filter(|(_, client)| self.is_ours(client)) {
            ours.push((name.clone(), found.bundles.len()));
            // No client trusts a bundle that cannot be parsed.
            let trusted = client.ca_bundle.and_then(|bundle| X509::read_all(&bundle.0).ok()).unwrap_or_default();
            let entry = format!("{kind} {}, {name}", self.name);
            found.bundles.push(CaBundle { entry, trusted, kept_by: kept_by.clone() });
        }
        found.configurations.push(Configuration { kind, metadata, entries: ours });
    }

    /// An entry with a URL calls a server that is not our Service.
    fn is_ours(&self, client: &WebhookClientConfig) -> bool {
        let service = client.service.as_ref();
        service.is_some_and(|service| service.name == self.service && service.namespace == self.namespace)
    }
}

impl FoundConfigurations {
    /// A message about configurations that do not exist or do not call our Service; `None` when both are right.
    pub(super) fn missing(&self) -> Option<String> {
        let there = |kind: &str| self.configurations.iter().find(|configuration| configuration.kind == kind);
        let missing = |kind: &&str| there(kind).is_none_or(|configuration| configuration.entries.is_empty());
        let missing: Vec<&str> = [MUTATING, VALIDATING].into_iter().filter(missing).collect();
        (!missing.is_empty()).then(|| {
            let kinds = missing.join(" and no ");
            format!("no {kinds} {} calls the webhook's Service; its caBundle is written once one exists", self.name)
        })
    }

    /// The object that Events refer to: one of the configurations.
    pub(super) fn about(&self) -> Option<ObjectReference> {
        let first = self.configurations.first()?;
        Some(reference(first.kind, &self.name, first.metadata.uid.clone()))
    }
}

fn injected(annotations: Option<&BTreeMap<String, String>>) -> Option<&String> {
    annotations?.keys().find(|key| key.starts_with(INJECTED))
}
