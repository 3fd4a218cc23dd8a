//! The state of a Harbor, read by lists and shared by all readers: a resync of a thousand resources costs pages, not one
//! request for each resource.
//!
//! In: how recent an answer must be ([`Freshness`]). Out: the state of Harbor, and when it was read ([`Seen`]). A caller that
//! writes an object reports it (`wrote_…`), and the next reader asks Harbor; a caller that creates one passes its state
//! (`made_…`).

mod executions;
mod labels;
mod list_cache;
mod retentions;
mod shared_read;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use self::{
    executions::ExecutionCache,
    labels::LabelCache,
    list_cache::{ListCache, Listing},
    retentions::RetentionCache,
    shared_read::SharedRead,
};
use super::{
    Client, Error,
    model::{Project, Quota, Registry, ReplicationExecution, ReplicationPolicy, RetentionPolicy},
};

/// Backoff after a Harbor did not answer: a thousand resources that need it send one request.
const SILENCE: Duration = Duration::from_secs(20);
/// Maximum age of the list of upstreams that Harbor calls unhealthy.
const HEALTH: SignedDuration = SignedDuration::from_secs(25);

/// How recent an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// From a list that began at this time or later, else the list is read.
    Listed(Timestamp),
    /// Read at this time or later, else the object is read by itself.
    Asked(Timestamp),
}

impl Freshness {
    fn since(self) -> Timestamp {
        match self {
            Self::Listed(since) | Self::Asked(since) => since,
        }
    }
}

/// Harbor's answer, and when it was requested.
#[derive(Debug)]
pub struct Cached<T> {
    /// `None`: there is no such object.
    pub item: Option<Arc<T>>,
    /// Time of the request.
    pub at: Timestamp,
}

/// A cached view of one Harbor.
#[derive(Debug)]
pub struct HarborCache {
    source: CacheSource,
    registries: ListCache<Registry>,
    projects: ListCache<Project>,
    quotas: ListCache<Quota>,
    policies: ListCache<ReplicationPolicy>,
    retentions: RetentionCache,
    labels: LabelCache,
    executions: ExecutionCache,
    unhealthy: SharedRead<UnhealthyRegistries>,
}

/// Names of registries whose upstreams Harbor calls unhealthy.
#[derive(Debug, Default)]
struct UnhealthyRegistries {
    asked: Option<Timestamp>,
    names: HashSet<String>,
}

impl HarborCache {
    /// Creates an empty view.
    pub fn new(client: Client) -> Self {
        Self {
            source: CacheSource { client, silent: Mutex::default() },
            registries: ListCache::default(),
            projects: ListCache::default(),
            quotas: ListCache::default(),
            policies: ListCache::default(),
            retentions: RetentionCache::default(),
            labels: LabelCache::default(),
            executions: ExecutionCache::default(),
            unhealthy: SharedRead::default(),
        }
    }

    /// Forgets everything: Harbor was unreachable, and may have been replaced by another one.
    pub fn clear(&self) {
        self.source.speaks();
        self.registries.clear();
        self.projects.clear();
        self.quotas.clear();
        self.policies.clear();
        self.retentions.clear();
        self.labels.clear();
        self.executions.clear();
        *self.unhealthy.lock() = UnhealthyRegistries::default();
    }

    /// Returns the registry with that name. Its `status` is never older than half a minute, however old the rest may be.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn registry(&self, name: &str, freshness: Freshness) -> Result<Cached<Registry>, Error> {
        self.update_unhealthy().await?;
        self.registries.get(&self.source, &name.to_owned(), freshness).await
    }

    /// Returns the project with that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn project(&self, name: &str, freshness: Freshness) -> Result<Cached<Project>, Error> {
        self.projects.get(&self.source, &name.to_owned(), freshness).await
    }

    /// Returns the quota of a project; none if quotas are disabled in Harbor.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn quota(&self, project_id: i64, freshness: Freshness) -> Result<Cached<Quota>, Error> {
        self.quotas.get(&self.source, &project_id, freshness).await
    }

    /// Returns a retention policy. Harbor has no list of these: they are read in turn, and may be some intervals old.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn retention(&self, id: i64, freshness: Freshness) -> Result<Arc<RetentionPolicy>, Error> {
        self.retentions.get(&self.source, id, freshness).await
    }

    /// Returns whether to read the labels of a project although it has no other work. Harbor lists them one project at a time,
    /// so they are read in turn.
    pub fn labels_are_due(&self, project_id: i64, freshness: Freshness) -> bool {
        self.labels.are_due(project_id, freshness)
    }

    /// Returns the replication policy with that id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn policy(&self, id: i64, freshness: Freshness) -> Result<Cached<ReplicationPolicy>, Error> {
        self.policies.get(&self.source, &id, freshness).await
    }

    /// Returns all replication policies, from a list that began at `since` or later.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn policies(&self, since: Timestamp) -> Result<Vec<Arc<ReplicationPolicy>>, Error> {
        self.policies.all(&self.source, since).await
    }

    /// Returns executions of a policy as of `since`, the newest first: the newest of all, and all that are newer than `after`,
    /// at most a hundred.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn executions(
        &self,
        policy: i64,
        after: Option<i64>,
        since: Timestamp,
    ) -> Result<Vec<ReplicationExecution>, Error> {
        self.executions.of(&self.source, policy, after, since).await
    }

    /// Stores a registry that was created. The view returns this state until the next list has it.
    pub fn made_registry(&self, registry: Registry) {
        self.registries.put(registry, Timestamp::now());
    }

    /// Stores a project that was created. The view returns this state until the next list has it. Its quota is unknown.
    pub fn made_project(&self, project: Project) {
        self.quotas.forget(project.project_id);
        self.projects.put(project, Timestamp::now());
    }

    /// Stores a replication policy that was created. The view returns this state until the next list has it.
    pub fn made_policy(&self, policy: ReplicationPolicy) {
        self.executions.insert_new(policy.id);
        self.policies.put(policy, Timestamp::now());
    }

    /// Records a write to a registry.
    pub fn wrote_registry(&self, name: &str) {
        self.registries.forget(name.to_owned());
    }

    /// Records a write to a project, or to its quota.
    pub fn wrote_project(&self, name: &str, id: Option<i64>) {
        self.projects.forget(name.to_owned());
        if let Some(id) = id {
            self.quotas.forget(id);
        }
    }

    /// Records a write to a retention policy.
    pub fn wrote_retention(&self, id: i64) {
        self.retentions.forget(id);
    }

    /// Records a write to a replication policy.
    pub fn wrote_policy(&self, id: i64) {
        self.policies.forget(id);
    }

    /// Records the start of an execution.
    pub fn started_execution(&self) {
        self.executions.started();
    }

    /// Reads which upstreams Harbor calls unhealthy, in one request. Harbor proxies nothing of these until its own next check.
    async fn update_unhealthy(&self) -> Result<(), Error> {
        let is_fresh = |known: &UnhealthyRegistries| {
            known.asked.is_some_and(|asked| Timestamp::now().duration_since(asked).abs() < HEALTH)
        };
        let read = self.source.guarded(self.source.client.unhealthy_registries());
        let take = |known: &mut UnhealthyRegistries, asked, found: Vec<Registry>| {
            let names: HashSet<String> = found.iter().map(|registry| registry.name.clone()).collect();
            known.names.difference(&names).for_each(|well_again| self.registries.forget(well_again.clone()));
            found.into_iter().for_each(|registry| self.registries.put(registry, asked));
            *known = UnhealthyRegistries { asked: Some(asked), names };
        };
        self.unhealthy.refresh(is_fresh, read, take).await
    }
}

/// The source of a view: a client with backoff.
#[derive(Debug)]
struct CacheSource {
    client: Client,
    /// Since when Harbor has not answered, and the error.
    silent: Mutex<Option<(Instant, Error)>>,
}

impl CacheSource {
    /// Sends a request, unless Harbor did not answer a moment ago.
    async fn guarded<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let silent = self.silent.lock().clone();
        if let Some((since, error)) = silent
            && since.elapsed() < SILENCE
        {
            return Err(error);
        }
        let result = request.await;
        match &result {
            Err(error) if error.is_silence() => *self.silent.lock() = Some((Instant::now(), error.clone())),
            _ => self.speaks(),
        }
        result
    }

    fn speaks(&self) {
        *self.silent.lock() = None;
    }
}

impl Listing for Registry {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }

    async fn all(client: &Client) -> Result<Vec<Self>, Error> {
        client.registries().await
    }

    async fn one(client: &Client, name: &String) -> Result<Option<Self>, Error> {
        client.registry_named(name).await
    }
}

impl Listing for Project {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }

    async fn all(client: &Client) -> Result<Vec<Self>, Error> {
        client.projects().await
    }

    async fn one(client: &Client, name: &String) -> Result<Option<Self>, Error> {
        client.project_named(name).await
    }
}

impl Listing for Quota {
    type Key = i64;

    fn key(&self) -> i64 {
        self.reference.id
    }

    async fn all(client: &Client) -> Result<Vec<Self>, Error> {
        client.project_quotas().await
    }

    async fn one(client: &Client, project_id: &i64) -> Result<Option<Self>, Error> {
        client.project_quota(*project_id).await
    }
}

impl Listing for ReplicationPolicy {
    type Key = i64;

    fn key(&self) -> i64 {
        self.id
    }

    async fn all(client: &Client) -> Result<Vec<Self>, Error> {
        client.replication_policies().await
    }

    async fn one(client: &Client, id: &i64) -> Result<Option<Self>, Error> {
        client.replication_policy(*id).await
    }
}
