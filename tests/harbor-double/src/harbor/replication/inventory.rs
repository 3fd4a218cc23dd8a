//! What the ends of a policy have: repositories with their artifacts, and the projects that a destination needs.

use std::collections::HashSet;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    ends::{End, reported},
    filters::{Found, Item, keep_artifacts, keeps_repository, name_pattern},
    glob::specific,
    tables::Filter,
};
use crate::harbor::{Core, ecr, remote::Failure, state::Registry};

impl Core {
    /// What the filters leave of what an end has.
    pub(crate) async fn fetch(&self, end: &End, filters: &[Filter]) -> Result<Vec<Found>, String> {
        let (repositories, quote) = match end {
            End::Local => (self.local_repositories(), "'"),
            End::Remote(registry) if end.is_harbor() => (self.harbor_repositories(registry).await?, "'"),
            End::Remote(registry) => (self.plain_repositories(registry, name_pattern(filters)).await?, ""),
        };
        let mut all = Vec::new();
        for (repository, public) in repositories {
            if !keeps_repository(filters, &repository)? {
                continue;
            }
            let items = self.items(end, &repository).await.map_err(|why| {
                let outer = if quote.is_empty() { "failed to fetch artifacts: " } else { "" };
                format!("{outer}failed to list artifacts of repository {quote}{repository}{quote}: {why}")
            })?;
            let artifacts = keep_artifacts(filters, items)?;
            if !artifacts.is_empty() {
                all.push(Found { repository, public, artifacts, deletes: None });
            }
        }
        Ok(all)
    }

    /// Makes the projects that are missing at a Harbor, public where everything that goes there was, or the repositories that are
    /// missing at Amazon. Answers the proxy projects, which take nothing.
    pub(crate) async fn prepare(&self, end: &End, pairs: &[(Found, String)]) -> Result<HashSet<String>, String> {
        let mut skipped = HashSet::new();
        let mut done = HashSet::new();
        if let End::Remote(registry) = end
            && end.kind() == ecr::KIND
        {
            for (_, name) in pairs {
                self.ecr_repository(registry, name).await.map_err(|failure| reported(registry, "/", failure))?;
            }
        }
        for (_, name) in pairs {
            let project = name.split('/').next().unwrap_or_default();
            if !end.is_harbor() || !done.insert(project) {
                continue;
            }
            let mut into = pairs.iter().filter(|(_, name)| name.split('/').next() == Some(project));
            let public = into.all(|(found, _)| found.public == Some(true));
            let metadata = json!({"public": public.to_string()});
            let is_proxy = match end {
                End::Local => self.local_project(project, public),
                End::Remote(registry) => self.harbor_project(registry, project, metadata).await?,
            };
            if is_proxy {
                skipped.insert(project.to_owned());
            }
        }
        Ok(skipped)
    }

    /// The repositories of Harbor itself, each with whether its project is public.
    fn local_repositories(&self) -> Vec<(String, Option<bool>)> {
        let state = self.state.lock();
        let public = |name: &str| {
            let project = state.project_named(name.split('/').next().unwrap_or_default());
            project.and_then(|project| project.metadata.get("public")).is_some_and(|public| public == "true")
        };
        let mut all: Vec<_> = state.repositories.iter().collect();
        // As Harbor lists them: the newest of each project first.
        all.sort_by_key(|(_, repository)| (repository.project_id, std::cmp::Reverse(repository.id)));
        all.into_iter().map(|(name, _)| (name.clone(), Some(public(name)))).collect()
    }

    async fn harbor_repositories(&self, registry: &Registry) -> Result<Vec<(String, Option<bool>)>, String> {
        let mut all = Vec::new();
        for project in self.listed(registry, "/api/v2.0/projects").await? {
            let public = project["metadata"]["public"] == "true";
            let path = format!("/api/v2.0/projects/{}/repositories", project["name"].as_str().unwrap_or_default());
            for repository in self.listed(registry, &path).await? {
                all.push((repository["name"].as_str().unwrap_or_default().to_owned(), Some(public)));
            }
        }
        Ok(all)
    }

    /// Of a plain registry: the names that the pattern spells out, or the whole catalogue.
    async fn plain_repositories(
        &self,
        registry: &Registry,
        pattern: &str,
    ) -> Result<Vec<(String, Option<bool>)>, String> {
        let names = match specific(pattern) {
            Some(names) => names,
            None => {
                let catalog = self.read_json(registry, "/v2/_catalog?n=1000").await?;
                strings(&catalog["repositories"])
            }
        };
        Ok(names.into_iter().map(|name| (name, None)).collect())
    }

    async fn items(&self, end: &End, repository: &str) -> Result<Vec<Item>, String> {
        match end {
            End::Local => Ok(self.state.lock().items(repository)),
            End::Remote(registry) if end.is_harbor() => {
                let (project, name) = repository.split_once('/').unwrap_or_default();
                let name = name.replace('/', "%252F");
                let path = format!("/api/v2.0/projects/{project}/repositories/{name}/artifacts");
                let names = |list: &Value| {
                    let list = list.as_array().into_iter().flatten();
                    list.filter_map(|each| each["name"].as_str().map(ToOwned::to_owned)).collect()
                };
                let item = |artifact: &Value| Item {
                    digest: artifact["digest"].as_str().unwrap_or_default().to_owned(),
                    tags: names(&artifact["tags"]),
                    labels: names(&artifact["labels"]),
                };
                Ok(self.listed(registry, &format!("{path}?with_label=true")).await?.iter().map(item).collect())
            }
            End::Remote(registry) => {
                let listed = self.read_json(registry, &format!("/v2/{repository}/tags/list")).await?;
                let item = |tag| Item { digest: String::new(), tags: vec![tag], labels: Vec::new() };
                Ok(strings(&listed["tags"]).into_iter().map(item).collect())
            }
        }
    }

    /// Makes a project of Harbor itself, unless it is there. Answers whether it is a proxy.
    fn local_project(&self, name: &str, public: bool) -> bool {
        let mut state = self.state.lock();
        if let Some(project) = state.project_named(name) {
            return project.registry_id.is_some();
        }
        let id = state.next("project");
        let metadata = [("public".to_owned(), public.to_string())].into();
        self.insert_project(&mut state, id, name, None, metadata, -1);
        false
    }

    async fn harbor_project(&self, registry: &Registry, name: &str, metadata: Value) -> Result<bool, String> {
        let known = self.read_json(registry, &format!("/api/v2.0/projects?q=name%3D{name}")).await?;
        if let Some(project) = known.as_array().into_iter().flatten().find(|project| project["name"] == name) {
            return Ok(project["registry_id"].as_i64().is_some());
        }
        let body = Bytes::from(json!({"project_name": name, "metadata": metadata}).to_string());
        let path = "/api/v2.0/projects";
        match self.try_call(Method::POST, registry, path, Some(("application/json", body))).await {
            // Another run of the moment made it.
            Ok(_) | Err(Failure::Refused(StatusCode::CONFLICT, _)) => Ok(false),
            Err(failure) => Err(reported(registry, path, failure)),
        }
    }

    /// All pages of a list of another Harbor.
    async fn listed(&self, registry: &Registry, path: &str) -> Result<Vec<Value>, String> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut all = Vec::new();
        for page in 1.. {
            let answer = self.read_json(registry, &format!("{path}{separator}page={page}&page_size=100")).await?;
            let items = answer.as_array().cloned().unwrap_or_default();
            let last = items.len() < 100;
            all.extend(items);
            if last {
                break;
            }
        }
        Ok(all)
    }

    async fn read_json(&self, registry: &Registry, path: &str) -> Result<Value, String> {
        self.call(Method::GET, registry, path, None).await?.json().await.map_err(|error| error.to_string())
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|each| each.as_str().map(ToOwned::to_owned)).collect()
}
