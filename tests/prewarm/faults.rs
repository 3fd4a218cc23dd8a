//! What goes wrong on the way ends in a status that says what to do, never in a false Ready, and is over when its cause is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harbor_double::{Failure, Pushed};
use harbor_pilot::{
    api::{CachedImage, ConditionType, condition},
    prewarm::reconcile,
};
use k8s_openapi::jiff::Timestamp;

use crate::world::{World, is_ready, is_settled, multi, state};

/// What is done to the world.
#[derive(Debug, Clone)]
enum Fault {
    /// The next requests whose path has this part fail.
    At(Part, Failure),
    /// The upstream refuses connections.
    Down,
    /// The upstream has no such tag.
    NoTag,
    /// The project's quota is used up.
    OverQuota,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Manifests,
    /// The manifest of the wanted child.
    Child,
    /// A layer of the wanted child.
    Layer,
}

/// A fault, the reason that Ready then has, and what its message says.
type Row = (&'static str, Fault, &'static str, &'static str);

fn faults() -> Vec<Row> {
    use Failure::{CutShort, Status, TooManyRequests, WrongBytes};
    use Fault::{At, Down, NoTag, OverQuota};
    use Part::{Child, Layer, Manifests};
    vec![
        ("the tag is not there", NoTag, "ImageNotFound", "check the name"),
        ("the upstream is down", Down, "UpstreamUnhealthy", "unreachable, refuses Harbor's credentials"),
        ("401 by the upstream", At(Manifests, Status(401)), "UpstreamUnhealthy", "refuses Harbor's credentials"),
        ("403 by the upstream", At(Manifests, Status(403)), "UpstreamUnhealthy", "refuses Harbor's credentials"),
        ("500 by the upstream", At(Manifests, Status(500)), "UpstreamUnhealthy", "unreachable"),
        ("429 for a manifest", At(Manifests, TooManyRequests(Some(1))), "RateLimited", "rate of pulls is limited"),
        ("429 for a layer", At(Layer, TooManyRequests(None)), "RateLimited", "rate of pulls is limited"),
        ("500 for a layer", At(Layer, Status(500)), "PullFailed", "500"),
        ("404 for a layer", At(Layer, Status(404)), "ImageNotFound", "blobs/sha256"),
        ("403 for a layer", At(Layer, Status(403)), "HarborForbidden", "403"),
        ("a layer is cut short", At(Layer, CutShort), "PullFailed", "sha256:"),
        ("a layer of other bytes", At(Layer, WrongBytes), "PullFailed", "changed it"),
        ("a child that cannot be read", At(Child, WrongBytes), "UpstreamUnhealthy", "sends an invalid response"),
        ("the quota is used up", OverQuota, "StoreTimeout", "check the quota"),
    ]
}

impl Fault {
    async fn begins(&self, world: &World, repository: &str, pushed: &Pushed) {
        match self {
            Self::At(part, failure) => {
                let child = &pushed.children[0];
                let part = match part {
                    Part::Manifests => format!("{repository}/manifests"),
                    Part::Child => child.digest.clone(),
                    Part::Layer => child.layers[1].digest.clone(),
                };
                world.upstream.fail_next(&part, 100_000, failure);
            }
            Self::Down => world.upstream.set_down(true).await,
            Self::NoTag => assert!(world.upstream.delete_tag(repository, "v1")),
            Self::OverQuota => world.limit_storage(100_000).await,
        }
    }

    async fn ends(&self, world: &World, repository: &str, pushed: &Pushed) {
        match self {
            Self::At(..) => world.upstream.clear_failures(),
            Self::Down => world.upstream.set_down(false).await,
            Self::NoTag => assert!(world.upstream.move_tag(repository, "v1", &pushed.digest)),
            Self::OverQuota => world.limit_storage(-1).await,
        }
    }
}

fn message(image: &CachedImage) -> String {
    let list = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::find(list, ConditionType::Ready).map(|ready| ready.message.clone()).unwrap_or_default()
}

#[tokio::test]
async fn each_fault_is_named_while_it_lasts_and_over_when_its_cause_is() {
    each_fault(World::start().await).await;
}

#[tokio::test]
async fn each_fault_is_named_by_a_harbor_that_announces_blobs_and_breaks_off() {
    // A real one does as its version does.
    if std::env::var("HARBOR_URL").is_err() {
        each_fault(World::announcing_blobs().await).await;
    }
}

async fn each_fault(world: World) {
    for (number, (name, fault, reason, says)) in faults().into_iter().enumerate() {
        let repository = format!("faults/app{number}");
        let pushed = world.upstream.push_image(&repository, "v1", &multi(name));
        fault.begins(&world, &repository, &pushed).await;
        let context = world.context();
        let mut image = world.cached(&format!("{repository}:v1"));
        let tried = |image: &CachedImage| {
            assert!(!is_ready(image), "{name}: ready, and it cannot be: {:#?}", image.status);
            // The quota shows only in what does not come.
            image.status.as_ref().is_some_and(|status| status.attempts >= Some(1))
        };
        world.live(&mut image, &context, tried).await;
        let ready = format!("False/{reason}");
        assert_eq!(state(&image, ConditionType::Ready), ready, "{name}: {}", message(&image));
        assert_eq!(state(&image, ConditionType::Stalled), "", "{name}: it is tried again without anybody's help");
        assert!(message(&image).contains(says), "{name}: {}", message(&image));
        assert!(image.status.as_ref().unwrap().next_attempt_at.is_some(), "{name}: nobody knows when");

        fault.ends(&world, &repository, &pushed).await;
        world.live(&mut image, &context, is_ready).await;
        assert_eq!(image.status.as_ref().unwrap().attempts, None, "{name}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_tag_that_the_upstream_removed_is_no_longer_ready_until_it_is_back() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("faults/gone", "v1", &multi("gone"));
    let mut context = world.context();
    context.timing.refresh = Duration::from_secs(1);
    let mut image = world.cached("faults/gone:v1");
    world.live(&mut image, &context, is_settled).await;
    assert!(is_ready(&image));
    assert!(world.upstream.delete_tag("faults/gone", "v1"));
    world.live(&mut image, &context, |image| !is_ready(image)).await;
    assert_eq!(state(&image, ConditionType::Ready), "False/ImageNotFound");
    assert!(message(&image).contains("serveRemoved"), "{}", message(&image));
    assert!(world.upstream.move_tag("faults/gone", "v1", &pushed.digest));
    world.live(&mut image, &context, is_ready).await;
    world.end().await;
}

#[tokio::test]
async fn stored_image_stays_ready_while_its_upstream_is_down() {
    let world = World::start().await;
    world.upstream.push_image("faults/kept", "v1", &multi("kept"));
    let mut context = world.context();
    context.timing.refresh = Duration::from_secs(1);
    let mut image = world.cached("faults/kept:v1");
    world.live(&mut image, &context, is_settled).await;
    world.upstream.set_down(true).await;
    let before = image.status.clone().unwrap();
    let looked = |image: &CachedImage| {
        assert!(is_ready(image), "{:#?}", image.status);
        image.status.as_ref().unwrap().next_attempt_at > before.next_attempt_at
    };
    world.live(&mut image, &context, looked).await;
    assert_eq!(state(&image, ConditionType::OfflineByTag), "True/Tagged");
    world.end().await;
}

/// Counts the connections that it closes.
async fn mute() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    (url, count)
}

#[tokio::test]
async fn circuit_breaker_probes_an_unreachable_harbor_with_one_of_a_hundred_images() {
    let world = World::start().await;
    let (url, connections) = mute().await;
    let mut ready = world.cached("faults/ready:v1");
    world.upstream.push_image("faults/ready", "v1", &multi("ready"));
    world.live(&mut ready, &world.context(), is_settled).await;

    let context = world.elsewhere(&url);
    let mut images: Vec<CachedImage> = (0..100).map(|number| world.cached(&format!("faults/app{number}:v1"))).collect();
    images.push(ready);
    let start = Timestamp::now();
    let mut due = vec![start; images.len()];
    let mut writes = 0;
    for second in 0..600 {
        let now = start.checked_add(Duration::from_secs(second)).unwrap();
        for (image, due) in images.iter_mut().zip(&mut due).filter(|(_, due)| **due <= now) {
            let outcome = reconcile(image, &context, now).await;
            writes += usize::from(image.status.as_ref() != Some(&outcome.status));
            image.status = Some(outcome.status);
            *due = now.checked_add(outcome.requeue.max(Duration::from_secs(1))).unwrap();
        }
    }
    // Each probe repeats its request twice and asks once whether Harbor answers; one failure may come before any pause.
    let connections = connections.load(Ordering::Relaxed);
    assert!((4 * 15..=4 * 22).contains(&connections), "{connections} connections");
    assert!(writes <= 3 * images.len(), "{writes} writes of status");
    let (ready, waiting) = images.split_last().unwrap();
    assert!(is_ready(ready), "{:#?}", ready.status);
    for image in waiting {
        let reason = state(image, ConditionType::Ready);
        assert!(["False/InstanceNotReady", "False/HarborUnreachable"].contains(&reason.as_str()), "{reason}");
    }

    world.end().await;
}
