//! A Harbor, an upstream that it can reach, and what replication needs beside our client: raw requests and pushes.

use std::time::Duration;

use harbor_double::{HarborBuilder, Image, Pushed, Upstream};
use harbor_pilot::harbor::{
    Client,
    model::{
        FilterValue, NewCredential, NewProject, NewRegistry, RegistryReference, ReplicationExecution,
        ReplicationFilter, ReplicationPolicyContent, ReplicationTrigger, TriggerSettings,
    },
};
use serde_json::{Value, json};

use crate::support::Site;

pub struct Stage {
    pub site: Site,
    pub client: Client,
    pub upstream: Upstream,
    /// The upstream, as a registry of Harbor.
    pub registry: i64,
    http: reqwest::Client,
}

impl Stage {
    pub async fn start() -> Self {
        Self::with(harbor_double::Harbor::builder().speed(100.0)).await
    }

    pub async fn with(builder: HarborBuilder) -> Self {
        let site = Site::with(builder).await;
        let (client, upstream) = (site.client(), Upstream::builder().start().await);
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        let registry = new_registry(&site.name("up"), "docker-registry", &upstream.url(), None);
        let registry = client.create_registry(&registry).await.unwrap();
        Self { site, client, upstream, registry, http }
    }

    /// A name that no other test uses.
    pub fn name(&self, base: &str) -> String {
        self.site.name(base)
    }

    /// A policy that pulls from the upstream, by hand.
    pub fn pull(&self, base: &str, namespace: &str, filters: Vec<ReplicationFilter>) -> ReplicationPolicyContent {
        ReplicationPolicyContent {
            name: self.name(base),
            src_registry: RegistryReference { id: self.registry },
            dest_namespace: namespace.to_owned(),
            filters,
            enabled: true,
            override_: true,
            ..Default::default()
        }
    }

    /// A policy that pushes to the upstream.
    pub fn push(&self, base: &str, namespace: &str, filters: Vec<ReplicationFilter>) -> ReplicationPolicyContent {
        let content = self.pull(base, namespace, filters);
        ReplicationPolicyContent {
            src_registry: RegistryReference::LOCAL,
            dest_registry: content.src_registry,
            ..content
        }
    }

    /// Creates a policy, runs it, and waits for its end. Answers the policy, too.
    pub async fn run(&self, policy: &ReplicationPolicyContent) -> (i64, ReplicationExecution) {
        let id = self.client.create_replication_policy(policy).await.unwrap();
        (id, self.run_again(id).await)
    }

    pub async fn run_again(&self, policy: i64) -> ReplicationExecution {
        let execution = self.client.start_replication(policy).await.unwrap();
        self.ended(execution).await
    }

    /// Waits, up to two minutes of a real Harbor, for the end of an execution.
    pub async fn ended(&self, id: i64) -> ReplicationExecution {
        for _ in 0..1200 {
            let found = self.client.replication_execution(id).await.unwrap().expect("the execution");
            // What fails before it has tasks is stopped for a moment.
            if found.is_final() && (found.status != ReplicationExecution::STOPPED || found.total > 0) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("execution {id} does not end");
    }

    /// Waits for so many executions of a policy that have ended; answers them, the newest first.
    pub async fn ended_of(&self, policy: i64, count: usize) -> Vec<ReplicationExecution> {
        let mut found = Vec::new();
        for _ in 0..1200 {
            found = self.client.replication_executions(policy, 100).await.unwrap();
            if found.len() >= count && found.iter().all(ReplicationExecution::is_final) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{count} executions do not come about: {found:?}");
    }

    /// Tags of a repository (`project/name`) in Harbor, sorted.
    pub async fn tags(&self, repository: &str) -> Vec<String> {
        let (project, name) = repository.split_once('/').unwrap();
        let artifacts = self.client.scanned_artifacts(project, name).await.unwrap();
        let mut tags: Vec<_> = artifacts.into_iter().flat_map(|artifact| artifact.tags).map(|tag| tag.name).collect();
        tags.sort();
        tags
    }

    /// A request to Harbor's API; `path` starts below `/api/v2.0`.
    pub async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}/api/v2.0{path}", self.site.url));
        request = request.basic_auth(&self.site.username, Some(&self.site.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// GET below `/v2`: the status and the body.
    pub async fn read(&self, path: &str) -> (u16, String) {
        let request = self.http.get(format!("{}/v2/{path}", self.site.url));
        let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        let request = request.basic_auth(&self.site.username, Some(&self.site.password)).header("accept", accept);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub async fn project(&self, base: &str, metadata: Value) -> String {
        let name = self.name(base);
        let body = json!({"project_name": name, "metadata": metadata});
        let (status, answer) = self.api("POST", "/projects", Some(body)).await;
        assert_eq!(status, 201, "{answer}");
        name
    }

    pub async fn proxy(&self, base: &str) -> String {
        let project_name = self.name(base);
        let project =
            NewProject { project_name, registry_id: self.registry, metadata: Default::default(), storage_limit: None };
        self.client.create_project(&project).await.unwrap();
        project.project_name
    }

    /// Pushes an image into Harbor (`project/name`) as `docker push` does: blobs, children, and the tag at last. The same name,
    /// tag and image give the same bytes.
    pub async fn push_image(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let workshop = Upstream::builder().start().await;
        let pushed = workshop.push_image(repository, tag, image);
        let put = async |path: String, kind: &str, body: bytes::Bytes| {
            let request = self.http.put(path).basic_auth(&self.site.username, Some(&self.site.password));
            let answer = request.header("content-type", kind).body(body).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 201, "{}", answer.text().await.unwrap());
        };
        let repository_url = format!("{}/v2/{repository}", self.site.url);
        for child in &pushed.children {
            for blob in child.blobs() {
                let begin = self.http.post(format!("{repository_url}/blobs/uploads/"));
                let begin = begin.basic_auth(&self.site.username, Some(&self.site.password)).send().await.unwrap();
                assert_eq!(begin.status().as_u16(), 202);
                let location = begin.headers()["location"].to_str().unwrap().to_owned();
                let bytes = workshop.blob(repository, &blob.digest).unwrap();
                put(format!("{location}&digest={}", blob.digest), "application/octet-stream", bytes).await;
            }
        }
        let kind =
            |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["mediaType"].as_str().unwrap().to_owned();
        if pushed.children.len() > 1 {
            for child in &pushed.children {
                let bytes = workshop.manifest(repository, &child.digest).unwrap();
                put(format!("{repository_url}/manifests/{}", child.digest), &kind(&bytes), bytes).await;
            }
        }
        let bytes = workshop.manifest(repository, tag).unwrap();
        put(format!("{repository_url}/manifests/{tag}"), &kind(&bytes), bytes).await;
        pushed
    }

    /// Removes policies, projects with their repositories, and registries whose names end as this test's names do.
    pub async fn clear(&self) {
        let ours = self.site.name("");
        for policy in self.client.replication_policies().await.unwrap() {
            if policy.content.name.ends_with(&ours) {
                for execution in self.client.replication_executions(policy.id, 100).await.unwrap() {
                    self.client.stop_replication(execution.id).await.unwrap();
                }
                self.ended_of(policy.id, 0).await;
                self.client.delete_replication_policy(policy.id).await.unwrap();
            }
        }
        let (_, projects) = self.api("GET", "/projects?page_size=100", None).await;
        for project in projects.as_array().unwrap() {
            let name = project["name"].as_str().unwrap();
            if name.ends_with(&ours) {
                let (_, repositories) =
                    self.api("GET", &format!("/projects/{name}/repositories?page_size=100"), None).await;
                for repository in repositories.as_array().unwrap() {
                    let repository =
                        repository["name"].as_str().unwrap().split_once('/').unwrap().1.replace('/', "%252F");
                    self.api("DELETE", &format!("/projects/{name}/repositories/{repository}"), None).await;
                }
                assert_eq!(self.api("DELETE", &format!("/projects/{name}"), None).await.0, 200, "{name}");
            }
        }
        for registry in self.client.registries().await.unwrap() {
            if registry.name.ends_with(&ours) {
                self.client.delete_registry(registry.id).await.unwrap();
            }
        }
    }
}

pub fn new_registry(name: &str, kind: &str, url: &str, login: Option<(&str, &str)>) -> NewRegistry {
    NewRegistry {
        name: name.to_owned(),
        type_: kind.to_owned(),
        url: url.to_owned(),
        description: String::new(),
        credential: login.map(|(user, password)| NewCredential {
            type_: "basic",
            access_key: user.to_owned(),
            access_secret: password.to_owned(),
        }),
        insecure: false,
        ca_certificate: None,
    }
}

pub fn filter(type_: &str, value: &str, decoration: &str) -> ReplicationFilter {
    ReplicationFilter {
        type_: type_.to_owned(),
        value: FilterValue::Text(value.to_owned()),
        decoration: decoration.to_owned(),
    }
}

pub fn trigger(type_: &str, cron: &str) -> ReplicationTrigger {
    ReplicationTrigger { type_: type_.to_owned(), trigger_settings: TriggerSettings { cron: cron.to_owned() } }
}
