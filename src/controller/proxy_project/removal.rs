//! Deletes a ProxyProject's object in Harbor when its resource is deleted.

mod purge;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use self::purge::PurgeProgress;
use super::super::{
    EventMessage, FinalizeResult, ReconcileError, ReconcileResult, Reconcilers,
    connections::Connection,
    reconcile_context,
    registry_resolver::{PlannedRegistries, RegistryResolver},
    resync::ReadMode,
};
use crate::{
    api::{ConditionType, DeletionPolicy, ManagementPolicy, ProxyProject, ProxyProjectStatus, Reason, condition},
    harbor::{Error, Freshness, model},
    plan::{ownership_marker::Marker, project as plan},
};

/// Requeue time between two parts of a purge.
const GO_ON: Duration = Duration::from_secs(2);

/// Deletes a ProxyProject's object in Harbor for `deletionPolicy: Delete`, and also its repositories for `Purge`. Harbor
/// refuses to delete a project that contains repositories.
pub async fn finalize(
    kinds: &Reconcilers,
    project: &ProxyProject,
    now: Timestamp,
) -> FinalizeResult<ProxyProjectStatus> {
    let name = project.harbor_name();
    let words = match remove(kinds, project, now).await {
        Ok(Removal::Done(notes)) => return FinalizeResult::Done(notes),
        Ok(Removal::Purging(left)) => return purging(kinds, project, now, left),
        Ok(Removal::Kept(why)) => (Reason::NotEmpty, format!("project {name} in Harbor {why}")),
        Err(ReconcileError { reason: Reason::InUse, message, .. }) => (
            Reason::NotEmpty,
            format!(
                "project {name} in Harbor: {message}; delete its repositories there, or set spec.deletionPolicy: Purge to delete them with it"
            ),
        ),
        Err(failure) => (failure.reason, failure.message),
    };
    reconcile_context::blocked(kinds, project, now, words)
}

enum Removal {
    Done(Vec<EventMessage>),
    /// Number of repositories that are still to be deleted.
    Purging(usize),
    /// Harbor refuses to delete repositories, for this reason.
    Kept(String),
}

async fn remove(kinds: &Reconcilers, project: &ProxyProject, now: Timestamp) -> Result<Removal, ReconcileError> {
    if project.spec.management_policy == ManagementPolicy::ObserveOnly {
        return Ok(Removal::Done(Vec::new()));
    }
    let connection = kinds.connect(&project.spec.harbor_ref).await?;
    let client = &connection.client;
    let name = project.harbor_name();
    let Some(have) = client.project_named(name).await? else {
        return Ok(Removal::Done(Vec::new()));
    };
    let labels = client.project_labels(have.project_id).await?;
    let label = labels.iter().find(|label| label.name == plan::LABEL);
    let ours = match label {
        Some(label) => Marker::split(&label.description).1 == Some(kinds.installation.marker(project)),
        None => is_cut_short(kinds, &connection, project, &have, now).await,
    };
    if !ours {
        let message = format!("project {name} in Harbor has no marker of ours and was not modified");
        return Ok(Removal::Done(vec![EventMessage::warning(Reason::AdoptionRequired, message)]));
    }
    let purges = project.spec.deletion_policy == DeletionPolicy::Purge;
    if purges {
        let purge = PurgeProgress::of(client, name).await?;
        if purge.left > 0 {
            return Ok(Removal::Purging(purge.left));
        }
        if let Some(why) = purge.refusals() {
            return Ok(Removal::Kept(why));
        }
    }
    let deleted = client.delete_project(have.project_id).await;
    connection.view.wrote_project(name, Some(have.project_id));
    match deleted {
        // A client pulled an image meanwhile.
        Err(Error::Precondition { .. }) if purges => {
            return Ok(Removal::Purging(client.repositories(name).await?.len()));
        }
        result => result?,
    }
    Ok(Removal::Done(vec![EventMessage::done(Reason::Reconciled, format!("deleted project {name} in Harbor"))]))
}

/// Whether the project is one that we created but were interrupted before we marked it: empty, of a registry that is ours,
/// and newer than the resource.
async fn is_cut_short(
    kinds: &Reconcilers,
    Connection { view, .. }: &Connection,
    project: &ProxyProject,
    have: &model::Project,
    now: Timestamp,
) -> bool {
    let born = project.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let is_younger = born.zip(have.creation_time).is_some_and(|(born, made)| made >= born);
    if have.repo_count > 0 || !is_younger || kinds.yield_to_older(project).is_err() {
        return false;
    }
    let sight = ReadMode { now, freshness: Freshness::Asked(now) };
    let reference = RegistryResolver { kinds, view, ahead: &PlannedRegistries::new(), sight };
    let spec = &project.spec;
    let registry = reference.registry(&spec.registry_ref.name, &spec.harbor_ref, "ProxyProject").await;
    registry.is_ok_and(|(_, id)| have.registry_id == Some(id))
}

/// A purge that takes more than one reconcile is reported once; its progress is in the status.
fn purging(
    kinds: &Reconcilers,
    project: &ProxyProject,
    now: Timestamp,
    left: usize,
) -> FinalizeResult<ProxyProjectStatus> {
    let name = project.harbor_name();
    let message = format!("deleting the repositories of project {name} in Harbor: {left} left");
    match reconcile_context::blocked(kinds, project, now, (Reason::Progressing, message)) {
        FinalizeResult::Blocked(mut outcome) => {
            let before = project.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
            if condition::reason(before, ConditionType::DeletionBlocked) == Some(Reason::Progressing) {
                outcome.notes.clear();
            }
            FinalizeResult::Blocked(ReconcileResult { requeue: GO_ON, ..outcome })
        }
        done @ FinalizeResult::Done(_) => done,
    }
}
