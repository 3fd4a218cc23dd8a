//! Proxy-cache projects: metadata is strings, merged key by key and hardly checked; the marker is a label of the project.

use std::collections::BTreeMap;

use super::{Action, Drift, Plan, Refusal, TO_BE_CREATED, marker, marker::Marker};
use crate::{
    api::{Adoption, Reason},
    harbor::model,
};

/// Name of the project label that holds the marker in its description: Harbor has no other room for it on a project.
pub const LABEL: &str = "harbor-pilot";

/// What a ProxyProject resource asks for.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Name in Harbor.
    pub name: String,
    /// Harbor's id of the registry to proxy.
    pub registry_id: i64,
    /// The metadata that is managed; other keys are left alone.
    pub metadata: BTreeMap<&'static str, String>,
    /// Ours.
    pub marker: Marker,
    /// What to do with an unmarked project of this name.
    pub adoption: Adoption,
}

/// What is known before the plan is made.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The project of the desired name.
    pub project: Option<model::Project>,
    /// Its marker.
    pub identity: Identity,
}

/// What is known of a project's marker. Labels can only be listed one project at a time, so they are read when it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Identity {
    /// Status remembers this very id: enough to see that nothing is to do, not enough to write.
    #[default]
    Remembered,
    /// The labels were read.
    Read {
        /// The label of our name, if there is one.
        label: Option<model::Label>,
    },
}

/// A request to Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// POST /projects.
    Create(model::NewProject),
    /// POST /labels on the project that has this id, or on the one that was just created.
    Mark(Option<i64>, String),
    /// PUT /labels/{id}.
    Remark(i64, model::Label),
    /// PUT /projects/{id}.
    Update(i64, model::ProjectUpdate),
}

/// Plans the way from `observed` to `desired`. A plan with steps for an existing project is to be applied only when it was
/// made from [`Identity::Read`].
///
/// # Errors
/// A [`Refusal`] when the project is not ours or proxies another registry.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Plan<Step>, Refusal> {
    let Some(have) = &observed.project else {
        return Ok(Plan {
            action: Action::Create,
            steps: vec![create(desired), Step::Mark(None, desired.marker.to_string())],
            drift: Vec::new(),
        });
    };
    let (mut steps, mut drift) = (Vec::new(), Vec::new());
    let mut adopts = false;
    if let Identity::Read { label } = &observed.identity {
        let found = label.as_ref().and_then(|label| Marker::split(&label.description).1);
        // An empty project without a marker on the registry that is ours is a creation of ours that was cut short.
        let unfinished = label.is_none() && have.repo_count == 0 && have.registry_id == Some(desired.registry_id);
        let adoption = if unfinished { Adoption::IfExists } else { desired.adoption };
        marker::may_write(&desired.marker, found.as_ref(), adoption, &format!("project {}", have.name))?;
        if found.is_none() {
            adopts = desired.adoption == Adoption::IfExists;
            drift.push(Drift {
                field: format!("label {LABEL}"),
                have: label.as_ref().map(|label| label.description.clone()).unwrap_or_default(),
                want: desired.marker.to_string(),
            });
        }
        match label {
            None => steps.push(Step::Mark(Some(have.project_id), desired.marker.to_string())),
            Some(label) if found.is_none() => {
                let description = desired.marker.to_string();
                steps.push(Step::Remark(label.id, model::Label { description, ..label.clone() }));
            }
            Some(_) => {}
        }
    }
    if have.registry_id != Some(desired.registry_id) {
        let proxied = have.registry_id.map_or("no registry".to_owned(), |id| format!("registry {id}"));
        let wanted = match desired.registry_id {
            TO_BE_CREATED => "the registry that is to be created".to_owned(),
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
    if !changes.is_empty() {
        steps.push(Step::Update(have.project_id, model::ProjectUpdate { metadata: changes }));
    }
    let action = match steps.is_empty() {
        true => Action::Nothing,
        false if adopts => Action::Adopt,
        false => Action::Change,
    };
    Ok(Plan { action, steps, drift })
}

fn create(desired: &Desired) -> Step {
    let mut metadata: BTreeMap<String, String> =
        desired.metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    metadata.entry("public".to_owned()).or_insert_with(|| "false".to_owned());
    Step::Create(model::NewProject { project_name: desired.name.clone(), registry_id: desired.registry_id, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker { installation: "i".to_owned(), kind: "ProxyProject".to_owned(), name: "dockerhub".to_owned() }
    }

    fn desired() -> Desired {
        Desired {
            name: "dockerhub".to_owned(),
            registry_id: 3,
            metadata: BTreeMap::from([("public", "true".to_owned()), ("proxy_speed_kb", "-1".to_owned())]),
            marker: marker(),
            adoption: Adoption::Never,
        }
    }

    fn stored() -> model::Project {
        let metadata = [("public", "true"), ("proxy_speed_kb", "-1"), ("retention_id", "1"), ("auto_scan", "true")];
        model::Project {
            project_id: 9,
            name: "dockerhub".to_owned(),
            registry_id: Some(3),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            repo_count: 5,
        }
    }

    fn ours() -> Identity {
        Identity::Read {
            label: Some(model::Label { id: 1, description: marker().to_string(), ..model::Label::default() }),
        }
    }

    #[test]
    fn a_project_as_specified_is_left_alone_and_unmanaged_keys_do_not_matter() {
        for identity in [Identity::Remembered, ours()] {
            let plan = plan(&desired(), &Observed { project: Some(stored()), identity }).unwrap();
            assert!(plan.is_done(), "{plan:?}");
        }
    }

    #[test]
    fn a_missing_project_is_created_and_then_marked() {
        let plan = plan(&desired(), &Observed::default()).unwrap();
        assert!(
            matches!(plan.steps.as_slice(), [Step::Create(_), Step::Mark(None, text)] if text.contains("dockerhub"))
        );
    }

    #[test]
    fn only_the_keys_that_differ_are_sent() {
        let mut project = stored();
        project.metadata.insert("proxy_speed_kb".to_owned(), "bad".to_owned());
        let plan = plan(&desired(), &Observed { project: Some(project), identity: ours() }).unwrap();
        let [Step::Update(9, update)] = plan.steps.as_slice() else { panic!("{plan:?}") };
        assert_eq!(update.metadata, BTreeMap::from([("proxy_speed_kb".to_owned(), "-1".to_owned())]));
        assert_eq!(plan.drift[0].to_string(), "proxy_speed_kb: bad instead of -1");
    }

    #[test]
    fn a_creation_that_was_cut_short_is_taken_up_and_a_stranger_is_not() {
        let unmarked = Identity::Read { label: None };
        let empty = model::Project { repo_count: 0, ..stored() };
        let resumed = plan(&desired(), &Observed { project: Some(empty), identity: unmarked.clone() }).unwrap();
        assert!(matches!(resumed.steps.as_slice(), [Step::Mark(Some(9), _)]), "{resumed:?}");
        let refusal = plan(&desired(), &Observed { project: Some(stored()), identity: unmarked }).unwrap_err();
        assert_eq!(refusal.reason, Reason::AdoptionRequired);
    }

    #[test]
    fn a_project_on_another_registry_is_refused_since_harbor_would_ignore_the_change() {
        let other = model::Project { registry_id: Some(4), ..stored() };
        let refusal = plan(&desired(), &Observed { project: Some(other), identity: ours() }).unwrap_err();
        assert_eq!(refusal.reason, Reason::Immutable);
    }
}
