//! The directory of a cluster: reflector stores of our kinds, and Secrets read one by one by name.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use kube::runtime::reflector::{ObjectRef, Store};

use super::{nodes::NodePlatforms, scan_requirements::ScanRequirements, secrets::SecretStore};
use crate::{
    api::{FoundSeverity, HarborInstance, Platform, ProxyProject, Registry, ReplicationRule},
    controller::{ResourceStore, SecretValue},
};

/// Answers from the watches. Sends requests to the API server only for Secrets in the operator's own namespace.
pub struct ClusterStore {
    /// HarborInstances.
    pub instances: Store<HarborInstance>,
    /// Registries.
    pub registries: Store<Registry>,
    /// ProxyProjects.
    pub projects: Store<ProxyProject>,
    /// ReplicationRules.
    pub rules: Store<ReplicationRule>,
    /// Platforms of the nodes.
    pub platforms: NodePlatforms,
    /// Which scan results ImagePolicies require.
    pub scans: ScanRequirements,
    /// Secrets of the operator's own namespace.
    pub secrets: Arc<SecretStore>,
}

impl ClusterStore {
    /// The Secrets that resources refer to.
    pub(super) fn named_secrets(&self) -> HashSet<String> {
        let (instances, registries) = (self.instances.state(), self.registries.state());
        let of_instances = instances.iter().map(|instance| &instance.spec.credentials_secret_ref);
        let of_registries = registries.iter().filter_map(|registry| registry.spec.credentials_secret_ref.as_ref());
        of_instances.chain(of_registries).map(|reference| reference.name.clone()).collect()
    }
}

impl ResourceStore for ClusterStore {
    fn instance(&self, name: &str) -> Option<Arc<HarborInstance>> {
        self.instances.get(&ObjectRef::new(name))
    }

    fn registry(&self, name: &str) -> Option<Arc<Registry>> {
        self.registries.get(&ObjectRef::new(name))
    }

    fn proxy_project(&self, name: &str) -> Option<Arc<ProxyProject>> {
        self.projects.get(&ObjectRef::new(name))
    }

    fn registries(&self) -> Vec<Arc<Registry>> {
        self.registries.state()
    }

    fn replication_rule(&self, name: &str) -> Option<Arc<ReplicationRule>> {
        self.rules.get(&ObjectRef::new(name))
    }

    fn proxy_projects(&self) -> Vec<Arc<ProxyProject>> {
        self.projects.state()
    }

    fn replication_rules(&self) -> Vec<Arc<ReplicationRule>> {
        self.rules.state()
    }

    fn node_platforms(&self) -> Vec<Platform> {
        self.platforms.current()
    }

    fn scan_max_age(&self) -> Option<Duration> {
        self.scans.max_age()
    }

    fn scan_ceiling(&self) -> Option<FoundSeverity> {
        self.scans.ceiling()
    }

    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<SecretValue>, String>> {
        async move { self.secrets.read(name).await.map_err(|error| error.to_string()) }.boxed()
    }
}
