//! Many Pods at once: each image is warmed once, admission does not notice, and whoever is killed or away amid it loses nothing.
//!
//! `HARBOR_PILOT_BURST=10000/500` sets how many Pods of how many images there are in a burst (2000/150).

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use futures::{StreamExt, stream};
use harbor_double::{Image, Pushed, Upstream};
use harbor_pilot::api::CachedImage;
use harbor_pilot_e2e::cluster::{Cluster, alone, condition_of, pod};
use harbor_pilot_e2e::pilot::resident;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

/// In which everything is to be warm again after a process or a Harbor is back.
const RESUMED: Duration = Duration::from_secs(60);
const AT_A_TIME: usize = 8;

/// Pods and images of the burst.
fn size() -> (usize, usize) {
    let given = std::env::var("HARBOR_PILOT_BURST").ok();
    let pair = given.as_deref().and_then(|text| text.split_once('/'));
    pair.map_or((2000, 150), |(pods, images)| (pods.parse().unwrap(), images.parse().unwrap()))
}

/// Pushes so many images, and answers their names with what they are made of.
fn push(upstream: &Upstream, count: usize) -> Vec<(String, Pushed)> {
    let one = |number: usize| {
        let name = format!("burst/app-{number}");
        let image = Image::single("linux", "amd64").layers([20_000, 3000]).seed(&name);
        let pushed = upstream.push_image(&name, "v1", &image);
        (format!("{name}:v1"), pushed)
    };
    (0..count).map(one).collect()
}

/// Creates so many Pods that share these images, eight at a time.
async fn create(pods: Api<Pod>, host: String, images: Vec<String>, numbers: Range<usize>) {
    stream::iter(numbers)
        .for_each_concurrent(AT_A_TIME, |number| {
            let image = format!("{host}/{}", images[number % images.len()]);
            let namespace = pods.namespace().unwrap();
            let pod: Pod = serde_json::from_value(pod(&format!("pod-{number}"), namespace, &image)).unwrap();
            let pods = pods.clone();
            async move {
                pods.create(&PostParams::default(), &pod).await.unwrap();
            }
        })
        .await;
}

fn names(images: &[(String, Pushed)]) -> Vec<String> {
    images.iter().map(|(name, _)| name.clone()).collect()
}

/// How many admissions took at most how long, from the metrics of the webhook.
async fn admissions(cluster: &Cluster) -> Vec<(f64, u64)> {
    let text = cluster.webhook_metrics().await.unwrap();
    let bucket = |line: &str| {
        let (bound, count) =
            line.strip_prefix(r#"harbor_pilot_admission_duration_seconds_bucket{le=""#)?.split_once("\"} ")?;
        Some((bound.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
    };
    text.lines().filter_map(bucket).collect()
}

/// The 99th percentile of what came between, in seconds.
fn p99(before: &[(f64, u64)], after: &[(f64, u64)]) -> f64 {
    let counts: Vec<(f64, u64)> =
        after.iter().zip(before).map(|(after, before)| (after.0, after.1 - before.1)).collect();
    let all = counts.last().unwrap().1;
    counts.iter().find(|(_, count)| *count * 100 >= all * 99).unwrap().0
}

/// How many CachedImages of a project are warm.
async fn warm(cluster: &Cluster, project: &str) -> usize {
    let found = cluster.cached(project).await.unwrap();
    found.values().filter(|object| condition_of(object, "Ready") == "True Warm").count()
}

async fn until_warm(cluster: &Cluster, project: &str, count: usize, within: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let warm = warm(cluster, project).await;
        if warm >= count {
            return start.elapsed();
        }
        assert!(start.elapsed() < within, "{warm} of {count} are warm\n{}", tail(&cluster.logs()));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}

/// GETs of blobs that the upstream answered, of each blob.
fn gets(upstream: &Upstream, images: &[(String, Pushed)]) -> Vec<(String, usize)> {
    let log = upstream.log();
    let digests: BTreeSet<&str> = images
        .iter()
        .flat_map(|(_, pushed)| pushed.children.iter().flat_map(|child| child.blobs()))
        .map(|blob| blob.digest.as_str())
        .collect();
    let of = |digest: &str| {
        let got = |request: &&harbor_double::Request| {
            request.method == "GET" && request.status == 200 && request.path.ends_with(digest)
        };
        log.iter().filter(got).count()
    };
    digests.into_iter().map(|digest| (digest.to_owned(), of(digest))).collect()
}

/// Others need not wait for thousands of Pods and images.
async fn clear(cluster: &Cluster, namespaces: &[&str]) {
    let concurrent = DeleteParams::default().grace_period(0);
    for namespace in namespaces {
        let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), namespace);
        pods.delete_collection(&concurrent, &ListParams::default()).await.unwrap();
    }
    let images: Api<CachedImage> = Api::all(cluster.client().unwrap());
    let ours = ListParams::default().labels("harbor-pilot.dev/source");
    images.delete_collection(&concurrent, &ours).await.unwrap();
}

async fn manual_request(cluster: &Cluster, name: &str) -> Upstream {
    let upstream = cluster.proxied(name).await.unwrap();
    let manual = json!({"spec": {"prewarm": {"mode": "Manual"}}}).to_string();
    cluster.plane.kubectl(&["patch", "hpp", name, "--type", "merge", "-p", &manual]).await.unwrap().ok().unwrap();
    upstream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_pods_warms_each_image_once_while_admission_goes_on_as_ever_though_the_controller_is_killed() {
    let (pods, count) = size();
    // The same time for each image, however many there are.
    let patience = RESUMED * u32::try_from(count.div_ceil(150)).unwrap();
    let mut cluster = alone().await.unwrap();
    let (cold, busy) = (manual_request(&cluster, "burst-cold").await, cluster.proxied("burst").await.unwrap());
    let namespace = cluster.plane.namespace("burst").await.unwrap();
    let other = cluster.plane.namespace("burst-cold").await.unwrap();
    let (unwarmed, images) = (push(&cold, count), push(&busy, count));

    let of = |namespace: &str| Api::<Pod>::namespaced(cluster.client().unwrap(), namespace);
    let (of_cold, of_busy) = (of(&other), of(&namespace));
    let start = admissions(&cluster).await;
    create(of_cold, cold.host(), names(&unwarmed), 0..pods / 2).await;
    let baseline = admissions(&cluster).await;
    let webhook_before = resident(cluster.webhook().unwrap().id()).unwrap();
    let begin = Instant::now();
    let creating = tokio::spawn(create(of_busy, busy.host(), names(&images), 0..pods));
    // In the middle: some are warm, some are being pulled, some nobody has looked at, and Pods still come.
    until_warm(&cluster, "burst", count / 5, patience).await;
    let grown_from = resident(cluster.controller().unwrap().id()).unwrap();
    cluster.kill_controller().unwrap();
    let at_kill = warm(&cluster, "burst").await;
    let unfinished = !creating.is_finished();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start_controller().await.unwrap();
    let resumed = until_warm(&cluster, "burst", count, patience).await;
    creating.await.unwrap();
    let (all, after) = (begin.elapsed(), admissions(&cluster).await);

    let found = cluster.cached("burst").await.unwrap();
    assert_eq!(found.len(), count, "one for each image");
    let sources: BTreeSet<&str> = found
        .values()
        .map(|object| object["metadata"]["labels"]["harbor-pilot.dev/source"].as_str().unwrap())
        .collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["admission", "cluster"], "the rest was found by the Pods");
    let metrics = cluster.webhook_metrics().await.unwrap();
    let limited = metrics
        .lines()
        .find(|line| line.contains(r#"prewarm_requests_dropped_total{reason="namespace_limit"}"#))
        .unwrap();
    assert!(!limited.ends_with(" 0"), "{limited}");
    assert!(cluster.cached("burst-cold").await.unwrap().is_empty(), "prewarm.mode: Manual");

    let (unwarmed_p99, warmed_p99) = (p99(&start, &baseline), p99(&baseline, &after));
    let gets = gets(&busy, &images);
    let more: Vec<_> = gets.iter().filter(|(_, count)| *count > 2).collect();
    let (webhook, controller) =
        (resident(cluster.webhook().unwrap().id()).unwrap(), resident(cluster.controller().unwrap().id()).unwrap());
    eprintln!(
        "{at_kill} of {count} warm at the kill; all {resumed:?} after the restart; all Pods {all:?} after the first; admission p99 \
         {unwarmed_p99} s without and {warmed_p99} s with warming; blobs fetched more than twice: {}; webhook {webhook_before:.0} to \
         {webhook:.0} MiB, controller {grown_from:.0} to {controller:.0} MiB; {limited}",
        more.len()
    );
    assert!(at_kill < count && unfinished, "the kill came too late");
    // Harbor asks twice for each: for the client and for its store. What was under way when the client died may be asked for anew.
    assert!(more.len() <= 4 * 3 && more.iter().all(|(_, count)| *count <= 4), "fetched again: {more:?}");
    assert!(gets.iter().all(|(_, count)| *count >= 1));
    // The bounds of the buckets double.
    assert!(warmed_p99 <= unwarmed_p99 * 4.0 || warmed_p99 <= 0.005, "{unwarmed_p99} {warmed_p99}");
    assert!(webhook <= webhook_before + 16.0 && controller <= grown_from + 32.0);
    for name in ["burst", "burst-cold"] {
        cluster.forget(name).await.unwrap();
    }
    clear(&cluster, &[&namespace, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_requested_during_an_outage_are_warm_soon_after_it() {
    const IMAGES: usize = 12;
    let mut cluster = alone().await.unwrap();
    let upstream = cluster.proxied("away").await.unwrap();
    let namespace = cluster.plane.namespace("away").await.unwrap();
    let images = push(&upstream, IMAGES);
    upstream.set_down(true).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client().unwrap(), &namespace);
    create(pods.clone(), upstream.host(), names(&images), 0..IMAGES / 2).await;
    let failed = |object: &Value| !object["status"]["nextAttemptAt"].is_null();
    let end = Instant::now() + RESUMED;
    while cluster.cached("away").await.unwrap().values().filter(|object| failed(object)).count() < IMAGES / 2 {
        assert!(Instant::now() < end, "{}", tail(&cluster.logs()));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(warm(&cluster, "away").await, 0);
    cluster.harbor.set_down(true).await;
    upstream.set_down(false).await;
    create(pods, upstream.host(), names(&images), IMAGES / 2..IMAGES).await;
    // The process is another one when Harbor is back: it knows what the API server knows.
    cluster.kill_controller().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.start_controller().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(warm(&cluster, "away").await, 0);
    cluster.harbor.set_down(false).await;
    let resumed = until_warm(&cluster, "away", IMAGES, RESUMED).await;
    eprintln!("all {IMAGES} warm {resumed:?} after Harbor was back");
    cluster.forget("away").await.unwrap();
    clear(&cluster, &[&namespace]).await;
}
