//! Access to the resources that a resource refers to, independent of where they are stored.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kube::runtime::reflector::{ObjectRef, Store};
use secrecy::SecretString;

use crate::{
    api::{CachedImage, FoundSeverity, HarborInstance, Platform, ProxyProject, Registry, ReplicationRule},
    transport::{Credentials, Redactor},
};

/// The stores of our kinds. Clones share them.
#[derive(Clone)]
pub struct Stores {
    /// HarborInstances.
    pub instances: Store<HarborInstance>,
    /// Registries.
    pub registries: Store<Registry>,
    /// ProxyProjects.
    pub projects: Store<ProxyProject>,
    /// ReplicationRules.
    pub rules: Store<ReplicationRule>,
    /// CachedImages.
    pub images: Store<CachedImage>,
}

/// Reads other resources. All methods except `secret` answer from memory.
pub trait ResourceStore: Send + Sync + 'static {
    /// The resources.
    fn stores(&self) -> &Stores;
    /// The HarborInstance of that name.
    fn instance(&self, name: &str) -> Option<Arc<HarborInstance>> {
        self.stores().instances.get(&ObjectRef::new(name))
    }
    /// The Registry of that name.
    fn registry(&self, name: &str) -> Option<Arc<Registry>> {
        self.stores().registries.get(&ObjectRef::new(name))
    }
    /// The ProxyProject of that name.
    fn proxy_project(&self, name: &str) -> Option<Arc<ProxyProject>> {
        self.stores().projects.get(&ObjectRef::new(name))
    }
    /// The ReplicationRule of that name.
    fn replication_rule(&self, name: &str) -> Option<Arc<ReplicationRule>> {
        self.stores().rules.get(&ObjectRef::new(name))
    }
    /// All Registries.
    fn registries(&self) -> Vec<Arc<Registry>> {
        self.stores().registries.state()
    }
    /// All ProxyProjects.
    fn proxy_projects(&self) -> Vec<Arc<ProxyProject>> {
        self.stores().projects.state()
    }
    /// All ReplicationRules.
    fn replication_rules(&self) -> Vec<Arc<ReplicationRule>> {
        self.stores().rules.state()
    }
    /// The shortest maximum age of a scan result among ImagePolicies that use scans; `None` without such a policy.
    fn scan_max_age(&self) -> Option<Duration>;
    /// The worst severity that all such policies admit; `None` without such a policy.
    fn scan_ceiling(&self) -> Option<FoundSeverity>;
    /// The platforms of the nodes that run Pods, without duplicates; empty while none is known.
    fn node_platforms(&self) -> Vec<Platform>;
    /// The Secret of that name in the operator's own namespace; `None` when it does not exist.
    ///
    /// # Errors
    /// Why it could not be read.
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<SecretValue>, String>>;
}

/// Content and revision of a Secret.
#[derive(Debug, Clone)]
pub struct SecretValue {
    /// Changes with the content, and reveals nothing about it.
    pub revision: String,
    /// The values that are valid text.
    pub values: BTreeMap<String, SecretString>,
}

impl SecretValue {
    /// Returns `username` and `password`.
    ///
    /// # Errors
    /// Names the missing key.
    pub fn credentials(&self) -> Result<Credentials, String> {
        let value = |key: &str| {
            self.values.get(key).filter(|value| !secrecy::ExposeSecret::expose_secret(*value).is_empty()).ok_or_else(|| {
                format!("key `{key}` is missing or empty; the keys `username` and `password` are required (type kubernetes.io/basic-auth)")
            })
        };
        let username = secrecy::ExposeSecret::expose_secret(value("username")?).trim().to_owned();
        Ok(Credentials { username, password: value("password")?.clone() })
    }

    /// Adds all values except the user name to the secrets that are redacted from messages.
    pub fn redact_with(&self, secrets: &Redactor) {
        let value = |key: &str| self.values.get(key);
        let username = value("username").map(|value| secrecy::ExposeSecret::expose_secret(value).trim().to_owned());
        let username = username.unwrap_or_default();
        let hidden = self.values.iter().filter(|(key, _)| key.as_str() != "username");
        hidden.for_each(|(_, secret)| secrets.learn(&username, secret));
    }
}
