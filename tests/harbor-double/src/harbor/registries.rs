//! `/registries`: upstreams, each write with a live probe.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Core,
    http::{Ask, Fault, Kind, NEVER, Outcome, Schema, created, empty, id, json_reply, now, object},
    page::{filter, page, text_of},
    remote::Health,
    state::Registry,
};

const CREATE: Schema = Schema {
    parameter: "registry",
    go_type: "Registry",
    fields: &[
        ("name", Kind::Text),
        ("type", Kind::Text),
        ("url", Kind::Text),
        ("description", Kind::Text),
        ("ca_certificate", Kind::Text),
        ("insecure", Kind::Flag),
        ("credential", Kind::Any),
    ],
};
const UPDATE: Schema = Schema {
    parameter: "registry",
    go_type: "RegistryUpdate",
    fields: &[
        ("name", Kind::Text),
        ("url", Kind::Text),
        ("description", Kind::Text),
        ("ca_certificate", Kind::Text),
        ("insecure", Kind::Flag),
        ("access_key", Kind::Text),
        ("access_secret", Kind::Text),
        ("credential_type", Kind::Text),
    ],
};
const PING: Schema = Schema { parameter: "registry", go_type: "RegistryPing", fields: UPDATE.fields };

/// Only Harbor itself knows of events.
const LOCAL_TRIGGERS: &[&str] = &["manual", "scheduled", "event_based"];

impl Core {
    pub(crate) fn list_registries(&self, ask: &Ask) -> Outcome {
        let mut registries: Vec<Registry> = self.state.lock().registries.values().cloned().collect();
        // No order is asked of the database: rows come as they were written last.
        registries.sort_by_key(|registry| (registry.updated.clone(), registry.id));
        if ask.param("sort") == Some("id") {
            registries.sort_by_key(|registry| registry.id);
        }
        let items: Vec<Value> = registries.iter().map(Registry::document).collect();
        // Columns, as the database calls them: `status` is none.
        let mut items = filter(ask, items, |item, key| match key {
            "health" => text_of(item, "status"),
            "id" | "name" | "type" | "url" | "description" => text_of(item, key),
            _ => None,
        })?;
        if let Some(name) = ask.param("name") {
            items.retain(|item| item["name"] == name);
        }
        page(ask, &items)
    }

    pub(crate) fn get_registry(&self, text: &str) -> Outcome {
        let id = id(text)?;
        Ok(json_reply(&if id == 0 { self.local_registry() } else { self.registry(id)?.document() }))
    }

    /// Harbor itself, as one of its registries.
    pub(crate) fn local_registry(&self) -> Value {
        json!({
            "creation_time": NEVER, "update_time": NEVER, "credential": {"access_secret": "*****", "type": "secret"},
            "id": 0, "insecure": true, "name": "Local", "status": "healthy", "type": "harbor", "url": self.base,
        })
    }

    pub(crate) async fn create_registry(&self, ask: &Ask) -> Outcome {
        let body = object(ask, CREATE)?;
        let text = |key: &str| text(&body, key);
        let credential = body.get("credential").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut registry = Registry {
            id: 0,
            name: text("name"),
            description: text("description"),
            kind: text("type"),
            url: text("url"),
            access_key: self::text(&credential, "access_key"),
            access_secret: self::text(&credential, "access_secret"),
            credential_type: self::text(&credential, "type"),
            insecure: body.get("insecure") == Some(&json!(true)),
            ca_certificate: text("ca_certificate"),
            healthy: true,
            created: now(),
            updated: String::new(),
        };
        self.check(&mut registry).await?;
        let mut state = self.state.lock();
        registry.id = state.next("registry");
        registry.updated.clone_from(&registry.created);
        if state.registries.values().any(|other| other.name == registry.name) {
            return Err(Fault::conflict(format!("registry {} already exists", registry.name)));
        }
        let reply = created(&format!("/api/v2.0/registries/{}", registry.id));
        state.registries.insert(registry.id, registry);
        Ok(reply)
    }

    pub(crate) async fn update_registry(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let body = object(ask, UPDATE)?;
        let mut registry = self.registry(id)?;
        merge(&mut registry, &body);
        self.check(&mut registry).await?;
        let mut state = self.state.lock();
        if state.registries.values().any(|other| other.name == registry.name && other.id != id) {
            return Err(Fault::conflict(format!("registry {} already exists", registry.name)));
        }
        registry.healthy = true;
        registry.updated = now();
        if let Some(stored) = state.registries.get_mut(&id) {
            *stored = registry;
        }
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn delete_registry(&self, text: &str) -> Outcome {
        let id = id(text)?;
        self.registry(id)?;
        let mut state = self.state.lock();
        if state.policies.values().any(|policy| policy.source == id || policy.destination == id) {
            let message = format!("the registry {id} is referenced by replication policies, cannot delete it");
            return Err(Fault::precondition(message));
        }
        if state.projects.values().any(|project| project.registry_id == Some(id)) {
            let message = format!("the registry {id} is referenced by proxy cache project, cannot delete it");
            return Err(Fault::precondition(message));
        }
        state.registries.remove(&id);
        Ok(empty(StatusCode::OK))
    }

    pub(crate) async fn ping_registry(&self, ask: &Ask) -> Outcome {
        let body = object(ask, PING)?;
        let mut registry = match body.get("id").and_then(Value::as_i64) {
            // The probe of Harbor by itself fails for want of a secret.
            Some(0) => return Err(Fault::internal()),
            Some(id) => self.registry(id)?,
            None => Registry::blank(),
        };
        if let Some(kind) = body.get("type").and_then(Value::as_str) {
            kind.clone_into(&mut registry.kind);
        }
        merge(&mut registry, &body);
        if registry.kind.is_empty() || registry.url.is_empty() {
            return Err(Fault::bad("type or url cannot be empty"));
        }
        registry.url = normalise(&registry.url)?;
        self.require_healthy(&registry).await?;
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn registry_info(&self, text: &str) -> Outcome {
        let id = id(text)?;
        let kind = if id == 0 { String::new() } else { self.registry(id)?.kind };
        if !kind.is_empty() && kind != "harbor" {
            return Ok(json_reply(&json!({
                "type": kind, "supported_triggers": ["manual", "scheduled"],
                "supported_resource_filters": [
                    {"style": "input", "type": "name", "values": null}, {"style": "input", "type": "tag", "values": null},
                    {"style": "radio", "type": "resource", "values": ["image"]},
                ],
            })));
        }
        Ok(json_reply(&json!({
            "type": "harbor", "supported_triggers": if id == 0 { LOCAL_TRIGGERS } else { &LOCAL_TRIGGERS[..2] },
            "supported_copy_by_chunk": true,
            "supported_resource_filters": [
                {"style": "input", "type": "name", "values": null}, {"style": "input", "type": "tag", "values": null},
                {"style": "list", "type": "label", "values": null},
                {"style": "radio", "type": "resource", "values": ["image", "artifact"]},
            ],
        })))
    }

    pub(crate) fn registry(&self, id: i64) -> Result<Registry, Fault> {
        let found = self.state.lock().registries.get(&id).cloned();
        found.ok_or_else(|| Fault::not_found(format!("registry {id} not found")))
    }

    /// Looks at every upstream, as Harbor does each five minutes.
    pub(crate) async fn check_registries(&self) {
        let registries: Vec<Registry> = self.state.lock().registries.values().cloned().collect();
        for registry in registries {
            let healthy = self.probe(&registry).await == Health::Healthy;
            if let Some(stored) = self.state.lock().registries.get_mut(&registry.id)
                && stored.healthy != healthy
                && stored.updated == registry.updated
            {
                stored.healthy = healthy;
                stored.updated = now();
            }
        }
    }

    async fn check(&self, registry: &mut Registry) -> Result<(), Fault> {
        if registry.name.is_empty() {
            return Err(Fault::bad("name cannot be empty"));
        }
        if registry.name.chars().count() > 64 {
            return Err(Fault::bad("the max length of name is 64"));
        }
        registry.url = normalise(&registry.url)?;
        if !registry.ca_certificate.is_empty() && !registry.ca_certificate.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Fault::bad("invalid CA certificate: no valid certificates found in PEM data"));
        }
        self.require_healthy(registry).await
    }

    async fn require_healthy(&self, registry: &Registry) -> Result<(), Fault> {
        match self.probe(registry).await {
            Health::Healthy => Ok(()),
            Health::Unhealthy => Err(Fault::bad("the registry is unhealthy")),
            Health::NoAdapter => Err(Fault::internal()),
        }
    }
}

impl Registry {
    fn blank() -> Self {
        let none = String::new;
        Self {
            id: 0,
            name: none(),
            description: none(),
            kind: none(),
            url: none(),
            access_key: none(),
            access_secret: none(),
            credential_type: none(),
            insecure: false,
            ca_certificate: none(),
            healthy: false,
            created: none(),
            updated: none(),
        }
    }

    /// As GET answers: no secret, and neither false nor empty fields.
    pub(crate) fn document(&self) -> Value {
        let mut document = self.summary();
        let mut credential = Map::new();
        if !self.access_key.is_empty() || !self.access_secret.is_empty() {
            for (key, value) in [("access_key", self.access_key.as_str()), ("type", self.credential_type.as_str())] {
                if !value.is_empty() {
                    credential.insert(key.to_owned(), json!(value));
                }
            }
            if !self.access_secret.is_empty() {
                credential.insert("access_secret".to_owned(), json!("*****"));
            }
        }
        document["credential"] = Value::Object(credential);
        document
    }

    /// As in the summary of a project: without the credential.
    pub(crate) fn summary(&self) -> Value {
        let status = if self.healthy { "healthy" } else { "unhealthy" };
        let mut document = json!({
            "id": self.id, "name": self.name, "type": self.kind, "url": self.url, "status": status,
            "creation_time": self.created, "update_time": self.updated,
        });
        for (key, value) in [("description", &self.description), ("ca_certificate", &self.ca_certificate)] {
            if !value.is_empty() {
                document[key] = json!(value);
            }
        }
        if self.insecure {
            document["insecure"] = json!(true);
        }
        document
    }
}

/// The flat fields of an update over what is stored. A new URL without a secret blanks the secret.
fn merge(registry: &mut Registry, body: &Map<String, Value>) {
    let given = |key: &str| body.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    if let Some(url) = given("url") {
        if normalise(&url).ok().as_ref() != Some(&registry.url) {
            registry.access_secret.clear();
        }
        registry.url = url;
    }
    for (key, field) in [
        ("name", &mut registry.name),
        ("description", &mut registry.description),
        ("ca_certificate", &mut registry.ca_certificate),
        ("access_key", &mut registry.access_key),
        ("access_secret", &mut registry.access_secret),
        ("credential_type", &mut registry.credential_type),
    ] {
        if let Some(value) = given(key) {
            *field = value;
        }
    }
    if let Some(insecure) = body.get("insecure").and_then(Value::as_bool) {
        registry.insecure = insecure;
    }
}

/// Spaces, trailing slashes, query and user information go; `http://` comes.
fn normalise(url: &str) -> Result<String, Fault> {
    let trimmed = url.trim_matches(' ').trim_end_matches('/');
    if trimmed.is_empty() {
        return Err(Fault::bad("empty string"));
    }
    let (scheme, rest) = match trimmed.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("http".to_owned(), trimmed),
    };
    if scheme != "http" && scheme != "https" {
        return Err(Fault::bad(format!("invalid HTTP scheme: {scheme}")));
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') && !host.contains(']') {
        return Err(Fault::bad(format!("invalid URL: parse \"{trimmed}\": missing ']' in host")));
    }
    Ok(format!("{scheme}://{host}{path}"))
}

fn text(body: &Map<String, Value>, key: &str) -> String {
    body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}
