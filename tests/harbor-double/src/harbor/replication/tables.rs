//! What Harbor's data base keeps of replication, and how its API shows it.

use serde_json::{Value, json};

use crate::harbor::http::NEVER;

/// A policy. Of the two registries one is 0, Harbor itself.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) source: i64,
    pub(crate) destination: i64,
    pub(crate) namespace: String,
    pub(crate) replace_count: i64,
    pub(crate) filters: Vec<Filter>,
    pub(crate) trigger: Option<Trigger>,
    pub(crate) enabled: bool,
    pub(crate) overrides: bool,
    pub(crate) deletion: bool,
    pub(crate) speed: i64,
    pub(crate) by_chunk: bool,
    pub(crate) single_active: bool,
    pub(crate) created: String,
    pub(crate) updated: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) kind: String,
    pub(crate) value: Value,
    pub(crate) decoration: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) kind: String,
    pub(crate) cron: Option<String>,
}

/// Where an execution or a task has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    InProgress,
    Succeed,
    Failed,
    Stopped,
}

/// One run of a policy.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    pub(crate) id: i64,
    pub(crate) policy: i64,
    pub(crate) trigger: &'static str,
    pub(crate) status: Status,
    pub(crate) text: String,
    pub(crate) started: String,
    pub(crate) ended: String,
}

/// The copying or deleting of one repository.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) id: i64,
    pub(crate) execution: i64,
    pub(crate) job: String,
    pub(crate) status: Status,
    pub(crate) operation: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) started: String,
    pub(crate) ended: String,
    pub(crate) log: String,
}

impl Policy {
    /// Whether Harbor has a schedule for it: not while it is disabled.
    pub(crate) fn schedule(&self) -> Option<&str> {
        let trigger = self.trigger.as_ref().filter(|trigger| self.enabled && trigger.kind == "scheduled")?;
        trigger.cron.as_deref()
    }

    /// As GET answers: false and empty fields are left out, but not all of them.
    pub(crate) fn document(&self, source: &Value, destination: &Value) -> Value {
        let filters: Vec<Value> = self.filters.iter().map(Filter::document).collect();
        let mut document = json!({
            "id": self.id, "name": self.name, "creation_time": self.created, "update_time": self.updated,
            "src_registry": source, "dest_registry": destination, "dest_namespace_replace_count": self.replace_count,
            "filters": if filters.is_empty() { Value::Null } else { Value::Array(filters) }, "speed": self.speed,
            "copy_by_chunk": self.by_chunk, "single_active_replication": self.single_active,
        });
        for (key, text) in [("description", &self.description), ("dest_namespace", &self.namespace)] {
            if !text.is_empty() {
                document[key] = json!(text);
            }
        }
        for (key, flag) in [
            ("enabled", self.enabled),
            ("override", self.overrides),
            ("deletion", self.deletion),
            ("replicate_deletion", self.deletion),
        ] {
            if flag {
                document[key] = json!(true);
            }
        }
        if let Some(trigger) = &self.trigger {
            document["trigger"] = json!({"type": trigger.kind});
            match trigger.cron.as_deref() {
                Some("") => document["trigger"]["trigger_settings"] = json!({}),
                Some(cron) => document["trigger"]["trigger_settings"] = json!({"cron": cron}),
                None => {}
            }
        }
        document
    }
}

impl Filter {
    fn document(&self) -> Value {
        let mut document = json!({"type": self.kind, "value": self.value});
        if !self.decoration.is_empty() {
            document["decoration"] = json!(self.decoration);
        }
        document
    }
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Succeed => "Succeed",
            Self::Failed => "Failed",
            Self::Stopped => "Stopped",
        }
    }

    pub(crate) fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::InProgress)
    }
}

impl Execution {
    /// The counts are those of the moment, the status may lag behind them.
    pub(crate) fn document<'a>(&self, tasks: impl Iterator<Item = &'a Task>) -> Value {
        let (mut total, mut succeed, mut failed, mut stopped) = (0, 0, 0, 0);
        for task in tasks {
            total += 1;
            match task.status {
                Status::Succeed => succeed += 1,
                Status::Failed => failed += 1,
                Status::Stopped => stopped += 1,
                Status::Pending | Status::InProgress => {}
            }
        }
        json!({
            "id": self.id, "policy_id": self.policy, "status": self.status.name(), "status_text": self.text,
            "trigger": self.trigger, "start_time": self.started, "end_time": self.ended, "total": total,
            "succeed": succeed, "failed": failed, "stopped": stopped,
            "in_progress": total - succeed - failed - stopped,
        })
    }
}

impl Task {
    pub(crate) fn document(&self) -> Value {
        json!({
            "id": self.id, "execution_id": self.execution, "job_id": self.job, "status": self.status.name(),
            "operation": self.operation, "resource_type": self.kind, "src_resource": self.source,
            "dst_resource": self.destination, "start_time": self.started, "end_time": self.ended,
        })
    }
}

/// The time of a task: whole seconds.
pub(crate) fn second() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// The end of what has not ended.
pub(crate) fn never() -> String {
    NEVER.to_owned()
}
