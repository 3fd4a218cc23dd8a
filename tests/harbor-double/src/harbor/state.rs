//! What Harbor remembers: plain data and the lookups that several end points share. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    replication::{
        filters::Item,
        tables::{Execution, Policy, Task},
    },
    scan::{Report, Scan},
};

/// A configured upstream or peer.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) kind: String,
    pub(crate) url: String,
    pub(crate) access_key: String,
    pub(crate) access_secret: String,
    pub(crate) credential_type: String,
    pub(crate) insecure: bool,
    pub(crate) ca_certificate: String,
    pub(crate) healthy: bool,
    pub(crate) created: String,
    pub(crate) updated: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) registry_id: Option<i64>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) allowlist_id: i64,
    /// `items` and, where there is one, `expires_at`.
    pub(crate) allowlist: Map<String, Value>,
    pub(crate) created: String,
    pub(crate) quota: Quota,
}

#[derive(Debug, Clone)]
pub(crate) struct Quota {
    pub(crate) id: i64,
    /// Bytes; -1 is no limit.
    pub(crate) limit: i64,
    pub(crate) updated: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) id: i64,
    pub(crate) fields: Map<String, Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct Robot {
    /// With `robot$` and the project.
    pub(crate) name: String,
    pub(crate) secret: String,
    pub(crate) document: Map<String, Value>,
}

#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) id: i64,
    pub(crate) project_id: i64,
    pub(crate) created: String,
    pub(crate) updated: String,
    pub(crate) pull_count: u64,
    pub(crate) artifacts: Vec<Artifact>,
}

#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    pub(crate) id: i64,
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
    pub(crate) pushed: String,
    pub(crate) pulled: String,
    pub(crate) tags: Vec<Tag>,
    /// Ids.
    pub(crate) labels: Vec<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Tag {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) pushed: String,
}

/// Everything, behind one lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) registries: BTreeMap<i64, Registry>,
    pub(crate) projects: BTreeMap<i64, Project>,
    pub(crate) retentions: BTreeMap<i64, Value>,
    /// Rules with the ids of their projects.
    pub(crate) immutable: BTreeMap<i64, (i64, Value)>,
    pub(crate) labels: BTreeMap<i64, Label>,
    pub(crate) robots: BTreeMap<i64, Robot>,
    /// By full name, the project's included.
    pub(crate) repositories: BTreeMap<String, Repository>,
    /// What the registry behind Harbor has: (full name of the repository, digest).
    pub(crate) links: HashSet<(String, String)>,
    pub(crate) blobs: HashMap<String, Bytes>,
    /// Harbor's Redis: (full name, digest of the upstream) → media type and bytes of an index.
    pub(crate) indexes: HashMap<(String, String), (String, Bytes)>,
    /// (full name, digest of the upstream) → digest of the index that Harbor stored for it.
    pub(crate) trimmed: HashMap<(String, String), String>,
    /// Manifests that a background job waits for: (full name, digest, tag).
    pub(crate) pending: HashSet<(String, String, String)>,
    pub(crate) policies: BTreeMap<i64, Policy>,
    pub(crate) executions: BTreeMap<i64, Execution>,
    pub(crate) tasks: BTreeMap<i64, Task>,
    /// No job runs any more, until Harbor is wiped.
    pub(crate) job_service_hangs: bool,
    /// Uploads under way: session → bytes so far.
    pub(crate) uploads: HashMap<String, Vec<u8>>,
    /// Digest → its last scan.
    pub(crate) scans: HashMap<String, Scan>,
    /// Digest → what the scanner will find.
    pub(crate) reports: HashMap<String, Report>,
    /// Digest → how many of its next scans fail.
    pub(crate) failing_scans: HashMap<String, u32>,
    sequences: HashMap<&'static str, i64>,
}

impl State {
    /// The next id of a table. A refused insert uses one up, as in PostgreSQL.
    pub(crate) fn next(&mut self, table: &'static str) -> i64 {
        let last = self.sequences.entry(table).or_insert(0);
        *last += 1;
        *last
    }

    pub(crate) fn project_named(&self, name: &str) -> Option<&Project> {
        self.projects.values().find(|project| project.name == name)
    }

    /// Repositories of a project, with their full names.
    pub(crate) fn repositories_of(&self, project: i64) -> impl Iterator<Item = (&String, &Repository)> {
        self.repositories.iter().filter(move |(_, repository)| repository.project_id == project)
    }

    /// An artifact by digest, or by tag.
    pub(crate) fn artifact(&self, repository: &str, reference: &str) -> Option<&Artifact> {
        let artifacts = &self.repositories.get(repository)?.artifacts;
        artifacts
            .iter()
            .find(|artifact| artifact.digest == reference || artifact.tags.iter().any(|tag| tag.name == reference))
    }

    /// A blob that this repository has.
    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        self.links.contains(&(repository.to_owned(), digest.to_owned())).then(|| self.blobs.get(digest).cloned())?
    }

    /// Bytes that a project's quota counts: each blob and manifest once.
    pub(crate) fn used(&self, project: &Project) -> i64 {
        let prefix = format!("{}/", project.name);
        let digests: HashSet<&String> =
            self.links.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, digest)| digest).collect();
        let blobs: usize = digests.iter().filter_map(|digest| self.blobs.get(*digest)).map(Bytes::len).sum();
        let manifests: usize = self
            .repositories_of(project.id)
            .flat_map(|(_, repository)| &repository.artifacts)
            .map(|artifact| (&artifact.digest, artifact.bytes.len()))
            .collect::<HashMap<_, _>>()
            .values()
            .sum();
        i64::try_from(blobs + manifests).unwrap_or(i64::MAX)
    }

    /// Whether so many bytes more are within the quota of the project that the repository is in.
    pub(crate) fn has_room(&self, repository: &str, more: usize) -> bool {
        let name = repository.split('/').next().unwrap_or_default();
        self.project_named(name).is_some_and(|project| {
            project.quota.limit < 0 || self.used(project).saturating_add_unsigned(more as u64) <= project.quota.limit
        })
    }

    /// Stores a manifest and tags it, where given. A project that is gone or full takes nothing.
    pub(crate) fn store_manifest(&mut self, name: &str, media_type: &str, bytes: Bytes, tag: Option<&str>) {
        let digest = crate::digest::sha256(&bytes);
        let known = self.artifact(name, &digest).is_some();
        if !known && !self.has_room(name, bytes.len()) {
            return;
        }
        let project = self.project_named(name.split('/').next().unwrap_or_default());
        let Some((project_id, pulled_through)) = project.map(|project| (project.id, project.registry_id.is_some()))
        else {
            return;
        };
        let now = super::http::now();
        if !self.repositories.contains_key(name) {
            let id = self.next("repository");
            let (created, updated) = (now.clone(), now.clone());
            let repository = Repository { id, project_id, created, updated, pull_count: 0, artifacts: Vec::new() };
            self.repositories.insert(name.to_owned(), repository);
        }
        if !known {
            let id = self.next("artifact");
            let (media_type, pushed) = (media_type.to_owned(), now.clone());
            let pulled = if pulled_through { now.clone() } else { super::http::NEVER.to_owned() };
            let artifact = Artifact {
                id,
                digest: digest.clone(),
                media_type,
                bytes,
                pushed,
                pulled,
                tags: Vec::new(),
                labels: Vec::new(),
            };
            if let Some(repository) = self.repositories.get_mut(name) {
                repository.artifacts.push(artifact);
                repository.updated = now;
                repository.pull_count += u64::from(pulled_through);
            }
        }
        if let Some(tag) = tag {
            self.tag(name, &digest, tag);
        }
    }

    /// The names of an artifact's labels.
    pub(crate) fn labels_of(&self, repository: &str, digest: &str) -> Vec<String> {
        let labels = self.artifact(repository, digest).map_or(&[][..], |artifact| artifact.labels.as_slice());
        let name = |id: &i64| self.labels.get(id)?.fields.get("name")?.as_str().map(ToOwned::to_owned);
        labels.iter().filter_map(name).collect()
    }

    /// What a repository offers for replication.
    pub(crate) fn items(&self, repository: &str) -> Vec<Item> {
        let artifacts = self.repositories.get(repository).map(super::artifacts::visible).unwrap_or_default();
        let item = |artifact: &Artifact| Item {
            digest: artifact.digest.clone(),
            tags: artifact.tags.iter().map(|tag| tag.name.clone()).collect(),
            labels: self.labels_of(repository, &artifact.digest),
        };
        artifacts.into_iter().map(item).collect()
    }

    /// Points a tag to a stored artifact. Answers whether there is such an artifact.
    pub(crate) fn tag(&mut self, name: &str, digest: &str, tag: &str) -> bool {
        let id = self.next("tag");
        let now = super::http::now();
        let Some(repository) = self.repositories.get_mut(name) else {
            return false;
        };
        if !repository.artifacts.iter().any(|artifact| artifact.digest == digest) {
            return false;
        }
        for artifact in &mut repository.artifacts {
            let tagged = artifact.tags.iter().any(|each| each.name == tag);
            if artifact.digest != digest {
                artifact.tags.retain(|each| each.name != tag);
            } else if !tagged {
                artifact.tags.push(Tag { id, name: tag.to_owned(), pushed: now.clone() });
                repository.updated = now.clone();
            }
        }
        true
    }

    /// Stores a blob of a repository. A project that is gone or full takes nothing.
    pub(crate) fn store_blob(&mut self, repository: &str, digest: &str, bytes: Bytes) {
        if self.blob(repository, digest).is_none() && self.has_room(repository, bytes.len()) {
            self.blobs.insert(digest.to_owned(), bytes);
            self.links.insert((repository.to_owned(), digest.to_owned()));
        }
    }

    /// Forgets a repository and what the registry has of it.
    pub(crate) fn remove_repository(&mut self, name: &str) -> bool {
        let known = self.repositories.remove(name).is_some();
        self.links.retain(|(repository, _)| repository != name);
        self.trimmed.retain(|(repository, _), _| repository != name);
        let linked: HashSet<&String> = self.links.iter().map(|(_, digest)| digest).collect();
        self.blobs.retain(|digest, _| linked.contains(digest));
        known
    }
}
