//! `/projects/*/immutabletagrules`: tags that cannot be deleted.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Core,
    http::{Ask, Fault, Outcome, created, empty, id},
    page::page,
    replication::glob,
    state::State,
};

impl Core {
    pub(crate) fn list_immutable(&self, ask: &Ask, project: &str) -> Outcome {
        let project = self.project(ask, project, "immutable-tag", "list")?;
        let state = self.state.lock();
        let of_project = state.immutable.iter().filter(|(_, (of, _))| *of == project.id);
        let rules = of_project.map(|(id, (_, rule))| {
            let mut rule = rule.clone();
            rule["id"] = json!(id);
            rule
        });
        page(ask, &rules.collect::<Vec<_>>())
    }

    pub(crate) fn create_immutable(&self, ask: &Ask, text: &str) -> Outcome {
        let project = self.project(ask, text, "immutable-tag", "create")?;
        let mut rule: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
        if let Some(rule) = rule.as_object_mut() {
            rule.retain(|key, value| key != "id" && *value != json!(false));
        }
        let mut state = self.state.lock();
        let new = state.next("immutable");
        if state.immutable.values().any(|(of, other)| *of == project.id && *other == rule) {
            return Err(Fault::conflict("immutable rule already exists"));
        }
        state.immutable.insert(new, (project.id, rule));
        Ok(created(&format!("/api/v2.0/projects/{text}/immutabletagrules/{new}")))
    }

    pub(crate) fn delete_immutable(&self, ask: &Ask, project: &str, rule: &str) -> Outcome {
        self.project(ask, project, "immutable-tag", "delete")?;
        match self.state.lock().immutable.remove(&id(rule)?) {
            Some(_) => Ok(empty(StatusCode::OK)),
            None => Err(Fault::not_found(format!("immutable rule {rule} not found"))),
        }
    }
}

impl State {
    /// Whether this tag of a repository may go.
    pub(crate) fn may_lose(&self, repository: &str, tag: &str) -> Result<(), Fault> {
        let (project, within) = repository.split_once('/').unwrap_or_default();
        let project = self.project_named(project).map(|project| project.id);
        let covers = |selector: &Value, text: &str| {
            let matches = glob::matches(selector["pattern"].as_str().unwrap_or_default(), text).unwrap_or_default();
            let excludes = selector["decoration"].as_str().is_some_and(|decoration| decoration.ends_with("xcludes"));
            matches != excludes
        };
        let all = |selectors: &Value, text: &str| {
            selectors.as_array().is_some_and(|all| all.iter().all(|selector| covers(selector, text)))
        };
        let keeps = |(of, rule): &(i64, Value)| {
            Some(*of) == project
                && rule["disabled"] != json!(true)
                && all(&rule["scope_selectors"]["repository"], within)
                && all(&rule["tag_selectors"], tag)
        };
        if self.immutable.values().any(keeps) {
            let message = format!("the tag {tag} configured as immutable, cannot be deleted");
            return Err(Fault::precondition(message));
        }
        Ok(())
    }

    /// Whether all tags of an artifact of a repository, or of all its artifacts, may go.
    pub(crate) fn may_lose_all(&self, repository: &str, reference: Option<&str>) -> Result<(), Fault> {
        let artifacts: Vec<_> = match reference {
            Some(reference) => self.artifact(repository, reference).into_iter().collect(),
            None => self.repositories.get(repository).map(|found| found.artifacts.iter().collect()).unwrap_or_default(),
        };
        let mut tags = artifacts.into_iter().flat_map(|artifact| &artifact.tags);
        tags.try_for_each(|tag| self.may_lose(repository, &tag.name))
    }
}
