//! Replication: policies, executions and their tasks.

use super::{Client, Error, model};

impl Client {
    /// GET /replication/policies, all pages.
    pub async fn replication_policies(&self) -> Result<Vec<model::ReplicationPolicy>, Error> {
        self.list("replication/policies", &[("sort", "id")]).await
    }

    /// GET /replication/policies with the exact name.
    pub async fn replication_policy_named(&self, name: &str) -> Result<Option<model::ReplicationPolicy>, Error> {
        let query = format!("name={name}");
        let found: Vec<model::ReplicationPolicy> = self.list("replication/policies", &[("q", &query)]).await?;
        Ok(found.into_iter().find(|policy| policy.content.name == name))
    }

    /// GET /replication/policies/{id}.
    pub async fn replication_policy(&self, id: i64) -> Result<Option<model::ReplicationPolicy>, Error> {
        self.find(&format!("replication/policies/{id}"), &[]).await
    }

    /// POST /replication/policies. Returns the id.
    ///
    /// # Errors
    /// [`Error::Conflict`] for an existing name; a timeout for a cron schedule that never fires, and Harbor's job service hangs
    /// from then on.
    pub async fn create_replication_policy(&self, policy: &model::ReplicationPolicyContent) -> Result<i64, Error> {
        self.create("replication/policies", policy).await
    }

    /// PUT /replication/policies/{id}: replaces the whole policy.
    ///
    /// # Errors
    /// Those of [`Client::create_replication_policy`].
    pub async fn update_replication_policy(
        &self,
        id: i64,
        policy: &model::ReplicationPolicyContent,
    ) -> Result<(), Error> {
        self.put(&format!("replication/policies/{id}"), policy).await
    }

    /// DELETE /replication/policies/{id}, with its executions. Succeeds if it is already gone.
    ///
    /// # Errors
    /// [`Error::Precondition`] while one of its executions is not final: stop it first.
    pub async fn delete_replication_policy(&self, id: i64) -> Result<(), Error> {
        self.delete(&format!("replication/policies/{id}")).await
    }

    /// POST /replication/executions: runs a policy now. Returns the id of the execution.
    ///
    /// # Errors
    /// [`Error::Precondition`] for a disabled policy, [`Error::NotFound`] for a deleted one.
    pub async fn start_replication(&self, policy_id: i64) -> Result<i64, Error> {
        self.create("replication/executions", &model::StartReplication { policy_id }).await
    }

    /// GET /replication/executions of one policy, the newest first, at most `limit` (1 to 100).
    pub async fn replication_executions(
        &self,
        policy_id: i64,
        limit: usize,
    ) -> Result<Vec<model::ReplicationExecution>, Error> {
        self.first("replication/executions", &[("policy_id", &policy_id.to_string())], limit).await
    }

    /// GET /replication/executions of all policies, the newest first. Returns page `page`, from 1, of a hundred executions.
    pub async fn replication_executions_page(&self, page: usize) -> Result<Vec<model::ReplicationExecution>, Error> {
        self.first("replication/executions", &[("page", &page.to_string())], 100).await
    }

    /// GET /replication/executions/{id}.
    pub async fn replication_execution(&self, id: i64) -> Result<Option<model::ReplicationExecution>, Error> {
        self.find(&format!("replication/executions/{id}"), &[]).await
    }

    /// PUT /replication/executions/{id}: stops it, some time later. Succeeds if it has already ended.
    pub async fn stop_replication(&self, execution_id: i64) -> Result<(), Error> {
        self.put(&format!("replication/executions/{execution_id}"), &()).await
    }

    /// GET /replication/executions/{id}/tasks, all pages, the newest first.
    pub async fn replication_tasks(&self, execution_id: i64) -> Result<Vec<model::ReplicationTask>, Error> {
        self.list(&format!("replication/executions/{execution_id}/tasks"), &[]).await
    }

    /// GET /replication/executions/{id}/tasks/{task}/log: the only place that says why a task failed
    /// ([`model::replication_failure`]).
    pub async fn replication_task_log(&self, execution_id: i64, task_id: i64) -> Result<String, Error> {
        self.text(&format!("replication/executions/{execution_id}/tasks/{task_id}/log")).await
    }
}
