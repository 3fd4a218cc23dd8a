//! A Harbor to test against: a real one where `HARBOR_URL`, `HARBOR_USERNAME` and `HARBOR_PASSWORD` are set, else the double.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub mod ran;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use harbor_double::{Harbor, HarborBuilder};
use harbor_pilot::{
    api::{FINALIZER, HarborInstance, ProxyProject, Registry, ReplicationRule, condition},
    controller::{
        Connections, FinalizeResult, Installation, ReconcileResult, ReconciledKind, Reconciler, Reconcilers,
        SecretValue,
    },
    harbor::Client,
    standalone::{ManifestSet, MemoryBackend},
    transport::{Credentials, Endpoint},
};
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A Harbor, and a world of resources that refer to it.
pub struct Site {
    pub double: Option<Harbor>,
    pub url: String,
    pub username: String,
    pub password: String,
    pub world: MemoryBackend,
    pub kinds: Arc<Reconcilers>,
    manifests: std::sync::Mutex<ManifestSet>,
    suffix: String,
    http: reqwest::Client,
}

impl Site {
    /// Starts or finds a Harbor. Its HarborInstance is `default`.
    pub async fn start() -> Self {
        Self::with(Harbor::builder().speed(100.0)).await
    }

    /// The same with a double that is built as given.
    pub async fn with(builder: HarborBuilder) -> Self {
        match variable("HARBOR_URL") {
            Some(url) => Self::at(None, url).await,
            None => Self::doubled(builder).await,
        }
    }

    /// A double that is built as given, whatever Harbor is there.
    pub async fn doubled(builder: HarborBuilder) -> Self {
        let double = builder.start().await;
        let url = double.url();
        Self::at(Some(double), url).await
    }

    async fn at(double: Option<Harbor>, url: String) -> Self {
        harbor_pilot::tls::install_crypto_provider();
        let real = |name| variable(name).filter(|_| double.is_none());
        let username = real("HARBOR_USERNAME").unwrap_or_else(|| "admin".to_owned());
        let password = real("HARBOR_PASSWORD").unwrap_or_else(|| "Harbor12345".to_owned());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let suffix = format!("{since:x}{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let world = MemoryBackend::new(vec!["linux/amd64".parse().unwrap()]);
        let kinds = process(&world, &format!("test-{suffix}"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let manifests = std::sync::Mutex::default();
        let site = Self { double, url, username, password, world, kinds, manifests, suffix, http };
        site.secret("harbor", &site.username, &site.password);
        let spec = json!({"url": site.url, "credentialsSecretRef": {"name": "harbor"}});
        site.apply::<HarborInstance>("default", spec);
        site
    }

    /// Another installation with a world of its own, at the same Harbor.
    pub async fn beside(&self) -> Self {
        Self {
            username: self.username.clone(),
            password: self.password.clone(),
            ..Self::at(None, self.url.clone()).await
        }
    }

    /// A name that no other test uses.
    pub fn name(&self, base: &str) -> String {
        format!("{base}-{}", self.suffix)
    }

    /// A client of our own, to look with and to meddle with.
    pub fn client(&self) -> Client {
        let own = Credentials { username: self.username.clone(), password: self.password.clone().into() };
        Client::new(&Endpoint { credentials: Some(own), ..Endpoint::new(self.url.clone()) }).unwrap()
    }

    /// A request to Harbor's API as an administrator makes it by hand. `path` is below `/api/v2.0`. Answers status and body.
    pub async fn manual_request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let url = format!("{}/api/v2.0{path}", self.url);
        let request = self.http.request(method.parse().unwrap(), url).basic_auth(&self.username, Some(&self.password));
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Requests to the double that change something, since the last call. A real Harbor tells none.
    pub fn writes(&self) -> Option<usize> {
        let double = self.double.as_ref()?;
        let writes = double.writes().len();
        double.clear_log();
        Some(writes)
    }

    /// Writes a Secret.
    pub fn secret(&self, name: &str, username: &str, password: &str) {
        let values = [("username", username), ("password", password)];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned().into())).into();
        let secret = SecretValue { revision: format!("{username}/{password}"), values };
        let mut manifests = self.manifests.lock().unwrap();
        manifests.secrets.insert(name.to_owned(), secret);
        self.world.apply(&manifests, Timestamp::now());
    }

    /// Creates or changes a resource.
    pub fn apply<K: Declared>(&self, name: &str, spec: Value) {
        self.apply_at::<K>(name, spec, Timestamp::now());
    }

    /// The same at another time.
    pub fn apply_at<K: Declared>(&self, name: &str, spec: Value, now: Timestamp) {
        let mut manifests = self.manifests.lock().unwrap();
        let list = K::list(&mut manifests);
        list.retain(|object| object.meta().name.as_deref() != Some(name));
        let object: K = resource(name, spec);
        let finalizers = finalizers(&object);
        list.push(object);
        self.world.apply(&manifests, now);
        self.world.set_finalizers::<K>(name, None, finalizers).unwrap();
    }

    /// As [`apply`](Self::apply) for many, which are there with [`applied`](Self::applied).
    pub fn apply_later<K: Declared>(&self, name: &str, spec: Value) {
        K::list(&mut self.manifests.lock().unwrap()).push(resource(name, spec));
    }

    /// Applies what was kept for later.
    pub fn applied(&self) {
        self.world.apply(&self.manifests.lock().unwrap(), Timestamp::now());
    }

    /// Annotates a resource that was applied.
    pub fn annotate<K: Declared>(&self, name: &str, key: &str, value: &str) {
        let mut manifests = self.manifests.lock().unwrap();
        let object = K::list(&mut manifests).iter_mut().find(|object| object.meta().name.as_deref() == Some(name));
        let annotations = object.unwrap().meta_mut().annotations.get_or_insert_default();
        annotations.insert(key.to_owned(), value.to_owned());
        self.world.apply(&manifests, Timestamp::now());
    }

    /// Reconcilers of the same installation that have just been started.
    pub fn restarted(&self) -> Arc<Reconcilers> {
        process(&self.world, &self.kinds.installation.0)
    }

    /// Deletes a resource as a user would.
    pub fn delete<K: Declared>(&self, name: &str) {
        let mut manifests = self.manifests.lock().unwrap();
        K::list(&mut manifests).retain(|object| object.meta().name.as_deref() != Some(name));
        self.world.apply(&manifests, Timestamp::now());
    }

    /// Looks at the resource once, at Harbor as it is by now, and stores its status.
    pub async fn reconcile<K>(&self, name: &str) -> Seen<K>
    where
        K: ReconciledKind,
        Reconcilers: Reconciler<K>,
    {
        if let Some(connection) = self.kinds.instances.known("default") {
            connection.view.clear();
        }
        self.reconcile_again(name).await
    }

    /// Looks at the resource once more within the same beat, and stores its status.
    pub async fn reconcile_again<K>(&self, name: &str) -> Seen<K>
    where
        K: ReconciledKind,
        Reconcilers: Reconciler<K>,
    {
        let object = self.world.get::<K>(name).unwrap();
        let outcome = self.kinds.reconcile(object.as_ref(), Timestamp::now()).await;
        self.world.set_status::<K>(name, outcome.status.clone()).unwrap();
        Seen(outcome)
    }

    /// Tries to delete what a deleted resource made in Harbor.
    pub async fn finalize<K>(&self, name: &str) -> FinalizeResult<K::Status>
    where
        K: ReconciledKind,
        Reconcilers: Reconciler<K>,
    {
        let object = self.world.get::<K>(name).expect("a resource that waits for its finalizer");
        assert!(object.meta().deletion_timestamp.is_some(), "{name} is not being deleted");
        let finalized = self.kinds.finalize(object.as_ref(), Timestamp::now()).await;
        if matches!(finalized, FinalizeResult::Done(_)) {
            self.world.set_finalizers::<K>(name, None, Vec::new()).unwrap();
        }
        finalized
    }

    /// Removes what the test left in a Harbor that goes on living.
    pub async fn clean(&self, names: &[&str]) {
        let client = self.client();
        for name in names {
            if let Ok(Some(policy)) = client.replication_policy_named(name).await {
                client.delete_replication_policy(policy.id).await.ok();
            }
        }
        for name in names {
            if let Ok(Some(project)) = client.project_named(name).await {
                client.delete_project(project.project_id).await.ok();
            }
        }
        for name in names {
            if let Ok(Some(registry)) = client.registry_named(name).await {
                client.delete_registry(registry.id).await.ok();
            }
        }
    }
}

/// A kind that manifests declare.
pub trait Declared: ReconciledKind + DeserializeOwned {
    fn list(manifests: &mut ManifestSet) -> &mut Vec<Self>;
}

impl Declared for HarborInstance {
    fn list(manifests: &mut ManifestSet) -> &mut Vec<Self> {
        &mut manifests.instances
    }
}

impl Declared for Registry {
    fn list(manifests: &mut ManifestSet) -> &mut Vec<Self> {
        &mut manifests.registries
    }
}

impl Declared for ProxyProject {
    fn list(manifests: &mut ManifestSet) -> &mut Vec<Self> {
        &mut manifests.projects
    }
}

impl Declared for ReplicationRule {
    fn list(manifests: &mut ManifestSet) -> &mut Vec<Self> {
        &mut manifests.rules
    }
}

/// What a reconcile led to, with its conditions within reach.
#[derive(Debug)]
pub struct Seen<K: ReconciledKind>(pub ReconcileResult<K::Status>);

impl<K: ReconciledKind> Seen<K> {
    /// `status`, `reason` and `message` of a condition.
    pub fn condition(&self, kind: condition::ConditionType) -> Option<(String, String, String)> {
        let status = serde_json::to_value(&self.0.status).unwrap();
        let list: Vec<_> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
        let found = condition::find(&list, kind)?;
        Some((found.status.clone(), found.reason.clone(), found.message.clone()))
    }

    /// Ready as `status reason`, such as `True Reconciled`.
    pub fn ready(&self) -> String {
        let (status, reason, _) = self.condition(condition::ConditionType::Ready).expect("a Ready condition");
        format!("{status} {reason}")
    }

    /// The message of Ready.
    pub fn message(&self) -> String {
        self.condition(condition::ConditionType::Ready).expect("a Ready condition").2
    }
}

/// Reconcilers that know nothing but what is stored, as after a start.
pub fn process(world: &MemoryBackend, installation: &str) -> Arc<Reconcilers> {
    Arc::new(Reconcilers {
        directory: world.directory(),
        instances: Arc::new(Connections::default()),
        installation: Installation(installation.to_owned()),
    })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A resource as it is after its first reconcile: with our finalizer, where it wants one.
fn resource<K: ReconciledKind>(name: &str, spec: Value) -> K {
    let mut object: K = serde_json::from_value(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap();
    object.meta_mut().finalizers = Some(finalizers(&object));
    object
}

fn finalizers<K: ReconciledKind>(object: &K) -> Vec<String> {
    object.wants_finalizer().then(|| FINALIZER.to_owned()).into_iter().collect()
}
