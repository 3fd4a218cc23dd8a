//! Hours of the same, for what grows slowly: nothing does.
//!
//! `HARBOR_PILOT_SOAK=20` runs it for so many minutes; without it there is nothing to do, and the test says so.

use std::time::Duration;

use harbor_double::{Image, Upstream};
use harbor_pilot::api::CachedImage;
use harbor_pilot_e2e::cluster::{Cluster, alone, pod, proxy_project, registry};
use harbor_pilot_e2e::pilot::resident;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use tokio::time::{Instant, interval};

/// What the memory of a process may seem to grow by in an hour, in MiB. What is below is the noise of ten minutes, and what is remembered
/// within bounds that an hour does not fill.
const SLOPE: f64 = 8.0;
const NAMESPACE: &str = "soak";
/// Images that are asked for at one time; older ones are deleted with their Pods.
const KEPT: usize = 40;
/// Images that come at once: more than there are tokens that are kept.
const FIRST: usize = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_while_pods_images_and_rules_come_and_go() {
    let Some(minutes) = std::env::var("HARBOR_PILOT_SOAK").ok().and_then(|text| text.parse::<u64>().ok()) else {
        eprintln!("set HARBOR_PILOT_SOAK to a number of minutes to see that memory does not grow");
        return;
    };
    let mut cluster = alone().await.unwrap();
    let upstream = cluster.proxied("soak").await.unwrap();
    let namespace = cluster.plane.namespace(NAMESPACE).await.unwrap();
    let processes = [("webhook", cluster.webhook().unwrap().id()), ("controller", cluster.controller().unwrap().id())];

    let client = cluster.client().unwrap();
    let load = async {
        tokio::join!(
            dry_runs(client.clone(), &namespace, upstream.host()),
            pods(client.clone(), &namespace, &upstream),
            rules(&cluster),
        )
    };
    let samples = tokio::select! {
        samples = measured(&processes, Duration::from_secs(minutes * 60)) => samples,
        _ = load => unreachable!("the load has no end"),
    };
    let images = Api::<CachedImage>::all(client).list(&ListParams::default()).await.unwrap().items.len();
    assert!(images < 2 * KEPT, "{images} CachedImages are left: this measures what they take");
    cluster.forget("soak").await.unwrap();

    // What is remembered within bounds is full by then.
    let settled = &samples[samples.len() / 2..];
    for (at, (name, _)) in processes.iter().enumerate() {
        let line: Vec<(f64, f64)> = settled.iter().map(|(hours, sizes)| (*hours, sizes[at])).collect();
        let (first, last, slope) = (line[0].1, line[line.len() - 1].1, slope(&line));
        eprintln!("{name}: {first:.1} to {last:.1} MiB, {slope:+.2} MiB an hour, {} samples", line.len());
        assert!(slope < SLOPE, "{name} grows by {slope:.1} MiB an hour: {line:?}");
    }
}

/// Hours since the beginning, and MiB of each process, every two seconds.
async fn measured(processes: &[(&str, u32)], lasting: Duration) -> Vec<(f64, Vec<f64>)> {
    let begin = Instant::now();
    let mut beat = interval(Duration::from_secs(2));
    let mut samples = Vec::new();
    while begin.elapsed() < lasting {
        beat.tick().await;
        let sizes = processes.iter().map(|(_, id)| resident(*id).unwrap()).collect();
        samples.push((begin.elapsed().as_secs_f64() / 3600.0, sizes));
    }
    samples
}

/// Admissions that leave nothing behind, some twenty a second.
async fn dry_runs(client: Client, namespace: &str, host: String) {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let mut beat = interval(Duration::from_millis(50));
    for number in 0_u64.. {
        beat.tick().await;
        let image = format!("{host}/dry/app-{}:v{number}", number % 500);
        let pod: Pod = serde_json::from_value(pod("dry", namespace, &image)).unwrap();
        pods.create(&parameters, &pod).await.unwrap();
    }
}

/// Pods with new images, which are warmed: many at first, so that what is remembered within bounds (tokens, Events) is full, and then
/// one each second. Of so many the oldest goes, with its CachedImage. One in ten is not there.
async fn pods(client: Client, namespace: &str, upstream: &Upstream) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let images: Api<CachedImage> = Api::all(client);
    let concurrent = DeleteParams::default().grace_period(0);
    for number in 0_usize.. {
        tokio::time::sleep(if number < FIRST { Duration::from_millis(100) } else { Duration::from_secs(1) }).await;
        let name = format!("soak/app-{number}");
        if number % 10 != 0 {
            upstream.push_image(&name, "v1", &Image::single("linux", "amd64").layers([2000, 300]).seed(&name));
        }
        let image = format!("{}/{name}:v1", upstream.host());
        let object: Pod = serde_json::from_value(pod(&format!("pod-{number}"), namespace, &image)).unwrap();
        pods.create(&PostParams::default(), &object).await.unwrap();
        let Some(old) = number.checked_sub(KEPT) else { continue };
        pods.delete(&format!("pod-{old}"), &concurrent).await.unwrap();
        // Some come late, when their Pod is gone already.
        for image in images.list(&ListParams::default()).await.unwrap() {
            if number_of(&image).is_some_and(|number| number <= old) {
                drop(images.delete(image.metadata.name.as_deref().unwrap(), &concurrent).await);
            }
        }
    }
}

/// Of `…/soak/app-NUMBER:v1`.
fn number_of(image: &CachedImage) -> Option<usize> {
    image.spec.image.strip_suffix(":v1")?.rsplit_once("/soak/app-")?.1.parse().ok()
}

/// Every five seconds a rule comes, and one goes.
async fn rules(cluster: &Cluster) {
    let mut beat = interval(Duration::from_secs(5));
    for number in 0_usize.. {
        beat.tick().await;
        let name = format!("soak-{}", number % 4);
        if number >= 4 {
            cluster.forget(&name).await.unwrap();
        }
        cluster.apply(&registry(&name, &format!("http://127.0.0.1:{}", 9 + number % 4))).await.unwrap();
        cluster.apply(&proxy_project(&name)).await.unwrap();
    }
}

/// The slope of the line that lies closest to the points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = f64::from(u32::try_from(points.len()).unwrap());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    above / below
}
