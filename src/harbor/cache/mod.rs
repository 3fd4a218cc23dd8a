//! The state of a Harbor, read by lists and shared by all readers: a resync of a thousand resources costs pages, not one
//! request for each resource.
//!
//! In: how recent an answer must be ([`Freshness`]). Out: the state of Harbor, and when it was read ([`Cached`]). A caller that
//! writes an object reports it (`wrote_…`), and the next reader asks Harbor; a caller that creates one passes its state
//! (`made_…`).

mod executions;
mod list_cache;
mod rounds;
mod shared_read;

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use self::{
    executions::ExecutionCache,
    list_cache::{ListCache, Listing},
    rounds::{LabelCache, RetentionCache},
    shared_read::SharedRead,
};
use super::{
    Client, Error,
    model::{Project, Quota, Registry, ReplicationExecution, ReplicationPolicy, RetentionPolicy},
};
use crate::transport::timings::UNHEALTHY_LIST_AGE;

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

/// A cache of the state of one Harbor.
#[derive(Debug)]
pub struct HarborCache {
    client: Client,
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
    /// Creates an empty cache.
    pub fn new(client: Client) -> Self {
        Self {
            client,
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
    pub async fn registry(&self, name: &str, freshness: Freshness) -> Result<Cached<Registry>, Error> {
        self.update_unhealthy().await?;
        self.registries.get(&self.client, &name.to_owned(), freshness).await
    }

    /// Returns the project with that name.
    pub async fn project(&self, name: &str, freshness: Freshness) -> Result<Cached<Project>, Error> {
        self.projects.get(&self.client, &name.to_owned(), freshness).await
    }

    /// Returns the quota of a project; none if quotas are disabled in Harbor.
    pub async fn quota(&self, project_id: i64, freshness: Freshness) -> Result<Cached<Quota>, Error> {
        self.quotas.get(&self.client, &project_id, freshness).await
    }

    /// Returns a retention policy. Harbor has no list of these: they are read in turn, and may be some intervals old.
    pub async fn retention(&self, id: i64, freshness: Freshness) -> Result<Arc<RetentionPolicy>, Error> {
        self.retentions.get(&self.client, id, freshness).await
    }

    /// Returns whether to read the labels of a project although it has no other work. Harbor lists them one project at a time,
    /// so they are read in turn.
    pub fn labels_are_due(&self, project_id: i64, freshness: Freshness) -> bool {
        self.labels.are_due(project_id, freshness)
    }

    /// Returns the replication policy with that id.
    pub async fn policy(&self, id: i64, freshness: Freshness) -> Result<Cached<ReplicationPolicy>, Error> {
        self.policies.get(&self.client, &id, freshness).await
    }

    /// Returns all replication policies, from a list that began at `since` or later.
    pub async fn policies(&self, since: Timestamp) -> Result<Vec<Arc<ReplicationPolicy>>, Error> {
        self.policies.all(&self.client, since).await
    }

    /// Returns executions of a policy as of `since`, the newest first: the newest of all, and all that are newer than `after`,
    /// at most a hundred.
    pub async fn executions(
        &self,
        policy: i64,
        after: Option<i64>,
        since: Timestamp,
    ) -> Result<Vec<ReplicationExecution>, Error> {
        self.executions.of(&self.client, policy, after, since).await
    }

    /// Stores a registry that was created. The cache returns this state until the next list has it.
    pub fn made_registry(&self, registry: Registry) {
        self.registries.put(registry, Timestamp::now());
    }

    /// Stores a project that was created. The cache returns this state until the next list has it. Its quota is unknown.
    pub fn made_project(&self, project: Project) {
        self.quotas.forget(project.project_id);
        self.projects.put(project, Timestamp::now());
    }

    /// Stores a replication policy that was created. The cache returns this state until the next list has it.
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
            known.asked.is_some_and(|asked| Timestamp::now().duration_since(asked).unsigned_abs() < UNHEALTHY_LIST_AGE)
        };
        let read = self.client.admitted(self.client.unhealthy_registries());
        let take = |known: &mut UnhealthyRegistries, asked, found: Vec<Registry>| {
            let names: HashSet<String> = found.iter().map(|registry| registry.name.clone()).collect();
            known.names.difference(&names).for_each(|well_again| self.registries.forget(well_again.clone()));
            found.into_iter().for_each(|registry| self.registries.put(registry, asked));
            *known = UnhealthyRegistries { asked: Some(asked), names };
        };
        self.unhealthy.refresh(is_fresh, read, take).await
    }
}

macro_rules! listing {
    ($item:ty, $key:ty, |$this:ident| $of:expr, $all:ident, |$client:ident, $id:ident| $one:expr) => {
        impl Listing for $item {
            type Key = $key;

            fn key(&self) -> $key {
                let $this = self;
                $of
            }

            async fn all(client: &Client) -> Result<Vec<Self>, Error> {
                client.$all().await
            }

            async fn one($client: &Client, $id: &$key) -> Result<Option<Self>, Error> {
                $one.await
            }
        }
    };
}

listing!(Registry, String, |item| item.name.clone(), registries, |client, name| client.registry_named(name));
listing!(Project, String, |item| item.name.clone(), projects, |client, name| client.project_named(name));
listing!(Quota, i64, |item| item.reference.id, project_quotas, |client, project| client.project_quota(*project));
listing!(ReplicationPolicy, i64, |item| item.id, replication_policies, |client, id| client.replication_policy(*id));
