//! `/robots`, as far as an operator needs one: create, read, list, a new secret, delete.

use http::{StatusCode, header};
use rand::Rng as _;
use serde_json::{Value, json};

use super::{
    Core,
    auth::Who,
    http::{Ask, Fault, Kind, Outcome, Schema, empty, id, json_reply, now, object, put},
    page::{filter, page, text_of},
    state::Robot,
};

const BODY: Schema = Schema {
    parameter: "robot",
    go_type: "RobotCreate",
    fields: &[
        ("name", Kind::Text),
        ("level", Kind::Text),
        ("description", Kind::Text),
        ("duration", Kind::Number),
        ("permissions", Kind::Any),
        ("secret", Kind::Text),
    ],
};

impl Core {
    pub(crate) fn create_robot(&self, ask: &Ask) -> Outcome {
        let body = object(ask, BODY)?;
        only_admin(ask)?;
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, level) = (text("name"), text("level"));
        let permissions = body.get("permissions").cloned().unwrap_or_else(|| json!([]));
        let namespace = permissions[0]["namespace"].as_str().unwrap_or_default().to_owned();
        let mut state = self.state.lock();
        let (full, owner) = match level.as_str() {
            "system" => (format!("robot${name}"), 0),
            "project" => {
                let Some(project) = state.project_named(&namespace) else {
                    return Err(Fault::not_found(format!("project {namespace} not found")));
                };
                (format!("robot${namespace}+{name}"), project.id)
            }
            other => {
                return Err(Fault::bad(format!("bad request error level input: {other}")));
            }
        };
        let id = state.next("robot");
        if state.robots.values().any(|robot| robot.name == full) {
            let short = full.trim_start_matches("robot$");
            return Err(Fault::conflict(format!("robot account {owner}:{short} already exists")));
        }
        let duration = body.get("duration").and_then(Value::as_i64).unwrap_or(-1);
        let created = jiff::Timestamp::now();
        let expires = if duration < 0 { -1 } else { created.as_second() + duration * 86_400 };
        let time = now();
        let mut document = json!({
            "id": id, "name": full, "level": level, "duration": duration, "disable": false, "editable": true, "creator_ref": 1,
            "creator_type": "local", "expires_at": expires, "permissions": permissions, "creation_time": time, "update_time": time,
        });
        if !text("description").is_empty() {
            document["description"] = json!(text("description"));
        }
        let secret = new_secret();
        let answer = json!({"id": id, "name": full, "secret": secret, "expires_at": expires, "creation_time": time});
        let document = document.as_object().cloned().unwrap_or_default();
        state.robots.insert(id, Robot { name: full, secret, document });
        let mut reply = json_reply(&answer);
        *reply.status_mut() = StatusCode::CREATED;
        put(&mut reply, header::LOCATION, &format!("/api/v2.0/robots/{id}"));
        Ok(reply)
    }

    /// Only robots of the system, unless `q` names another level and a project.
    pub(crate) fn list_robots(&self, ask: &Ask) -> Outcome {
        only_admin(ask)?;
        let state = self.state.lock();
        let wanted = ask.param("q").unwrap_or_default().to_ascii_lowercase();
        let project = wanted.split(',').find_map(|term| term.strip_prefix("projectid=")?.parse::<i64>().ok());
        let project = project.and_then(|id| state.projects.get(&id)).map(|project| project.name.clone());
        let by_project = wanted.contains("level=project");
        let items: Vec<Value> = state
            .robots
            .values()
            .filter(|robot| match &project {
                Some(project) if by_project => robot.name.starts_with(&format!("robot${project}+")),
                _ => robot.document.get("level") == Some(&json!("system")),
            })
            .map(|robot| Value::Object(robot.document.clone()))
            .collect();
        drop(state);
        // The table keeps names without `robot$`.
        let items = filter(ask, items, |item, key| {
            let name = text_of(item, "name")?;
            (key == "name").then(|| name.trim_start_matches("robot$").to_owned())
        })?;
        page(ask, &items)
    }

    pub(crate) fn get_robot(&self, ask: &Ask, text: &str) -> Outcome {
        only_admin(ask)?;
        let id = id(text)?;
        match self.state.lock().robots.get(&id) {
            Some(robot) => Ok(json_reply(&Value::Object(robot.document.clone()))),
            None => Err(Fault::not_found(format!("robot {id} not found"))),
        }
    }

    /// Replaces permissions, duration and description; level and full name have to be there and cannot change.
    pub(crate) fn update_robot(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let body = object(ask, BODY)?;
        only_admin(ask)?;
        let mut state = self.state.lock();
        let robot = state.robots.get_mut(&id).ok_or_else(|| Fault::not_found(format!("robot {id} not found")))?;
        if ["level", "name"].iter().any(|key| body.get(*key) != robot.document.get(*key)) {
            return Err(Fault::bad("cannot update the level or name of robot"));
        }
        let namespace = |document: &serde_json::Map<String, Value>| {
            document.get("permissions").map(|all| all[0]["namespace"].clone())
        };
        if body.get("level") == Some(&json!("project")) && namespace(&body) != namespace(&robot.document) {
            return Err(Fault::bad("cannot update the project id of robot"));
        }
        for key in ["permissions", "duration", "description", "disable"] {
            if let Some(value) = body.get(key) {
                robot.document.insert(key.to_owned(), value.clone());
            }
        }
        let created = robot
            .document
            .get("creation_time")
            .and_then(Value::as_str)
            .and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let duration = robot.document.get("duration").and_then(Value::as_i64).unwrap_or(-1);
        let expires = created.filter(|_| duration >= 0).map_or(-1, |created| created.as_second() + duration * 86_400);
        robot.document.insert("expires_at".to_owned(), json!(expires));
        robot.document.insert("update_time".to_owned(), json!(now()));
        Ok(empty(StatusCode::OK))
    }

    /// A secret of one's own, or with an empty body a new one.
    pub(crate) fn refresh_robot(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let body =
            object(ask, Schema { parameter: "robotSec", go_type: "RobotSec", fields: &[("secret", Kind::Text)] })?;
        only_admin(ask)?;
        let given = body.get("secret").and_then(Value::as_str).unwrap_or_default().to_owned();
        let secret = if given.is_empty() { new_secret() } else { given.clone() };
        let mut state = self.state.lock();
        let robot = state.robots.get_mut(&id).ok_or_else(|| Fault::not_found(format!("robot {id} not found")))?;
        robot.secret.clone_from(&secret);
        Ok(json_reply(&if given.is_empty() { json!({"secret": secret}) } else { json!({}) }))
    }

    pub(crate) fn delete_robot(&self, ask: &Ask, text: &str) -> Outcome {
        only_admin(ask)?;
        let id = id(text)?;
        match self.state.lock().robots.remove(&id) {
            Some(_) => Ok(empty(StatusCode::OK)),
            None => Err(Fault::not_found(format!("robot {id} not found"))),
        }
    }
}

fn only_admin(ask: &Ask) -> Result<(), Fault> {
    match ask.who {
        Who::Admin(_) => Ok(()),
        Who::Robot(_) => Err(Fault::forbidden("forbidden")),
        _ => Err(ask.who.refusal()),
    }
}

fn new_secret() -> String {
    format!("Aa1{:032x}", rand::rng().random::<u128>())
}
