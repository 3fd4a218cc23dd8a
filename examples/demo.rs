//! The whole product in under a minute, without a cluster: `cargo run --example demo`.
//!
//! In this one process: a double of Harbor with two upstream registries, and a standalone pilot that reads manifests such as
//! those of `examples/manifests`. Registries and proxy projects are reconciled, three Pods are admitted over TLS, and what
//! they need is warmed and verified.
#![allow(clippy::print_stdout, reason = "a demonstration prints")]

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use harbor_double::{Harbor, Image, Pushed, Upstream};
use harbor_pilot::{
    api::{CachedImage, ConditionType, HarborInstance, ProxyProject, Registry, condition},
    controller::{ReconciledKind, cached_image::ProgressObserver},
    engine::run::EngineOptions,
    prewarm::{PrewarmTiming, PullProgress, puller::DEFAULT_BYTES},
    registry::Descriptor,
    standalone::{Standalone, StandaloneOptions},
    tls::{
        certificate::Certificate,
        install_crypto_provider,
        issue::{Authority, Validity},
    },
    webhook::ServeOptions,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The double does in a fortieth of the time what Harbor does in the background.
const SPEED: f64 = 40.0;
const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const PATIENCE: Duration = Duration::from_secs(45);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    install_crypto_provider();
    let started = Instant::now();
    let scene = Scene::build().await;
    println!("A Harbor double at {}, with two upstreams: Docker Hub, and a private ECR.\n", scene.harbor.url());

    let manifests = tempfile::tempdir()?;
    std::fs::write(manifests.path().join("all.yaml"), scene.manifests())?;
    let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(1));
    let authority = Authority::new("harbor-pilot demo", validity)?;
    let leaf = authority.issue(&["localhost".to_owned()], validity)?;
    let shutdown = CancellationToken::new();
    let bars = Arc::new(Bars::default());
    let pilot = Standalone::start(
        StandaloneOptions {
            directory: manifests.path().to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: Arc::new(Certificate::from_pem(leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes())?),
            platforms: vec!["linux/amd64".parse().map_err(anyhow::Error::msg)?],
            installation: "demo".to_owned(),
            reload: Duration::from_secs(2),
            engine: EngineOptions {
                concurrency: 8,
                warm_concurrency: 4,
                timing: PrewarmTiming::paced(Duration::from_secs_f64(20.0 / SPEED)),
                max_inflight_bytes: DEFAULT_BYTES,
                caps: harbor_pilot::prewarm::quota::Caps::default(),
                progress: Some(bars.clone().watcher()),
            },
            serve: ServeOptions { shutdown_delay: Duration::ZERO, ..ServeOptions::default() },
        },
        shutdown.clone(),
    )
    .await?;

    println!("1. Harbor becomes what the manifests say");
    let everything_ready =
        || all_ready::<HarborInstance>(&pilot) && all_ready::<Registry>(&pilot) && all_ready::<ProxyProject>(&pilot);
    wait_for("the resources to be Ready", everything_ready).await?;
    println!("{}\n", resources(&pilot));

    println!("2. Three Pods are admitted over TLS");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(authority.issued().certificate_pem.as_bytes())?])
        .timeout(Duration::from_secs(5))
        .build()?;
    let url = format!("https://localhost:{}/mutate", pilot.address.port());
    let mut pods = table(["Pod", "asked for", "gets"]);
    for (name, image) in scene.pods() {
        let admitted = admit(&client, &url, name, &image).await?;
        let note = if admitted == image { "  (unchanged: no rule matches)" } else { "" };
        pods.add_row([name.to_owned(), shortened(&image), format!("{}{note}", shortened(&admitted))]);
    }
    println!("{pods}\n");

    println!("3. What they need becomes warm in Harbor");
    wait_for("two images to be warm and judged", || warm(&pilot) == 2).await?;
    bars.finish();
    println!("{}\n", images(&pilot));
    println!("{}", scene.traffic());

    shutdown.cancel();
    pilot.ended().await?;
    println!(
        "Done in {:.0} s. Next: README.md, and the manifests in examples/manifests.",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Harbor and its upstreams.
struct Scene {
    harbor: Harbor,
    hub: Upstream,
    ecr: Upstream,
    payments: Pushed,
}

impl Scene {
    async fn build() -> Self {
        let hub = Upstream::builder().start().await;
        let platforms = [("linux", "amd64", None), ("linux", "arm64", Some("v8")), ("linux", "s390x", None)];
        let nginx = Image::multi_arch(platforms).with_attestations().layers([3 << 20, 9 << 20, 1 << 10]);
        hub.push_image("library/nginx", "1.27", &nginx);
        let ecr = Upstream::builder().amazon("AKIAEXAMPLE", "secret-key").start().await;
        let both = Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", None)]);
        let payments = ecr.push_image("team/payments", "v3", &both.canonical().layers([12 << 20, 2 << 20]));
        let harbor = Harbor::builder()
            .speed(SPEED)
            .route("registry-1.docker.io", hub.url())
            .route("hub.docker.com", hub.url())
            .route(ECR, ecr.url())
            .start()
            .await;
        // Slow enough to be watched.
        hub.throttle(Some(16 << 20));
        ecr.throttle(Some(16 << 20));
        Self { harbor, hub, ecr, payments }
    }

    fn manifests(&self) -> String {
        let harbor = include_str!("manifests/10-harbor.yaml")
            .replace("https://harbor.example.com", &self.harbor.url())
            .replace("robot$harbor-pilot", "admin")
            .replace("change-me", "Harbor12345");
        let ecr = include_str!("manifests/30-ecr.yaml").replace("change-me", "secret-key");
        // Both architectures here, so that Harbor can keep the index whole.
        let ecr = format!("{}\n  prewarm:\n    platforms: [linux/amd64, linux/arm64]\n", ecr.trim_end());
        [harbor.as_str(), include_str!("manifests/20-dockerhub.yaml"), &ecr].join("\n---\n")
    }

    fn pods(&self) -> [(&'static str, String); 3] {
        [
            ("web", "nginx:1.27".to_owned()),
            ("tools", "ghcr.io/acme/tools:2".to_owned()),
            ("payments", format!("{ECR}/team/payments@{}", self.payments.digest)),
        ]
    }

    fn traffic(&self) -> String {
        let sent = |upstream: &Upstream| {
            let log = upstream.log();
            let bytes: u64 = log.iter().map(|request| request.bytes_sent).sum();
            format!("{:.1} MiB in {} requests", bytes as f64 / f64::from(1 << 20), log.len())
        };
        format!("The upstreams sent: Docker Hub {}, ECR {}.", sent(&self.hub), sent(&self.ecr))
    }
}

/// Sends a Pod to the webhook as the API server does, and applies the patch that comes back.
async fn admit(client: &reqwest::Client, url: &str, name: &str, image: &str) -> Result<String> {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": image}]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": format!("uid-of-{name}"), "operation": "CREATE", "namespace": "default", "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "object": pod,
        },
    });
    let reply: Value = client.post(url).json(&review).send().await?.error_for_status()?.json().await?;
    if reply.pointer("/response/allowed") != Some(&Value::Bool(true)) {
        bail!("the webhook did not admit {name}: {reply}");
    }
    if let Some(patch) = reply.pointer("/response/patch").and_then(Value::as_str) {
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch)?)?;
        json_patch::patch(&mut pod, &patch)?;
    }
    let image = pod.pointer("/spec/containers/0/image").and_then(Value::as_str);
    Ok(image.context("the patched Pod has no image")?.to_owned())
}

fn resources(pilot: &Standalone) -> Table {
    fn rows<K: ReconciledKind>(table: &mut Table, pilot: &Standalone, detail: impl Fn(&K) -> String) {
        for object in pilot.resources.all::<K>() {
            let (ready, reason) = ready_of(object.as_ref());
            let name = object.meta().name.clone().unwrap_or_default();
            table.add_row([K::kind(&()).into_owned(), name, ready, reason, detail(&object)]);
        }
    }
    let mut table = table(["kind", "name", "Ready", "reason", ""]);
    rows::<HarborInstance>(&mut table, pilot, |instance| {
        instance.status.as_ref().and_then(|status| status.version.clone()).unwrap_or_default()
    });
    rows::<Registry>(&mut table, pilot, |registry| registry.url().into_owned());
    rows::<ProxyProject>(&mut table, pilot, |project| match project.active_rule() {
        Some(rule) => format!("{} → {}", rule.matches.join(", "), rule.target),
        None => String::new(),
    });
    table
}

fn images(pilot: &Standalone) -> Table {
    let mut table = table(["image", "Ready", "platforms", "stored", "by tag offline", "by digest offline"]);
    for image in pilot.resources.all::<CachedImage>() {
        let status = image.status.clone().unwrap_or_default();
        let bytes: u64 = status.platforms.iter().map(|platform| platform.bytes).sum();
        let stored = status.platforms.iter().filter(|platform| platform.stored).count();
        let platforms: Vec<&str> = status.platforms.iter().map(|platform| platform.platform.as_str()).collect();
        let said = |kind| {
            let found = condition::find(&status.conditions, kind);
            found.map_or_else(|| "-".to_owned(), |found| format!("{} ({})", found.status, found.reason))
        };
        let stored = format!("{stored} of {}, {:.1} MiB", platforms.len(), bytes as f64 / f64::from(1 << 20));
        let by_tag = said(ConditionType::OfflineByTag);
        let by_digest = said(ConditionType::OfflineByDigest);
        let (ready, reason) = ready_of(image.as_ref());
        let ready = format!("{ready} ({reason})");
        table.add_row([shortened(&image.spec.image), ready, platforms.join("\n"), stored, by_tag, by_digest]);
    }
    table
}

fn ready_of<K: ReconciledKind>(object: &K) -> (String, String) {
    let status = object.status().and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default();
    let list: Vec<_> =
        status.get("conditions").and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default();
    condition::find(&list, ConditionType::Ready)
        .map_or_else(Default::default, |ready| (ready.status.clone(), ready.reason.clone()))
}

fn all_ready<K: ReconciledKind>(pilot: &Standalone) -> bool {
    pilot.resources.all::<K>().iter().all(|object| ready_of(object.as_ref()).0 == "True")
}

/// Images that are Ready, and of which it is known what they are worth without the upstream.
fn warm(pilot: &Standalone) -> usize {
    let decided = |image: &CachedImage| {
        let conditions = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let known = |kind| condition::find(conditions, kind).is_none_or(|condition| condition.status != "Unknown");
        condition::is_true(conditions, ConditionType::Ready)
            && known(ConditionType::OfflineByTag)
            && known(ConditionType::OfflineByDigest)
    };
    pilot.resources.all::<CachedImage>().iter().filter(|image| decided(image)).count()
}

async fn wait_for(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_width(118);
    table.set_header(header);
    table
}

/// A digest is as good as its first figures here.
fn shortened(image: &str) -> String {
    match image.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@sha256:{}…", digest.get(..8).unwrap_or(digest)),
        None => image.to_owned(),
    }
}

/// One bar for each image; lines instead of bars where nobody looks at a terminal.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
}

impl Bars {
    fn watcher(self: Arc<Self>) -> ProgressObserver {
        Arc::new(move |image| {
            let bar = self.all.add(ProgressBar::new(0));
            if let Ok(style) =
                ProgressStyle::with_template("   {msg:52} {bar:24} {bytes}/{total_bytes} {bytes_per_sec}")
            {
                bar.set_style(style);
            }
            bar.set_message(shortened(&image.spec.image));
            Arc::new(Bar { bar, told: AtomicU64::new(0) })
        })
    }

    fn finish(&self) {
        self.all.clear().ok();
    }
}

struct Bar {
    bar: ProgressBar,
    told: AtomicU64,
}

impl PullProgress for Bar {
    fn planned(&self, _blobs: u64, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn received(&self, bytes: u64) {
        self.bar.inc(bytes);
        let quarter = self.bar.position() * 4 / self.bar.length().unwrap_or(1).max(1);
        if !std::io::stderr().is_terminal() && self.told.fetch_max(quarter, Ordering::Relaxed) < quarter {
            println!("   {}: {} %", self.bar.message(), quarter * 25);
        }
    }

    fn done(&self, blob: &Descriptor, stored: bool) {
        if stored {
            self.bar.inc(blob.size);
        }
    }
}
