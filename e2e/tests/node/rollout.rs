//! What an administrator, and a node, do to the webhook while Pods are created.

use std::time::{Duration, Instant};

use harbor_pilot_e2e::cluster::NAMESPACE;
use serde_json::{Value, json};

use crate::load::{self, Figures, Load};
use crate::world::World;

const WEBHOOK: &str = "app.kubernetes.io/name=harbor-pilot,app.kubernetes.io/component=webhook";
const SOON: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy)]
enum Event {
    Upgrade,
    Restart,
    Eviction,
    Kill,
}

/// All that happens, under load, as often as it takes for the wanted count; a line on each.
pub async fn all(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut created, mut round) = (0, 0);
    while created < load::wanted() || round == 0 {
        round += 1;
        for event in [Event::Upgrade, Event::Restart, Event::Eviction, Event::Kill] {
            let figures = during(world, event, round).await;
            let Figures { created: now, unmutated, failed, ref error } = figures;
            assert_eq!(failed, 0, "{event:?}: {error:?}\n{}", world.state().await);
            // A replica that is killed takes with it what it was just asked; the Pod passes as it was sent.
            if !matches!(event, Event::Kill) {
                assert_eq!(unmutated, 0, "{event:?}: {figures:?}\n{}", world.state().await);
            }
            created += now;
            lines.push(format!("{event:?}: {now} Pods created, {failed} failed, {unmutated} unmutated"));
        }
    }
    lines.push(format!("{created} Pods in all"));
    lines
}

async fn during(world: &World, event: Event, round: usize) -> Figures {
    let load = Load::start(|| world.node.plane.client().unwrap());
    until(|| async { load.created() > 20 }).await;
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
    let seen = load.created();
    until(|| async { load.created() > seen + 50 }).await;
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
