//! Admission while its replicas are restarted one after the other, and while one dies.

use std::time::{Duration, Instant};

use harbor_pilot_e2e::{
    balancer::Balancer,
    load::{Load, Pods},
};

use crate::{SOON, Site, alone, ops, replicas};

/// Pods that are created at once.
const AT_ONCE: usize = 16;

/// Admissions during the rollout. `HARBOR_PILOT_ROLLOUT=100000` is what is promised, and takes many minutes.
fn admissions() -> usize {
    std::env::var("HARBOR_PILOT_ROLLOUT").ok().and_then(|number| number.parse().ok()).unwrap_or(2000)
}

fn load(site: &Site, namespace: &str) -> Load {
    let client = site.plane.client().unwrap();
    let pods = Pods { namespace, image: "nginx", rewritten: "/library/nginx", pace: Duration::ZERO };
    Load::start(std::iter::repeat_n(client, AT_ONCE), pods)
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
    let load = load(&site, &namespace);
    load.more(100, SOON).await.unwrap();

    let begin = Instant::now();
    let mut restarts = 0;
    while restarts < 2 || load.asked() < wanted {
        let turn = restarts % 2;
        let replica = &mut running[turn];
        replica.terminate().unwrap();
        let status = replica.wait(SOON).await.unwrap();
        assert!(status.success(), "{status}\n{}", replica.logs());
        running[turn] = site.webhook(places[turn], &kubeconfig, linger).await;
        balancer.until_ready(2, SOON).await.unwrap();
        restarts += 1;
    }
    let seen = load.stop().await;
    println!(
        "{} admissions, {restarts} restarts of two replicas in {:?}: {} failed, {} not rewritten",
        seen.asked,
        begin.elapsed(),
        seen.failed,
        seen.unmutated
    );
    assert_eq!(seen.failed, 0, "{:?}", seen.errors);
    assert_eq!(seen.unmutated, 0);
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
    let load = load(&site, &namespace);
    load.more(200, SOON).await.unwrap();

    // The API server keeps to one connection, so that one of the two has nothing to lose: each is killed once.
    for (turn, place) in places.into_iter().enumerate() {
        running[turn].kill().unwrap();
        balancer.until_ready(1, SOON).await.unwrap();
        load.more(200, SOON).await.unwrap();
        if turn == 0 {
            running[turn] = site.webhook(place, &kubeconfig, "1s").await;
            balancer.until_ready(2, SOON).await.unwrap();
        }
    }
    let seen = load.stop().await;
    let mut counted = 0;
    for place in places {
        if let Some((_, metrics)) = ops(place, "/metrics").await {
            let line = metrics.lines().find(|line| line.starts_with("harbor_pilot_admission_unmutated_pods_total"));
            counted += line.unwrap().rsplit(' ').next().unwrap().parse::<usize>().unwrap();
        }
    }
    println!(
        "{} admissions, each replica killed once: {} failed, {} not rewritten, {counted} of these counted by a survivor",
        seen.asked, seen.failed, seen.unmutated
    );
    assert_eq!(seen.failed, 0, "{:?}", seen.errors);
    assert!(counted <= seen.unmutated, "{counted} counted, {} seen", seen.unmutated);
    assert!(seen.unmutated < seen.asked / 2, "{} of {}", seen.unmutated, seen.asked);
    site.unregister().await;
}
