//! Projects, their quotas and retention policies, and the labels that mark them.

use super::{Client, Error, model};

impl Client {
    /// GET /projects, all pages.
    pub async fn projects(&self) -> Result<Vec<model::Project>, Error> {
        self.list("projects", &[("sort", "project_id")]).await
    }

    /// GET /projects with the exact name.
    pub async fn project_named(&self, name: &str) -> Result<Option<model::Project>, Error> {
        // A list with `q`, not GET /projects/{name}: Harbor would read a numeric name as an id.
        let found: Vec<model::Project> = self.list("projects", &[("q", &format!("name={name}"))]).await?;
        Ok(found.into_iter().find(|project| project.name == name))
    }

    /// GET /projects that proxy the registry.
    pub async fn projects_of_registry(&self, registry_id: i64) -> Result<Vec<model::Project>, Error> {
        let found: Vec<model::Project> = self.list("projects", &[("q", &format!("registry_id={registry_id}"))]).await?;
        // Harbor ignores unknown keys in `q`, so the answer is checked.
        Ok(found.into_iter().filter(|project| project.registry_id == Some(registry_id)).collect())
    }

    /// POST /projects. Returns the id.
    pub async fn create_project(&self, project: &model::NewProject) -> Result<i64, Error> {
        self.create("projects", project).await
    }

    /// PUT /projects/{id}: merges metadata.
    pub async fn update_project(&self, id: i64, update: &model::ProjectUpdate) -> Result<(), Error> {
        self.put(&format!("projects/{id}"), update).await
    }

    /// GET /projects/{id}/_deletable.
    pub async fn project_deletable(&self, id: i64) -> Result<model::Deletable, Error> {
        self.get(&format!("projects/{id}/_deletable"), &[]).await
    }

    /// DELETE /projects/{id}. Succeeds if it is already gone.
    ///
    /// # Errors
    /// [`Error::Precondition`] while it has repositories.
    pub async fn delete_project(&self, id: i64) -> Result<(), Error> {
        self.delete(&format!("projects/{id}")).await
    }

    /// GET /quotas of all projects.
    pub async fn project_quotas(&self) -> Result<Vec<model::Quota>, Error> {
        self.list("quotas", &[("reference", "project")]).await
    }

    /// GET /quotas of one project. `None` if quotas are disabled in Harbor.
    pub async fn project_quota(&self, project_id: i64) -> Result<Option<model::Quota>, Error> {
        let query = [("reference", "project"), ("reference_id", &*project_id.to_string())];
        let found: Vec<model::Quota> = self.list("quotas", &query).await?;
        Ok(found.into_iter().find(|quota| quota.reference.id == project_id))
    }

    /// PUT /quotas/{id}: sets the storage limit in bytes, or -1.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the account is not an administrator of Harbor.
    pub async fn update_quota(&self, id: i64, storage: i64) -> Result<(), Error> {
        self.put(&format!("quotas/{id}"), &model::QuotaUpdate { hard: model::QuotaLimits { storage } }).await
    }

    /// GET /projects/{id}.
    pub async fn project(&self, id: i64) -> Result<model::Project, Error> {
        self.get(&format!("projects/{id}"), &[]).await
    }

    /// GET /retentions/{id}.
    ///
    /// # Errors
    /// [`Error::Server`] also for a policy that does not exist.
    pub async fn retention(&self, id: i64) -> Result<model::RetentionPolicy, Error> {
        self.get(&format!("retentions/{id}"), &[]).await
    }

    /// POST /retentions for a project that has no policy. Returns the id.
    ///
    /// # Errors
    /// [`Error::Refused`] for a project that has one.
    pub async fn create_retention(&self, policy: &model::RetentionPolicy) -> Result<i64, Error> {
        self.create("retentions", policy).await
    }

    /// PUT /retentions/{id}: replaces rules and schedule. A schedule that never fires hangs Harbor's job service.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a policy that does not exist.
    pub async fn update_retention(&self, policy: &model::RetentionPolicy) -> Result<(), Error> {
        self.put(&format!("retentions/{}", policy.id), policy).await
    }

    /// DELETE /retentions/{id}.
    ///
    /// # Errors
    /// [`Error::Server`] also for a policy that does not exist.
    pub async fn delete_retention(&self, id: i64) -> Result<(), Error> {
        self.delete(&format!("retentions/{id}")).await
    }

    /// GET /labels of one project.
    pub async fn project_labels(&self, project_id: i64) -> Result<Vec<model::Label>, Error> {
        self.list("labels", &[("scope", "p"), ("project_id", &project_id.to_string())]).await
    }

    /// POST /labels. Returns the id.
    pub async fn create_label(&self, label: &model::Label) -> Result<i64, Error> {
        self.create("labels", label).await
    }

    /// PUT /labels/{id}.
    pub async fn update_label(&self, id: i64, label: &model::Label) -> Result<(), Error> {
        self.put(&format!("labels/{id}"), label).await
    }
}
