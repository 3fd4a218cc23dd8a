//! The resources of all kinds, as the watches show them.

use std::{collections::HashSet, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use super::{backend::Backend, scan_requirements::ScanRequirements};
use crate::{
    api::{FoundSeverity, Platform},
    controller::{self, SecretValue, Stores},
};

/// Answers from the watches. Asks the backend only for Secrets.
pub struct ResourceStore<B> {
    /// The resources.
    pub stores: Stores,
    /// Which scan results ImagePolicies require.
    pub scans: ScanRequirements,
    /// The source of Secrets and of the nodes' platforms.
    pub backend: B,
}

impl<B: Backend> controller::ResourceStore for ResourceStore<B> {
    fn stores(&self) -> &Stores {
        &self.stores
    }

    fn scan_max_age(&self) -> Option<Duration> {
        self.scans.load().max_age
    }

    fn scan_ceiling(&self) -> Option<FoundSeverity> {
        self.scans.load().ceiling
    }

    fn node_platforms(&self) -> Vec<Platform> {
        self.backend.platforms().current()
    }

    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<SecretValue>, String>> {
        self.backend.secret(name).boxed()
    }
}

/// The Secrets that resources refer to.
pub(super) fn referenced_secrets(stores: &Stores) -> HashSet<String> {
    let (instances, registries) = (stores.instances.state(), stores.registries.state());
    let of_instances = instances.iter().map(|instance| &instance.spec.credentials_secret_ref);
    let of_registries = registries.iter().filter_map(|registry| registry.spec.credentials_secret_ref.as_ref());
    of_instances.chain(of_registries).map(|reference| reference.name.clone()).collect()
}
