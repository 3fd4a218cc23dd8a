//! A cluster as a user has it: the API server with our kinds, roles and webhook, and both processes of the product under
//! their own accounts, against the Harbor double and upstreams in this process.
//!
//! In: `crds/`, `config/` and `examples/` of this tree, as they are. Out: a [`Cluster`] that all tests of a binary share.
//! Most of them [share](shared) it, each with resources of its own names; one that kills a process or counts what everybody
//! does has it [alone].

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use harbor_double::{Harbor, Image, Upstream};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use crate::collector::Collector;
use crate::control_plane::{self, ControlPlane};
use crate::pilot::Pilot;
use crate::pki::Authority;
use crate::process::free_ports;

/// The operator's own namespace.
pub const NAMESPACE: &str = "harbor-pilot";

/// What the tests wait for at most, unless they know better. Things take a second or a few.
pub const SOON: Duration = Duration::from_secs(60);

/// The resources of the examples.
pub const EXAMPLES: [&str; 6] =
    ["hinst/default", "hreg/dockerhub", "hreg/ecr", "hpp/dockerhub", "hpp/ecr", "hci/nginx"];

/// The double is so much faster than Harbor; `--store-delay` says the same to the controller.
const SPEED: f64 = 20.0;

/// What the robot account of the examples may do in Harbor.
const SYSTEM_RIGHTS: [(&str, &[&str]); 4] = [
    ("registry", &["list", "read", "create", "update", "delete"]),
    ("project", &["list", "create"]),
    ("replication-policy", &["list", "read", "create", "update", "delete"]),
    ("replication", &["list", "read", "create"]),
];
const PROJECT_RIGHTS: [(&str, &[&str]); 7] = [
    ("project", &["read", "update", "delete"]),
    ("label", &["list", "read", "create", "update", "delete"]),
    ("repository", &["list", "read", "pull"]),
    ("artifact", &["list", "read"]),
    ("scan", &["create"]),
    ("tag", &["list"]),
    ("metadata", &["list", "read", "create", "update", "delete"]),
];

/// The cluster of this test binary.
pub struct Cluster {
    /// The API server.
    pub plane: Plane,
    /// The Harbor of the HarborInstance `default`.
    pub harbor: Harbor,
    /// Docker Hub.
    pub hub: Upstream,
    /// `123456789012.dkr.ecr.eu-central-1.amazonaws.com`, with the credentials of the example.
    pub ecr: Upstream,
    /// The examples, with the address and the password of this Harbor.
    pub examples: PathBuf,
    /// Signed the certificate of the webhook.
    pub authority: Authority,
    controller: Process,
    webhook: Process,
    webhook_port: u16,
    ops_port: u16,
    controller_ops_port: u16,
    collector: Option<Collector>,
}

/// The control plane of the test binary, or one of a test's own.
pub enum Plane {
    /// Others use it, too.
    Shared(&'static ControlPlane),
    /// It ends with its cluster.
    Own(Box<ControlPlane>),
}

impl std::ops::Deref for Plane {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        match self {
            Self::Shared(plane) => plane,
            Self::Own(plane) => plane,
        }
    }
}

/// Arguments and account of a process of ours, and the process while it runs.
struct Process {
    arguments: Vec<String>,
    kubeconfig: PathBuf,
    pilot: Option<Pilot>,
}

/// Shares the cluster with other tests.
///
/// # Errors
/// When it cannot be started.
pub async fn shared() -> Result<RwLockReadGuard<'static, Cluster>> {
    Ok(cluster().await?.read().await)
}

/// Has the cluster alone, with both processes running.
///
/// # Errors
/// When it cannot be started.
pub async fn alone() -> Result<RwLockWriteGuard<'static, Cluster>> {
    let mut cluster = cluster().await?.write().await;
    // A test that failed may have left one dead.
    cluster.start_controller().await?;
    cluster.start_webhook().await?;
    Ok(cluster)
}

async fn cluster() -> Result<&'static RwLock<Cluster>> {
    static CLUSTER: OnceCell<RwLock<Cluster>> = OnceCell::const_new();
    static RUNTIME: OnceCell<Runtime> = OnceCell::const_new();
    let runtime = RUNTIME.get_or_try_init(|| async { Runtime::new().context("start a runtime") }).await?;
    // What runs in this process runs on a runtime that outlives the first test.
    let start = || async { runtime.spawn(Cluster::start()).await.context("start the cluster")? };
    CLUSTER.get_or_try_init(|| async { Ok(RwLock::new(start().await?)) }).await
}

impl Cluster {
    async fn start() -> Result<Self> {
        let mut cluster = Self::prepare(Plane::Shared(control_plane::shared().await?), "info").await?;
        cluster.start_controller().await?;
        cluster.start_webhook().await?;
        cluster.register(&path("config/webhook")?).await?;
        cluster.apply_examples().await?;
        cluster.until_rewritten("nginx").await?;
        Ok(cluster)
    }

    /// A cluster of a test's own, whose API server may be stopped and whose kinds may be deleted. The controller runs and logs all
    /// it can, the HarborInstance `default` is Ready; there is nothing else, and no webhook.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn own() -> Result<Self> {
        Self::own_with(&[]).await
    }

    /// The same with more arguments for the controller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn own_with(more: &[&str]) -> Result<Self> {
        let plane = Plane::Own(Box::new(ControlPlane::start().await?));
        let mut cluster = Self::prepare(plane, "trace").await?;
        cluster.controller.arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        cluster.start_controller().await?;
        let instance = cluster.examples.join("10-harbor.yaml").display().to_string();
        cluster.plane.kubectl(&["apply", "-f", &instance]).await?.ok()?;
        cluster.wait_for("HarborInstance", "default", "Ready", "True Healthy").await?;
        Ok(cluster)
    }

    async fn prepare(plane: Plane, log: &str) -> Result<Self> {
        let hub = Upstream::builder().start().await;
        let ecr = Upstream::builder().amazon("AKIAEXAMPLE", "change-me").start().await;
        for tag in ["latest", "1.27"] {
            hub.push_image("library/nginx", tag, &image());
        }
        let harbor = Harbor::builder()
            .scanner()
            .speed(SPEED)
            .route("registry-1.docker.io", hub.url())
            .route("hub.docker.com", hub.url())
            .route("123456789012.dkr.ecr.eu-central-1.amazonaws.com", ecr.url())
            .start()
            .await;
        let password = robot(&harbor).await?;

        apply_crds(&plane).await?;
        apply(&plane, &["-k", &path("config/rbac")?]).await?;
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-1", "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
        });
        plane.kubectl_with_input(&["apply", "-f", "-"], &node.to_string()).await?.ok()?;

        let directory = plane.directory().join("cluster");
        let examples = directory.join("examples");
        write_examples(Path::new(&path("examples/manifests")?), &examples, &harbor.url(), &password)?;
        let authority = Authority::new("harbor-pilot-webhook")?;
        let tls = directory.join("tls");
        fs::create_dir_all(&tls).context("create the directory of certificates")?;
        let pair = authority.server(&["127.0.0.1"])?;
        fs::write(tls.join("tls.crt"), &pair.certificate).context("write the certificate")?;
        fs::write(tls.join("tls.key"), &pair.key).context("write the key")?;

        let [webhook_port, ops_port, controller_ops_port] = free_ports()?;
        let owned = |arguments: &[&str]| arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>();
        let controller_ops = format!("127.0.0.1:{controller_ops_port}");
        let mut arguments = owned(&["controller", "--namespace", NAMESPACE, "--store-delay", "1s", "--log", log]);
        arguments.extend(owned(&["--metrics-bind-address", &controller_ops]));
        let collector = if log == "trace" { Some(Collector::start().await?) } else { None };
        if let Some(collector) = &collector {
            arguments.extend(owned(&["--otlp-endpoint", &collector.url(), "--trace-ratio", "1"]));
        }
        let controller = Process {
            arguments,
            kubeconfig: account(&plane, &directory, "harbor-pilot-controller").await?,
            pilot: None,
        };
        let listen = format!("127.0.0.1:{webhook_port}");
        let metrics_bind_address = format!("127.0.0.1:{ops_port}");
        let tls = tls.display().to_string();
        let webhook = Process {
            arguments: owned(&[
                "webhook",
                "--tls-dir",
                &tls,
                "--webhook-bind-address",
                &listen,
                "--metrics-bind-address",
                &metrics_bind_address,
            ]),
            kubeconfig: account(&plane, &directory, "harbor-pilot-webhook").await?,
            pilot: None,
        };
        Ok(Self {
            plane,
            harbor,
            hub,
            ecr,
            examples,
            authority,
            controller,
            webhook,
            webhook_port,
            ops_port,
            controller_ops_port,
            collector,
        })
    }

    /// A client of the administrator for the runtime of the caller.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.plane.client()
    }

    /// Where the webhook listens: `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn webhook_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.webhook_port)
    }

    /// The running webhook.
    ///
    /// # Errors
    /// When it does not run.
    pub fn webhook(&mut self) -> Result<&mut Pilot> {
        self.webhook.pilot.as_mut().context("the webhook does not run")
    }

    /// The metrics of the webhook, in text.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn webhook_metrics(&self) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.ops_port);
        Ok(reqwest::get(url).await?.error_for_status()?.text().await?)
    }

    /// The ops port of the webhook: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn webhook_ops(&self) -> String {
        format!("http://127.0.0.1:{}", self.ops_port)
    }

    /// The ops port of the controller: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn controller_ops(&self) -> String {
        format!("http://127.0.0.1:{}", self.controller_ops_port)
    }

    /// What the controller has sent as spans, as it came: OTLP in protobuf. Nothing unless the cluster is one of its own.
    #[must_use]
    pub fn spans(&self) -> Vec<u8> {
        self.collector.as_ref().map(Collector::received).unwrap_or_default()
    }

    /// What both processes have logged since they were started last.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |process: &Process| process.pilot.as_ref().map(Pilot::logs).unwrap_or_default();
        format!("--- controller ---\n{}\n--- webhook ---\n{}", log(&self.controller), log(&self.webhook))
    }

    /// Kills the controller with SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill_controller(&mut self) -> Result<()> {
        self.controller.kill()
    }

    /// Kills the webhook with SIGKILL.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill_webhook(&mut self) -> Result<()> {
        self.webhook.kill()
    }

    /// The running controller.
    ///
    /// # Errors
    /// When it does not run.
    pub fn controller(&mut self) -> Result<&mut Pilot> {
        self.controller.pilot.as_mut().context("the controller does not run")
    }

    /// Starts the controller, if it does not run.
    ///
    /// # Errors
    /// When it ends at once.
    pub async fn start_controller(&mut self) -> Result<()> {
        self.controller.start("controller starts").await
    }

    /// Starts the webhook, if it does not run, and waits until it listens.
    ///
    /// # Errors
    /// When it ends at once.
    pub async fn start_webhook(&mut self) -> Result<()> {
        self.webhook.start("serving admission").await
    }

    /// Applies the examples as they lie in the directory, and waits until each of them is Ready.
    ///
    /// # Errors
    /// When the API server refuses, or not all become Ready.
    pub async fn apply_examples(&self) -> Result<()> {
        let directory = self.examples.display().to_string();
        self.plane.kubectl(&["apply", "-f", &directory]).await?.ok()?;
        let arguments = [&["wait", "--for=condition=Ready", "--timeout=60s"], &EXAMPLES[..]].concat();
        self.plane.kubectl(&arguments).await?.ok().with_context(|| self.logs())?;
        Ok(())
    }

    /// Creates or changes a resource, a Pod or a Secret, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// When the API server refuses; the message is the server's.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        let (api, name) = self.api_of(object)?;
        Ok(api.patch(&name, &PatchParams::apply("user").force(), &Patch::Apply(object)).await?)
    }

    /// Deletes a resource as `kubectl delete` does, and waits until it is gone.
    ///
    /// # Errors
    /// When it is not in a minute.
    pub async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        let arguments = ["delete", kind, name, "--ignore-not-found", "--timeout=60s"];
        self.plane.kubectl(&arguments).await?.ok()?;
        Ok(())
    }

    /// Deletes what [`Cluster::proxied`] made, so that nothing of it is looked after any more.
    ///
    /// # Errors
    /// As [`Cluster::delete`].
    pub async fn forget(&self, name: &str) -> Result<()> {
        self.delete("hpp", name).await?;
        self.delete("hreg", name).await
    }

    /// The CachedImages of a ProxyProject's images, as admission names them at Harbor: image → resource.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn cached(&self, project: &str) -> Result<BTreeMap<String, Value>> {
        let object = resource("CachedImage", "", json!({}));
        let list = self.api_of(&object)?.0.list(&ListParams::default()).await?;
        let prefix = format!("{}/{project}/", self.harbor.host());
        let mut found = BTreeMap::new();
        for object in list {
            let object = serde_json::to_value(object)?;
            let image = object.pointer("/spec/image").and_then(Value::as_str).unwrap_or_default().to_owned();
            if image.starts_with(&prefix) {
                found.insert(image, object);
            }
        }
        Ok(found)
    }

    /// Waits until each of these images (`repository:tag` in the ProxyProject) has a CachedImage that is Ready.
    ///
    /// # Errors
    /// When not all are in a minute.
    pub async fn wait_until_warm(&self, project: &str, images: &[String]) -> Result<()> {
        let end = Instant::now() + SOON;
        loop {
            let found = self.cached(project).await?;
            let cold: Vec<String> = images
                .iter()
                .map(|image| format!("{}/{project}/{image}", self.harbor.host()))
                .filter(|image| found.get(image).is_none_or(|object| condition_of(object, "Ready") != "True Warm"))
                .collect();
            if cold.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("not warm: {cold:?} of {}\n{}", json!(found), self.logs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads a cluster-scoped resource of ours.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let object = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}});
        let found = self.api_of(&object)?.0.get(name).await?;
        Ok(serde_json::to_value(found)?)
    }

    /// Waits until a condition of a resource of ours is `status reason` (`True Reconciled`), and returns the resource.
    ///
    /// # Errors
    /// When it is not in a minute; the message says what it was, and what the processes logged.
    pub async fn wait_for(&self, kind: &str, name: &str, condition: &str, wanted: &str) -> Result<Value> {
        let end = Instant::now() + SOON;
        loop {
            let object = self.get(kind, name).await;
            let state = object.as_ref().map(|object| condition_of(object, condition)).unwrap_or_default();
            match object {
                Ok(object) if state == wanted => return Ok(object),
                object if Instant::now() >= end => {
                    bail!(
                        "{condition} of {kind} {name} is {state:?} and not {wanted:?}: {}\n{}",
                        reported(object),
                        self.logs()
                    )
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Waits until a resource of ours has a condition, whatever it says, and returns the resource.
    ///
    /// # Errors
    /// When it has not in a minute.
    pub async fn wait_for_any(&self, kind: &str, name: &str, condition: &str) -> Result<Value> {
        let end = Instant::now() + SOON;
        loop {
            let object = self.get(kind, name).await?;
            if !condition_of(&object, condition).is_empty() {
                return Ok(object);
            }
            if Instant::now() >= end {
                bail!("{kind} {name} has no {condition}: {}", reported(Ok(object)));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A Docker registry of a test's own behind a Registry and a ProxyProject `name`, both Ready.
    ///
    /// # Errors
    /// When they do not become Ready.
    pub async fn proxied(&self, name: &str) -> Result<Upstream> {
        let upstream = Upstream::builder().start().await;
        self.apply(&registry(name, &upstream.url())).await?;
        self.apply(&proxy_project(name)).await?;
        self.wait_for("ProxyProject", name, "Ready", "True Reconciled").await?;
        self.until_rewritten(&format!("{}/warm-up", upstream.host())).await?;
        Ok(upstream)
    }

    /// Waits until admission rewrites this image (by a dry run, which leaves nothing behind), and returns what to.
    ///
    /// # Errors
    /// When it does not in a minute.
    pub async fn until_rewritten(&self, image: &str) -> Result<String> {
        let end = Instant::now() + SOON;
        loop {
            let became = self.admitted(image).await?;
            if became != image {
                return Ok(became);
            }
            if Instant::now() >= end {
                bail!("{image} is not rewritten\n{}", self.logs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a dry run makes of a Pod with this image.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn admitted(&self, image: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client()?, "default");
        let pod = serde_json::from_value(pod("dry-run", "default", image))?;
        let parameters = kube::api::PostParams { dry_run: true, ..kube::api::PostParams::default() };
        let admitted = pods.create(&parameters, &pod).await?;
        let image = admitted.spec.and_then(|spec| spec.containers.into_iter().next()?.image);
        image.context("the Pod has no container")
    }

    fn api_of(&self, object: &Value) -> Result<(Api<DynamicObject>, String)> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
        let client = self.client()?;
        let api = match text("/metadata/namespace") {
            "" => Api::all_with(client, &resource),
            namespace => Api::namespaced_with(client, namespace, &resource),
        };
        Ok((api, text("/metadata/name").to_owned()))
    }

    /// Registers the webhook as `config/webhook` says, at its address here.
    async fn register(&self, directory: &str) -> Result<()> {
        let text = self.plane.kubectl(&["create", "-k", directory, "--dry-run=client", "-o", "json"]).await?.ok()?;
        let ca_bundle = k8s_openapi::ByteString(self.authority.pem().as_bytes().to_vec());
        for configuration in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let mut configuration = configuration?;
            let webhooks = configuration.get_mut("webhooks").and_then(Value::as_array_mut);
            for webhook in webhooks.context("config/webhook has webhooks")? {
                let path = webhook.pointer("/clientConfig/service/path").and_then(Value::as_str);
                let url = format!("{}{}", self.webhook_url(), path.context("a webhook has a path")?);
                let fields = webhook.as_object_mut().context("a webhook is an object")?;
                fields.insert("clientConfig".to_owned(), json!({"url": url, "caBundle": ca_bundle}));
                // This machine does much else; a call that is given up would look like one that was not answered.
                fields.insert("timeoutSeconds".to_owned(), json!(10));
            }
            self.plane.kubectl_with_input(&["apply", "-f", "-"], &configuration.to_string()).await?.ok()?;
        }
        Ok(())
    }
}

impl Process {
    async fn start(&mut self, line: &str) -> Result<()> {
        if let Some(pilot) = &mut self.pilot
            && pilot.is_running()?
        {
            return Ok(());
        }
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let kubeconfig = self.kubeconfig.display().to_string();
        let mut pilot = Pilot::spawn(&arguments, &[("KUBECONFIG", &kubeconfig)]).await?;
        pilot.wait_for_line(line, SOON).await?;
        self.pilot = Some(pilot);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut pilot) = self.pilot.take() {
            pilot.kill()?;
        }
        Ok(())
    }
}

/// The status of a resource, or why there is none.
fn reported(object: Result<Value>) -> String {
    object.map_or_else(|error| error.to_string(), |object| object.get("status").unwrap_or(&Value::Null).to_string())
}

/// `status reason` of a condition, empty where there is none.
#[must_use]
pub fn condition_of(object: &Value, kind: &str) -> String {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|condition| condition.get("type") == Some(&json!(kind)));
    let text = |key: &str| found.and_then(|condition| condition.get(key)?.as_str()).unwrap_or_default();
    format!("{} {}", text("status"), text("reason")).trim().to_owned()
}

/// The message of a condition.
#[must_use]
pub fn message_of(object: &Value, kind: &str) -> String {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|condition| condition.get("type") == Some(&json!(kind)));
    found.and_then(|condition| condition.get("message")?.as_str()).unwrap_or_default().to_owned()
}

/// A resource of ours.
#[must_use]
pub fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A Registry for a plain registry.
#[must_use]
pub fn registry(name: &str, url: &str) -> Value {
    resource("Registry", name, json!({"type": "docker-registry", "url": url}))
}

/// A public ProxyProject on the Registry of the same name.
#[must_use]
pub fn proxy_project(name: &str) -> Value {
    resource("ProxyProject", name, json!({"registryRef": {"name": name}, "public": true}))
}

/// A Secret of the operator's namespace.
#[must_use]
pub fn secret(name: &str, username: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "kubernetes.io/basic-auth", "stringData": {"username": username, "password": password},
    })
}

/// A Pod of one container.
#[must_use]
pub fn pod(name: &str, namespace: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": "app", "image": image}]},
    })
}

/// An image for linux on amd64 and on arm64, each with an attestation; its index loses its digest in Harbor's cache.
#[must_use]
pub fn image() -> Image {
    Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", Some("v8"))]).with_attestations()
}

/// A robot account as the examples name it. Returns its password.
///
/// # Errors
/// When Harbor makes none.
pub async fn robot(harbor: &Harbor) -> Result<String> {
    let access = |rights: &[(&str, &[&str])]| -> Vec<Value> {
        let each = rights.iter().flat_map(|(resource, actions)| actions.iter().map(move |action| (resource, action)));
        each.map(|(resource, action)| json!({"resource": resource, "action": action})).collect()
    };
    let body = json!({
        "name": "harbor-pilot", "level": "system", "duration": -1, "permissions": [
            {"kind": "system", "namespace": "/", "access": access(&SYSTEM_RIGHTS)},
            {"kind": "project", "namespace": "*", "access": access(&PROJECT_RIGHTS)},
        ],
    });
    let (status, answer) = harbor.manual_request("POST", "/robots", Some(body)).await;
    let secret = answer.get("secret").and_then(Value::as_str);
    Ok(secret.with_context(|| format!("Harbor made no robot: {status} {answer}"))?.to_owned())
}

/// Copies the examples; only the address of Harbor and the password of its Secret become those of here.
///
/// # Errors
/// When they cannot be read or written.
pub fn write_examples(from: &Path, to: &Path, url: &str, password: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?.to_owned();
        let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if name == "10-harbor.yaml" {
            text = text.replace("https://harbor.example.com", url);
            text = text.replace("password: change-me", &format!("password: '{password}'"));
        }
        fs::write(to.join(name), text).context("write an example")?;
    }
    Ok(())
}

/// A path of this tree.
fn path(relative: &str) -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tree has a root")?;
    Ok(root.join(relative).display().to_string())
}

/// Applies the definitions of our kinds, and waits until they are served.
///
/// # Errors
/// When the API server refuses.
pub async fn apply_crds(plane: &ControlPlane) -> Result<()> {
    let crds = path("crds")?;
    apply(plane, &["-f", &crds]).await?;
    let established = ["wait", "--for=condition=Established", "--timeout=30s", "-f", &crds];
    plane.kubectl(&established).await?.ok().map(drop)
}

async fn apply(plane: &ControlPlane, what: &[&str]) -> Result<()> {
    plane.kubectl(&[&["apply", "--server-side"], what].concat()).await?.ok()?;
    Ok(())
}

/// A kubeconfig with a token of a ServiceAccount of the operator's namespace.
///
/// # Errors
/// When there is no such account.
pub async fn account(plane: &ControlPlane, directory: &Path, name: &str) -> Result<PathBuf> {
    let token = plane.kubectl(&["create", "token", name, "-n", NAMESPACE, "--duration", "4h"]).await?.ok()?;
    let text = fs::read_to_string(plane.kubeconfig_path()).context("read the kubeconfig")?;
    let mut kubeconfig: Value = serde_json::from_str(&text).context("the kubeconfig is JSON")?;
    let user = kubeconfig.pointer_mut("/users/0/user").context("the kubeconfig has a user")?;
    *user = json!({"token": token.trim()});
    let path = directory.join(format!("{name}.kubeconfig"));
    fs::write(&path, kubeconfig.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
