//! `/retentions`: tag retention policies. They are kept and shown, never executed.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Core,
    http::{Ask, Fault, Kind, Outcome, Schema, created, empty, id, json_reply, object, stamp},
    state::State,
};

const BODY: Schema = Schema {
    parameter: "policy",
    go_type: "RetentionPolicy",
    fields: &[("algorithm", Kind::Text), ("rules", Kind::Any), ("scope", Kind::Any), ("trigger", Kind::Any)],
};

/// The policy that a proxy project is born with. Answers its id.
pub(crate) fn created_at(state: &mut State, project: i64) -> i64 {
    let id = state.next("retention");
    state.retentions.insert(
        id,
        json!({
            "algorithm": "or", "id": id, "scope": {"level": "project", "ref": project},
            "rules": [{
                "action": "retain", "id": 1, "params": {"nDaysSinceLastPull": 7}, "priority": 1, "template": "nDaysSinceLastPull",
                "scope_selectors": {"repository": [{"decoration": "repoMatches", "kind": "doublestar", "pattern": "**"}]},
                "tag_selectors": [{"decoration": "matches", "kind": "doublestar", "pattern": "**"}],
            }],
            "trigger": {"kind": "Schedule", "settings": {"cron": "0 0 0 * * *"}},
        }),
    );
    id
}

/// What rules can be made of.
pub(crate) fn templates() -> Value {
    let template = |name: &str, text: &str, unit: &str| {
        let params = if unit.is_empty() { json!([]) } else { json!([{"required": true, "type": "int", "unit": unit}]) };
        json!({"action": "retain", "display_text": text, "params": params, "rule_template": name})
    };
    json!({
        "scope_selectors": [{"decorations": ["repoMatches", "repoExcludes"], "display_text": "Repositories", "kind": "doublestar"}],
        "tag_selectors": [{"decorations": ["matches", "excludes"], "display_text": "Tags", "kind": "doublestar"}],
        "templates": [
            template("latestPushedK", "the most recently pushed # artifacts", "COUNT"),
            template("latestPulledN", "the most recently pulled # artifacts", "COUNT"),
            template("nDaysSinceLastPush", "pushed within the last # days", "DAYS"),
            template("nDaysSinceLastPull", "pulled within the last # days", "DAYS"),
            template("always", "always", ""),
        ],
    })
}

impl Core {
    pub(crate) fn get_retention(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let state = self.state.lock();
        let mut policy = state.retentions.get(&id).cloned().ok_or_else(Fault::internal)?;
        ask.who.check_in(&state, project_of(&policy), "tag-retention", "read")?;
        drop(state);
        if let Some(next) = policy["trigger"]["settings"]["cron"].as_str().and_then(next_daily) {
            policy["trigger"]["settings"]["next_scheduled_time"] = json!(next);
        }
        for rule in policy["rules"].as_array_mut().into_iter().flatten() {
            if rule["params"] == json!({})
                && let Some(rule) = rule.as_object_mut()
            {
                rule.remove("params");
            }
        }
        Ok(json_reply(&policy))
    }

    pub(crate) fn create_retention(&self, ask: &Ask) -> Outcome {
        let mut policy = Value::Object(object(ask, BODY)?);
        check(&policy)?;
        let level = policy["scope"]["level"].as_str().unwrap_or_default();
        if level != "project" {
            return Err(Fault::bad(format!("bad request: scope {level} is not support")));
        }
        let reference = policy["scope"]["ref"].as_i64().unwrap_or_default();
        let mut state = self.state.lock();
        let Some(project) = state.projects.get(&reference) else {
            return Err(Fault::bad(format!("bad request: invalid Project id {reference}")));
        };
        ask.who.check_in(&state, reference, "tag-retention", "create")?;
        if let Some(retention) = project.metadata.get("retention_id") {
            let message = format!("bad request: project {reference} already has retention policy {retention}");
            return Err(Fault::bad(message));
        }
        let id = state.next("retention");
        policy["id"] = json!(id);
        state.retentions.insert(id, policy);
        if let Some(project) = state.projects.get_mut(&reference) {
            project.metadata.insert("retention_id".to_owned(), id.to_string());
        }
        Ok(created(&format!("/api/v2.0/retentions/{id}")))
    }

    pub(crate) fn update_retention(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let mut policy = Value::Object(object(ask, BODY)?);
        let mut state = self.state.lock();
        if let Some(stored) = state.retentions.get(&id) {
            ask.who.check_in(&state, project_of(stored), "tag-retention", "update")?;
        }
        let Some(stored) = state.retentions.get_mut(&id) else {
            let message = format!("resource not found: the retention policy id {id} does not match");
            return Err(Fault::not_found(message));
        };
        check(&policy)?;
        policy["id"] = json!(id);
        *stored = policy;
        Ok(empty(StatusCode::OK))
    }

    pub(crate) fn delete_retention(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let mut state = self.state.lock();
        if let Some(policy) = state.retentions.get(&id) {
            ask.who.check_in(&state, project_of(policy), "tag-retention", "delete")?;
        }
        let policy = state.retentions.remove(&id).ok_or_else(Fault::internal)?;
        let project = policy["scope"]["ref"].as_i64().and_then(|project| state.projects.get_mut(&project));
        if let Some(project) = project {
            project.metadata.remove("retention_id");
        }
        Ok(empty(StatusCode::OK))
    }
}

fn project_of(policy: &Value) -> i64 {
    policy["scope"]["ref"].as_i64().unwrap_or_default()
}

fn check(policy: &Value) -> Result<(), Fault> {
    let rules = policy["rules"].as_array().map_or(&[][..], Vec::as_slice);
    if rules.len() > 15 {
        return Err(Fault::bad("bad request: only 15 rules are allowed at most"));
    }
    for (number, rule) in rules.iter().enumerate() {
        if let Some(earlier) = rules.iter().take(number).position(|other| other == rule) {
            return Err(Fault::conflict(format!("resource conflict: rule {number} is conflict with rule {earlier}")));
        }
    }
    let cron = policy["trigger"]["settings"]["cron"].as_str().unwrap_or_default();
    let fields: Vec<&str> = cron.split_whitespace().collect();
    let why = match fields.as_slice() {
        [] => return Ok(()),
        [first, ..] if first.starts_with('@') => {
            format!("parser does not accept descriptors: {cron}")
        }
        [seconds, _, _, _, _, _] if *seconds == "0" => return Ok(()),
        [_, _, _, _, _, _] => "the 1st field (indicating Seconds of time) of the cron setting must be 0".to_owned(),
        fields => format!("expected exactly 6 fields, found {}: [{}]", fields.len(), fields.join(" ")),
    };
    Err(Fault::bad(format!("invalid cron string for scheduled tag retention: {cron}, error: {why}")))
}

/// The next time of a cron that names a minute and an hour of each day; others are not worked out.
fn next_daily(cron: &str) -> Option<String> {
    let mut fields = cron.split_whitespace().skip(1);
    let minute: i64 = fields.next()?.parse().ok()?;
    let hour: i64 = fields.next()?.parse().ok()?;
    let now = jiff::Timestamp::now().as_second();
    let today = now - now.rem_euclid(86_400) + hour * 3600 + minute * 60;
    let next = if today > now { today } else { today + 86_400 };
    jiff::Timestamp::from_second(next).ok().map(stamp)
}
