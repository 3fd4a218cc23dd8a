//! `/projects`: hosted and proxy projects.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Core,
    auth::Who,
    http::{Ask, Fault, Kind, NEVER, Outcome, Schema, created, empty, go_name, json_reply, now, object},
    metadata::{Keys, checked, shown},
    page::{filter, page},
    retention,
    state::{Project, Quota, State},
};

const REQUEST: Schema = Schema {
    parameter: "project",
    go_type: "ProjectReq",
    fields: &[
        ("project_name", Kind::Text),
        ("registry_id", Kind::Number),
        ("storage_limit", Kind::Number),
        ("metadata", Kind::Any),
        ("cve_allowlist", Kind::Any),
    ],
};

/// The registry types that a proxy project can be made on.
const PROXIED: [&str; 9] = [
    "docker-hub",
    "harbor",
    "aws-ecr",
    "azure-acr",
    "google-gcr",
    "docker-registry",
    "github-ghcr",
    "jfrog-artifactory",
    "ali-acr",
];

/// The largest quota, 1024 TB.
pub(crate) const MAX_QUOTA: i64 = 1 << 50;

impl Core {
    /// The project that a path names: by name, unless it is a number and `X-Is-Resource-Name` is not `true`. The anonymous,
    /// and robots without the permission, learn nothing of what they may not see.
    pub(crate) fn project(&self, ask: &Ask, text: &str, resource: &str, action: &str) -> Result<Project, Fault> {
        let by_name = ask.header("x-is-resource-name") == Some("true");
        self.find_project(ask, (text, by_name), resource, action)
    }

    /// The same where a number is a name always.
    pub(crate) fn project_by_name(
        &self,
        ask: &Ask,
        text: &str,
        resource: &str,
        action: &str,
    ) -> Result<Project, Fault> {
        self.find_project(ask, (text, true), resource, action)
    }

    fn find_project(
        &self,
        ask: &Ask,
        (text, by_name): (&str, bool),
        resource: &str,
        action: &str,
    ) -> Result<Project, Fault> {
        let state = self.state.lock();
        let found = match text.parse::<i64>() {
            Ok(id) if !by_name => state.projects.get(&id),
            _ => state.project_named(text),
        };
        if !found.is_some_and(|project| ask.who.may_in(project, resource, action)) && !matches!(ask.who, Who::Admin(_))
        {
            return Err(ask.who.project_refusal());
        }
        found.cloned().ok_or_else(|| Fault::not_found(format!("project {text} not found")))
    }

    pub(crate) fn list_projects(&self, ask: &Ask) -> Outcome {
        if ask.header("accept").is_some_and(|accept| !accept.contains("json") && !accept.contains("*/*")) {
            return Err(Fault::invalid("unsupported media type requested, only [application/json] are available"));
        }
        let state = self.state.lock();
        let mut projects: Vec<&Project> = state
            .projects
            .values()
            .filter(|project| ask.who.may("project", "list") || ask.who.may_in(project, "project", "read"))
            .collect();
        match ask.param("sort") {
            Some("-name") => projects.sort_by(|a, b| b.name.cmp(&a.name)),
            Some("creation_time" | "project_id") => projects.sort_by_key(|project| project.id),
            Some("-creation_time" | "-project_id") => projects.sort_by_key(|project| std::cmp::Reverse(project.id)),
            _ => projects.sort_by(|a, b| a.name.cmp(&b.name)),
        }
        let items: Vec<Value> = projects.into_iter().map(|project| document(&state, project, &ask.who)).collect();
        drop(state);
        let mut items = filter(ask, items, |item, key| match key {
            "public" => item["metadata"]["public"].as_str().map(ToOwned::to_owned),
            "name" => item["name"].as_str().map(ToOwned::to_owned),
            "registry_id" | "project_id" | "owner_id" => Some(item.get(key).unwrap_or(&json!(0)).to_string()),
            _ => None,
        })?;
        if let Some(part) = ask.param("name") {
            items.retain(|item| item["name"].as_str().is_some_and(|name| name.contains(part)));
        }
        if let Some(public) = ask.param("public") {
            items.retain(|item| item["metadata"]["public"] == public);
        }
        page(ask, &items)
    }

    pub(crate) fn head_project(&self, ask: &Ask) -> Outcome {
        let Some(name) = ask.param("project_name") else {
            return Err(Fault::invalid("project_name in query is required"));
        };
        if matches!(ask.who, Who::Anonymous) {
            return Err(ask.who.refusal());
        }
        match self.state.lock().project_named(name) {
            Some(_) => Ok(empty(StatusCode::OK)),
            None => Err(Fault::not_found(format!("project {name} not found"))),
        }
    }

    pub(crate) fn get_project(&self, ask: &Ask, text: &str) -> Outcome {
        let project = self.project(ask, text, "project", "read")?;
        Ok(json_reply(&document(&self.state.lock(), &project, &ask.who)))
    }

    pub(crate) fn create_project(&self, ask: &Ask) -> Outcome {
        let body = object(ask, REQUEST)?;
        let metadata = strings(&body)?;
        let name = body.get("project_name").and_then(Value::as_str).unwrap_or_default();
        if name.len() > 255 {
            let message = "validation failure list:\nproject_name in body should be at most 255 chars long";
            return Err(Fault::invalid(message));
        }
        if !ask.who.may("project", "create") {
            return Err(ask.who.refusal());
        }
        if name.is_empty() {
            let message = format!("Project name {name} is illegal in length. (greater than 255 or less than 1)");
            return Err(Fault::bad(message));
        }
        if !is_name(name) {
            return Err(Fault::bad("project name is not in lower case or contains illegal characters"));
        }
        let registry_id = body.get("registry_id").and_then(Value::as_i64);
        let mut state = self.state.lock();
        check_registry(&state, registry_id)?;
        let limit = check_limit(body.get("storage_limit").and_then(Value::as_i64))?;
        let keys = if registry_id.is_some() { Keys::Proxy } else { Keys::Hosted };
        let mut metadata = checked(&metadata, keys)?;
        let id = state.next("project");
        if state.project_named(name).is_some() {
            return Err(Fault::conflict(format!("The project named {name} already exists")));
        }
        metadata.entry("public".to_owned()).or_insert_with(|| "false".to_owned());
        if registry_id.is_some() {
            let retention = retention::created_at(&mut state, id);
            metadata.insert("retention_id".to_owned(), retention.to_string());
        }
        self.insert_project(&mut state, id, name, registry_id, metadata, limit);
        Ok(created(&format!("/api/v2.0/projects/{id}")))
    }

    pub(crate) fn insert_project(
        &self,
        state: &mut State,
        id: i64,
        name: &str,
        registry_id: Option<i64>,
        metadata: BTreeMap<String, String>,
        limit: i64,
    ) {
        let created = now();
        let quota = Quota { id: state.next("quota"), limit, updated: created.clone() };
        let allowlist_id = state.next("allowlist");
        let allowlist = Map::from_iter([("items".to_owned(), json!([]))]);
        let name = name.to_owned();
        let project = Project { id, name, registry_id, metadata, allowlist_id, allowlist, created, quota };
        state.projects.insert(id, project);
    }

    /// Merges metadata key by key, checks next to nothing, and ignores the rest.
    pub(crate) fn update_project(&self, ask: &Ask, text: &str) -> Outcome {
        let body = object(ask, REQUEST)?;
        let metadata = strings(&body)?;
        let project = self.project(ask, text, "project", "update")?;
        if metadata.get("retention_id").is_some_and(|id| project.metadata.get("retention_id") != Some(id)) {
            let message = "the retention_id in the request's payload when updating a project should be omitted, \
                           alternatively passing the one that has already been associated to this project";
            return Err(Fault::bad(message));
        }
        let keys = if project.registry_id.is_some() { Keys::Proxy } else { Keys::Hosted };
        if let Some(stored) = self.state.lock().projects.get_mut(&project.id) {
            stored.metadata.extend(keys.known(&metadata));
            if let Some(list) = body.get("cve_allowlist").filter(|list| list.is_object()) {
                stored.allowlist = replaced(list)?;
            }
        }
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn delete_project(&self, ask: &Ask, text: &str) -> Outcome {
        let project = self.project(ask, text, "project", "delete")?;
        let mut state = self.state.lock();
        if state.repositories_of(project.id).next().is_some() {
            let message = "precondition failed: the project contains repositories, can not be deleted";
            return Err(Fault::precondition(message));
        }
        state.projects.remove(&project.id);
        state.retentions.retain(|_, retention| retention["scope"]["ref"] != project.id);
        state.labels.retain(|_, label| label.fields.get("project_id") != Some(&json!(project.id)));
        state.immutable.retain(|_, (of, _)| *of != project.id);
        let prefix = format!("{}/", project.name);
        state.links.retain(|(repository, _)| !repository.starts_with(&prefix));
        state.indexes.retain(|(repository, _), _| !repository.starts_with(&prefix));
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn deletable(&self, ask: &Ask, text: &str) -> Outcome {
        let project = self.project(ask, text, "project", "delete")?;
        let full = self.state.lock().repositories_of(project.id).next().is_some();
        let message = json!({"message": "the project contains repositories, can not be deleted"});
        Ok(json_reply(&if full { message } else { json!({"deletable": true}) }))
    }

    pub(crate) fn project_summary(&self, ask: &Ask, text: &str) -> Outcome {
        let project = self.project(ask, text, "project", "read")?;
        let state = self.state.lock();
        let mut summary = json!({
            "repo_count": state.repositories_of(project.id).count(), "project_admin_count": 1,
            "quota": {"hard": {"storage": project.quota.limit}, "used": {"storage": state.used(&project)}},
        });
        if let Some(registry) = project.registry_id.and_then(|id| state.registries.get(&id)) {
            summary["registry"] = registry.summary();
        }
        Ok(json_reply(&summary))
    }
}

/// The list as it is kept. It is replaced whole; the data base refuses what stands there twice.
fn replaced(list: &Value) -> Result<Map<String, Value>, Fault> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    if items.iter().enumerate().any(|(number, item)| items.iter().take(number).any(|other| other == item)) {
        return Err(Fault::internal());
    }
    let mut kept = Map::from_iter([("items".to_owned(), Value::Array(items))]);
    if let Some(expiry) = list["expires_at"].as_i64() {
        kept.insert("expires_at".to_owned(), json!(expiry));
    }
    Ok(kept)
}

/// As GET and lists answer.
fn document(state: &State, project: &Project, who: &Who) -> Value {
    let mut document = json!({
        "project_id": project.id, "name": project.name, "owner_id": 1, "owner_name": "admin", "metadata": shown(&project.metadata),
        "creation_time": project.created, "update_time": project.created, "repo_count": state.repositories_of(project.id).count(),
        "cve_allowlist": {"creation_time": NEVER, "id": project.allowlist_id, "project_id": project.id, "update_time": NEVER},
        "current_user_role_ids": null,
    });
    for (key, value) in &project.allowlist {
        document["cve_allowlist"][key] = value.clone();
    }
    if matches!(who, Who::Admin(_)) {
        document["current_user_role_id"] = json!(1);
        document["current_user_role_ids"] = json!([1]);
    }
    if let Some(id) = project.registry_id {
        document["registry_id"] = json!(id);
    }
    document
}

/// The metadata of a body; each value is a string.
fn strings(body: &Map<String, Value>) -> Result<BTreeMap<String, String>, Fault> {
    let mut strings = BTreeMap::new();
    for (key, value) in body.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        match value {
            Value::String(text) => strings.insert(key.clone(), text.clone()),
            Value::Null => continue,
            other => {
                let found = go_name(other);
                let message = format!(
                    "parsing project body from \"\" failed, because json: cannot unmarshal {found} into Go struct field \
                     ProjectMetadata.metadata.{key} of type string"
                );
                return Err(Fault::invalid(&message));
            }
        };
    }
    Ok(strings)
}

fn check_registry(state: &State, id: Option<i64>) -> Result<(), Fault> {
    let Some(id) = id else { return Ok(()) };
    if id <= 0 {
        let message = format!("bad request: {id} is invalid value of registry_id, it should be geater than 0");
        return Err(Fault::bad(message));
    }
    let Some(registry) = state.registries.get(&id) else {
        return Err(Fault::internal());
    };
    if !PROXIED.contains(&registry.kind.as_str()) {
        return Err(Fault::bad(format!("bad request: unsupported registry type {}", registry.kind)));
    }
    Ok(())
}

fn check_limit(limit: Option<i64>) -> Result<i64, Fault> {
    match limit {
        None | Some(0 | -1) => Ok(-1),
        Some(limit) if limit < 0 => {
            Err(Fault::bad(format!("bad request: invalid non-positive value for quota limit, value={limit}")))
        }
        Some(limit) if limit > MAX_QUOTA => {
            Err(Fault::bad(format!("bad request: exceeded 1024TB, which is {MAX_QUOTA} Bytes, value={limit}")))
        }
        Some(limit) => Ok(limit),
    }
}

/// `^[a-z0-9]+(?:[._-][a-z0-9]+)*$`
fn is_name(name: &str) -> bool {
    let word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.split(['.', '_', '-']).all(word)
}
