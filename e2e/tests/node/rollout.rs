//! What an administrator, and a node, do to the webhook while Pods are created.

use std::time::{Duration, Instant};

use harbor_pilot_e2e::cluster::NAMESPACE;
use harbor_pilot_e2e::load::{Figures, Load, Pods};
use serde_json::{Value, json};

use crate::world::{HARBOR, World};

const WEBHOOK: &str = "app.kubernetes.io/name=harbor-pilot,app.kubernetes.io/component=webhook";
const SOON: Duration = Duration::from_secs(90);

/// How many are created at least, over all that happens: this, unless the variable says otherwise.
const WANTED: usize = 2_000;
const VARIABLE: &str = "HARBOR_PILOT_ROLLOUT";

/// Callers at once, and how long each waits after an answer by default.
const CALLERS: usize = 4;
const PACE: Duration = Duration::from_millis(40);

#[derive(Debug, Clone, Copy)]
enum Event {
    Upgrade,
    Restart,
    Eviction,
    Kill,
}

/// How many Pods are to be created over all that happens.
fn wanted() -> usize {
    std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(WANTED)
}

/// How much longer than by default that may take.
pub fn wanted_time() -> Duration {
    Duration::from_millis(20) * u32::try_from(wanted().saturating_sub(WANTED)).unwrap()
}

/// All that happens, under load, as often as it takes for the wanted count; tells of each.
pub async fn all(world: &World, reported: &mut impl FnMut(&str)) {
    let (mut created, mut round) = (0, 0);
    while created < wanted() || round == 0 {
        round += 1;
        for event in [Event::Upgrade, Event::Restart, Event::Eviction, Event::Kill] {
            let figures = during(world, event, round).await;
            let Figures { asked, unmutated, failed, ref errors } = figures;
            assert_eq!(failed, 0, "{event:?}: {errors:?}\n{}", world.state().await);
            // A replica that is killed takes with it what it was just asked; the Pod passes as it was sent.
            if !matches!(event, Event::Kill) {
                assert_eq!(unmutated, 0, "{event:?}: {figures:?}\n{}", world.state().await);
            }
            created += asked;
            reported(&format!("{event:?}: {asked} Pods created, {failed} failed, {unmutated} unmutated"));
        }
    }
    reported(&format!("{created} Pods in all"));
}

async fn during(world: &World, event: Event, round: usize) -> Figures {
    let clients = (0..CALLERS).map(|_| world.node.plane.client().unwrap());
    let pace = if wanted() > WANTED { Duration::ZERO } else { PACE };
    let load = Load::start(clients, Pods { namespace: "default", image: "busybox:1", rewritten: HARBOR, pace });
    load.more(20, SOON).await.unwrap();
    let before = names(world).await;
    match event {
        Event::Upgrade => {
            let set = [format!("webhook.podAnnotations.round=r{round}")];
            world.helm(&["upgrade", "--wait", "--timeout=90s"], &set).await;
        }
        Event::Restart => {
            world.kubectl(&["rollout", "restart", "deployment/harbor-pilot-webhook", "-n", NAMESPACE]).await;
            let status = ["rollout", "status", "deployment/harbor-pilot-webhook", "-n", NAMESPACE, "--timeout=90s"];
            world.kubectl(&status).await;
        }
        Event::Eviction => {
            for name in &before {
                evict(world, name).await;
            }
        }
        Event::Kill => kill(world).await,
    }
    if !matches!(event, Event::Kill) {
        // They serve on for a while, and end then.
        until(|| async { names(world).await.iter().all(|name| !before.contains(name)) }).await;
    }
    until(|| async { serving(world).await == 2 }).await;
    load.more(50, SOON).await.unwrap();
    load.stop().await
}

/// As a drain does: asks until the disruption budget allows it.
async fn evict(world: &World, name: &str) {
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction");
    let mut refused = 0;
    let started = Instant::now();
    loop {
        let output = world
            .node
            .plane
            .kubectl_with_input(&["create", "--raw", &path, "-f", "-"], &eviction.to_string())
            .await
            .unwrap();
        if output.status.success() {
            break;
        }
        assert!(output.stderr.contains("disruption budget"), "{}", output.stderr);
        refused += 1;
        assert!(
            started.elapsed() < SOON,
            "{name} cannot be evicted ({refused} times refused)\n{}",
            world.state().await
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Kills one replica's process, and waits until the kubelet has it back.
async fn kill(world: &World) {
    let pods = pods(world).await;
    let status = &pods[0]["status"]["containerStatuses"][0];
    let (name, restarts) = (pods[0]["metadata"]["name"].clone(), status["restartCount"].as_u64().unwrap());
    world.node.kill_container(status["containerID"].as_str().unwrap().trim_start_matches("containerd://")).unwrap();
    until(|| async {
        let pods = self::pods(world).await;
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name);
        pod.is_some_and(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["restartCount"].as_u64().is_some_and(|count| count > restarts) && status["ready"] == true
        })
    })
    .await;
}

async fn pods(world: &World) -> Vec<Value> {
    world.get(&["pods", "-n", NAMESPACE, "-l", WEBHOOK]).await["items"].as_array().unwrap().clone()
}

async fn names(world: &World) -> Vec<String> {
    pods(world).await.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Replicas that the Service leads to.
async fn serving(world: &World) -> usize {
    let list =
        world.get(&["endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=harbor-pilot-webhook"]).await;
    let endpoints = list["items"].as_array().unwrap().iter().flat_map(|slice| slice["endpoints"].as_array().cloned());
    endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < SOON, "not in {SOON:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
