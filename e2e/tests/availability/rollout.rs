//! Admission while its replicas are restarted one after the other, and while one dies.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harbor_pilot_e2e::balancer::Balancer;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{SOON, alone, ops, replicas};

/// Pods that are created at once.
const AT_ONCE: usize = 16;

/// Admissions during the rollout. `HARBOR_PILOT_ROLLOUT=100000` is what is promised, and takes many minutes.
fn admissions() -> usize {
    std::env::var("HARBOR_PILOT_ROLLOUT").ok().and_then(|number| number.parse().ok()).unwrap_or(2000)
}

#[tokio::test]
async fn replicas_are_restarted_and_drained_under_load_and_no_admission_fails() {
    let site = alone().await;
    let wanted = admissions();
    // As in a cluster: 10 s, and a second or two until nobody is sent to a replica any more. Shorter where time counts.
    let (linger, lag) = if wanted < 50_000 { ("3s", 700) } else { ("10s", 2000) };
    let kubeconfig = site.kubeconfig("harbor-pilot-webhook", None).await;
    let places = replicas();
    let mut running = Vec::new();
    for place in places {
        running.push(site.webhook(place, &kubeconfig, linger).await);
    }
    let balancer = Balancer::start(places.to_vec(), Duration::from_millis(lag)).await.unwrap();
    balancer.until_ready(2, SOON).await.unwrap();
    // Whatever is not answered is refused, and so seen.
    site.register(balancer.port(), "Fail", &[]).await;
    let namespace = site.plane.namespace("rollout").await.unwrap();
    let load = Load::start(site.plane.client().unwrap(), &namespace);
    load.until(100).await;

    let begin = Instant::now();
    let mut restarts = 0;
    while restarts < 2 || load.admitted() < wanted {
        let turn = restarts % 2;
        let replica = &mut running[turn];
        replica.terminate().unwrap();
        let status = replica.wait(SOON).await.unwrap();
        assert!(status.success(), "{status}\n{}", replica.logs());
        running[turn] = site.webhook(places[turn], &kubeconfig, linger).await;
        balancer.until_ready(2, SOON).await.unwrap();
        restarts += 1;
    }
    let seen = load.end().await;
    println!(
        "{} admissions, {restarts} restarts of two replicas in {:?}: {} failed, {} not rewritten",
        seen.admitted,
        begin.elapsed(),
        seen.errors.len(),
        seen.unchanged
    );
    assert!(seen.errors.is_empty(), "{:?}", seen.errors);
    assert_eq!(seen.unchanged, 0);
    site.unregister().await;
}

#[tokio::test]
async fn a_replica_that_dies_under_load_costs_no_pod_and_what_passed_unchanged_is_counted() {
    let site = alone().await;
    let kubeconfig = site.kubeconfig("harbor-pilot-webhook", None).await;
    let places = replicas();
    let mut running = Vec::new();
    for place in places {
        running.push(site.webhook(place, &kubeconfig, "1s").await);
    }
    let balancer = Balancer::start(places.to_vec(), Duration::from_millis(500)).await.unwrap();
    balancer.until_ready(2, SOON).await.unwrap();
    site.register(balancer.port(), "Ignore", &[]).await;
    let namespace = site.plane.namespace("killed").await.unwrap();
    let load = Load::start(site.plane.client().unwrap(), &namespace);
    load.until(200).await;

    // The API server keeps to one connection, so that one of the two has nothing to lose: each is killed once.
    for (turn, place) in places.into_iter().enumerate() {
        running[turn].kill().unwrap();
        balancer.until_ready(1, SOON).await.unwrap();
        load.until(load.admitted() + 200).await;
        if turn == 0 {
            running[turn] = site.webhook(place, &kubeconfig, "1s").await;
            balancer.until_ready(2, SOON).await.unwrap();
        }
    }
    let seen = load.end().await;
    let mut counted = 0;
    for place in places {
        if let Some((_, metrics)) = ops(place, "/metrics").await {
            let line = metrics.lines().find(|line| line.starts_with("harbor_pilot_admission_pods_unrewritten_total"));
            counted += line.unwrap().rsplit(' ').next().unwrap().parse::<usize>().unwrap();
        }
    }
    println!(
        "{} admissions, each replica killed once: {} failed, {} not rewritten, {counted} of these counted by a survivor",
        seen.admitted,
        seen.errors.len(),
        seen.unchanged
    );
    assert!(seen.errors.is_empty(), "{:?}", seen.errors);
    assert!(counted <= seen.unchanged, "{counted} counted, {} seen", seen.unchanged);
    assert!(seen.unchanged < seen.admitted / 2, "{} of {}", seen.unchanged, seen.admitted);
    site.unregister().await;
}

/// Pods that are created all the time, as a dry run, which admission sees as any other.
struct Load {
    seen: Arc<Shared>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    admitted: AtomicUsize,
    unchanged: AtomicUsize,
    errors: Mutex<Vec<String>>,
}

struct Seen {
    admitted: usize,
    unchanged: usize,
    errors: Vec<String>,
}

impl Load {
    fn start(client: Client, namespace: &str) -> Self {
        let (seen, mut workers) = (Arc::<Shared>::default(), JoinSet::new());
        for _ in 0..AT_ONCE {
            let (seen, pods) = (Arc::clone(&seen), Api::<Pod>::namespaced(client.clone(), namespace));
            workers.spawn(async move {
                let pod: Pod = serde_json::from_value(json!({
                    "metadata": {"generateName": "load-"},
                    "spec": {"containers": [{"name": "app", "image": "nginx"}]},
                }))
                .unwrap();
                let parameters = PostParams { dry_run: true, ..PostParams::default() };
                while !seen.end.load(Ordering::Relaxed) {
                    match pods.create(&parameters, &pod).await {
                        Ok(made) => {
                            let image = made.spec.unwrap().containers.remove(0).image.unwrap();
                            seen.unchanged.fetch_add(usize::from(image == "nginx"), Ordering::Relaxed);
                            seen.admitted.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => seen.errors.lock().unwrap().push(error.to_string()),
                    }
                }
            });
        }
        Self { seen, workers }
    }

    fn admitted(&self) -> usize {
        self.seen.admitted.load(Ordering::Relaxed)
    }

    /// Waits until so many were admitted.
    async fn until(&self, admitted: usize) {
        let end = Instant::now() + SOON;
        while self.admitted() < admitted {
            assert!(Instant::now() < end, "{:?}", self.seen.errors.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) -> Seen {
        self.seen.end.store(true, Ordering::Relaxed);
        self.workers.join_all().await;
        let errors = std::mem::take(&mut *self.seen.errors.lock().unwrap());
        Seen {
            admitted: self.seen.admitted.load(Ordering::Relaxed),
            unchanged: self.seen.unchanged.load(Ordering::Relaxed),
            errors,
        }
    }
}
