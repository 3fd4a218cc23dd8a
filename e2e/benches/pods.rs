//! What admission costs the API server: Pods created a second, with `dryRun=All`, eight at a time.
//!
//! Four namespaces of one real API server, driven in turns so that what else the machine does falls on all alike: one
//! without admission; one with the floor, a webhook that answers every review with one fixed patch, served as ours is; one
//! with our webhook, and rules for five registries; one with a native MutatingAdmissionPolicy that rewrites the same five.
//! A ratio is the median of those of all turns. `HARBOR_PILOT_TURNS=15` sets how many there are (7). Below 0.95 of
//! the floor, or 1.1 of the native policy, the run fails; `HARBOR_PILOT_MIN_FLOOR_RATIO` and `HARBOR_PILOT_MIN_NATIVE_RATIO` set other
//! bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../../benches/support/mod.rs"]
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use harbor_pilot::telemetry::probes::Readiness;
use harbor_pilot::tls::certificate::Certificate;
use harbor_pilot::tls::serve::server_config;
use harbor_pilot::webhook::{ServeOptions, serve};
use harbor_pilot_e2e::control_plane::ControlPlane;
use harbor_pilot_e2e::pilot::Pilot;
use harbor_pilot_e2e::pki::Authority;
use harbor_pilot_e2e::process::{Process, free_ports};
use harbor_pilot_e2e::webhook_registration::WebhookRegistration;
use k8s_openapi::ByteString;
use kube::Client;
use serde_json::{Value, json};
use support::{assert_at_least, is_measured, median, setting};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const AT_A_TIME: usize = 8;
const TURNS: usize = 7;
const TURN: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(30);

/// Registries, and the projects that stand for them.
const REGISTRIES: [(&str, &str); 5] =
    [("docker.io", "hub"), ("ghcr.io", "ghcr"), ("quay.io", "quay"), ("registry.k8s.io", "k8s"), ("gcr.io", "gcr")];

/// Where an image of the Pod stands, the image, and what admission makes of it.
const IMAGES: [(&str, &str, &str); 3] = [
    ("/spec/initContainers/0/image", "ghcr.io/acme/migrate:v2.3.1", "harbor.corp.example/ghcr/acme/migrate:v2.3.1"),
    ("/spec/containers/0/image", "nginx:1.27", "harbor.corp.example/hub/library/nginx:1.27"),
    ("/spec/containers/1/image", "registry.k8s.io/pause:3.10", "harbor.corp.example/k8s/pause:3.10"),
];

fn main() {
    harbor_pilot_e2e::install_crypto_provider();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", port, directory] => runtime.block_on(floor(port.parse().unwrap(), Path::new(directory))),
        _ if is_measured() => runtime.block_on(measure()),
        // `cargo test --benches` need not wait for minutes.
        _ => println!("only `cargo bench` measures"),
    }
}

async fn measure() {
    let plane = ControlPlane::start().await.unwrap();
    let authority = Authority::new("bench").unwrap();
    let tls = certificate(plane.directory(), &authority);
    let log = plane.directory().join("floor.log");
    let [floor_port, our_port, ops_port] = free_ports().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["floor", &floor_port.to_string()]).arg(&tls);
    let mut floor = Process::spawn("floor", &mut command, &log).unwrap();
    floor.wait_for_line("serving", SOON).await.unwrap();
    let _ours = start_ours(&plane, &tls, our_port, ops_port).await;

    let names = ["no admission", "floor webhook", "our webhook", "native policy"];
    let mut lanes = Vec::new();
    for (name, port) in names.into_iter().zip([None, Some(floor_port), Some(our_port), None]) {
        let namespace = plane.namespace("lane").await.unwrap();
        if let Some(port) = port {
            let ca_bundle = authority.pem();
            let registration = WebhookRegistration { name: &namespace, port, ca_bundle, namespace: Some(&namespace) };
            registration.apply(&plane.client().unwrap()).await.unwrap();
        }
        if name == "native policy" {
            let objects = policy(&namespace).to_string();
            plane.kubectl_with_input(&["apply", "-f", "-"], &objects).await.unwrap().ok().unwrap();
        }
        let lane = Lane { client: plane.client().unwrap(), namespace, rewrites: name != "no admission" };
        lane.until_ready().await;
        lane.drive(Duration::from_secs(1)).await;
        lanes.push(lane);
    }

    let turns = setting("HARBOR_PILOT_TURNS").unwrap_or(TURNS);
    let mut rates: [Vec<f64>; 4] = Default::default();
    for turn in 0..turns {
        for at in 0..lanes.len() {
            // Each goes first in its turn.
            let at = (at + turn) % lanes.len();
            rates[at].push(lanes[at].drive(TURN).await);
        }
    }
    println!("Pods/s with dryRun=All, {AT_A_TIME} at a time, medians of {turns} turns of {TURN:?}");
    for (name, rates) in names.iter().zip(&rates) {
        println!("{name}: {:.0}", median(rates.iter().copied()));
    }
    let ratio = |other: usize| median(rates[2].iter().zip(&rates[other]).map(|(ours, other)| ours / other));
    let (to_floor, to_native) = (ratio(1), ratio(3));
    println!("ours against the floor: {to_floor:.3}; ours against the native policy: {to_native:.3}");
    assert_at_least("HARBOR_PILOT_MIN_FLOOR_RATIO", 0.95, to_floor);
    assert_at_least("HARBOR_PILOT_MIN_NATIVE_RATIO", 1.1, to_native);
}

/// A namespace, and a client of its own.
struct Lane {
    client: Client,
    namespace: String,
    rewrites: bool,
}

impl Lane {
    /// The API server follows new webhooks and policies within about a second.
    async fn until_ready(&self) {
        let end = Instant::now() + SOON;
        loop {
            let stored: Value = serde_json::from_str(&self.create(pod().to_string()).await).unwrap();
            let found = IMAGES.map(|(pointer, _, _)| stored.pointer(pointer).and_then(Value::as_str).unwrap());
            let wanted = IMAGES.map(|(_, image, rewritten)| if self.rewrites { rewritten } else { image });
            if found == wanted {
                return;
            }
            assert!(Instant::now() < end, "{found:?} are not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Creates Pods for so long, and says how many a second.
    async fn drive(&self, lasting: Duration) -> f64 {
        let (start, pod) = (Instant::now(), pod().to_string());
        let one = async || {
            let mut created = 0_u32;
            while start.elapsed() < lasting {
                let stored = self.create(pod.clone()).await;
                assert_eq!(stored.contains(IMAGES[1].2), self.rewrites, "{stored}");
                created += 1;
            }
            created
        };
        let created = futures::future::join_all((0..AT_A_TIME).map(|_| one())).await;
        f64::from(created.into_iter().sum::<u32>()) / start.elapsed().as_secs_f64()
    }

    async fn create(&self, pod: String) -> String {
        let request = http::Request::post(format!("/api/v1/namespaces/{}/pods?dryRun=All", self.namespace))
            .header(CONTENT_TYPE, "application/json")
            .body(pod.into_bytes())
            .unwrap();
        self.client.request_text(request).await.unwrap()
    }
}

async fn start_ours(plane: &ControlPlane, tls: &Path, port: u16, ops_port: u16) -> Pilot {
    let rules = plane.directory().join("rules.json");
    fs::write(&rules, manifests().to_string()).unwrap();
    let (rules, tls) = (rules.display().to_string(), tls.display().to_string());
    let (listen, ops) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{ops_port}"));
    let arguments = [
        "webhook",
        "--rules",
        &rules,
        "--tls-dir",
        &tls,
        "--webhook-bind-address",
        &listen,
        "--metrics-bind-address",
        &ops,
    ];
    let mut pilot = Pilot::spawn(&arguments, &[]).await.unwrap();
    pilot.wait_for_line("serving admission", SOON).await.unwrap();
    pilot
}

/// A directory with a certificate for 127.0.0.1.
fn certificate(directory: &Path, authority: &Authority) -> PathBuf {
    let directory = directory.join("tls");
    let pair = authority.server(&["127.0.0.1"]).unwrap();
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("tls.crt"), pair.certificate).unwrap();
    fs::write(directory.join("tls.key"), pair.key).unwrap();
    directory
}

/// Serves the floor, in a process of its own as ours is.
async fn floor(port: u16, directory: &Path) {
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    let certificate = Certificate::from_pem(&read("tls.crt"), &read("tls.key")).unwrap();
    let tls = Arc::new(server_config(Arc::new(certificate)).unwrap());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    println!("serving");
    let router = Router::new().route("/mutate", post(fixed));
    serve(listener, Some(tls), router, Readiness::new(), ServeOptions::default(), std::future::pending())
        .await
        .unwrap();
}

/// The same answer to all, but for the request's uid, on which the API server insists.
async fn fixed(body: Bytes) -> impl axum::response::IntoResponse {
    const UID: &[u8] = br#""uid":""#;
    let start = body.windows(UID.len()).position(|bytes| bytes == UID).unwrap() + UID.len();
    let uid = std::str::from_utf8(&body[start..start + 36]).unwrap();
    static PATCH: std::sync::LazyLock<String> = std::sync::LazyLock::new(fixed_patch);
    let patch = &*PATCH;
    let answer = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"{uid}","allowed":true,"patchType":"JSONPatch","patch":{patch}}}}}"#
    );
    ([(CONTENT_TYPE, "application/json")], answer)
}

/// What our webhook sends for the Pod, as a JSON string.
fn fixed_patch() -> String {
    let mut patch: Vec<Value> = IMAGES
        .iter()
        .map(|(pointer, _, rewritten)| json!({"op": "replace", "path": pointer, "value": rewritten}))
        .collect();
    let originals: Value = [("initContainers/migrate", 0), ("containers/web", 1), ("containers/pause", 2)]
        .map(|(key, index)| (key.to_owned(), json!(IMAGES[index].1)))
        .into_iter()
        .collect::<serde_json::Map<_, _>>()
        .into();
    let annotations = json!({"harbor-pilot.dev/original-images": originals.to_string()});
    patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": annotations}));
    json!(ByteString(json!(patch).to_string().into_bytes())).to_string()
}

fn manifests() -> Value {
    let of_ours = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let harbor = json!({"url": "https://harbor.corp.example", "credentialsSecretRef": {"name": "harbor"}});
    let mut items = vec![of_ours("HarborInstance", "default", harbor)];
    for (host, name) in REGISTRIES {
        let registry = json!({"type": "docker-registry", "url": format!("https://{host}")});
        let project = json!({"registryRef": {"name": name}, "rewrite": {"matches": [host]}});
        items.extend([of_ours("Registry", name, registry), of_ours("ProxyProject", name, project)]);
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// A policy of Kubernetes' own for Pods of one namespace, with its binding.
fn policy(namespace: &str) -> Value {
    let harbor = "'harbor.corp.example/";
    let mut image = format!(
        "image.matches('^[^/]*[.:][^/]*/') || image.startsWith('localhost/') ? image : \
         image.contains('/') ? {harbor}hub/' + image : {harbor}hub/library/' + image"
    );
    for (host, project) in REGISTRIES {
        let start = host.len() + 1;
        let rest = format!("image.substring({start})");
        let moved = if host == "docker.io" {
            format!("({rest}.contains('/') ? {harbor}hub/' + {rest} : {harbor}hub/library/' + {rest})")
        } else {
            format!("{harbor}{project}/' + {rest}")
        };
        image = format!("image.startsWith('{host}/') ? {moved} : {image}");
    }
    let rewritten = |list: &str| {
        let expression =
            format!("(has(object.spec.{list}) ? object.spec.{list} : []).map(c, c.image).map(image, {image})");
        json!({"name": list, "expression": expression})
    };
    let patches = |list: &str| {
        format!(
            "variables.{list}.transformList(i, image, image != object.spec.{list}[i].image, \
             JSONPatch{{op: 'replace', path: '/spec/{list}/' + string(i) + '/image', value: image}})"
        )
    };
    let lists = ["containers", "initContainers"];
    let expression = lists.map(patches).join(" + ");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": namespace},
        "spec": {
            "failurePolicy": "Fail", "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
                ],
            },
            "variables": lists.map(rewritten),
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": namespace}, "spec": {"policyName": namespace},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [policy, binding]})
}

/// A Pod of three containers and about 3 KiB.
fn pod() -> Value {
    let container = |name: &str, image: &str| {
        let env: Vec<Value> = (0..12)
            .map(|index| json!({"name": format!("SETTING_{index}"), "value": format!("https://service-{index}.shop.svc:8443")}))
            .collect();
        json!({
            "name": name, "image": image, "env": env, "ports": [{"containerPort": 8080}],
            "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-7d4b9c6f5-", "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"}},
        "spec": {
            "initContainers": [container("migrate", IMAGES[0].1)],
            "containers": [container("web", IMAGES[1].1), container("pause", IMAGES[2].1)],
        },
    })
}
