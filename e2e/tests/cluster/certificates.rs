//! The controller keeps the webhook's certificates: from nothing, through a rotation of both under load, killed whenever it
//! has done something.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harbor_pilot::tls::x509::X509;
use harbor_pilot_e2e::cluster::{NAMESPACE, SOON, account};
use harbor_pilot_e2e::control_plane::ControlPlane;
use harbor_pilot_e2e::load::{Load, Pods};
use harbor_pilot_e2e::pilot::Pilot;
use harbor_pilot_e2e::process::free_ports;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SERVICE: &str = "harbor-pilot-webhook";

/// The controller looks each 5 s.
const LOOKED: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_issued_from_nothing_and_rotated_under_load_by_a_controller_that_is_killed_again_and_again() {
    let plane = ControlPlane::start().await.unwrap();
    let mut bed = Bed::prepare(&plane).await;
    let mut controller = bed.controller("1h", "4h").await;
    bed.until_issued().await;
    let _kubelet = bed.kubelet();
    let webhooks = bed.start_webhooks().await;
    bed.until_rewritten().await;

    let pods = Pods {
        namespace: "default",
        image: "nginx:1.27",
        rewritten: "/dockerhub/library/nginx",
        pace: Duration::from_millis(10),
    };
    let clients = std::iter::repeat_n(bed.client.clone(), 2);
    let load = Load::start(clients, pods);
    let before = bed.state().await;
    // Both are valid for longer now than they should be.
    drop(controller);
    controller = bed.controller("30m", "2h").await;
    let (mut last, mut kills, mut leaves) = (before.clone(), 0, Vec::new());
    let end = Instant::now() + SOON;
    while !bed.is_rotated(&before).await {
        let logs = || webhooks.iter().map(Pilot::logs).collect::<String>();
        assert!(Instant::now() < end, "{:#?}\n{}\n{}", bed.state().await, controller.logs(), logs());
        let state = bed.state().await;
        if state.versions != last.versions {
            if state.leaf != last.leaf {
                leaves.push(state.leaf.clone());
            }
            last = state;
            controller.kill().unwrap();
            controller = bed.controller("30m", "2h").await;
            kills += 1;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let after = bed.state().await;
    // Pods go on for a while with the old authority trusted by nobody.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = load.stop().await;
    assert_eq!((seen.failed, seen.unmutated), (0, 0), "{seen:?}");
    assert!(seen.asked > 100, "only {} Pods", seen.asked);
    assert!(kills >= 3, "killed {kills} times only");
    assert!(leaves.len() >= 2, "first the certificate, then both");
    assert_ne!(before.authority, after.authority);

    removed_ca_bundle_is_restored_and_nothing_else_is_written(&plane, &bed).await;
    secrets_of_another_owner_are_not_modified(&bed, &mut controller).await;
}

async fn removed_ca_bundle_is_restored_and_nothing_else_is_written(plane: &ControlPlane, bed: &Bed) {
    let account = r#""username":"system:serviceaccount:harbor-pilot:harbor-pilot-controller""#;
    let is_write =
        |line: &str| ["create", "update", "patch"].iter().any(|verb| line.contains(&format!(r#""verb":"{verb}""#)));
    let writes = || {
        let log = plane.audit_log().unwrap();
        log.lines().filter(|line| line.contains(account) && is_write(line)).count()
    };
    let before = writes();
    assert!(before > 5, "writes are not counted");
    tokio::time::sleep(LOOKED).await;
    assert_eq!(writes(), before, "something was written although nothing was to do");

    let emptied = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
    let patch = ["patch", "mutatingwebhookconfiguration", "harbor-pilot", "--type", "json", "-p", &emptied];
    plane.kubectl(&patch).await.unwrap().ok().unwrap();
    let (begin, wanted) = (Instant::now(), vec![bed.state().await.authority]);
    while bed.state().await.bundles.iter().any(|bundle| *bundle != wanted) {
        assert!(begin.elapsed() < LOOKED + LOOKED, "it is not back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bed.until_rewritten().await;
}

async fn secrets_of_another_owner_are_not_modified(bed: &Bed, controller: &mut Pilot) {
    let name = format!("{SERVICE}-tls");
    let mut theirs = bed.secrets.get(&name).await.unwrap();
    theirs.metadata.labels = None;
    let theirs = bed.secrets.replace(&name, &PostParams::default(), &theirs).await.unwrap();
    bed.secrets.delete(&format!("{SERVICE}-ca"), &DeleteParams::default()).await.unwrap();
    controller
        .wait_for_line("Secret harbor-pilot-webhook-tls is not managed by Harbor Pilot", LOOKED + LOOKED)
        .await
        .unwrap();
    let found = bed.secrets.get(&name).await.unwrap();
    assert_eq!(found.metadata.resource_version, theirs.metadata.resource_version);
    assert!(bed.secrets.get_opt(&format!("{SERVICE}-ca")).await.unwrap().is_none());
    assert!(!controller.logs().contains("PRIVATE KEY"));
}

/// A control plane without kubelets or a network, and what stands in for them.
struct Bed {
    client: Client,
    secrets: Api<Secret>,
    kubeconfig: PathBuf,
    directories: [PathBuf; 2],
    ports: [u16; 2],
}

/// What the API server has, of the certificates.
#[derive(Debug, Clone, PartialEq)]
struct State {
    versions: Vec<Option<String>>,
    authority: Option<X509>,
    leaf: Option<X509>,
    bundles: Vec<Vec<Option<X509>>>,
}

impl Bed {
    async fn prepare(plane: &ControlPlane) -> Self {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../config");
        plane.kubectl(&["apply", "-k", &format!("{root}/rbac")]).await.unwrap().ok().unwrap();
        let directory = plane.directory().join("certificates");
        let directories = ["a", "b"].map(|name| directory.join(name));
        for directory in &directories {
            fs::create_dir_all(directory).unwrap();
        }
        let client = plane.client().unwrap();
        let kubeconfig = account(plane, &directory, "harbor-pilot-controller").await.unwrap();
        let ports = free_ports::<2>().unwrap();
        // The name by which the API server checks the certificate is that of the Service, wherever that leads.
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        });
        plane.kubectl_with_input(&["apply", "-f", "-"], &service.to_string()).await.unwrap().ok().unwrap();
        let arguments = ["create", "-k", &format!("{root}/webhook"), "--dry-run=client", "-o", "json"];
        let text = plane.kubectl(&arguments).await.unwrap().ok().unwrap();
        for configuration in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let mut configuration = configuration.unwrap();
            // One kind calls one replica, the other the other.
            let port = ports[usize::from(configuration["kind"] == "ValidatingWebhookConfiguration")];
            for webhook in configuration["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"]["service"]["port"] = json!(port);
                // No error of TLS is to be passed over. This machine does much else.
                webhook["failurePolicy"] = json!("Fail");
                webhook["timeoutSeconds"] = json!(30);
            }
            let text = configuration.to_string();
            plane.kubectl_with_input(&["apply", "-f", "-"], &text).await.unwrap().ok().unwrap();
        }
        for (name, port) in ["a", "b"].into_iter().zip(ports) {
            plane
                .kubectl_with_input(&["apply", "-f", "-"], &slice(name, port).to_string())
                .await
                .unwrap()
                .ok()
                .unwrap();
        }
        let secrets = Api::namespaced(client.clone(), NAMESPACE);
        Self { client, secrets, kubeconfig, directories, ports }
    }

    async fn controller(&self, certificate: &str, authority: &str) -> Pilot {
        let lifetimes = ["--certificate-lifetime", certificate, "--ca-lifetime", authority];
        let fixed = [
            "controller",
            "--namespace",
            NAMESPACE,
            "--certificates",
            "managed",
            "--metrics-bind-address",
            "127.0.0.1:0",
        ];
        let arguments = [&fixed[..], &lifetimes[..]].concat();
        Pilot::spawn(&arguments, &[("KUBECONFIG", self.kubeconfig.to_str().unwrap())]).await.unwrap()
    }

    async fn until_issued(&self) {
        let end = Instant::now() + SOON;
        while self.state().await.leaf.is_none() {
            assert!(Instant::now() < end, "no certificate was issued: {:#?}", self.state().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Brings the Secret into the directories, as kubelets do: late, and not to all at once.
    fn kubelet(&self) -> JoinHandle<()> {
        let (secrets, directories) = (self.secrets.clone(), self.directories.clone());
        tokio::spawn(async move {
            let mut last = None;
            loop {
                if let Ok(Some(secret)) = secrets.get_opt(&format!("{SERVICE}-tls")).await
                    && secret.data != last
                {
                    for directory in &directories {
                        if last.is_some() {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        write(std::slice::from_ref(directory), &secret);
                    }
                    last.clone_from(&secret.data);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    }

    async fn start_webhooks(&mut self) -> Vec<Pilot> {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/manifests");
        let mut webhooks = Vec::new();
        for (directory, port) in self.directories.iter().zip(self.ports) {
            let file = directory.join("tls.key");
            let end = Instant::now() + SOON;
            while !file.exists() {
                assert!(Instant::now() < end, "there is no {}", file.display());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let listen = format!("0.0.0.0:{port}");
            let directory = directory.to_str().unwrap();
            let arguments = [
                "webhook",
                "--tls-dir",
                directory,
                "--webhook-bind-address",
                &listen,
                "--metrics-bind-address",
                "127.0.0.1:0",
            ];
            let mut webhook = Pilot::spawn(&[&arguments[..], &["--rules", rules]].concat(), &[]).await.unwrap();
            webhook.wait_for_line("serving admission", SOON).await.unwrap();
            webhooks.push(webhook);
        }
        webhooks
    }

    async fn until_rewritten(&self) {
        let end = Instant::now() + SOON;
        while let Err(error) = admit(&self.client).await {
            assert!(Instant::now() < end, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn state(&self) -> State {
        let mutating: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let validating: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let [authority, leaf] = ["ca", "tls"].map(|kind| format!("{SERVICE}-{kind}"));
        let (authority, leaf, mutating, validating) = tokio::try_join!(
            self.secrets.get_opt(&authority),
            self.secrets.get_opt(&leaf),
            mutating.get("harbor-pilot"),
            validating.get("harbor-pilot"),
        )
        .unwrap();
        let certificate = |secret: &Option<Secret>, key: &str| {
            let bytes = secret.as_ref()?.data.as_ref()?.get(key)?;
            X509::read_all(&bytes.0).unwrap().pop()
        };
        let version = |secret: &Option<Secret>| secret.as_ref()?.metadata.resource_version.clone();
        let configs = mutating.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
        let configs = configs.chain(validating.webhooks.into_iter().flatten().map(|webhook| webhook.client_config));
        let bundle = |bytes: Option<k8s_openapi::ByteString>| {
            X509::read_all(&bytes.unwrap_or_default().0).unwrap().into_iter().map(Some).collect()
        };
        State {
            versions: vec![
                version(&authority),
                version(&leaf),
                mutating.metadata.resource_version,
                validating.metadata.resource_version,
            ],
            authority: certificate(&authority, "ca.crt"),
            leaf: certificate(&leaf, "tls.crt"),
            bundles: configs.map(|config| bundle(config.ca_bundle)).collect(),
        }
    }

    /// Whether another authority is the only one that is trusted, and certified what is served.
    async fn is_rotated(&self, before: &State) -> bool {
        let State { authority, leaf, bundles, .. } = self.state().await;
        let certified =
            || authority.as_ref().zip(leaf.as_ref()).is_some_and(|(authority, leaf)| leaf.is_issued_by(authority));
        authority != before.authority && certified() && bundles.iter().all(|bundle| *bundle == [authority.clone()])
    }
}

/// The kubelet's way of writing is no more atomic than this for who reads one file after the other.
fn write(directories: &[PathBuf], secret: &Secret) {
    for (key, bytes) in secret.data.iter().flatten() {
        for directory in directories {
            let (new, file) = (directory.join(format!(".{key}")), directory.join(key));
            fs::write(&new, &bytes.0).unwrap();
            fs::rename(&new, Path::new(&file)).unwrap();
        }
    }
}

/// One replica of the Service. An address of loopback is refused by the API server, so it is another one of this machine.
fn slice(name: &str, port: u16) -> Value {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this test needs a network interface besides loopback");
    let address = socket.local_addr().unwrap().ip();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{SERVICE}-{name}"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Asks the API server for a Pod that is not to be; whether admission made of it what it should.
async fn admit(client: &Client) -> Result<(), String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod =
        json!({"metadata": {"generateName": "load-"}, "spec": {"containers": [{"name": "a", "image": "nginx:1.27"}]}});
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let pod = pods.create(&dry_run, &serde_json::from_value(pod).unwrap()).await.map_err(|error| error.to_string())?;
    let image = pod.spec.and_then(|spec| spec.containers.into_iter().next()?.image).unwrap_or_default();
    if image.contains("/dockerhub/library/nginx") { Ok(()) } else { Err(format!("the image is {image}")) }
}
