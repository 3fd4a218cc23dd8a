//! A run of a policy: what there is to copy, where it goes, one task for each repository, and how it ended.

use std::sync::Arc;

use rand::Rng as _;

use super::{
    ends::End,
    filters::{Deletes, Found, destination},
    tables::{Execution, Policy, Status, Task, never, second},
};
use crate::harbor::{
    Core,
    http::{Fault, now},
};

/// Harbor's own seconds until a worker takes a task, and until an execution is told that its tasks are over.
const QUEUE: f64 = 1.0;
const LAG: f64 = 20.0;
/// Between the two writes with which Harbor ends an execution.
const MOMENT: f64 = 0.2;
const NOTHING: &str = "no resources need to be replicated";
const SKIPPED: &str = "Execution skipped: active replication still in progress.";

impl Core {
    /// Starts a run and answers its id. `found` is what an event is about; without it the source is searched.
    ///
    /// # Errors
    /// 412 for a disabled policy.
    pub(crate) fn run_policy(
        self: &Arc<Self>,
        policy: &Policy,
        found: Option<Found>,
        trigger: &'static str,
    ) -> Result<i64, Fault> {
        if !policy.enabled {
            return Err(Fault::precondition(format!("the policy {} is disabled", policy.id)));
        }
        let mut state = self.state.lock();
        let running = |execution: &Execution| execution.policy == policy.id && !execution.status.is_final();
        let busy = policy.single_active && state.executions.values().any(running);
        let id = state.next("execution");
        let mut execution = Execution {
            id,
            policy: policy.id,
            trigger,
            status: Status::InProgress,
            text: String::new(),
            started: now(),
            ended: never(),
        };
        if busy {
            execution.end(Status::Failed, SKIPPED);
        }
        state.executions.insert(id, execution);
        drop(state);
        if !busy {
            let (core, policy) = (self.clone(), policy.clone());
            self.spawn(async move {
                if let Err(text) = core.flow(id, &policy, found).await {
                    core.fail_execution(id, &text).await;
                }
            });
        }
        Ok(id)
    }

    /// Starts each enabled policy with a schedule, as if its time had come.
    pub(crate) fn run_schedules(self: &Arc<Self>) -> usize {
        let due: Vec<Policy> =
            self.state.lock().policies.values().filter(|policy| policy.schedule().is_some()).cloned().collect();
        due.iter().filter(|policy| self.run_policy(policy, None, "scheduled").is_ok()).count()
    }

    async fn flow(self: &Arc<Self>, id: i64, policy: &Policy, found: Option<Found>) -> Result<(), String> {
        let (source, target) = (self.end(policy.source), self.end(policy.destination));
        for (end, which) in [(&source, "source"), (&target, "destination")] {
            self.connect(end)
                .await
                .map_err(|why| format!("failed to create adapter for {which} registry {}: {why}", end.url(self)))?;
        }
        let found = match found {
            Some(found) => vec![found],
            None => {
                self.fetch(&source, &policy.filters).await.map_err(|why| format!("failed to fetch artifacts: {why}"))?
            }
        };
        let mut pairs = Vec::new();
        for found in found {
            let name = destination(&found.repository, &policy.namespace, policy.replace_count, target.levels())?;
            pairs.push((found, name));
        }
        if pairs.iter().all(|(found, _)| found.deletes.is_none()) {
            let skipped = self
                .prepare(&target, &pairs)
                .await
                .map_err(|why| format!("failed to do the prepare work for pushing/uploading resources: {why}"))?;
            pairs.retain(|(_, name)| !skipped.contains(name.split('/').next().unwrap_or_default()));
        }
        if pairs.is_empty() {
            self.end_execution(id, Status::Succeed, NOTHING);
            return Ok(());
        }
        let tasks: Vec<(i64, Found, String)> =
            pairs.into_iter().map(|(found, name)| (self.add_task(id, &source, &found, &name), found, name)).collect();
        for (task, found, name) in tasks {
            let (core, source, target, overrides) = (self.clone(), source.clone(), target.clone(), policy.overrides);
            self.spawn(async move {
                core.pause(QUEUE).await;
                // Jobs of a job service that hangs stay where they are.
                if core.state.lock().job_service_hangs {
                    return;
                }
                let done = core.transfer(task, &source, &target, &found, &name, overrides).await;
                core.end_task(task, if done { Status::Succeed } else { Status::Failed });
                core.pause(LAG).await;
                core.settle(id).await;
            });
        }
        Ok(())
    }

    fn add_task(&self, execution: i64, source: &End, found: &Found, name: &str) -> i64 {
        let mut state = self.state.lock();
        let id = state.next("task");
        let items = found.references().len();
        let task = Task {
            id,
            execution,
            job: format!("{:024x}", rand::rng().random::<u128>() >> 32),
            status: if state.job_service_hangs { Status::Pending } else { Status::InProgress },
            operation: match found.deletes {
                None => "copy",
                Some(Deletes::Artifacts) => "deletion",
                Some(Deletes::Tags) => "tag deletion",
            },
            kind: if source.is_harbor() { "artifact" } else { "image" },
            source: format!("{} [{items} item(s) in total]", found.repository),
            destination: format!("{name} [{items} item(s) in total]"),
            started: second(),
            ended: never(),
            log: String::new(),
        };
        state.tasks.insert(id, task);
        id
    }

    fn end_task(&self, id: i64, status: Status) {
        if let Some(task) = self.state.lock().tasks.get_mut(&id).filter(|task| !task.status.is_final()) {
            task.status = status;
            task.ended = second();
        }
    }

    fn end_execution(&self, id: i64, status: Status, text: &str) {
        if let Some(found) = self.state.lock().executions.get_mut(&id).filter(|found| !found.status.is_final()) {
            found.end(status, text);
        }
    }

    /// A run that fails before it has tasks is stopped at first, and failed a moment later.
    async fn fail_execution(&self, id: i64, text: &str) {
        self.end_execution(id, Status::Stopped, "");
        self.pause(MOMENT).await;
        if let Some(found) = self.state.lock().executions.get_mut(&id) {
            found.end(Status::Failed, text);
        }
    }

    /// Takes the status of an execution from its tasks, once they are all over; its end follows a moment later.
    async fn settle(&self, id: i64) {
        let Some(ended) = self.take_status(id) else { return };
        self.pause(MOMENT).await;
        if let Some(found) = self.state.lock().executions.get_mut(&id) {
            found.ended = ended;
        }
    }

    fn take_status(&self, id: i64) -> Option<String> {
        let mut state = self.state.lock();
        let tasks: Vec<(Status, String)> = state
            .tasks
            .values()
            .filter(|task| task.execution == id)
            .map(|task| (task.status, task.ended.clone()))
            .collect();
        let execution = state.executions.get_mut(&id).filter(|execution| !execution.status.is_final())?;
        if !tasks.iter().all(|(status, _)| status.is_final()) {
            return None;
        }
        let any = |wanted: Status| tasks.iter().any(|(status, _)| *status == wanted);
        execution.status = match (any(Status::Failed), any(Status::Stopped)) {
            (true, _) => Status::Failed,
            (_, true) => Status::Stopped,
            _ => Status::Succeed,
        };
        tasks.into_iter().map(|(_, ended)| ended).max()
    }
}

impl Execution {
    fn end(&mut self, status: Status, text: &str) {
        self.status = status;
        text.clone_into(&mut self.text);
        self.ended = now();
    }
}
