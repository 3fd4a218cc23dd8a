//! Metadata of projects: which keys there are, what is checked of them, and their own end points.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Core,
    http::{Ask, Fault, Outcome, Schema, empty, json_reply, object},
};

const BODY: Schema = Schema { parameter: "metadata", go_type: "ProjectMetadata", fields: &[] };

/// The keys that a project of this sort has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys {
    Hosted,
    Proxy,
}

impl Keys {
    const COMMON: [&str; 8] = [
        "public",
        "enable_content_trust_cosign",
        "prevent_vul",
        "severity",
        "auto_scan",
        "auto_sbom_generation",
        "reuse_sys_cve_allowlist",
        "proxy_cache_local_on_not_found",
    ];
    const PROXY: [&str; 2] = ["proxy_speed_kb", "max_upstream_conn"];

    fn has(self, key: &str) -> bool {
        Self::COMMON.contains(&key) || matches!(self, Self::Proxy) && Self::PROXY.contains(&key)
    }

    /// The known ones of these; the others are dropped without a word. A severity is lower-cased.
    pub(crate) fn known(self, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let stored = |(key, value): (&String, &String)| {
            let value = if key == "severity" { value.to_lowercase() } else { value.clone() };
            (key.clone(), value)
        };
        given.iter().filter(|(key, _)| self.has(key)).map(stored).collect()
    }
}

/// What POST of a project keeps, after the little that it checks.
pub(crate) fn checked(given: &BTreeMap<String, String>, keys: Keys) -> Result<BTreeMap<String, String>, Fault> {
    if let Some(public) = given.get("public").filter(|public| !matches!(public.as_str(), "true" | "false")) {
        return Err(Fault::bad(format!("metadata.public should only be 'true' or 'false', but got: '{public}'")));
    }
    if matches!(keys, Keys::Proxy) {
        let not_a_number = |text: &str| format!("err: strconv.ParseInt: parsing \"{text}\": invalid syntax");
        if let Some(speed) = given.get("proxy_speed_kb").filter(|speed| speed.parse::<i32>().is_err()) {
            let why = not_a_number(speed);
            return Err(Fault::bad(format!("metadata.proxy_speed_kb should by an int32, but got: '{speed}', {why}")));
        }
        if let Some(most) = given.get("max_upstream_conn").filter(|most| most.parse::<i64>().is_err()) {
            let why = not_a_number(most);
            return Err(Fault::bad(format!("metadata.max_upstream_conn should be an int, but got '{most}', {why}")));
        }
    }
    Ok(keys.known(given))
}

/// As GET of a project shows it: a severity that is none reads `unknown`.
pub(crate) fn shown(metadata: &BTreeMap<String, String>) -> Value {
    let mut shown = json!(metadata);
    if let Some(severity) = metadata.get("severity")
        && !matches!(severity.as_str(), "none" | "negligible" | "low" | "medium" | "high" | "critical")
    {
        shown["severity"] = json!("unknown");
    }
    shown
}

impl Core {
    pub(crate) fn list_metadata(&self, ask: &Ask, project: &str) -> Outcome {
        Ok(json_reply(&json!(self.project(ask, project, "metadata", "list")?.metadata)))
    }

    pub(crate) fn get_metadata(&self, ask: &Ask, project: &str, key: &str) -> Outcome {
        let project = self.project(ask, project, "metadata", "read")?;
        match project.metadata.get(key) {
            Some(value) => Ok(json_reply(&json!({key: value}))),
            None => Err(Fault::not_found(format!("metadata {key} not found"))),
        }
    }

    pub(crate) fn create_metadata(&self, ask: &Ask, project: &str) -> Outcome {
        let body = object(ask, BODY)?;
        let project = self.project(ask, project, "metadata", "create")?;
        for key in body.keys() {
            if !Keys::Proxy.has(key) && key != "retention_id" {
                return Err(Fault::bad(format!("invalid key: {key}")));
            }
            if project.metadata.contains_key(key) {
                let message = format!("metadata {key} already exists for project {}", project.id);
                return Err(Fault::conflict(message));
            }
        }
        self.set_metadata(project.id, &body);
        Ok(empty(StatusCode::CREATED))
    }

    pub(crate) fn update_metadata(&self, ask: &Ask, project: &str, key: &str) -> Outcome {
        let mut body = object(ask, BODY)?;
        let project = self.project(ask, project, "metadata", "update")?;
        body.retain(|given, _| given == key);
        if !Keys::Proxy.has(key) || body.is_empty() {
            return Err(Fault::bad(format!("invalid key: {key}")));
        }
        // A key that is not there is not made, and that is 200, too.
        if project.metadata.contains_key(key) {
            self.set_metadata(project.id, &body);
        }
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn delete_metadata(&self, ask: &Ask, project: &str, key: &str) -> Outcome {
        let project = self.project(ask, project, "metadata", "delete")?;
        if let Some(stored) = self.state.lock().projects.get_mut(&project.id) {
            stored.metadata.remove(key);
        }
        Ok(empty(StatusCode::OK))
    }

    fn set_metadata(&self, project: i64, values: &serde_json::Map<String, Value>) {
        if let Some(stored) = self.state.lock().projects.get_mut(&project) {
            for (key, value) in values {
                stored.metadata.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
            }
        }
    }
}
