//! Processes that end, die, halt and are cut off, under load: somebody always serves, one writes, and no Pod is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bootstrapping;
mod leader;
mod rollout;

use std::{fs, path::Path, path::PathBuf, time::Duration};

use harbor_double::{Harbor, Upstream};
use harbor_pilot_e2e::{
    balancer::Replica,
    cluster::{NAMESPACE, account, apply_crds, robot},
    control_plane::{self, ControlPlane},
    gate::Gate,
    pilot::Pilot,
    pki::Authority,
    process::free_ports,
};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    sync::{Mutex, MutexGuard, OnceCell},
};

/// What the tests wait for at most, unless they know better.
const SOON: Duration = Duration::from_secs(60);

/// An API server, a Harbor behind a gate, and a ProxyProject `hub` that serves `docker.io`.
struct Site {
    plane: &'static ControlPlane,
    gate: Gate,
    /// Signed the certificate of the webhooks.
    authority: Authority,
    tls: PathBuf,
    _harbor: Harbor,
    _hub: Upstream,
}

/// The site, for one test at a time: they measure times, and stop what others would use.
async fn alone() -> MutexGuard<'static, Site> {
    static SITE: OnceCell<Mutex<Site>> = OnceCell::const_new();
    static RUNTIME: OnceCell<Runtime> = OnceCell::const_new();
    let runtime = RUNTIME.get_or_init(|| async { Runtime::new().unwrap() }).await;
    // What runs in this process runs on a runtime that outlives the first test.
    let start = || async { Mutex::new(runtime.spawn(Site::start()).await.unwrap()) };
    SITE.get_or_init(start).await.lock().await
}

impl Site {
    async fn start() -> Self {
        let plane = control_plane::shared().await.unwrap();
        apply_crds(plane).await.unwrap();
        plane.kubectl(&["apply", "--server-side", "-k", &path("config/rbac")]).await.unwrap().ok().unwrap();
        let hub = Upstream::builder().start().await;
        let harbor = Harbor::builder().speed(20.0).route("hub.docker.com", hub.url()).start().await;
        let password = robot(&harbor).await.unwrap();
        let gate = Gate::start(harbor.host().rsplit(':').next().unwrap().parse().unwrap()).await.unwrap();
        let authority = Authority::new("harbor-pilot-webhook").unwrap();
        let tls = plane.directory().join("tls");
        fs::create_dir_all(&tls).unwrap();
        let pair = authority.server(&["127.0.0.1"]).unwrap();
        fs::write(tls.join("tls.crt"), &pair.certificate).unwrap();
        fs::write(tls.join("tls.key"), &pair.key).unwrap();
        let site = Self { plane, gate, authority, tls, _harbor: harbor, _hub: hub };

        let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let url = format!("http://127.0.0.1:{}", site.gate.port());
        let reference = json!({"name": "hub"});
        for manifest in [
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "harbor", "namespace": NAMESPACE},
                "stringData": {"username": "robot$harbor-pilot", "password": password},
            }),
            object("HarborInstance", "default", json!({"url": url, "credentialsSecretRef": {"name": "harbor"}})),
            object("Registry", "hub", json!({"type": "docker-hub", "url": "https://hub.docker.com"})),
            object("ProxyProject", "hub", json!({"registryRef": reference, "prewarm": {"mode": "Manual"}})),
        ] {
            site.apply(&manifest).await;
        }
        let kubeconfig = account(plane, plane.directory(), "harbor-pilot-controller").await.unwrap();
        let mut controller = pilot(&["controller", "--metrics-bind-address", "127.0.0.1:0"], &kubeconfig).await;
        let ready = ["wait", "hpp/hub", "--for=condition=Ready", "--timeout=60s"];
        plane.kubectl(&ready).await.unwrap().ok().unwrap_or_else(|error| panic!("{error}\n{}", controller.logs()));
        controller.terminate().unwrap();
        let status = controller.wait(SOON).await.unwrap();
        assert!(status.success(), "a controller that runs alone ends well: {status}\n{}", controller.logs());
        site
    }

    async fn apply(&self, manifest: &Value) {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.plane.kubectl_with_input(&arguments, &manifest.to_string()).await.unwrap().ok().unwrap();
    }

    /// The kubeconfig of an account, with the API server behind another port.
    async fn kubeconfig(&self, account_name: &str, port: Option<u16>) -> PathBuf {
        let kubeconfig = account(self.plane, self.plane.directory(), account_name).await.unwrap();
        if let Some(port) = port {
            let mut value: Value = serde_json::from_str(&fs::read_to_string(&kubeconfig).unwrap()).unwrap();
            value["clusters"][0]["cluster"]["server"] = json!(format!("https://127.0.0.1:{port}"));
            fs::write(&kubeconfig, value.to_string()).unwrap();
        }
        kubeconfig
    }

    fn api_port(&self) -> u16 {
        let value: Value = serde_json::from_str(&fs::read_to_string(self.plane.kubeconfig_path()).unwrap()).unwrap();
        value["clusters"][0]["cluster"]["server"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
    }

    /// A replica of the webhook that has just been started.
    async fn webhook(&self, at: Replica, kubeconfig: &Path, linger: &str) -> Pilot {
        let listen = format!("127.0.0.1:{}", at.port);
        let metrics_bind_address = format!("127.0.0.1:{}", at.ops_port);
        let tls = self.tls.display().to_string();
        let arguments = [
            "webhook",
            "--tls-dir",
            &tls,
            "--webhook-bind-address",
            &listen,
            "--metrics-bind-address",
            &metrics_bind_address,
            "--shutdown-delay",
            linger,
        ];
        pilot(&arguments, kubeconfig).await
    }

    /// Registers the webhooks of `config/webhook` at this port, with another failure policy, and with these namespaces left out
    /// beside those that are there.
    async fn register(&self, port: u16, failure_policy: &str, left_out: &[&str]) {
        let arguments = ["create", "-k", &path("config/webhook"), "--dry-run=client", "-o", "json"];
        let text = self.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
        let ca_bundle = ByteString(self.authority.pem().as_bytes().to_vec());
        for configuration in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let mut configuration = configuration.unwrap();
            for webhook in configuration["webhooks"].as_array_mut().unwrap() {
                let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
                webhook["clientConfig"] =
                    json!({"url": format!("https://127.0.0.1:{port}{path}"), "caBundle": ca_bundle});
                webhook["failurePolicy"] = json!(failure_policy);
                // This machine does much else; a call that is given up would look like one that was not answered.
                webhook["timeoutSeconds"] = json!(10);
                let names = &mut webhook["namespaceSelector"]["matchExpressions"][0]["values"];
                names.as_array_mut().unwrap().extend(left_out.iter().map(|name| json!(name)));
            }
            self.apply(&configuration).await;
        }
    }

    async fn unregister(&self) {
        for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
            self.plane.kubectl(&["delete", kind, "harbor-pilot"]).await.unwrap().ok().unwrap();
        }
    }
}

async fn pilot(arguments: &[&str], kubeconfig: &Path) -> Pilot {
    Pilot::spawn(arguments, &[("KUBECONFIG", &kubeconfig.display().to_string())]).await.unwrap()
}

fn replicas() -> [Replica; 2] {
    let [port, ops_port, other, other_ops] = free_ports().unwrap();
    [Replica { port, ops_port }, Replica { port: other, ops_port: other_ops }]
}

/// What a replica answers on its ops port: status and text; `None` when it does not.
async fn ops(replica: Replica, path: &str) -> Option<(u16, String)> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let answer = http.get(format!("http://127.0.0.1:{}{path}", replica.ops_port)).send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

/// A path of this tree.
fn path(relative: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative).display().to_string()
}
