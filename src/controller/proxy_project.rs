//! ProxyProject: observe → plan → apply → status, and the rewrite rule that the webhook follows.

mod apply;
mod removal;

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

pub use self::removal::finalize;

use self::apply::apply;
use super::{
    EventMessage, ReconcileError, ReconcileResult, Reconcilers, ResourceStore,
    connections::{Connection, version},
    reconcile_context::ReconcileContext,
    registry_resolver::{PlannedRegistries, RegistryResolver},
    resync::{ReadMode, disowns, is_settled},
};
use crate::{
    api::{
        ConditionType, Conditions, CveAllowlist, ManagementPolicy, OwnedObject, ProxyProject, ProxyProjectStatus,
        Reason, Registry, RewriteRuleStatus, StorageLimit, condition,
    },
    harbor::{Cached, Error, Freshness, HarborCache, model},
    plan::{
        Action, Plan, Refusal,
        ownership_marker::Marker,
        project::{self as plan, Identity},
        retention,
    },
    rewrite::{RuleWarning, conflicts, desired_rule},
};

/// Reconciles a ProxyProject's object in Harbor with its spec.
pub async fn reconcile(
    kinds: &Reconcilers,
    project: &ProxyProject,
    now: Timestamp,
) -> ReconcileResult<ProxyProjectStatus> {
    let mut frame = ReconcileContext::open(kinds, project, now);
    if frame.is_suspended() {
        frame.status.rewrite = None;
    } else {
        let mut result = ensure(kinds, project, frame.sight, &mut frame.status, &mut frame.notes).await;
        if result.as_ref().is_err_and(ReconcileError::is_conflict) {
            // Another client changed Harbor after the read: read again and retry.
            result = ensure(kinds, project, frame.sight.uncached(), &mut frame.status, &mut frame.notes).await;
        }
        let rule = frame.status.rewrite.as_ref();
        let rule =
            rule.map_or_else(String::new, |rule| format!("; {} becomes {}", rule.matches.join(", "), rule.target));
        frame.conclude(result.map(|()| format!("the project in Harbor matches the spec{rule}")));
    }
    set_conflicts(kinds.directory.as_ref(), project, &frame.status, &mut frame.conditions);
    frame.close()
}

fn set_conflicts(
    directory: &dyn ResourceStore,
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
        RuleWarning::AtHarbor { .. } => Reason::MatchIsHarborHost,
        _ => Reason::MatchConflict,
    };
    let messages: Vec<String> = findings.iter().map(ToString::to_string).collect();
    conditions.set(ConditionType::RewriteConflict, true, reason, messages.join("; "));
}

async fn ensure(
    kinds: &Reconcilers,
    project: &ProxyProject,
    sight: ReadMode,
    status: &mut ProxyProjectStatus,
    notes: &mut Vec<EventMessage>,
) -> Result<(), ReconcileError> {
    let connection = kinds.connect(&project.spec.harbor_ref).await?;
    let (view, name) = (&connection.view, project.harbor_name());
    if status.rewrite.is_some()
        && view.project(name, sight.freshness).await?.item.is_none()
        && view.project(name, sight.uncached().freshness).await?.item.is_none()
    {
        // The rule has no target until the project exists again.
        status.rewrite = None;
    }
    let trusted = status.id.filter(|_| status.drift.is_empty() && !was_refused(project));
    let ahead = PlannedRegistries::new();
    let mut look = compare(kinds, &connection, project, &ahead, trusted, sight).await?;
    if sight.is_too_old(look.at) && !is_settled(&look.plan, status.id) {
        look = compare(kinds, &connection, project, &ahead, trusted, sight.uncached()).await?;
    }
    if look.plan.is_err() && status.id != look.id {
        // The project that the rule targets is gone, and another project has its name.
        status.rewrite = None;
    }
    if disowns(&look.plan) || look.id.is_none() {
        status.owned = None;
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
        created = apply(&connection, name, step, created).await?;
        // The creation is reported even if the mark fails afterwards.
        if matches!(step, plan::Step::Create(_)) {
            notes.push(EventMessage::done(Reason::Reconciled, difference.done()));
        }
    }
    if matches!(plan.action, Action::Adopt | Action::Change) {
        notes.push(EventMessage::done(Reason::Reconciled, difference.done()));
    }
    status.id = created;
    OwnedObject::remember(&mut status.owned, created, sight.now);
    status.rewrite = Some(look.rule);
    Ok(())
}

/// Whether the last reconcile found that the project in Harbor belongs to another owner.
fn was_refused(project: &ProxyProject) -> bool {
    let conditions = project.status.as_ref().map_or(&[][..], |status| status.conditions.as_slice());
    let reason = condition::reason(conditions, ConditionType::Ready);
    matches!(reason, Some(Reason::NameConflict | Reason::AdoptionRequired))
}

/// Result of comparing a ProxyProject with Harbor.
pub(super) struct Comparison {
    /// Harbor's id, whether or not the project is ours.
    pub(super) id: Option<i64>,
    /// When Harbor was read.
    at: Timestamp,
    /// The steps to take, or why there are none.
    pub(super) plan: Result<Plan<plan::Step>, Refusal>,
    /// The rewrite rule, once the project serves.
    rule: RewriteRuleStatus,
}

/// The ProxyProject's object in Harbor, for messages.
pub(super) fn object(project: &ProxyProject) -> String {
    format!("proxy project {}", project.harbor_name())
}

/// Compares without writing. Checks the owner of the project, unless it has the id `trusted` and there is nothing to do.
pub(super) async fn compare(
    kinds: &Reconcilers,
    connection: &Connection,
    project: &ProxyProject,
    ahead: &PlannedRegistries,
    trusted: Option<i64>,
    sight: ReadMode,
) -> Result<Comparison, ReconcileError> {
    kinds.yield_to_older(project)?;
    let spec = &project.spec;
    let Cached { item: have, at } = connection.view.project(project.harbor_name(), sight.freshness).await?;
    let have = have.map(|project| project.as_ref().clone());
    let reference = RegistryResolver { kinds, view: &connection.view, ahead, sight };
    let (registry, registry_id) = reference.registry(&spec.registry_ref.name, &spec.harbor_ref, "ProxyProject").await?;
    let desired = plan::Desired {
        name: project.harbor_name().to_owned(),
        registry_id,
        metadata: metadata(project),
        storage_limit: spec.storage_limit.as_ref().map(StorageLimit::bytes),
        cve_allowlist: spec.cve_allowlist.as_ref().filter(|list| !list.system).map(allowlist),
        retention: spec.retention.as_ref().map(|spec| retention::desired(spec, sight.now)).transpose()?,
        marker: kinds.installation.marker(project),
        adoption: spec.adoption_policy,
    };
    let rule = rule(project, &registry, connection)?;
    let id = have.as_ref().map(|project| project.project_id);
    let owned = project.status.as_ref().and_then(|status| status.owned.clone());
    let mut observed = plan::Observed { project: have, owned, ..plan::Observed::default() };
    if desired.needs_version() {
        observed.version = version(kinds.directory.as_ref(), &spec.harbor_ref.name, &connection.client).await?;
    }
    if let Some(id) = id {
        compare_unlisted(&connection.view, &desired, id, sight.freshness, &mut observed).await?;
    }
    let mut plan = plan::plan(&desired, &observed);
    if let Some(id) = id
        && (trusted != Some(id)
            || plan.as_ref().is_ok_and(|plan| !plan.is_done())
            || connection.view.labels_are_due(id, sight.freshness))
    {
        let label = connection.client.project_labels(id).await?.into_iter().find(|label| label.name == plan::LABEL);
        let found = label.as_ref().and_then(|label| Marker::split(&label.description).1);
        observed.other = kinds.other(project, found.as_ref());
        observed.identity = Identity::Read { label };
        plan = plan::plan(&desired, &observed);
    }
    Ok(Comparison { id, at, plan, rule })
}

/// Reads the managed settings that the list of projects does not contain.
async fn compare_unlisted(
    view: &HarborCache,
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
    desired_rule(project, registry, &connection.pull_host)
        .map_err(|error| Refusal { reason: Reason::InvalidSpec, message: error.to_string() })
}
