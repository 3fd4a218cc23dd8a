//! The resources of all kinds, as the watches show them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use kube::runtime::reflector::{ObjectRef, Store};

use super::{backend::Backend, scan_requirements::ScanRequirements};
use crate::{
    api::{CachedImage, FoundSeverity, HarborInstance, Platform, ProxyProject, Registry, ReplicationRule},
    controller::{self, SecretValue},
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

/// Answers from the watches. Asks the backend only for Secrets.
pub struct ResourceStore<B> {
    /// The resources.
    pub stores: Stores,
    /// Which scan results ImagePolicies require.
    pub scans: ScanRequirements,
    /// The source of Secrets and of the nodes' platforms.
    pub backend: B,
}

impl Stores {
    /// The Secrets that resources refer to.
    pub(super) fn referenced_secrets(&self) -> HashSet<String> {
        let (instances, registries) = (self.instances.state(), self.registries.state());
        let of_instances = instances.iter().map(|instance| &instance.spec.credentials_secret_ref);
        let of_registries = registries.iter().filter_map(|registry| registry.spec.credentials_secret_ref.as_ref());
        of_instances.chain(of_registries).map(|reference| reference.name.clone()).collect()
    }
}

impl<B: Backend> controller::ResourceStore for ResourceStore<B> {
    fn instance(&self, name: &str) -> Option<Arc<HarborInstance>> {
        self.stores.instances.get(&ObjectRef::new(name))
    }

    fn registry(&self, name: &str) -> Option<Arc<Registry>> {
        self.stores.registries.get(&ObjectRef::new(name))
    }

    fn registries(&self) -> Vec<Arc<Registry>> {
        self.stores.registries.state()
    }

    fn proxy_project(&self, name: &str) -> Option<Arc<ProxyProject>> {
        self.stores.projects.get(&ObjectRef::new(name))
    }

    fn proxy_projects(&self) -> Vec<Arc<ProxyProject>> {
        self.stores.projects.state()
    }

    fn replication_rule(&self, name: &str) -> Option<Arc<ReplicationRule>> {
        self.stores.rules.get(&ObjectRef::new(name))
    }

    fn replication_rules(&self) -> Vec<Arc<ReplicationRule>> {
        self.stores.rules.state()
    }

    fn scan_max_age(&self) -> Option<Duration> {
        self.scans.max_age()
    }

    fn scan_ceiling(&self) -> Option<FoundSeverity> {
        self.scans.ceiling()
    }

    fn node_platforms(&self) -> Vec<Platform> {
        self.backend.platforms().current()
    }

    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<SecretValue>, String>> {
        self.backend.secret(name).boxed()
    }
}
