//! What the webhook holds in memory in a cluster: 1,000 namespaces, 100 rules, 500 CachedImages, and prewarming on.
//!
//! One real API server, and the webhook as a process that follows it. Memory is what the kernel calls resident, before and
//! after the reviews, which come over HTTP/2 as API servers send them. `HARBOR_PILOT_REVIEWS=1000000` sets how many there
//! are (50,000). More than 32 MiB at any moment fail the run; `HARBOR_PILOT_MAX_RSS_MIB` sets another bound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../../benches/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use harbor_pilot::api::{CachedImage, HarborInstance, ProxyProject, Registry};
use harbor_pilot::tls::issue::Authority;
use harbor_pilot_e2e::cluster::apply_crds;
use harbor_pilot_e2e::control_plane::ControlPlane;
use harbor_pilot_e2e::pilot::Pilot;
use harbor_pilot_e2e::process::free_ports;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::client::Client;
use support::{ALLOCATOR_OPTIONS, Memory, assert_at_most, is_measured, setting, validity, write_certificate};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAMESPACES: usize = 1_000;
const RULES: usize = 100;
const IMAGES: usize = 500;
const REVIEWS: usize = 50_000;
const API_SERVERS: usize = 2;
const STREAMS: usize = 8;
const AT_ONCE: usize = 16;
const SOON: Duration = Duration::from_secs(60);

fn main() {
    harbor_pilot_e2e::install_crypto_provider();
    if !is_measured() {
        println!("only `cargo bench` measures");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}

async fn measure() {
    let plane = ControlPlane::start().await.unwrap();
    populate(&plane).await;

    let authority = Authority::new("bench", validity()).unwrap();
    let tls = plane.directory().join("tls");
    write_certificate(&tls, &authority);
    let [port, ops_port] = free_ports().unwrap();
    let mut webhook = start(&plane, &tls, port, ops_port).await;
    let address = ([127, 0, 0, 1], port).into();

    let review = support::reviews::create();
    let clients: Vec<Client> =
        (0..API_SERVERS).flat_map(|_| Client::http2(&authority, address, STREAMS, &review)).collect();
    until_rewriting(&clients[0]).await;
    let before = Memory::of(webhook.id());
    let reviews = setting("HARBOR_PILOT_REVIEWS").unwrap_or(REVIEWS);
    let start = Instant::now();
    let share = reviews.div_ceil(clients.len());
    let one = async |client: &Client| {
        for _ in 0..share {
            client.ask().await;
        }
    };
    futures::future::join_all(clients.iter().map(one)).await;
    let took = start.elapsed().as_secs_f64();
    let Memory { resident, anonymous, peak } = Memory::of(webhook.id());
    println!("{NAMESPACES} namespaces, {RULES} rules, {IMAGES} CachedImages; {reviews} reviews in {took:.1} s");
    println!(
        "RSS {:.1} MiB before, {resident:.1} MiB after ({anonymous:.1} anonymous), {peak:.1} at most",
        before.resident
    );

    let warmed = Api::<CachedImage>::all(plane.client().unwrap()).list(&ListParams::default()).await.unwrap().items;
    let asked = warmed.len() - IMAGES;
    println!("{asked} CachedImages came of the reviews");
    assert!(asked > 0, "prewarming is off");
    assert!(webhook.is_running().unwrap());
    assert_at_most("HARBOR_PILOT_MAX_RSS_MIB", 32.0, peak);
}

/// A cluster that has been in use for a while.
async fn populate(plane: &ControlPlane) {
    apply_crds(plane).await.unwrap();
    let namespaces = (0..NAMESPACES).map(|index| {
        let labels =
            json!({"team": format!("team-{}", index % 40), "stage": "production", "cost-centre": index.to_string()});
        json!({"metadata": {"name": format!("shop-{index}"), "labels": labels}})
    });
    create::<Namespace>(plane, namespaces, None).await;
    let spec = json!({"url": "https://harbor.corp.example", "credentialsSecretRef": {"name": "harbor"}});
    create::<HarborInstance>(plane, [named("default", spec)].into_iter(), None).await;
    let spec = json!({"type": "docker-registry", "url": "https://registry.example"});
    create::<Registry>(plane, [named("hub", spec)].into_iter(), None).await;

    let used = [("dockerhub".to_owned(), "docker.io".to_owned()), ("acme".to_owned(), "ghcr.io/acme".to_owned())];
    let others = (2..RULES).map(|index| (format!("p{index}"), format!("registry-{index}.example/team-{index}")));
    let rules: Vec<(String, String)> = used.into_iter().chain(others).collect();
    let projects = rules.iter().map(|(name, _)| named(name, json!({"registryRef": {"name": "hub"}})));
    let serving = |index: usize| {
        let (name, matched) = &rules[index];
        let host = "harbor.corp.example";
        json!({"status": {"id": index, "rewrite": {
            "matches": [matched], "host": host, "project": name, "target": format!("{host}/{name}"), "generation": 1,
        }}})
    };
    create::<ProxyProject>(plane, projects, Some(&serving)).await;

    let image = |index: usize| format!("harbor.corp.example/dockerhub/library/app-{index}:1.{index}");
    let images = (0..IMAGES).map(|index| named(&format!("app-{index}"), json!({"image": image(index)})));
    let warm = |index: usize| {
        let digest = |seed: usize| format!("sha256:{seed:064x}");
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": "Warm", "message": "all layers are stored in Harbor",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1})
        };
        let platform = |platform: &str, seed: usize| json!({"platform": platform, "digest": digest(seed), "layers": 7, "bytes": 123_456_789, "stored": true});
        json!({"status": {
            "observedGeneration": 1, "image": image(index), "proxyProject": "dockerhub", "digest": digest(index),
            "conditions": [condition("Ready"), condition("OfflineByTag")], "index": "Complete", "indexChildren": 2,
            "platforms": [platform("linux/amd64", index + 1), platform("linux/arm64", index + 2)],
            "warmedAt": "2026-01-01T00:00:00Z",
        }})
    };
    create::<CachedImage>(plane, images, Some(&warm)).await;
}

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Creates objects, each with the status that it is to have.
async fn create<K>(plane: &ControlPlane, objects: impl Iterator<Item = Value>, status: Option<&dyn Fn(usize) -> Value>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::all(plane.client().unwrap());
    let api = &api;
    stream::iter(objects.enumerate())
        .for_each_concurrent(AT_ONCE, async |(index, object)| {
            let object: K = serde_json::from_value(object).unwrap();
            let created = api.create(&PostParams::default(), &object).await.unwrap();
            if let Some(status) = status {
                let patch = Patch::Merge(status(index));
                api.patch_status(&created.name_any(), &PatchParams::default(), &patch).await.unwrap();
            }
        })
        .await;
}

async fn start(plane: &ControlPlane, tls: &Path, port: u16, ops_port: u16) -> Pilot {
    let (tls, kubeconfig) = (tls.display().to_string(), plane.kubeconfig_path().display().to_string());
    let (listen, ops) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{ops_port}"));
    let arguments = ["webhook", "--tls-dir", &tls, "--webhook-bind-address", &listen, "--metrics-bind-address", &ops];
    let [eager_commit, purge_delay] = ALLOCATOR_OPTIONS;
    let environment = [("KUBECONFIG", kubeconfig.as_str()), eager_commit, purge_delay];
    let mut pilot = Pilot::spawn(&arguments, &environment).await.unwrap();
    pilot.wait_for_line("serving admission", SOON).await.unwrap();
    pilot
}

async fn until_rewriting(client: &Client) {
    let end = Instant::now() + SOON;
    while !client.ask().await {
        assert!(Instant::now() < end, "the webhook rewrites nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
