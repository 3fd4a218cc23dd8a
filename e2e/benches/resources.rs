//! How long it takes until Harbor is what many resources say, cold, with Harbor 50 ms away; what that takes in memory; and what
//! a look costs once it is.
//!
//! One real API server, and the controller as a process of its own, against the Harbor double. `HARBOR_PILOT_RESOURCES=10000`
//! sets how many resources there are (1,000): three of ten are Registries, five ProxyProjects, two ReplicationRules. Longer
//! than 60 s (300 s for more than 1,000) or more than 150 MiB fail the run, and so does a write of any kind in the interval
//! after it. `HARBOR_PILOT_MAX_SECONDS` and `HARBOR_PILOT_MAX_RSS_MIB` set other bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../../benches/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use harbor_double::{Harbor, Upstream};
use harbor_pilot::api::{ConditionType, HarborInstance, ProxyProject, Registry, ReplicationRule, condition};
use harbor_pilot::controller::ReconciledKind;
use harbor_pilot_e2e::cluster::{NAMESPACE, apply_crds};
use harbor_pilot_e2e::control_plane::ControlPlane;
use harbor_pilot_e2e::pilot::Pilot;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use support::{ALLOCATOR_OPTIONS, Memory, assert_at_most, is_measured, setting};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RESOURCES: usize = 1_000;
const DISTANCE: Duration = Duration::from_millis(50);
const AT_ONCE: usize = 16;
/// All resources are looked at once in it.
const INTERVAL: Duration = Duration::from_secs(60);

fn main() {
    harbor_pilot_e2e::install_crypto_provider();
    if !is_measured() {
        println!("only `cargo bench` measures");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}

async fn measure() {
    let count = setting("HARBOR_PILOT_RESOURCES").unwrap_or(RESOURCES);
    let (registries, projects) = (count * 3 / 10, count * 5 / 10);
    let rules = count - registries - projects;
    // It may have to be built, and that is not to be measured.
    harbor_pilot_e2e::pilot::binary().await.unwrap();
    let plane = ControlPlane::start().await.unwrap();
    let harbor = Harbor::builder().speed(20.0).distance(DISTANCE).start().await;
    let upstream = Upstream::builder().start().await;
    prepare(&plane, &harbor).await;
    let interval = format!("{}s", INTERVAL.as_secs());
    let registry = |_| json!({"type": "docker-registry", "url": upstream.url(), "interval": interval});
    create::<Registry>(&plane, registries, "r", registry).await;
    let project = |number: usize| {
        json!({
            "registryRef": {"name": format!("r-{}", number % registries)}, "public": true, "interval": interval,
            "rewrite": {"matches": [format!("p-{number}.example.com")]},
        })
    };
    create::<ProxyProject>(&plane, projects, "p", project).await;
    let rule = |number: usize| {
        json!({
            "source": {"registryRef": {"name": format!("r-{}", number % registries)}}, "filters": {"name": "app/**"},
            "destination": {"namespace": "mirror"}, "trigger": {"type": "Manual"}, "interval": interval,
        })
    };
    create::<ReplicationRule>(&plane, rules, "n", rule).await;

    let started = Instant::now();
    let controller = start(&plane).await;
    tokio::join!(
        until_ready::<Registry>(&plane, registries),
        until_ready::<ProxyProject>(&plane, projects),
        until_ready::<ReplicationRule>(&plane, rules),
    );
    let took = started.elapsed().as_secs_f64();
    let posts = harbor.writes().iter().filter(|write| write.method == "POST" && write.status == 201).count();
    let requests = harbor.log().len();
    println!("{count} resources are as specified after {took:.1} s: {requests} requests to Harbor, {posts} creations");
    assert_eq!(posts, count + projects, "each object is made once, and each project is marked once");

    // What was written is looked at once more, then two beats come and go.
    tokio::time::sleep(INTERVAL * 2).await;
    harbor.clear_log();
    let audited = plane.audit_log().unwrap().lines().count();
    tokio::time::sleep(INTERVAL).await;
    let writes = harbor.writes();
    let patches: Vec<_> =
        plane.audit_log().unwrap().lines().skip(audited).filter(|line| is_write(line)).map(str::to_owned).collect();
    let mut lists: BTreeMap<String, usize> = BTreeMap::new();
    for request in harbor.log() {
        *lists.entry(request.path.split('?').next().unwrap().to_owned()).or_default() += 1;
    }
    let Memory { resident, peak, .. } = Memory::of(controller.id());
    println!("in the interval after that: {} writes, {} status patches, {lists:?}", writes.len(), patches.len());
    println!("RSS {resident:.1} MiB, {peak:.1} at most");
    assert!(writes.is_empty() && patches.is_empty(), "{writes:?} {patches:?}");
    assert_at_most("HARBOR_PILOT_MAX_SECONDS", if count > RESOURCES { 300.0 } else { 60.0 }, took);
    assert_at_most("HARBOR_PILOT_MAX_RSS_MIB", 150.0, peak);
}

async fn prepare(plane: &ControlPlane, harbor: &Harbor) {
    apply_crds(plane).await.unwrap();
    plane.kubectl(&["create", "namespace", NAMESPACE]).await.unwrap().ok().unwrap();
    let secret = ["create", "secret", "generic", "harbor", "--namespace", NAMESPACE, "--from-literal=username=admin"];
    let secret = [&secret[..], &["--from-literal=password=Harbor12345"]].concat();
    plane.kubectl(&secret).await.unwrap().ok().unwrap();
    let spec = json!({"url": harbor.url(), "credentialsSecretRef": {"name": "harbor"}});
    create_one::<HarborInstance>(plane, "default", spec).await;
}

async fn create_one<K: ReconciledKind>(plane: &ControlPlane, name: &str, spec: Value) {
    let api: Api<K> = Api::all(plane.client().unwrap());
    let object: K = serde_json::from_value(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn create<K: ReconciledKind>(plane: &ControlPlane, count: usize, prefix: &str, spec: impl Fn(usize) -> Value) {
    stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, async |number| {
            create_one::<K>(plane, &format!("{prefix}-{number}"), spec(number)).await;
        })
        .await;
}

async fn start(plane: &ControlPlane) -> Pilot {
    let kubeconfig = plane.kubeconfig_path().display().to_string();
    let arguments = ["controller", "--namespace", NAMESPACE, "--metrics-bind-address", "127.0.0.1:0"];
    let [eager_commit, purge_delay] = ALLOCATOR_OPTIONS;
    let environment = [("KUBECONFIG", kubeconfig.as_str()), eager_commit, purge_delay];
    Pilot::spawn(&arguments, &environment).await.unwrap()
}

/// Comes when so many resources have been seen ready.
async fn until_ready<K: ReconciledKind>(plane: &ControlPlane, count: usize) {
    let api: Api<K> = Api::all(plane.client().unwrap());
    let mut changes = pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    let mut ready = HashSet::new();
    while ready.len() < count {
        let Some(change) = changes.next().await else { panic!("the watch ended") };
        let Ok(object) = change else { continue };
        let status = serde_json::to_value(object.status()).unwrap();
        let conditions: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
        if condition::is_true(&conditions, ConditionType::Ready) {
            ready.insert(object.name_any());
        }
    }
}

/// Whether a line of the audit log tells of a change of one of our kinds.
fn is_write(line: &str) -> bool {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    let verb = event["verb"].as_str().unwrap_or_default();
    event["objectRef"]["apiGroup"] == "harbor-pilot.dev" && ["create", "update", "patch", "delete"].contains(&verb)
}
