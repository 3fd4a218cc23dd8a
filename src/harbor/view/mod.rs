//! What a Harbor has, read by lists and shared by all who look: a look at a thousand resources costs pages, not resources.
//!
//! In: how recent an answer has to be ([`Freshness`]). Out: what Harbor has, and when that was read ([`Seen`]). Who writes to
//! an object says so (`wrote_…`), and the next who asks for it asks Harbor; who made one says how it is (`made_…`).

mod executions;
mod labels;
mod listed;
mod retentions;
mod shared;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::{
    executions::Executions,
    labels::Labels,
    listed::{Listed, Listing},
    retentions::Retentions,
    shared::Shared,
};
use super::{
    Client, Error,
    model::{Project, Quota, Registry, ReplicationExecution, ReplicationPolicy, RetentionPolicy},
};

/// After a Harbor did not answer, it is left alone for so long: a thousand resources that want to know are one request.
const SILENCE: Duration = Duration::from_secs(20);
/// How old the news of upstreams that Harbor calls unhealthy may be.
const HEALTH: SignedDuration = SignedDuration::from_secs(25);

/// How recent an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// From a list that began at this time or later, else the list is read.
    Listed(Timestamp),
    /// Read at this time or later, else the object is asked for by itself.
    Asked(Timestamp),
}

impl Freshness {
    fn since(self) -> Timestamp {
        match self {
            Self::Listed(since) | Self::Asked(since) => since,
        }
    }
}

/// What Harbor answered, and when it was asked.
#[derive(Debug)]
pub struct Seen<T> {
    /// `None`: there is no such object.
    pub item: Option<Arc<T>>,
    /// When the question was put.
    pub at: Timestamp,
}

/// What one Harbor has.
#[derive(Debug)]
pub struct View {
    source: Source,
    registries: Listed<Registry>,
    projects: Listed<Project>,
    quotas: Listed<Quota>,
    policies: Listed<ReplicationPolicy>,
    retentions: Retentions,
    labels: Labels,
    executions: Executions,
    unhealthy: Shared<Unhealthy>,
}

/// Names of registries whose upstreams Harbor calls unhealthy.
#[derive(Debug, Default)]
struct Unhealthy {
    asked: Option<Timestamp>,
    names: HashSet<String>,
}

impl View {
    /// A view that has seen nothing yet.
    pub fn new(client: Client) -> Self {
        Self {
            source: Source { client, silent: Mutex::default() },
            registries: Listed::default(),
            projects: Listed::default(),
            quotas: Listed::default(),
            policies: Listed::default(),
            retentions: Retentions::default(),
            labels: Labels::default(),
            executions: Executions::default(),
            unhealthy: Shared::default(),
        }
    }

    /// Forgets all: Harbor was away, and may have come back as another.
    pub fn clear(&self) {
        self.source.speaks();
        self.registries.clear();
        self.projects.clear();
        self.quotas.clear();
        self.policies.clear();
        self.retentions.clear();
        self.labels.clear();
        self.executions.clear();
        *self.unhealthy.lock() = Unhealthy::default();
    }

    /// The registry of that name. Its `status` is never older than half a minute, however old the rest may be.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn registry(&self, name: &str, freshness: Freshness) -> Result<Seen<Registry>, Error> {
        self.hear_of_unhealthy().await?;
        self.registries.get(&self.source, &name.to_owned(), freshness).await
    }

    /// The project of that name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn project(&self, name: &str, freshness: Freshness) -> Result<Seen<Project>, Error> {
        self.projects.get(&self.source, &name.to_owned(), freshness).await
    }

    /// The quota of a project. Where Harbor keeps no quotas there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn quota(&self, project_id: i64, freshness: Freshness) -> Result<Seen<Quota>, Error> {
        self.quotas.get(&self.source, &project_id, freshness).await
    }

    /// A retention policy. Harbor has no list of these: they are read in turn, and may be some intervals old.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn retention(&self, id: i64, freshness: Freshness) -> Result<Arc<RetentionPolicy>, Error> {
        self.retentions.get(&self.source, id, freshness).await
    }

    /// Whether the labels of a project are to be read, though nothing else is to be done for it. Harbor lists them one project
    /// at a time: they are read in turn.
    pub fn labels_are_due(&self, project_id: i64, freshness: Freshness) -> bool {
        self.labels.are_due(project_id, freshness)
    }

    /// The replication policy of that id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn policy(&self, id: i64, freshness: Freshness) -> Result<Seen<ReplicationPolicy>, Error> {
        self.policies.get(&self.source, &id, freshness).await
    }

    /// All replication policies, from a list that began at `since` or later.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn policies(&self, since: Timestamp) -> Result<Vec<Arc<ReplicationPolicy>>, Error> {
        self.policies.all(&self.source, since).await
    }

    /// Executions of a policy as they are `since`, the newest first: the newest of all, and all that are newer than `after`,
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

    /// A registry was made, and is taken to be so until the next list shows it.
    pub fn made_registry(&self, registry: Registry) {
        self.registries.put(registry, Timestamp::now());
    }

    /// A project was made, and is taken to be so until the next list shows it. Its quota is not known.
    pub fn made_project(&self, project: Project) {
        self.quotas.forget(project.project_id);
        self.projects.put(project, Timestamp::now());
    }

    /// A replication policy was made, and is taken to be so until the next list shows it.
    pub fn made_policy(&self, policy: ReplicationPolicy) {
        self.executions.born(policy.id);
        self.policies.put(policy, Timestamp::now());
    }

    /// A registry was written to.
    pub fn wrote_registry(&self, name: &str) {
        self.registries.forget(name.to_owned());
    }

    /// A project was written to, or its quota.
    pub fn wrote_project(&self, name: &str, id: Option<i64>) {
        self.projects.forget(name.to_owned());
        if let Some(id) = id {
            self.quotas.forget(id);
        }
    }

    /// A retention policy was written to.
    pub fn wrote_retention(&self, id: i64) {
        self.retentions.forget(id);
    }

    /// A replication policy was written to.
    pub fn wrote_policy(&self, id: i64) {
        self.policies.forget(id);
    }

    /// An execution was started.
    pub fn started_execution(&self) {
        self.executions.started();
    }

    /// Harbor calls an upstream unhealthy, and proxies nothing of it, until its own next check; one request tells of all such.
    async fn hear_of_unhealthy(&self) -> Result<(), Error> {
        let is_fresh =
            |known: &Unhealthy| known.asked.is_some_and(|asked| Timestamp::now().duration_since(asked).abs() < HEALTH);
        let read = self.source.guarded(self.source.client.unhealthy_registries());
        let take = |known: &mut Unhealthy, asked, found: Vec<Registry>| {
            let names: HashSet<String> = found.iter().map(|registry| registry.name.clone()).collect();
            known.names.difference(&names).for_each(|well_again| self.registries.forget(well_again.clone()));
            found.into_iter().for_each(|registry| self.registries.put(registry, asked));
            *known = Unhealthy { asked: Some(asked), names };
        };
        self.unhealthy.refresh(is_fresh, read, take).await
    }
}

/// Locks; what a panic left behind is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a view reads.
#[derive(Debug)]
struct Source {
    client: Client,
    /// Since when Harbor has not answered, and how that showed.
    silent: Mutex<Option<(Instant, Error)>>,
}

impl Source {
    /// Reads, unless Harbor did not answer a moment ago.
    async fn guarded<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let silent = lock(&self.silent).clone();
        if let Some((since, error)) = silent
            && since.elapsed() < SILENCE
        {
            return Err(error);
        }
        let result = request.await;
        match &result {
            Err(error) if error.is_silence() => *lock(&self.silent) = Some((Instant::now(), error.clone())),
            _ => self.speaks(),
        }
        result
    }

    fn speaks(&self) {
        *lock(&self.silent) = None;
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
