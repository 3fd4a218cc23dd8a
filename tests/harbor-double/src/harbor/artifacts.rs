//! Repositories, artifacts and tags of a project.

use std::{collections::HashSet, sync::Arc};

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Core,
    http::{Ask, Fault, Outcome, created, empty, json_reply},
    page::{filter, page, text_of},
    replication::filters::Deletes,
    state::{Artifact, Project, Repository, State},
};
use crate::index;

const ICON: &str = "sha256:0048162a053eef4d4ce3fe7518615bef084403614f8bca43b40ae2e762e11e06";
const ON_PROXY: &str = "the operation isn't supported for a proxy cache project";

impl Core {
    pub(crate) fn list_repositories(&self, ask: &Ask, project: &str) -> Outcome {
        let project = self.project_by_name(ask, project, "repository", "list")?;
        let state = self.state.lock();
        let mut found: Vec<(&String, &Repository)> = state.repositories_of(project.id).collect();
        found.sort_by_key(|(_, repository)| std::cmp::Reverse(repository.id));
        let items: Vec<Value> =
            found.into_iter().map(|(name, repository)| repository_document(name, repository)).collect();
        drop(state);
        let items = filter(ask, items, |item, key| (key == "name").then(|| text_of(item, key))?)?;
        page(ask, &items)
    }

    pub(crate) fn get_repository(&self, ask: &Ask, project: &str, name: &str) -> Outcome {
        let name = self.full_name_for(ask, (project, name), "repository", "read")?.1;
        match self.state.lock().repositories.get(&name) {
            Some(repository) => Ok(json_reply(&repository_document(&name, repository))),
            None => Err(Fault::not_found(format!("repository {name} not found"))),
        }
    }

    pub(crate) fn delete_repository(self: &Arc<Self>, ask: &Ask, project: &str, name: &str) -> Outcome {
        let name = self.full_name_for(ask, (project, name), "repository", "delete")?.1;
        let state = self.state.lock();
        state.may_lose_all(&name, None)?;
        let Some(repository) = state.repositories.get(&name).cloned() else {
            return Err(Fault::not_found(format!("repository {name} not found")));
        };
        drop(state);
        for artifact in repository.artifacts {
            self.erase_artifact(&name, &artifact.digest);
        }
        self.state.lock().remove_repository(&name);
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn list_artifacts(&self, ask: &Ask, project: &str, name: &str) -> Outcome {
        let name = self.full_name(ask, project, name, "list")?.1;
        let state = self.state.lock();
        let mut items = Vec::new();
        let base = ask.param("q").and_then(|query| query.split(',').find_map(|term| term.strip_prefix("base=")));
        if base.is_some_and(|base| base != "*") {
            let message = r#"the value of "base" query can only be exact match value with "*""#;
            return Err(Fault::bad(message));
        }
        if let Some(repository) = state.repositories.get(&name) {
            let mut artifacts = visible(repository);
            if base.is_some() {
                artifacts = repository.artifacts.iter().collect();
            }
            artifacts.retain(|artifact| !is_accessory(artifact));
            artifacts.sort_by_key(|artifact| std::cmp::Reverse(artifact.id));
            items = artifacts
                .into_iter()
                .map(|artifact| artifact_document(&state, ask, &name, repository, artifact))
                .collect();
        }
        drop(state);
        let items = filter(ask, items, |item, key| match key {
            "digest" | "type" | "media_type" => text_of(item, key),
            _ => None,
        })?;
        page(ask, &items)
    }

    pub(crate) fn get_artifact(&self, ask: &Ask, project: &str, name: &str, reference: &str) -> Outcome {
        let name = self.full_name(ask, project, name, "read")?.1;
        let state = self.state.lock();
        match (state.repositories.get(&name), state.artifact(&name, reference)) {
            (Some(repository), Some(artifact)) => {
                Ok(json_reply(&artifact_document(&state, ask, &name, repository, artifact)))
            }
            _ => Err(no_artifact(&name, reference)),
        }
    }

    pub(crate) fn delete_artifact(self: &Arc<Self>, ask: &Ask, project: &str, name: &str, reference: &str) -> Outcome {
        let name = self.full_name(ask, project, name, "delete")?.1;
        self.state.lock().may_lose_all(&name, Some(reference))?;
        if self.erase_artifact(&name, reference) {
            return Ok(empty(StatusCode::OK));
        }
        Err(no_artifact(&name, reference))
    }

    /// Deletes an artifact with its tags, and lets that be replicated. Answers whether there was one.
    pub(crate) fn erase_artifact(self: &Arc<Self>, name: &str, reference: &str) -> bool {
        let removed = self.state.lock().artifact(name, reference).cloned();
        let Some(artifact) = removed else { return false };
        let tags = artifact.tags.into_iter().map(|tag| tag.name).collect();
        self.deleted(name, &artifact.digest, tags, Deletes::Artifacts);
        self.state.lock().remove_artifact(name, &artifact.digest)
    }

    pub(crate) fn list_tags(&self, ask: &Ask, project: &str, name: &str, reference: &str) -> Outcome {
        let name = self.full_name(ask, project, name, "list")?.1;
        let state = self.state.lock();
        let (Some(repository), Some(artifact)) = (state.repositories.get(&name), state.artifact(&name, reference))
        else {
            return Err(no_artifact(&name, reference));
        };
        let tags = tags(repository, artifact);
        drop(state);
        page(ask, &tags)
    }

    pub(crate) fn create_tag(self: &Arc<Self>, ask: &Ask, project: &str, name: &str, reference: &str) -> Outcome {
        let (project, full) = self.full_name(ask, project, name, "create")?;
        let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
        let tag = body["name"].as_str().unwrap_or_default();
        let mut state = self.state.lock();
        let Some(digest) = state.artifact(&full, reference).map(|artifact| artifact.digest.clone()) else {
            return Err(no_artifact(&full, reference));
        };
        if project.registry_id.is_some() {
            return Err(Fault::not_allowed(ON_PROXY));
        }
        if state.artifact(&full, tag).is_some() {
            let message = format!("tag {tag} already exists in the repository {full}");
            return Err(Fault::conflict(message));
        }
        state.tag(&full, &digest, tag);
        drop(state);
        self.pushed(&full, &digest, Some(tag));
        let artifacts = format!("/api/v2.0/projects/{}/repositories/{name}/artifacts", project.name);
        Ok(created(&format!("{artifacts}/{reference}/tags/{tag}")))
    }

    pub(crate) fn add_label(&self, ask: &Ask, project: &str, name: &str, reference: &str) -> Outcome {
        let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
        let label = body["id"].as_i64().unwrap_or_default();
        if !self.state.lock().labels.contains_key(&label) {
            return Err(Fault::not_found(format!("label {label} not found")));
        }
        self.change_labels(ask, (project, name, reference), |labels| labels.push(label))
    }

    pub(crate) fn remove_label(&self, ask: &Ask, project: &str, name: &str, reference: &str, label: &str) -> Outcome {
        let label = super::http::id(label)?;
        self.change_labels(ask, (project, name, reference), |labels| labels.retain(|each| *each != label))
    }

    fn change_labels(
        &self,
        ask: &Ask,
        (project, name, reference): (&str, &str, &str),
        change: impl FnOnce(&mut Vec<i64>),
    ) -> Outcome {
        let full = self.full_name(ask, project, name, "update")?.1;
        let mut state = self.state.lock();
        let Some(digest) = state.artifact(&full, reference).map(|artifact| artifact.digest.clone()) else {
            return Err(no_artifact(&full, reference));
        };
        let artifacts = state.repositories.get_mut(&full).map(|repository| &mut repository.artifacts);
        if let Some(artifact) = artifacts.into_iter().flatten().find(|artifact| artifact.digest == digest) {
            change(&mut artifact.labels);
        }
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn delete_tag(
        self: &Arc<Self>,
        ask: &Ask,
        project: &str,
        name: &str,
        reference: &str,
        tag: &str,
    ) -> Outcome {
        let name = self.full_name(ask, project, name, "delete")?.1;
        let mut state = self.state.lock();
        let Some(digest) = state.artifact(&name, reference).map(|artifact| artifact.digest.clone()) else {
            return Err(no_artifact(&name, reference));
        };
        state.may_lose(&name, tag)?;
        let artifacts = state.repositories.get_mut(&name).map(|repository| &mut repository.artifacts);
        let artifact = artifacts.into_iter().flatten().find(|artifact| artifact.digest == digest);
        let before = artifact.as_ref().map_or(0, |artifact| artifact.tags.len());
        let after = artifact.map_or(0, |artifact| {
            artifact.tags.retain(|each| each.name != tag);
            artifact.tags.len()
        });
        if after == before {
            return Err(Fault::not_found(format!("tag {tag} attached to artifact {digest} not found")));
        }
        drop(state);
        self.deleted(&name, &digest, vec![tag.to_owned()], Deletes::Tags);
        Ok(empty(StatusCode::OK))
    }

    /// `POST …/artifacts?from=`: a copy, which a proxy project does not take.
    pub(crate) fn copy_artifact(&self, ask: &Ask, project: &str, name: &str) -> Outcome {
        let (project, _) = self.full_name(ask, project, name, "create")?;
        let from = ask.param("from").unwrap_or_default();
        let parts = from.split_once('@').or_else(|| from.rsplit_once(':'));
        let found = parts.is_some_and(|(source, reference)| self.state.lock().artifact(source, reference).is_some());
        match (found, project.registry_id) {
            (false, _) => Err(Fault::bad(format!("artifact {from} not found"))),
            (true, Some(_)) => Err(Fault::not_allowed(ON_PROXY)),
            (true, None) => Err(Fault::internal()),
        }
    }

    /// The project, and the full name of a repository whose path segment was decoded once, and may be encoded twice.
    pub(crate) fn full_name(
        &self,
        ask: &Ask,
        project: &str,
        name: &str,
        action: &str,
    ) -> Result<(Project, String), Fault> {
        self.full_name_for(ask, (project, name), "artifact", action)
    }

    fn full_name_for(
        &self,
        ask: &Ask,
        (project, name): (&str, &str),
        resource: &str,
        action: &str,
    ) -> Result<(Project, String), Fault> {
        let project = self.project_by_name(ask, project, resource, action)?;
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        let full = format!("{}/{name}", project.name);
        Ok((project, full))
    }
}

impl State {
    /// Forgets an artifact, and the blobs that no other artifact of the repository needs.
    pub(crate) fn remove_artifact(&mut self, name: &str, reference: &str) -> bool {
        let Some(digest) = self.artifact(name, reference).map(|artifact| artifact.digest.clone()) else {
            return false;
        };
        let Some(repository) = self.repositories.get_mut(name) else {
            return false;
        };
        let removed: Vec<Artifact> =
            repository.artifacts.extract_if(.., |artifact| artifact.digest == digest).collect();
        let needed: HashSet<String> = repository.artifacts.iter().flat_map(blobs).map(|(digest, _)| digest).collect();
        for (blob, _) in removed.iter().flat_map(blobs) {
            if !needed.contains(&blob) {
                self.links.remove(&(name.to_owned(), blob));
            }
        }
        true
    }
}

/// Digest and size of configuration and layers, as the manifest names them.
pub(crate) fn blobs(artifact: &Artifact) -> Vec<(String, u64)> {
    manifest_blobs(&artifact.bytes)
}

/// The same of the bytes of a manifest; an index has none.
pub(crate) fn manifest_blobs(bytes: &[u8]) -> Vec<(String, u64)> {
    let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    std::iter::once(manifest["config"].clone())
        .chain(layers)
        .filter_map(|blob| Some((blob["digest"].as_str()?.to_owned(), blob["size"].as_u64().unwrap_or_default())))
        .collect()
}

pub(crate) fn no_artifact(name: &str, reference: &str) -> Fault {
    let separator = if crate::digest::is_digest(reference) { '@' } else { ':' };
    Fault::not_found(format!("artifact {name}{separator}{reference} not found"))
}

/// All but the untagged children of an index.
pub(crate) fn visible(repository: &Repository) -> Vec<&Artifact> {
    let children: HashSet<String> = repository
        .artifacts
        .iter()
        .flat_map(|artifact| index::children(&artifact.bytes))
        .map(|child| child.digest)
        .collect();
    repository
        .artifacts
        .iter()
        .filter(|artifact| !artifact.tags.is_empty() || !children.contains(&artifact.digest))
        .collect()
}

/// Whether an artifact describes another one, stored or not: it stands in no list, and is found by its reference alone.
fn is_accessory(artifact: &Artifact) -> bool {
    let manifest: Value = serde_json::from_slice(&artifact.bytes).unwrap_or_default();
    let signed = |tag: &str| {
        tag.strip_prefix("sha256-").and_then(|rest| rest.strip_suffix(".sig")).is_some_and(|hex| hex.len() == 64)
    };
    let cosign = |layer: &Value| layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json";
    manifest["subject"].is_object()
        || artifact.tags.iter().any(|tag| signed(&tag.name))
            && manifest["layers"].as_array().is_some_and(|layers| layers.iter().any(cosign))
}

fn repository_document(name: &str, repository: &Repository) -> Value {
    json!({
        "id": repository.id, "name": name, "project_id": repository.project_id, "pull_count": repository.pull_count,
        "artifact_count": visible(repository).len(), "creation_time": repository.created, "update_time": repository.updated,
    })
}

fn artifact_document(state: &State, ask: &Ask, name: &str, repository: &Repository, artifact: &Artifact) -> Value {
    let manifest: Value = serde_json::from_slice(&artifact.bytes).unwrap_or_default();
    let children = index::children(&artifact.bytes);
    let tags = if artifact.tags.is_empty() || ask.param("with_tag") == Some("false") {
        Value::Null
    } else {
        Value::Array(tags(repository, artifact))
    };
    let mut document = json!({
        "id": artifact.id, "digest": artifact.digest, "type": "IMAGE", "icon": ICON, "accessories": null, "labels": null,
        "manifest_media_type": artifact.media_type, "media_type": artifact.media_type, "project_id": repository.project_id,
        "repository_id": repository.id, "repository_name": name, "tags": tags, "references": null,
        "push_time": artifact.pushed, "pull_time": artifact.pulled, "size": size(repository, artifact),
    });
    if !artifact.labels.is_empty() && ask.param("with_label") == Some("true") {
        let labels = artifact.labels.iter().filter_map(|id| state.labels.get(id));
        document["labels"] = labels.map(|label| Value::Object(label.fields.clone())).collect();
    }
    if let Some(scan) = state.scans.get(&artifact.digest).filter(|_| ask.param("with_scan_overview") == Some("true")) {
        document["scan_overview"] = scan.overview();
    }
    if children.is_empty() {
        let (project, repository) = name.split_once('/').unwrap_or_default();
        let encoded = repository.replace('/', "%252F");
        let href = format!(
            "/api/v2.0/projects/{project}/repositories/{encoded}/artifacts/{}/additions/build_history",
            artifact.digest
        );
        document["addition_links"] = json!({"build_history": {"absolute": false, "href": href}});
        document["media_type"] = manifest["config"]["mediaType"].clone();
        document["artifact_type"] = manifest["config"]["mediaType"].clone();
        let digest = manifest["config"]["digest"].as_str().unwrap_or_default();
        if let Some(config) = state.blobs.get(digest) {
            let config: Value = serde_json::from_slice(config).unwrap_or_default();
            document["extra_attrs"] = json!({
                "architecture": config["architecture"], "author": "", "config": config["config"], "created": config["created"],
                "os": config["os"],
            });
        }
        return document;
    }
    let references = children.into_iter().map(|child| {
        let id = repository.artifacts.iter().find(|artifact| artifact.digest == child.digest).map_or(0, |found| found.id);
        let mut platform = json!({"OsFeatures": null, "architecture": "", "os": ""});
        if let Some(named) = child.platform {
            platform = json!({"OsFeatures": null, "architecture": named.architecture, "os": named.os});
            if let Some(variant) = named.variant {
                platform["variant"] = json!(variant);
            }
        }
        json!({"child_digest": child.digest, "child_id": id, "parent_id": artifact.id, "platform": platform, "urls": null})
    });
    document["references"] = references.collect();
    document
}

fn tags(repository: &Repository, artifact: &Artifact) -> Vec<Value> {
    let document = |tag: &super::state::Tag| {
        json!({
            "id": tag.id, "name": tag.name, "artifact_id": artifact.id, "repository_id": repository.id, "immutable": false,
            "push_time": tag.pushed, "pull_time": artifact.pulled,
        })
    };
    artifact.tags.iter().map(document).collect()
}

/// The manifest with its blobs; of an index with its children.
fn size(repository: &Repository, artifact: &Artifact) -> u64 {
    let own = artifact.bytes.len() as u64 + blobs(artifact).iter().map(|(_, size)| size).sum::<u64>();
    let children = index::children(&artifact.bytes);
    let child = |digest: &str| repository.artifacts.iter().find(|artifact| artifact.digest == digest);
    own + children.iter().filter_map(|listed| child(&listed.digest)).map(|child| size(repository, child)).sum::<u64>()
}
