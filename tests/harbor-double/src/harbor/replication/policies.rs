//! `/replication/policies`: what is checked of them, and in which order.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    cron::Cron,
    tables::{Filter, Policy, Trigger},
};
use crate::harbor::{
    Core,
    http::{Ask, Fault, Kind, Outcome, Schema, created, empty, id, json_reply, now, object},
    page::{filter, page, text_of},
    state::State,
    v2::is_repository,
};

const BODY: Schema = Schema {
    parameter: "policy",
    go_type: "ReplicationPolicy",
    fields: &[
        ("name", Kind::Text),
        ("description", Kind::Text),
        ("src_registry", Kind::Object("models.Registry")),
        ("dest_registry", Kind::Object("models.Registry")),
        ("dest_namespace", Kind::Text),
        ("dest_namespace_replace_count", Kind::Number8),
        ("trigger", Kind::Object("models.ReplicationTrigger")),
        ("filters", Kind::List("[]*models.ReplicationFilter")),
        ("deletion", Kind::Flag),
        ("override", Kind::Flag),
        ("enabled", Kind::Flag),
        ("speed", Kind::Number32),
        ("copy_by_chunk", Kind::Flag),
        ("single_active_replication", Kind::Flag),
    ],
};
const NAME: usize = 256;

impl Core {
    pub(crate) fn list_policies(&self, ask: &Ask) -> Outcome {
        let state = self.state.lock();
        let mut policies: Vec<&Policy> = state.policies.values().collect();
        match ask.param("sort") {
            Some("name") => policies.sort_by(|a, b| a.name.cmp(&b.name)),
            Some("-name") => policies.sort_by(|a, b| b.name.cmp(&a.name)),
            Some("creation_time" | "id") => policies.sort_by_key(|policy| policy.id),
            _ => policies.sort_by_key(|policy| std::cmp::Reverse(policy.id)),
        }
        let items: Vec<Value> = policies.into_iter().map(|policy| self.policy_document(&state, policy)).collect();
        drop(state);
        let mut items = filter(ask, items, |item, key| match key {
            "name" | "description" | "dest_namespace" => Some(text_of(item, key).unwrap_or_default()),
            "src_registry_id" => Some(item["src_registry"]["id"].to_string()),
            "dest_registry_id" => Some(item["dest_registry"]["id"].to_string()),
            _ => None,
        })?;
        if let Some(part) = ask.param("name") {
            items.retain(|item| item["name"].as_str().is_some_and(|name| name.contains(part)));
        }
        page(ask, &items)
    }

    pub(crate) fn get_policy(&self, text: &str) -> Outcome {
        let id = id(text)?;
        let state = self.state.lock();
        match state.policies.get(&id) {
            Some(policy) => Ok(json_reply(&self.policy_document(&state, policy))),
            None => Err(no_policy(id)),
        }
    }

    pub(crate) async fn create_policy(self: &Arc<Self>, ask: &Ask) -> Outcome {
        let mut policy = self.read_policy(ask)?;
        self.hang_on(&policy).await;
        let mut state = self.state.lock();
        policy.id = state.next("policy");
        if policy.name.chars().count() > NAME {
            return Err(Fault::internal());
        }
        check_name(&state, &policy)?;
        let reply = created(&format!("/api/v2.0/replication/policies/{}", policy.id));
        state.policies.insert(policy.id, policy);
        Ok(reply)
    }

    /// Replaces the policy: what is not named is reset.
    pub(crate) async fn update_policy(self: &Arc<Self>, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let mut policy = self.read_policy(ask)?;
        policy.id = id;
        self.hang_on(&policy).await;
        let mut state = self.state.lock();
        let Some(stored) = state.policies.get(&id) else {
            return Err(no_policy(id));
        };
        policy.created.clone_from(&stored.created);
        if policy.name.chars().count() > NAME {
            return Err(Fault::internal());
        }
        check_name(&state, &policy)?;
        state.policies.insert(id, policy);
        Ok(empty(StatusCode::OK))
    }

    /// With its executions, which have to be over.
    pub(crate) fn delete_policy(&self, text: &str) -> Outcome {
        let id = id(text)?;
        let mut state = self.state.lock();
        let mut executions = state.executions.values().filter(|execution| execution.policy == id);
        if executions.any(|execution| !execution.status.is_final()) {
            let message = "contains executions that aren't in final status, stop the execution first";
            return Err(Fault::precondition(message));
        }
        state.policies.remove(&id).ok_or_else(|| no_policy(id))?;
        state.executions.retain(|_, execution| execution.policy != id);
        let State { executions, tasks, .. } = &mut *state;
        tasks.retain(|_, task| executions.contains_key(&task.execution));
        Ok(empty(StatusCode::OK))
    }

    fn policy_document(&self, state: &State, policy: &Policy) -> Value {
        let registry = |id: i64| match state.registries.get(&id) {
            Some(registry) => registry.document(),
            None => self.local_registry(),
        };
        policy.document(&registry(policy.source), &registry(policy.destination))
    }

    fn read_policy(&self, ask: &Ask) -> Result<Policy, Fault> {
        let body = object(ask, BODY)?;
        let policy = parse(&body);
        if policy.single_active && policy.trigger.as_ref().is_some_and(|trigger| trigger.kind == "event_based") {
            return Err(Fault::internal());
        }
        check(&policy)?;
        for registry in [policy.source, policy.destination].into_iter().filter(|registry| *registry != 0) {
            self.registry(registry)?;
        }
        Ok(policy)
    }

    /// A schedule that never fires keeps the job service busy for ever: this request is not answered, nothing is stored,
    /// and no job runs any more.
    async fn hang_on(&self, policy: &Policy) {
        if policy.schedule().and_then(Cron::parse).is_some_and(|cron| !cron.fires()) {
            self.state.lock().job_service_hangs = true;
            std::future::pending::<()>().await;
        }
    }
}

pub(crate) fn no_policy(id: i64) -> Fault {
    Fault::not_found(format!("replication policy {id} not found"))
}

fn parse(body: &Map<String, Value>) -> Policy {
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let flag = |key: &str| body.get(key) == Some(&json!(true));
    let number = |key: &str| body.get(key).and_then(Value::as_i64);
    let registry = |key: &str| body.get(key).and_then(|registry| registry["id"].as_i64()).unwrap_or_default();
    let filter = |filter: &Value| Filter {
        kind: filter["type"].as_str().unwrap_or_default().to_owned(),
        value: filter["value"].clone(),
        decoration: filter["decoration"].as_str().unwrap_or_default().to_owned(),
    };
    let trigger = |trigger: &Value| Trigger {
        kind: trigger["type"].as_str().unwrap_or_default().to_owned(),
        cron: trigger["trigger_settings"]
            .as_object()
            .map(|settings| settings.get("cron").and_then(Value::as_str).unwrap_or_default().to_owned()),
    };
    let time = now();
    Policy {
        id: 0,
        name: text("name"),
        description: text("description"),
        source: registry("src_registry"),
        destination: registry("dest_registry"),
        namespace: text("dest_namespace"),
        replace_count: number("dest_namespace_replace_count").unwrap_or(-1),
        filters: body.get("filters").and_then(Value::as_array).into_iter().flatten().map(filter).collect(),
        trigger: body.get("trigger").filter(|trigger| trigger.is_object()).map(trigger),
        enabled: flag("enabled"),
        overrides: flag("override"),
        // `replicate_deletion`, which GET shows, too, is not read.
        deletion: flag("deletion"),
        speed: number("speed").unwrap_or_default().max(0),
        by_chunk: flag("copy_by_chunk"),
        single_active: flag("single_active_replication"),
        created: time.clone(),
        updated: time,
    }
}

fn check(policy: &Policy) -> Result<(), Fault> {
    if policy.name.is_empty() {
        return Err(Fault::bad("empty name"));
    }
    if (policy.source == 0) == (policy.destination == 0) {
        let message = "either src_registry or dest_registry should be empty and the other one shouldn't be empty";
        return Err(Fault::bad(message));
    }
    for filter in &policy.filters {
        check_filter(filter)?;
    }
    if !policy.namespace.is_empty() && !is_repository(&policy.namespace) {
        return Err(Fault::bad(format!("invalid destination namespace: {}", policy.namespace)));
    }
    match &policy.trigger {
        None => Ok(()),
        Some(trigger) => match trigger.kind.as_str() {
            "manual" | "event_based" => Ok(()),
            "scheduled" => check_cron(trigger.cron.as_deref().unwrap_or_default()),
            _ => Err(Fault::bad("invalid trigger type")),
        },
    }
}

fn check_filter(filter: &Filter) -> Result<(), Fault> {
    match filter.kind.as_str() {
        "name" | "tag" | "resource" => {
            let Some(value) = filter.value.as_str() else {
                return Err(Fault::bad("the type of filter value isn't string"));
            };
            if filter.kind == "resource" && !matches!(value, "artifact" | "image") {
                return Err(Fault::bad(format!("invalid resource filter: {value}")));
            }
            if filter.kind != "tag" && !filter.decoration.is_empty() {
                return Err(Fault::bad("only tag and label filter support decoration"));
            }
        }
        "label" => {
            let strings = filter.value.as_array().is_some_and(|labels| labels.iter().all(Value::is_string));
            if !strings {
                return Err(Fault::bad("the type of label filter value isn't string slice"));
            }
        }
        _ => return Err(Fault::bad("invalid filter type")),
    }
    match filter.decoration.as_str() {
        "" | "matches" | "excludes" => Ok(()),
        other => Err(Fault::bad(format!("invalid filter decoration, :{other}"))),
    }
}

fn check_cron(cron: &str) -> Result<(), Fault> {
    if cron.is_empty() {
        return Err(Fault::bad("the cron string cannot be empty when the trigger type is scheduled"));
    }
    if Cron::parse(cron).is_none() {
        return Err(Fault::bad(format!("invalid cron string for scheduled trigger: {cron}")));
    }
    let mut fields = cron.split(' ');
    if fields.next() != Some("0") {
        return Err(Fault::bad("the 1st field (indicating Seconds of time) of the cron setting must be 0"));
    }
    if fields.next() == Some("*") {
        let message = "* is not allowed for the Minutes field of the cron setting of replication policy";
        return Err(Fault::bad(message));
    }
    Ok(())
}

fn check_name(state: &State, policy: &Policy) -> Result<(), Fault> {
    if state.policies.values().any(|other| other.name == policy.name && other.id != policy.id) {
        return Err(Fault::conflict(format!("replication policy {} already exists", policy.name)));
    }
    Ok(())
}
