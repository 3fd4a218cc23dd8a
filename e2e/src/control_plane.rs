//! A real Kubernetes API on loopback: etcd and kube-apiserver, with certificates of their own and RBAC on.
//!
//! There is no controller-manager, no scheduler and no kubelet (a [node](crate::node) adds them): Pods are stored and admitted but do not run, a deleted
//! namespace stays in `Terminating`, owner references collect no garbage, and the `ServiceAccount` admission plugin is
//! off because no default account would ever appear.
//!
//! A test binary shares one:
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! let plane = harbor_pilot_e2e::control_plane::shared().await?;
//! let client = plane.client()?; // one for each test: it belongs to the test's own runtime
//! let namespace = plane.namespace("rewrite").await?; // nobody else's
//! # Ok(()) }
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use crate::kubectl::{Kubectl, Output};
use crate::pki::{Authority, Pair, bare_key};
use crate::process::{POLL, Process, Watchdog, directory, free_ports};
use crate::tools::Tool;

/// Both processes are ready in seconds; this is for a machine that does much else.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// One question to a server that may not be there yet.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// How often somebody else may take our ports before we give up.
const ATTEMPTS: usize = 5;

/// The first address of the range of Services: that of the API server itself.
const SERVICE_ADDRESS: &str = "10.0.0.1";

const AUDIT_LOG: &str = "audit.log";

/// Accounts of the operator's namespace whose writes are all in the audit log.
pub const AUDITED: [&str; 2] = ["candidate-a", "candidate-b"];

/// A running etcd and kube-apiserver. Dropping it kills both and removes their directory.
pub struct ControlPlane {
    // Dropped in this order: the server before its store, and the watchdog once there is nothing left to kill.
    apiserver: Mutex<Option<Process>>,
    etcd: Process,
    watchdog: Mutex<Watchdog>,
    launch: Launch,
    directory: TempDir,
    kubeconfig: PathBuf,
    config: Config,
    kubectl: Kubectl,
}

/// The control plane of this test binary, started by whoever asks first. It ends with the process.
///
/// # Errors
/// Those of [`ControlPlane::start`]; the next caller tries again.
pub async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED.get_or_try_init(ControlPlane::start).await
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready: some seconds, and minutes where the tools must be built.
    ///
    /// # Errors
    /// When a tool cannot be built, or a process ends or is not ready within two minutes; the message carries the tail
    /// of both logs.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// As [`ControlPlane::start`], with an API server that Pods reach at `address`: the Service `kubernetes` leads there.
    ///
    /// # Errors
    /// Those of [`ControlPlane::start`].
    pub async fn start_at(address: IpAddr) -> Result<Self> {
        crate::install_crypto_provider();
        let programs = Programs {
            etcd: Tool::Etcd.path_async().await?,
            apiserver: Tool::KubeApiserver.path_async().await?,
            kubectl: Tool::Kubectl.path_async().await?,
        };
        let mut attempt = 1;
        loop {
            match Self::start_once(&programs, address).await {
                Err(Failure::PortTaken(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(Failure::PortTaken(error) | Failure::Other(error)) => return Err(error),
                Ok(plane) => return Ok(plane),
            }
        }
    }

    /// A kubeconfig of the administrator (`system:masters`). It names certificate files beside it.
    #[must_use]
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of the administrator. It lives in the async runtime that it is made in: make one for each test.
    ///
    /// # Errors
    /// When the TLS configuration is refused.
    pub fn client(&self) -> Result<Client> {
        Client::try_from(self.config.clone()).context("make a client")
    }

    /// Creates a namespace with a name of its own that begins with `prefix`, and returns the name.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        self.labelled_namespace(prefix, &[]).await
    }

    /// As [`ControlPlane::namespace`], with labels.
    ///
    /// # Errors
    /// As there.
    pub async fn labelled_namespace(&self, prefix: &str, labels: &[(&str, &str)]) -> Result<String> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata =
            ObjectMeta { generate_name: Some(format!("{prefix}-")), labels: Some(labels), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let created = Api::<Namespace>::all(self.client()?)
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("create a namespace {prefix}-…"))?;
        let name = created.metadata.name.context("the API server gave the namespace no name")?;
        default_account(&self.client()?, &name).await?;
        Ok(name)
    }

    /// Runs the `kubectl` of the same version as the administrator. Warnings of webhooks are in `stderr`.
    ///
    /// # Errors
    /// When it cannot be run; [`Output::ok`] is for its own failures.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl.run(arguments, "").await
    }

    /// As [`ControlPlane::kubectl`], with `input` on standard input: `&["apply", "-f", "-"]`.
    ///
    /// # Errors
    /// As there.
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        self.kubectl.run(arguments, input).await
    }

    /// The tails of both logs, for a message of a test that fails.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let apiserver = self.apiserver.try_lock();
        let apiserver = apiserver.ok().and_then(|process| Some(process.as_ref()?.log_tail()));
        format!("{}\n{}", self.etcd.log_tail(), apiserver.unwrap_or_default())
    }

    /// Kills the API server with SIGKILL. Only for a control plane of one's own.
    pub async fn stop_apiserver(&self) {
        drop(self.apiserver.lock().await.take());
    }

    /// Starts the API server at the same address, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready within two minutes.
    pub async fn start_apiserver(&self) -> Result<()> {
        let mut running = self.apiserver.lock().await;
        let mut process = self.launch.apiserver(self.directory())?;
        self.watchdog.lock().await.watch(&process)?;
        let (client, deadline) = (self.client()?, Instant::now() + START_DEADLINE);
        while !is_ready(&client).await {
            still_there(&mut [&mut process], deadline).map_err(Failure::into_error)?;
            tokio::time::sleep(POLL).await;
        }
        *running = Some(process);
        Ok(())
    }

    /// Has etcd forget all but the newest state of everything.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn compact(&self) -> Result<()> {
        let http = reqwest::Client::builder().no_proxy().build().context("make an HTTP client")?;
        let ask = async |path: &str, body: serde_json::Value| -> Result<serde_json::Value> {
            let url = format!("http://127.0.0.1:{}/v3/kv/{path}", self.launch.etcd_port);
            let answer = http.post(url).json(&body).send().await.context("ask etcd")?.error_for_status()?;
            answer.json().await.context("etcd answers JSON")
        };
        let found = ask("range", json!({"key": "AA=="})).await?;
        let revision = found.pointer("/header/revision").context("etcd has a revision")?;
        ask("compaction", json!({"revision": revision, "physical": true})).await.map(drop)
    }

    /// What the API server has logged of writes to Pods, with the annotations of webhooks, of the lists and watches of our
    /// accounts, of their writes to Secrets and webhook configurations, and of all writes of the [`AUDITED`] ones: one JSON
    /// object a line.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn audit_log(&self) -> Result<String> {
        let path = self.directory().join(AUDIT_LOG);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The directory of everything that belongs to this control plane.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate of the authority that signed the API server's.
    pub(crate) fn authority_path(&self) -> &Path {
        &self.launch.files.authority
    }

    /// The key that tokens of ServiceAccounts are signed with.
    pub(crate) fn service_account_key_path(&self) -> &Path {
        &self.launch.files.service_account.0
    }

    async fn start_once(programs: &Programs, address: IpAddr) -> Result<Self, Failure> {
        let directory = directory("harbor-pilot-e2e-")?;
        let root = directory.path();
        let mut watchdog = Watchdog::start(root)?;
        let [client_port, peer_port, api_port] = free_ports()?;
        let files = Files::write(root, address, api_port)?;
        let deadline = Instant::now() + START_DEADLINE;

        let mut etcd =
            Process::spawn("etcd", &mut etcd_command(programs, root, client_port, peer_port), &root.join("etcd.log"))?;
        watchdog.watch(&etcd)?;
        let store = ("127.0.0.1", client_port);
        loop {
            still_there(&mut [&mut etcd], deadline)?;
            if tokio::net::TcpStream::connect(store).await.is_ok() {
                break;
            }
            tokio::time::sleep(POLL).await;
        }

        let config = config(&files.kubeconfig).await?;
        let kubectl = Kubectl::new(&programs.kubectl, &files.kubeconfig, root);
        let kubeconfig = files.kubeconfig.clone();
        let launch = Launch { programs: programs.clone(), files, etcd_port: client_port, address, api_port };
        let mut apiserver = launch.apiserver(root)?;
        watchdog.watch(&apiserver)?;
        let client = Client::try_from(config.clone()).context("make a client")?;
        while !is_ready(&client).await {
            still_there(&mut [&mut etcd, &mut apiserver], deadline)?;
            tokio::time::sleep(POLL).await;
        }

        let (apiserver, watchdog) = (Mutex::new(Some(apiserver)), Mutex::new(watchdog));
        Ok(Self { apiserver, etcd, watchdog, launch, directory, kubeconfig, config, kubectl })
    }
}

/// What it takes to start the API server, the first time and again.
struct Launch {
    programs: Programs,
    files: Files,
    etcd_port: u16,
    address: IpAddr,
    api_port: u16,
}

impl Launch {
    fn apiserver(&self, root: &Path) -> Result<Process> {
        let mut command = self.apiserver_command(root);
        Process::spawn("kube-apiserver", &mut command, &root.join("kube-apiserver.log"))
    }

    fn apiserver_command(&self, root: &Path) -> Command {
        let Self { programs, files, etcd_port, address, api_port } = self;
        let (private, public) = &files.service_account;
        let (bind, reconciler) = if address.is_loopback() { ("127.0.0.1", "none") } else { ("0.0.0.0", "lease") };
        let mut command = Command::new(&programs.apiserver);
        command
            .arg(flag("etcd-servers", format_args!("http://127.0.0.1:{etcd_port}")))
            .arg(flag("bind-address", bind))
            .arg(flag("advertise-address", address))
            .arg(flag("secure-port", api_port))
            .arg(flag("cert-dir", root.join("apiserver").display()))
            .arg(flag("tls-cert-file", files.server.0.display()))
            .arg(flag("tls-private-key-file", files.server.1.display()))
            .arg(flag("client-ca-file", files.authority.display()))
            .arg(flag("kubelet-client-certificate", files.admin.0.display()))
            .arg(flag("kubelet-client-key", files.admin.1.display()))
            .arg(flag("kubelet-preferred-address-types", "InternalIP"))
            .arg(flag("authorization-mode", "RBAC"))
            .arg(flag("audit-policy-file", files.audit_policy.display()))
            .arg(flag("audit-log-path", root.join(AUDIT_LOG).display()))
            .arg(flag("service-account-issuer", "https://kubernetes.default.svc"))
            .arg(flag("service-account-key-file", public.display()))
            .arg(flag("service-account-signing-key-file", private.display()))
            .arg(flag("service-cluster-ip-range", "10.0.0.0/24"))
            .arg(flag("endpoint-reconciler-type", reconciler))
            .arg(flag("allow-privileged", true));
        command
    }
}

#[derive(Clone)]
struct Programs {
    etcd: PathBuf,
    apiserver: PathBuf,
    kubectl: PathBuf,
}

/// Why one attempt failed.
enum Failure {
    /// Somebody was faster at a port: worth another try.
    PortTaken(anyhow::Error),
    Other(anyhow::Error),
}

impl Failure {
    fn into_error(self) -> anyhow::Error {
        let (Self::PortTaken(error) | Self::Other(error)) = self;
        error
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// What the API server and its clients read from disk.
struct Files {
    authority: PathBuf,
    server: (PathBuf, PathBuf),
    admin: (PathBuf, PathBuf),
    service_account: (PathBuf, PathBuf),
    kubeconfig: PathBuf,
    audit_policy: PathBuf,
}

impl Files {
    fn write(root: &Path, address: IpAddr, api_port: u16) -> Result<Self> {
        let put = |name: &str, text: &str| -> Result<PathBuf> {
            let path = root.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let put_pair = |name: &str, pair: &Pair| -> Result<(PathBuf, PathBuf)> {
            Ok((put(&format!("{name}.crt"), &pair.certificate)?, put(&format!("{name}.key"), &pair.key)?))
        };
        let authority = Authority::new("harbor-pilot-e2e")?;
        let address = address.to_string();
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc", SERVICE_ADDRESS, &address];
        let server = put_pair("apiserver", &authority.server(&names)?)?;
        let admin = put_pair("admin", &authority.client("admin", "system:masters")?)?;
        let (private, public) = bare_key()?;
        let service_account = (put("service-account.key", &private)?, put("service-account.pub", &public)?);
        let authority = put("ca.crt", authority.pem())?;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "e2e", "cluster": {
                "server": format!("https://127.0.0.1:{api_port}"), "certificate-authority": authority } }],
            "users": [{ "name": "admin", "user": { "client-certificate": admin.0, "client-key": admin.1 } }],
            "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": "admin" } }],
            "current-context": "e2e",
        });
        let kubeconfig = put("kubeconfig", &kubeconfig.to_string())?;
        let pods = json!({"level": "Metadata", "verbs": ["create", "update", "patch"],
            "resources": [{"group": "", "resources": ["pods"]}], "omitStages": ["RequestReceived"]});
        let reads = json!({"level": "Metadata", "verbs": ["list", "watch"], "userGroups": ["system:serviceaccounts"],
            "omitStages": ["RequestReceived"]});
        let certificates = json!({"level": "Metadata", "verbs": ["create", "update", "patch"],
            "userGroups": ["system:serviceaccounts"], "omitStages": ["RequestReceived"],
            "resources": [{"group": "", "resources": ["secrets"]}, {"group": "admissionregistration.k8s.io"}]});
        let users = AUDITED.map(|name| format!("system:serviceaccount:harbor-pilot:{name}"));
        let writes = json!({"level": "Metadata", "verbs": ["create", "update", "patch", "delete"], "users": users,
            "omitStages": ["RequestReceived"]});
        let rules = json!([pods, reads, certificates, writes, {"level": "None"}]);
        let audit_policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
        let audit_policy = put("audit-policy.json", &audit_policy.to_string())?;
        Ok(Self { authority, server, admin, service_account, kubeconfig, audit_policy })
    }
}

fn etcd_command(programs: &Programs, root: &Path, client_port: u16, peer_port: u16) -> Command {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new(&programs.etcd);
    command
        .arg(flag("data-dir", root.join("etcd").display()))
        .arg(flag("listen-client-urls", &client))
        .arg(flag("advertise-client-urls", &client))
        .arg(flag("listen-peer-urls", &peer))
        .arg(flag("initial-advertise-peer-urls", &peer))
        .arg(flag("initial-cluster", format_args!("default={peer}")))
        .arg("--log-level=warn")
        .arg("--unsafe-no-fsync");
    command
}

/// Makes the ServiceAccount that Pods run under, as the controller manager would. That it is there already is fine.
async fn default_account(client: &Client, namespace: &str) -> Result<()> {
    let metadata = ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    match accounts.create(&PostParams::default(), &account).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        created => created.map(drop).with_context(|| format!("create the ServiceAccount of {namespace}")),
    }
}

pub(crate) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("use the kubeconfig")?;
    // The environment's proxy is not for loopback.
    config.proxy_url = None;
    Ok(config)
}

/// Ready, and so far that Pods can be made in the namespaces that are there from the start.
async fn is_ready(client: &Client) -> bool {
    let ask = async {
        let ready = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
        for namespace in ["default", "kube-system"] {
            default_account(client, namespace).await?;
        }
        anyhow::Ok(ready == "ok")
    };
    matches!(tokio::time::timeout(ASK_DEADLINE, ask).await, Ok(Ok(true)))
}

/// Fails when a process has ended or the deadline has passed.
fn still_there(processes: &mut [&mut Process], deadline: Instant) -> Result<(), Failure> {
    let mut reason =
        (Instant::now() >= deadline).then(|| format!("the control plane is not ready after {START_DEADLINE:?}"));
    for process in processes.iter_mut() {
        if let Some(status) = process.exited()? {
            reason = Some(format!("{} ended ({status})", process.name()));
        }
    }
    let Some(reason) = reason else { return Ok(()) };
    let port_taken = processes.iter().any(|process| process.log().contains("address already in use"));
    let tails: Vec<String> = processes.iter().map(|process| process.log_tail()).collect();
    let error = anyhow::anyhow!("{reason}\n{}", tails.join("\n"));
    Err(if port_taken { Failure::PortTaken(error) } else { Failure::Other(error) })
}
