//! Carries out the steps of a ProxyProject's plan one by one.

use super::super::connections::Connection;
use crate::{
    harbor::{Error, model},
    plan::{project as plan, retention},
};

/// Carries out one step. Returns the id of the project, once it has one.
pub(super) async fn apply(
    connection: &Connection,
    name: &str,
    step: &plan::Step,
    project: Option<i64>,
) -> Result<Option<i64>, Error> {
    let Connection { client, view, .. } = connection;
    if let plan::Step::Create(new) = step {
        let id = client.create_project(new).await.inspect_err(|_| view.wrote_project(name, None))?;
        view.made_project(plan::stored(new, id));
        return Ok(Some(id));
    }
    let changed = change(connection, step, project).await;
    // Labels are not part of the cached project.
    if !matches!(step, plan::Step::Mark(..) | plan::Step::Remark(..)) {
        view.wrote_project(name, project);
    }
    changed.map(|()| project)
}

async fn change(connection: &Connection, step: &plan::Step, project: Option<i64>) -> Result<(), Error> {
    let client = &connection.client;
    match step {
        // The project does not exist yet.
        plan::Step::Create(_) => {}
        plan::Step::Mark(existing, text) => {
            if let Some(project_id) = existing.or(project) {
                let label = model::Label {
                    id: 0,
                    name: plan::LABEL.to_owned(),
                    description: text.clone(),
                    scope: "p".to_owned(),
                    project_id,
                };
                client.create_label(&label).await?;
            }
        }
        plan::Step::Remark(id, label) => client.update_label(*id, label).await?,
        plan::Step::Update(existing, update) => {
            if let Some(id) = existing.or(project) {
                client.update_project(id, update).await?;
            }
        }
        plan::Step::Limit(id, bytes) => client.update_quota(*id, *bytes).await?,
        plan::Step::Retention(step) => retain(connection, step).await?,
        plan::Step::RetentionOfCreated(desired) => {
            if let Some(id) = project
                && let Some(step) = retention::step(desired, &client.project(id).await?, None, &mut Vec::new())
            {
                retain(connection, &step).await?;
            }
        }
    }
    Ok(())
}

async fn retain(Connection { client, view, .. }: &Connection, step: &retention::Step) -> Result<(), Error> {
    let (id, result) = match step {
        retention::Step::Create(policy) => return client.create_retention(policy).await.map(drop),
        retention::Step::Update(policy) => (policy.id, client.update_retention(policy).await),
        retention::Step::Delete(id) => (*id, client.delete_retention(*id).await),
    };
    view.wrote_retention(id);
    result
}
