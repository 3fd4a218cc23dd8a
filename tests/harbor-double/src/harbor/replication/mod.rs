//! Replication. In: policies, and what starts them: a request, a schedule whose time has come, a push or a deletion. Out:
//! executions whose tasks copy between Harbor's own store and another registry, or delete there.

mod cron;
mod ends;
mod events;
mod executions;
pub(crate) mod filters;
mod flow;
pub(crate) mod glob;
mod inventory;
mod policies;
pub(crate) mod tables;
mod transfer;

use std::sync::Arc;

use super::{
    Core,
    http::{Ask, Fault, Outcome},
};

impl Core {
    pub(crate) async fn replication_end_point(self: &Arc<Self>, ask: &Ask, method: &str, rest: &[&str]) -> Outcome {
        match (method, rest) {
            ("GET", ["policies"]) => self.list_policies(ask),
            ("POST", ["policies"]) => self.create_policy(ask).await,
            ("GET", ["policies", id]) => self.get_policy(id),
            ("PUT", ["policies", id]) => self.update_policy(ask, id).await,
            (_, ["policies", id]) => self.delete_policy(id),
            ("GET", ["executions"]) => self.list_executions(ask),
            (_, ["executions"]) => self.start_replication(ask),
            ("GET", ["executions", id]) => self.get_execution(id),
            (_, ["executions", id]) => self.stop_execution(id),
            (_, ["executions", id, "tasks"]) => self.list_tasks(ask, id),
            (_, ["executions", id, "tasks", task, "log"]) => self.task_log(id, task),
            _ => Err(Fault::internal()),
        }
    }
}
