//! Proxy-cache projects: their metadata is strings, merged key by key and hardly validated; their marker is a project label.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, Drift, Plan, Refusal, TO_BE_CREATED, ownership_marker,
    ownership_marker::{Marker, OtherOwner},
    retention, version,
};
use crate::{
    api::{AdoptionPolicy, OwnedObject, Reason, StorageLimit},
    harbor::model,
};

/// Name of the project label whose description holds the marker: Harbor has no other field for it on a project.
pub const LABEL: &str = "harbor-pilot";

/// The desired state of a ProxyProject resource.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Name in Harbor.
    pub name: String,
    /// Harbor's ID of the proxied registry.
    pub registry_id: i64,
    /// The managed metadata; other keys are not modified.
    pub metadata: BTreeMap<&'static str, String>,
    /// Bytes, or [`StorageLimit::UNLIMITED`]; `None` keeps the current limit.
    pub storage_limit: Option<i64>,
    /// In any order; `None` keeps the current list.
    pub cve_allowlist: Option<model::CveAllowlist>,
    /// `None` keeps the current policy.
    pub retention: Option<retention::Desired>,
    /// Our marker.
    pub marker: Marker,
    /// Whether to adopt an unmarked project of this name.
    pub adoption: AdoptionPolicy,
}

impl Desired {
    /// Returns whether the spec uses fields that older Harbors do not have.
    pub fn needs_version(&self) -> bool {
        self.asked().next().is_some()
    }

    fn asked(&self) -> impl Iterator<Item = &'static version::RequiredVersion> {
        version::METADATA.iter().filter(|since| self.metadata.contains_key(since.key))
    }
}

/// The observed state for the plan.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The project of the desired name.
    pub project: Option<model::Project>,
    /// Its marker.
    pub identity: Identity,
    /// Harbor's version, read when it matters. `None`: unknown.
    pub version: Option<String>,
    /// Its quota, read when the limit is managed. `None`: Harbor has no quotas.
    pub quota: Option<model::Quota>,
    /// Its retention policy, read when it is managed.
    pub retention: Option<model::RetentionPolicy>,
    /// The state of the resource that the marker names, if it is another one of ours.
    pub other: OtherOwner,
    /// The project that was ours at the last reconcile, from status.
    pub owned: Option<OwnedObject>,
}

/// The known marker of a project. Labels can be listed only one project at a time, so they are read only when needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Identity {
    /// Status has this exact ID: enough to see that there is nothing to do, not enough to write.
    #[default]
    Remembered,
    /// The labels were read.
    Read {
        /// The label with our name, if there is one.
        label: Option<model::Label>,
    },
}

/// A request to Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// POST /projects.
    Create(model::NewProject),
    /// POST /labels on the project of this ID, or on the project that was just created.
    Mark(Option<i64>, String),
    /// PUT /labels/{id}.
    Remark(i64, model::Label),
    /// PUT /projects/{id}, or of the project that was just created.
    Update(Option<i64>, model::ProjectUpdate),
    /// PUT /quotas/{id} with the limit in bytes.
    Limit(i64, i64),
    /// The retention of an existing project.
    Retention(retention::Step),
    /// The retention of the project that was just created: its step is known only after Harbor has created its own policy.
    RetentionOfCreated(retention::Desired),
}

/// Plans the steps from `observed` to `desired`. Apply a plan with steps for an existing project only if it was computed from
/// [`Identity::Read`].
///
/// # Errors
/// A [`Refusal`] when the project is not ours, proxies another registry, or Harbor would not accept the spec.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Plan<Step>, Refusal> {
    version::check(desired.asked(), observed.version.as_deref())?;
    check_limit(desired)?;
    let Some(have) = &observed.project else {
        return Ok(Plan { action: Action::Create, steps: creation(desired), drift: Vec::new() });
    };
    let (mut steps, mut drift) = (Vec::new(), Vec::new());
    let mut adopts = false;
    if let Identity::Read { label } = &observed.identity {
        let found = label.as_ref().and_then(|label| Marker::split(&label.description).1);
        // An empty project without a marker on our registry is our own creation that was interrupted.
        let unfinished = label.is_none() && have.repo_count == 0 && have.registry_id == Some(desired.registry_id);
        // Its ID, name and registry are those of our project: a user removed the marker.
        let restored = found.is_none()
            && observed.owned.as_ref().is_some_and(|owned| owned.is(have.project_id, have.creation_time))
            && have.registry_id == Some(desired.registry_id);
        let adoption = if unfinished || restored { AdoptionPolicy::IfExists } else { desired.adoption };
        let object = format!("project {}", have.name);
        ownership_marker::may_write(&desired.marker, found.as_ref(), observed.other, adoption, &object)?;
        let is_ours = found.as_ref() == Some(&desired.marker);
        if !is_ours {
            adopts = !restored && (found.is_some() || desired.adoption == AdoptionPolicy::IfExists);
            drift.push(Drift {
                field: format!("label {LABEL}"),
                have: label.as_ref().map(|label| label.description.clone()).unwrap_or_default(),
                want: desired.marker.to_string(),
            });
        }
        match label {
            None => steps.push(Step::Mark(Some(have.project_id), desired.marker.to_string())),
            Some(label) if !is_ours => {
                let description = desired.marker.to_string();
                steps.push(Step::Remark(label.id, model::Label { description, ..label.clone() }));
            }
            Some(_) => {}
        }
    }
    if have.registry_id != Some(desired.registry_id) {
        let proxied = have.registry_id.map_or("no registry".to_owned(), |id| format!("registry {id}"));
        let wanted = match desired.registry_id {
            TO_BE_CREATED => "the registry to be created".to_owned(),
            id => format!("registry {id}"),
        };
        return Err(Refusal {
            reason: Reason::Immutable,
            message: format!(
                "project {} in Harbor proxies {proxied}, not {wanted}, and Harbor cannot change that; choose another spec.name",
                have.name
            ),
        });
    }
    let mut changes = BTreeMap::new();
    for (key, want) in &desired.metadata {
        let value = have.metadata.get(*key).map_or("", String::as_str);
        if value != want {
            drift.push(Drift { field: (*key).to_owned(), have: value.to_owned(), want: want.clone() });
            changes.insert((*key).to_owned(), want.clone());
        }
    }
    let cve_allowlist = allowlist(desired, &have.cve_allowlist, &mut drift);
    let update = model::ProjectUpdate { metadata: changes, cve_allowlist };
    if update != model::ProjectUpdate::default() {
        steps.push(Step::Update(Some(have.project_id), update));
    }
    steps.extend(limit(desired, observed, &have.name, &mut drift)?);
    if let Some(want) = &desired.retention {
        let step = retention::step(want, have, observed.retention.as_ref(), &mut drift);
        steps.extend(step.map(Step::Retention));
    }
    let action = match steps.is_empty() {
        true => Action::Nothing,
        false if adopts => Action::Adopt,
        false => Action::Change,
    };
    Ok(Plan { action, steps, drift })
}

/// Returns the state of Harbor after this request, except the retention policy that it creates for the project.
pub fn stored(new: &model::NewProject, id: i64) -> model::Project {
    model::Project {
        project_id: id,
        name: new.project_name.clone(),
        registry_id: Some(new.registry_id),
        metadata: new.metadata.clone(),
        ..model::Project::default()
    }
}

fn check_limit(desired: &Desired) -> Result<(), Refusal> {
    let takes = |limit| limit == StorageLimit::UNLIMITED || (1..=StorageLimit::MOST).contains(&limit);
    if desired.storage_limit.is_none_or(takes) {
        return Ok(());
    }
    Err(Refusal {
        reason: Reason::InvalidSpec,
        message: "spec.storageLimit must be 1 byte to 1024Ti, or -1 for no limit".to_owned(),
    })
}

fn creation(desired: &Desired) -> Vec<Step> {
    let mut steps = vec![create(desired), Step::Mark(None, desired.marker.to_string())];
    // POST ignores the list, with 201.
    if let Some(list) = allowlist(desired, &model::CveAllowlist::default(), &mut Vec::new()) {
        let update = model::ProjectUpdate { cve_allowlist: Some(list), ..model::ProjectUpdate::default() };
        steps.push(Step::Update(None, update));
    }
    // Harbor creates a policy for a proxy project itself, and its ID is known only then.
    steps.extend(desired.retention.clone().map(Step::RetentionOfCreated));
    steps
}

fn create(desired: &Desired) -> Step {
    let mut metadata: BTreeMap<String, String> =
        desired.metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    metadata.entry("public".to_owned()).or_insert_with(|| "false".to_owned());
    Step::Create(model::NewProject {
        project_name: desired.name.clone(),
        registry_id: desired.registry_id,
        metadata,
        storage_limit: desired.storage_limit,
    })
}

/// Returns the list to send, if Harbor's list differs: sorted, and each vulnerability once.
fn allowlist(desired: &Desired, have: &model::CveAllowlist, drift: &mut Vec<Drift>) -> Option<model::CveAllowlist> {
    let ordered = |list: &model::CveAllowlist| {
        let items: BTreeSet<_> = list.items.iter().cloned().collect();
        model::CveAllowlist { items: items.into_iter().collect(), expires_at: list.expires_at }
    };
    let (want, have) = (ordered(desired.cve_allowlist.as_ref()?), ordered(have));
    if want == have {
        return None;
    }
    drift.push(Drift { field: "cve_allowlist".to_owned(), have: listed(&have), want: listed(&want) });
    Some(want)
}

fn listed(list: &model::CveAllowlist) -> String {
    let items: Vec<&str> = list.items.iter().map(|item| item.cve_id.as_str()).collect();
    let until = list.expires_at.map_or_else(String::new, |seconds| format!(" until second {seconds}"));
    format!("{}{until}", items.join(","))
}

/// PUT of a project ignores its limit, with 200: the limit of the quota has to change.
fn limit(desired: &Desired, observed: &Observed, name: &str, drift: &mut Vec<Drift>) -> Result<Option<Step>, Refusal> {
    let Some(want) = desired.storage_limit else { return Ok(None) };
    let Some(quota) = &observed.quota else {
        if want == StorageLimit::UNLIMITED {
            return Ok(None);
        }
        return Err(Refusal {
            reason: Reason::InvalidSpec,
            message: format!(
                "Harbor has no quota for project {name}: set quota_per_project_enable in its configuration, or remove spec.storageLimit"
            ),
        });
    };
    if quota.hard.storage == want {
        return Ok(None);
    }
    drift.push(Drift {
        field: "storage_limit".to_owned(),
        have: quota.hard.storage.to_string(),
        want: want.to_string(),
    });
    Ok(Some(Step::Limit(quota.id, want)))
}

#[cfg(test)]
mod tests;
