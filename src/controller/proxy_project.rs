//! ProxyProject: observe → plan → apply → status, and the rule that the webhook follows.

mod purge;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::Timestamp;

use self::purge::Purge;
use super::{
    Directory, Finalized, Kinds, Note, Outcome,
    frame::{self, Frame},
    instances::{Connection, version},
    report::Failure,
    sight::Sight,
    upstream::{Ahead, Reference},
};
use crate::{
    api::{
        ConditionType, Conditions, CveAllowlist, DeletionPolicy, ManagementPolicy, ProxyProject, ProxyProjectStatus,
        Reason, Registry, RewriteRuleStatus, StorageLimit, condition,
    },
    harbor::{Error, Freshness, Seen, View, model},
    plan::{
        Action, Plan, Refusal,
        marker::Marker,
        project::{self as plan, Identity},
        retention,
    },
    rewrite::{Finding, conflicts, stated},
};

/// Brings a ProxyProject's object in Harbor to what its spec says.
pub async fn reconcile(kinds: &Kinds, project: &ProxyProject, now: Timestamp) -> Outcome<ProxyProjectStatus> {
    let mut frame = Frame::open(kinds, project, now);
    if frame.is_suspended() {
        frame.status.rewrite = None;
    } else {
        let mut result = bring(kinds, project, frame.sight, &mut frame.status, &mut frame.notes).await;
        if matches!(result, Err(Failure::Harbor(Error::Conflict { .. }))) {
            // Somebody was faster than what was read.
            result = bring(kinds, project, frame.sight.closer(), &mut frame.status, &mut frame.notes).await;
        }
        let rule = frame.status.rewrite.as_ref();
        let rule =
            rule.map_or_else(String::new, |rule| format!("; {} becomes {}", rule.matches.join(", "), rule.target));
        frame.settle(result.map(|()| format!("Harbor has this project as specified{rule}")));
    }
    tell_conflicts(kinds.directory.as_ref(), project, &frame.status, &mut frame.conditions);
    frame.close()
}

/// A purge that has come this far goes on after this long.
const GO_ON: Duration = Duration::from_secs(2);

/// Deletes a ProxyProject's object in Harbor, for `deletionPolicy: Delete`, and what is in it, for `Purge`. Harbor keeps a
/// project that holds repositories.
pub async fn finalize(kinds: &Kinds, project: &ProxyProject, now: Timestamp) -> Finalized<ProxyProjectStatus> {
    let name = project.harbor_name();
    let words = match remove(kinds, project, now).await {
        Ok(Removal::Done(notes)) => return Finalized::Done(notes),
        Ok(Removal::Purging(left)) => return purging(project, now, left),
        Ok(Removal::Kept(why)) => (Reason::NotEmpty, format!("project {name} in Harbor {why}")),
        Err(Failure::Harbor(Error::Precondition { message })) => (
            Reason::NotEmpty,
            format!(
                "project {name} in Harbor: {message}; delete its repositories there, or set spec.deletionPolicy: Purge to delete them with it"
            ),
        ),
        Err(failure) => failure.into_words(),
    };
    frame::blocked(project, now, words)
}

fn tell_conflicts(
    directory: &dyn Directory,
    project: &ProxyProject,
    status: &ProxyProjectStatus,
    conditions: &mut Conditions,
) {
    let all = directory.proxy_projects();
    let rule = status.rewrite.as_ref();
    let findings = rule.map_or(Vec::new(), |rule| conflicts(all.iter().map(AsRef::as_ref), project, rule));
    let Some(first) = findings.first() else {
        conditions.remove(ConditionType::RewriteConflict);
        return;
    };
    let reason = match first {
        Finding::AtHarbor { .. } => Reason::MatchAtHarbor,
        _ => Reason::MatchTaken,
    };
    let messages: Vec<String> = findings.iter().map(ToString::to_string).collect();
    conditions.set(ConditionType::RewriteConflict, true, reason, messages.join("; "));
}

async fn bring(
    kinds: &Kinds,
    project: &ProxyProject,
    sight: Sight,
    status: &mut ProxyProjectStatus,
    notes: &mut Vec<Note>,
) -> Result<(), Failure> {
    let connection = kinds.connect(&project.spec.harbor_ref).await?;
    let (view, name) = (&connection.view, project.harbor_name());
    if status.rewrite.is_some()
        && view.project(name, sight.freshness).await?.item.is_none()
        && view.project(name, sight.closer().freshness).await?.item.is_none()
    {
        // Nothing serves what the rule promises, until the project is there again.
        status.rewrite = None;
    }
    let trusted = status.id.filter(|_| status.drift.is_empty() && !was_refused(project));
    let ahead = Ahead::new();
    let mut look = look(kinds, &connection, project, &ahead, trusted, sight).await?;
    if sight.is_too_old(look.at) && !look.is_settled(status.id) {
        look = self::look(kinds, &connection, project, &ahead, trusted, sight.closer()).await?;
    }
    if look.plan.is_err() && status.id != look.id {
        // The project that served is gone, and another one has its name.
        status.rewrite = None;
    }
    let plan = look.plan?;
    let difference = plan.difference(object(project));
    if project.spec.management_policy == ManagementPolicy::ObserveOnly {
        status.id = look.id;
        status.drift = difference.lines();
        status.rewrite = look.id.map(|_| look.rule);
        return Ok(());
    }
    status.drift.clear();
    let mut created = look.id;
    for step in &plan.steps {
        let applied = apply(&connection, step, created).await;
        view.wrote_project(name, created);
        created = applied?;
        // What was created is told of, even if it cannot be marked.
        if matches!(step, plan::Step::Create(_)) {
            notes.push(Note::done(Reason::Reconciled, difference.done()));
        }
    }
    if matches!(plan.action, Action::Adopt | Action::Change) {
        notes.push(Note::done(Reason::Reconciled, difference.done()));
    }
    status.id = created;
    status.rewrite = Some(look.rule);
    Ok(())
}

/// Whether the project in Harbor was another's when it was last looked at.
fn was_refused(project: &ProxyProject) -> bool {
    let conditions = project.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
    let refused = [Reason::NameConflict, Reason::AdoptionRequired].map(|reason| reason.to_string());
    condition::find(conditions, ConditionType::Ready).is_some_and(|ready| refused.contains(&ready.reason))
}

/// A ProxyProject and Harbor, compared.
pub(super) struct Look {
    /// Harbor's id, ours or not.
    pub(super) id: Option<i64>,
    /// When Harbor was asked.
    at: Timestamp,
    /// What is to be done, or why not.
    pub(super) plan: Result<Plan<plan::Step>, Refusal>,
    /// What it promises once it serves.
    rule: RewriteRuleStatus,
}

impl Look {
    /// Whether nothing is to be done; or nothing but to create what nobody remembers, of which Harbor takes only one.
    fn is_settled(&self, remembered: Option<i64>) -> bool {
        match self.plan.as_ref().map(|plan| plan.action) {
            Ok(Action::Nothing) => true,
            Ok(Action::Create) => remembered.is_none(),
            _ => false,
        }
    }
}

/// What the ProxyProject is called in Harbor.
pub(super) fn object(project: &ProxyProject) -> String {
    format!("proxy project {}", project.harbor_name())
}

/// Compares; nothing is written. Whose project it is is asked for unless it has the id `trusted` and nothing is to do.
pub(super) async fn look(
    kinds: &Kinds,
    connection: &Connection,
    project: &ProxyProject,
    ahead: &Ahead,
    trusted: Option<i64>,
    sight: Sight,
) -> Result<Look, Failure> {
    kinds.yield_to_older(project)?;
    let spec = &project.spec;
    let Seen { item: have, at } = connection.view.project(project.harbor_name(), sight.freshness).await?;
    let have = have.map(|project| project.as_ref().clone());
    let reference = Reference { kinds, view: &connection.view, ahead, sight };
    let (registry, registry_id) = reference.registry(&spec.registry_ref.name, &spec.harbor_ref, "ProxyProject").await?;
    let desired = plan::Desired {
        name: project.harbor_name().to_owned(),
        registry_id,
        metadata: metadata(project),
        storage_limit: spec.storage_limit.as_ref().map(StorageLimit::bytes),
        cve_allowlist: spec.cve_allowlist.as_ref().filter(|list| !list.system).map(allowlist),
        retention: spec.retention.as_ref().map(|spec| retention::desired(spec, sight.now)).transpose()?,
        marker: kinds.installation.marker(project),
        adoption: spec.adoption,
    };
    let rule = rule(project, &registry, connection)?;
    let id = have.as_ref().map(|project| project.project_id);
    let mut observed = plan::Observed { project: have, ..plan::Observed::default() };
    if desired.needs_version() {
        observed.version = version(kinds.directory.as_ref(), &spec.harbor_ref.name, &connection.client).await?;
    }
    if let Some(id) = id {
        look_beyond(&connection.view, &desired, id, sight.freshness, &mut observed).await?;
    }
    let mut plan = plan::plan(&desired, &observed);
    if let Some(id) = id
        && (trusted != Some(id) || plan.as_ref().is_ok_and(|plan| !plan.is_done()))
    {
        let label = connection.client.project_labels(id).await?.into_iter().find(|label| label.name == plan::LABEL);
        let found = label.as_ref().and_then(|label| Marker::split(&label.description).1);
        observed.other = kinds.other(project, found.as_ref());
        observed.identity = Identity::Read { label };
        plan = plan::plan(&desired, &observed);
    }
    Ok(Look { id, at, plan, rule })
}

/// Reads what the list of projects does not show, as far as it is managed.
async fn look_beyond(
    view: &View,
    desired: &plan::Desired,
    project_id: i64,
    freshness: Freshness,
    observed: &mut plan::Observed,
) -> Result<(), Error> {
    if desired.storage_limit.is_some() {
        observed.quota = view.quota(project_id, freshness).await?.item.map(|quota| quota.as_ref().clone());
    }
    if desired.retention.is_some()
        && let Some(id) = observed.project.as_ref().and_then(retention::id_of)
    {
        observed.retention = Some(view.retention(id, freshness).await?.as_ref().clone());
    }
    Ok(())
}

fn metadata(project: &ProxyProject) -> BTreeMap<&'static str, String> {
    let spec = &project.spec;
    let guard = spec.vulnerabilities.as_ref();
    let managed = [
        ("public", spec.public.map(|value| value.to_string())),
        ("proxy_speed_kb", spec.proxy_speed_kb.map(|value| value.to_string())),
        ("max_upstream_conn", spec.max_upstream_connections.map(|value| value.to_string())),
        ("proxy_cache_local_on_not_found", spec.serve_removed.map(|value| value.to_string())),
        ("prevent_vul", guard.map(|guard| guard.prevent.to_string())),
        ("severity", guard.and_then(|guard| guard.severity).map(|severity| severity.as_str().to_owned())),
        ("auto_scan", guard.map(|guard| guard.auto_scan.to_string())),
        ("auto_sbom_generation", spec.auto_sbom.map(|value| value.to_string())),
        ("reuse_sys_cve_allowlist", spec.cve_allowlist.as_ref().map(|list| list.system.to_string())),
    ];
    managed.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn allowlist(list: &CveAllowlist) -> model::CveAllowlist {
    model::CveAllowlist {
        items: list.items.iter().map(|id| model::CveItem { cve_id: id.clone() }).collect(),
        expires_at: list.expires_at.as_ref().map(|time| time.0.as_second()),
    }
}

fn rule(project: &ProxyProject, registry: &Registry, connection: &Connection) -> Result<RewriteRuleStatus, Refusal> {
    stated(project, registry, &connection.pull_host)
        .map_err(|error| Refusal { reason: Reason::InvalidSpec, message: error.to_string() })
}

async fn apply(connection: &Connection, step: &plan::Step, project: Option<i64>) -> Result<Option<i64>, Error> {
    let client = &connection.client;
    match step {
        plan::Step::Create(new) => return client.create_project(new).await.map(Some),
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
    Ok(project)
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

enum Removal {
    Done(Vec<Note>),
    /// So many repositories are left to be deleted.
    Purging(usize),
    /// Harbor keeps repositories, and why.
    Kept(String),
}

async fn remove(kinds: &Kinds, project: &ProxyProject, now: Timestamp) -> Result<Removal, Failure> {
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
        let message = format!("project {name} in Harbor is not marked as ours and was left alone");
        return Ok(Removal::Done(vec![Note::warning(Reason::AdoptionRequired, message)]));
    }
    let purges = project.spec.deletion_policy == DeletionPolicy::Purge;
    if purges {
        let purge = Purge::of(client, name).await?;
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
        // Somebody pulled an image meanwhile.
        Err(Error::Precondition { .. }) if purges => {
            return Ok(Removal::Purging(client.repositories(name).await?.len()));
        }
        result => result?,
    }
    Ok(Removal::Done(vec![Note::done(Reason::Reconciled, format!("deleted project {name} in Harbor"))]))
}

/// Whether it is a creation of ours that was cut short before it was marked: empty, of a registry that is ours, and made after
/// the resource was.
async fn is_cut_short(
    kinds: &Kinds,
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
    let sight = Sight { now, freshness: Freshness::Asked(now) };
    let reference = Reference { kinds, view, ahead: &Ahead::new(), sight };
    let spec = &project.spec;
    let registry = reference.registry(&spec.registry_ref.name, &spec.harbor_ref, "ProxyProject").await;
    registry.is_ok_and(|(_, id)| have.registry_id == Some(id))
}

/// A purge that takes more than one look is told of once, and how far it has come stands in status.
fn purging(project: &ProxyProject, now: Timestamp, left: usize) -> Finalized<ProxyProjectStatus> {
    let name = project.harbor_name();
    let message = format!("deleting the repositories of project {name} in Harbor: {left} are left");
    match frame::blocked(project, now, (Reason::Progressing, message)) {
        Finalized::Blocked(mut outcome) => {
            let before = project.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
            let told = condition::find(before, ConditionType::DeletionBlocked);
            if told.is_some_and(|told| told.reason == Reason::Progressing.to_string()) {
                outcome.notes.clear();
            }
            Finalized::Blocked(Outcome { requeue: GO_ON, ..outcome })
        }
        done @ Finalized::Done(_) => done,
    }
}
