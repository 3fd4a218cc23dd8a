//! `/labels` and `/quotas`.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Core,
    http::{Ask, Fault, Kind, NEVER, Outcome, Schema, created, empty, id, json_reply, now, object},
    page::{page, text_of},
    projects::MAX_QUOTA,
    state::{Label, Project, State},
};

const LABEL: Schema = Schema {
    parameter: "label",
    go_type: "Label",
    fields: &[
        ("name", Kind::Text),
        ("color", Kind::Text),
        ("description", Kind::Text),
        ("scope", Kind::Text),
        ("project_id", Kind::Number),
    ],
};
const QUOTA: Schema = Schema { parameter: "hard", go_type: "QuotaUpdateReq", fields: &[("hard", Kind::Any)] };

impl Core {
    pub(crate) fn list_labels(&self, ask: &Ask) -> Outcome {
        let scope = ask.param("scope").unwrap_or_default();
        if scope != "g" && scope != "p" {
            return Err(Fault::bad(format!("invalid scope: {scope}")));
        }
        let project = ask.param("project_id").unwrap_or("0");
        let name = ask.param("name");
        let state = self.state.lock();
        if scope == "p" {
            ask.who.check_in(&state, project.parse().unwrap_or_default(), "label", "list")?;
        }
        let items: Vec<Value> = state
            .labels
            .values()
            .map(|label| Value::Object(label.fields.clone()))
            .filter(|label| label["scope"] == scope)
            .filter(|label| scope == "g" || text_of(label, "project_id").as_deref().unwrap_or("0") == project)
            .filter(|label| name.is_none_or(|name| label["name"].as_str().is_some_and(|found| found.contains(name))))
            .collect();
        drop(state);
        page(ask, &items)
    }

    pub(crate) fn get_label(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let state = self.state.lock();
        match state.labels.get(&id) {
            Some(label) => {
                may_label(ask, &state, label, "read")?;
                Ok(json_reply(&Value::Object(label.fields.clone())))
            }
            None => Err(Fault::not_found(format!("label {id} not found"))),
        }
    }

    pub(crate) fn create_label(&self, ask: &Ask) -> Outcome {
        let body = object(ask, LABEL)?;
        let mut state = self.state.lock();
        let mut label = Label { id: state.next("label"), fields: kept(&body) };
        may_label(ask, &state, &label, "create")?;
        check_label(&label, &state)?;
        let time = now();
        label.fields.extend([
            ("id".to_owned(), json!(label.id)),
            ("creation_time".to_owned(), json!(time)),
            ("update_time".to_owned(), json!(time)),
        ]);
        let reply = created(&format!("/api/v2.0/labels/{}", label.id));
        state.labels.insert(label.id, label);
        Ok(reply)
    }

    /// What the body does not name is emptied.
    pub(crate) fn update_label(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let body = object(ask, LABEL)?;
        let mut state = self.state.lock();
        let Some(stored) = state.labels.get(&id).cloned() else {
            return Err(Fault::not_found(format!("label {id} not found")));
        };
        may_label(ask, &state, &stored, "update")?;
        let mut label = Label { id, fields: kept(&body) };
        for fixed in ["scope", "project_id", "id", "creation_time"] {
            label.fields.remove(fixed);
            if let Some(value) = stored.fields.get(fixed) {
                label.fields.insert(fixed.to_owned(), value.clone());
            }
        }
        check_label(&label, &state)?;
        label.fields.insert("update_time".to_owned(), json!(now()));
        state.labels.insert(id, label);
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn delete_label(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let mut state = self.state.lock();
        if let Some(label) = state.labels.get(&id) {
            may_label(ask, &state, label, "delete")?;
        }
        match state.labels.remove(&id) {
            Some(_) => Ok(empty(StatusCode::OK)),
            None => Err(Fault::not_found(format!("label {id} not found"))),
        }
    }

    pub(crate) fn list_quotas(&self, ask: &Ask) -> Outcome {
        if !ask.who.may("quota", "list") {
            return Err(ask.who.refusal());
        }
        let state = self.state.lock();
        let wanted = ask.param("reference_id");
        let items: Vec<Value> = state
            .projects
            .values()
            .rev()
            .filter(|project| wanted.is_none_or(|id| project.id.to_string() == id))
            .map(|project| quota(&state, project))
            .collect();
        drop(state);
        page(ask, &items)
    }

    pub(crate) fn get_quota(&self, text: &str) -> Outcome {
        let id = id(text)?;
        let state = self.state.lock();
        match state.projects.values().find(|project| project.quota.id == id) {
            Some(project) => Ok(json_reply(&quota(&state, project))),
            None => Err(Fault::not_found(format!("quota {id} not found"))),
        }
    }

    pub(crate) fn update_quota(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let body = object(ask, QUOTA)?;
        if !ask.who.may("quota", "update") {
            return Err(ask.who.refusal());
        }
        let mut state = self.state.lock();
        let Some(project) = state.projects.values_mut().find(|project| project.quota.id == id) else {
            return Err(Fault::not_found(format!("quota {id} not found")));
        };
        for (resource, limit) in body.get("hard").and_then(Value::as_object).into_iter().flatten() {
            if resource != "storage" {
                return Err(Fault::bad(format!("resource {resource} not support")));
            }
            let limit = limit.as_i64().unwrap_or_default();
            if limit < -1 || limit == 0 {
                return Err(Fault::bad(format!("invalid non-positive value for quota limit, value={limit}")));
            }
            if limit > MAX_QUOTA {
                return Err(Fault::bad(format!("exceeded 1024TB, which is {MAX_QUOTA} Bytes, value={limit}")));
            }
            project.quota.limit = limit;
            // It loses the time of its change.
            NEVER.clone_into(&mut project.quota.updated);
        }
        Ok(empty(StatusCode::OK))
    }
}

/// Global labels take a right of the system, the others one of their project.
fn may_label(ask: &Ask, state: &State, label: &Label, action: &str) -> Result<(), Fault> {
    if label.fields.get("scope") == Some(&json!("g")) {
        return if ask.who.may("label", action) { Ok(()) } else { Err(ask.who.refusal()) };
    }
    let project = label.fields.get("project_id").and_then(Value::as_i64).unwrap_or_default();
    // A project that is not there is a bad request, whoever asks.
    if !state.projects.contains_key(&project) {
        return Ok(());
    }
    ask.who.check_in(state, project, "label", action)
}

/// The known fields of a body that are not empty.
fn kept(body: &serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    let known = |key: &String| LABEL.fields.iter().any(|(field, _)| field == key);
    let is_empty = |value: &Value| *value == json!("") || *value == json!(0) || value.is_null();
    body.iter()
        .filter(|(key, value)| known(key) && !is_empty(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn check_label(label: &Label, state: &State) -> Result<(), Fault> {
    let Some(name) = label.fields.get("name").and_then(Value::as_str) else {
        return Err(Fault::bad("cannot be empty"));
    };
    let same = |other: &&Label| {
        other.id != label.id
            && ["name", "scope", "project_id"].iter().all(|key| other.fields.get(*key) == label.fields.get(*key))
    };
    match state.labels.values().find(same) {
        Some(_) => Err(Fault::conflict(format!("label {name} already exists"))),
        None => Ok(()),
    }
}

fn quota(state: &State, project: &Project) -> Value {
    json!({
        "id": project.quota.id, "hard": {"storage": project.quota.limit}, "used": {"storage": state.used(project)},
        "ref": {"id": project.id, "name": project.name, "owner_name": ""},
        "creation_time": project.created, "update_time": project.quota.updated,
    })
}
