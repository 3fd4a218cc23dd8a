//! One client per HarborInstance, rebuilt when its spec or its Secret changes.
//!
//! All resources of an instance share the client, so its limit on concurrent requests holds for all of them together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::{rate_limits::RateLimits, resource_store::ResourceStore};
use crate::{
    api::{ConditionType, HarborInstance, HarborInstanceSpec, ProxyProject, Reason, Registry, condition},
    harbor::{Client, Error, HarborCache},
    leadership::Leadership,
    prewarm::{
        Puller,
        puller::{ProjectConcurrency, PullConcurrency, PullLimits},
    },
    reconcile::ReconcileError,
    registry,
    transport::{Deadlines, Endpoint, Redactor, RequestObserver, Shared},
};

/// Maximum number of Secrets read concurrently.
const SECRETS_AT_ONCE: usize = 8;

/// Clients by the name of the instance.
#[derive(Debug, Default)]
pub struct Connections {
    known: Mutex<HashMap<String, CachedConnection>>,
    /// Limits of warming for the upstreams of the instances.
    pub allowances: RateLimits,
    lanes: PullConcurrency,
    observers: Option<ObserverFactory>,
    leadership: Leadership,
    deadlines: Deadlines,
}

/// Creates the observer of requests to the Harbor of an instance.
#[derive(Clone)]
pub struct ObserverFactory(Arc<ObserverOf>);

type ObserverOf = dyn Fn(&str) -> Arc<dyn RequestObserver> + Send + Sync;

impl std::fmt::Debug for ObserverFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observers")
    }
}

#[derive(Debug, Clone)]
struct CachedConnection {
    spec: HarborInstanceSpec,
    revision: String,
    connection: Connection,
}

/// A connection to a usable instance.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Client of Harbor's API.
    pub client: Client,
    /// Objects that Harbor has, read once for all resources of the instance.
    pub view: Arc<HarborCache>,
    /// Client of `/v2`.
    pub puller: Puller,
    /// The host in image references.
    pub pull_host: String,
}

impl Connections {
    /// Creates instances whose pulls fetch at most `bytes_at_once` bytes of blobs concurrently, and that send nothing
    /// while `leadership` does not hold.
    pub fn new(bytes_at_once: u64, leadership: Leadership) -> Self {
        Self { lanes: PullConcurrency::new(bytes_at_once), leadership, ..Self::default() }
    }

    /// Replaces the deadlines.
    #[must_use]
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Adds an observer of each request to the Harbor of an instance.
    #[must_use]
    pub fn observed(self, by: impl Fn(&str) -> Arc<dyn RequestObserver> + Send + Sync + 'static) -> Self {
        Self { observers: Some(ObserverFactory(Arc::new(by))), ..self }
    }

    /// Bytes of blobs that running pulls fetch, as declared in their manifests.
    pub fn bytes_under_way(&self) -> u64 {
        self.lanes.bytes_under_way()
    }

    /// The connection to the instance of that name.
    ///
    /// # Errors
    /// [`ReconcileError`] when the instance does not exist, is suspended, is unreachable now, or its Secret or spec is not
    /// usable.
    pub async fn connect(&self, directory: &dyn ResourceStore, name: &str) -> Result<Connection, ReconcileError> {
        let Some(instance) = directory.instance(name) else {
            let message = format!("HarborInstance {name} does not exist; create it or correct spec.harborRef.name");
            return Err(ReconcileError::waiting(Reason::InstanceNotFound, message));
        };
        if let Some(message) = unreachable(name, &instance) {
            return Err(ReconcileError::waiting(Reason::InstanceNotReady, message));
        }
        self.connect_to(directory, name, &instance).await
    }

    /// The connection to this instance.
    ///
    /// # Errors
    /// [`ReconcileError`] when its Secret or spec is not usable.
    pub async fn connect_to(
        &self,
        directory: &dyn ResourceStore,
        name: &str,
        instance: &HarborInstance,
    ) -> Result<Connection, ReconcileError> {
        let secret_name = &instance.spec.credentials_secret_ref.name;
        let secret = read_secret(directory, secret_name).await?;
        if let Some(known) = self.known.lock().get(name)
            && known.spec == instance.spec
            && known.revision == secret.revision
        {
            return Ok(known.connection.clone());
        }
        let credentials = secret.credentials().map_err(|detail| {
            ReconcileError::waiting(Reason::SecretInvalid, format!("Secret {secret_name}: {detail}"))
        })?;
        let endpoint = Endpoint {
            url: instance.spec.url.clone(),
            ca_bundle: instance.spec.ca_bundle.clone(),
            credentials: Some(credentials),
            max_concurrent_requests: instance.spec.max_concurrent_requests,
            deadlines: self.deadlines,
        };
        let shared = Shared {
            observer: self.observers.as_ref().map(|observers| observers.0(name)),
            leadership: self.leadership.clone(),
            ..Shared::default()
        };
        let client = Client::sharing(&endpoint, shared.clone());
        let client = client.map_err(|error| ReconcileError::stalled(error.reason(), error))?;
        let puller = registry::Client::sharing(&endpoint, shared);
        let puller = puller.map_err(|error| ReconcileError::stalled(error.reason(), error))?;
        let puller = puller.with_token_path(instance.spec.token_path.as_deref().unwrap_or(registry::TOKEN_PATH));
        let puller = Puller::new(puller, PullLimits::default()).within(self.lanes.clone());
        // Harbor already has the secrets of Registries, and its first answer may show one.
        teach_upstreams(directory, name, client.secrets()).await;
        let view = Arc::new(HarborCache::new(client.clone()));
        let pull_host = instance.spec.effective_pull_host().to_owned();
        let connection = Connection { client, view, puller, pull_host };
        let known =
            CachedConnection { spec: instance.spec.clone(), revision: secret.revision, connection: connection.clone() };
        let mut connections = self.known.lock();
        // Another caller may have connected meanwhile. With two views, one misses what is written through the other.
        if let Some(other) = connections.get(name)
            && other.spec == known.spec
            && other.revision == known.revision
        {
            return Ok(other.connection.clone());
        }
        connections.insert(name.to_owned(), known);
        Ok(connection)
    }

    /// The limits on pulls of a project and its upstream, from their current specs.
    pub fn lane(&self, project: &ProxyProject, upstream: Option<&Registry>) -> ProjectConcurrency {
        let name = project.metadata.name.as_deref().unwrap_or_default();
        // Beyond this limit Harbor itself would refuse.
        let connections = project.spec.max_upstream_connections.and_then(|most| u16::try_from(most).ok());
        let own = project.spec.prewarm.max_concurrent_pulls.or(connections);
        let theirs = upstream.and_then(|registry| registry.spec.max_concurrent_pulls);
        self.lanes.lane((name, own), (&project.spec.registry_ref.name, theirs))
    }

    /// The last connection made to the instance of that name.
    pub fn known(&self, name: &str) -> Option<Connection> {
        self.known.lock().get(name).map(|known| known.connection.clone())
    }

    /// Redacts messages about the instance of that name: removes everything that was sent to its Harbor as a secret, and
    /// line breaks.
    pub fn secrets(&self, name: &str) -> Redactor {
        self.known(name).map(|connection| connection.client.secrets().clone()).unwrap_or_default()
    }
}

/// Adds the secrets of all Registries of an instance to those that are redacted from messages. A Secret that cannot be
/// read is reported at its Registry.
async fn teach_upstreams(directory: &dyn ResourceStore, instance: &str, secrets: &Redactor) {
    let registries = directory.registries();
    let own = registries.iter().filter(|registry| registry.spec.harbor_ref.name == instance);
    let names: BTreeSet<&str> = own
        .filter_map(|registry| registry.spec.credentials_secret_ref.as_ref())
        .map(|reference| reference.name.as_str())
        .collect();
    stream::iter(names)
        .for_each_concurrent(SECRETS_AT_ONCE, async |name| {
            if let Ok(Some(secret)) = directory.secret(name).await {
                secret.redact_with(secrets);
            }
        })
        .await;
}

/// Why no request may be sent to a Harbor now, as far as its instance knows.
pub fn unreachable(name: &str, instance: &HarborInstance) -> Option<String> {
    if instance.spec.suspend {
        return Some(format!("HarborInstance {name} is suspended"));
    }
    let why = refused(instance)?;
    Some(format!("waiting for HarborInstance {name}, which is not ready: {why}"))
}

/// Why Harbor did not answer the instance's own reconcile, as far as its status knows. Requests in that state would
/// prolong an outage, and with a wrong password could lock the account. Only the instance finds out when the state ends.
fn refused(instance: &HarborInstance) -> Option<&str> {
    let status =
        instance.status.as_ref().filter(|status| status.observed_generation == instance.metadata.generation)?;
    let reason = condition::reason_if_false(&status.conditions, ConditionType::Ready)?;
    let ready = condition::find(&status.conditions, ConditionType::Ready)?;
    reason.forbids_requests().then_some(ready.message.as_str())
}

/// Harbor's version: from its HarborInstance if known, else from Harbor.
///
/// # Errors
/// See [`Error`].
pub async fn version(directory: &dyn ResourceStore, name: &str, client: &Client) -> Result<Option<String>, Error> {
    let known = directory.instance(name).and_then(|instance| instance.status.as_ref()?.version.clone());
    match known {
        Some(version) => Ok(Some(version)),
        None => Ok(client.system_info().await?.harbor_version),
    }
}

/// Reads a Secret that must exist.
///
/// # Errors
/// [`ReconcileError`] with what to do.
pub async fn read_secret(directory: &dyn ResourceStore, name: &str) -> Result<super::SecretValue, ReconcileError> {
    match directory.secret(name).await {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => {
            let message = format!(
                "Secret {name} is not in the operator's namespace; create it there with the keys `username` and `password`"
            );
            Err(ReconcileError::waiting(Reason::SecretNotFound, message))
        }
        Err(detail) => {
            Err(ReconcileError::waiting(Reason::SecretNotFound, format!("Secret {name} cannot be read: {detail}")))
        }
    }
}
