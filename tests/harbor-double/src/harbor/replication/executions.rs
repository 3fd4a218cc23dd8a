//! `/replication/executions`: runs of policies and their tasks. What a run does is in `flow`.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use super::{
    policies::no_policy,
    tables::{Execution, Status, Task, second},
};
use crate::harbor::{
    Core,
    http::{Ask, Fault, Kind, Outcome, Schema, created, id, json_reply, object, text},
    page::page,
};

const BODY: Schema =
    Schema { parameter: "execution", go_type: "StartReplicationExecution", fields: &[("policy_id", Kind::Number)] };

impl Core {
    pub(crate) fn start_replication(self: &Arc<Self>, ask: &Ask) -> Outcome {
        let body = object(ask, BODY)?;
        let id = body.get("policy_id").and_then(Value::as_i64).unwrap_or_default();
        let policy = self.state.lock().policies.get(&id).cloned().ok_or_else(|| no_policy(id))?;
        let execution = self.run_policy(&policy, None, "manual")?;
        Ok(created(&format!("/api/v2.0/replication/executions/{execution}")))
    }

    pub(crate) fn list_executions(&self, ask: &Ask) -> Outcome {
        let policy = ask.param("policy_id").map(|text| {
            let message = format!("policy_id in query must be of type int64: \"{text}\"");
            text.parse::<i64>().map_err(|_| Fault::invalid(&message))
        });
        let policy = policy.transpose()?;
        let state = self.state.lock();
        let wanted = |execution: &&Execution| {
            policy.is_none_or(|policy| execution.policy == policy)
                && ask.param("status").is_none_or(|status| execution.status.name() == status)
                && ask.param("trigger").is_none_or(|trigger| execution.trigger == trigger)
        };
        let mut found: Vec<&Execution> = state.executions.values().filter(wanted).collect();
        if ask.param("sort") != Some("start_time") {
            found.reverse();
        }
        let tasks = |execution: i64| state.tasks.values().filter(move |task| task.execution == execution);
        let items: Vec<Value> = found.into_iter().map(|execution| execution.document(tasks(execution.id))).collect();
        drop(state);
        page(ask, &items)
    }

    pub(crate) fn get_execution(&self, text: &str) -> Outcome {
        let id = id(text)?;
        let state = self.state.lock();
        let execution = state.executions.get(&id).ok_or_else(|| no_execution(id))?;
        Ok(json_reply(&execution.document(state.tasks.values().filter(|task| task.execution == id))))
    }

    /// What runs, stops; what is over, stays as it is.
    pub(crate) fn stop_execution(&self, path: &str) -> Outcome {
        let id = id(path)?;
        let mut state = self.state.lock();
        let execution = state.executions.get_mut(&id).ok_or_else(|| no_execution(id))?;
        if !execution.status.is_final() {
            execution.status = Status::Stopped;
            execution.ended = second();
            for task in state.tasks.values_mut().filter(|task| task.execution == id && !task.status.is_final()) {
                task.status = Status::Stopped;
                task.ended = second();
            }
        }
        Ok(json_reply(&Value::Null))
    }

    pub(crate) fn list_tasks(&self, ask: &Ask, text: &str) -> Outcome {
        let id = id(text)?;
        let state = self.state.lock();
        if !state.executions.contains_key(&id) {
            return Err(no_execution(id));
        }
        let wanted = |task: &&Task| {
            task.execution == id && ask.param("status").is_none_or(|status| task.status.name() == status)
        };
        let items: Vec<Value> = state.tasks.values().rev().filter(wanted).map(Task::document).collect();
        drop(state);
        page(ask, &items)
    }

    pub(crate) fn task_log(&self, execution: &str, task: &str) -> Outcome {
        let (execution, task) = (id(execution)?, id(task)?);
        let state = self.state.lock();
        if !state.executions.contains_key(&execution) {
            return Err(no_execution(execution));
        }
        match state.tasks.get(&task) {
            Some(found) if found.execution == execution => Ok(text(StatusCode::OK, "text/plain", found.log.clone())),
            Some(_) => Err(Fault::not_found(format!("execution {execution} contains no task with ID {task}"))),
            None => Err(Fault::not_found(format!("replication task {task} not found"))),
        }
    }
}

fn no_execution(id: i64) -> Fault {
    Fault::not_found(format!("replication execution {id} not found"))
}
