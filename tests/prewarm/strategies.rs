//! How layers come into the cache: what each strategy costs the upstream and us, and what becomes of it when something is wrong.

use std::time::Duration;

use harbor_double::{Failure, Image, Pushed};
use harbor_pilot::{
    api::{
        ConditionType,
        proxy_project::PullStrategy::{self, ManifestsOnly, Stream, Touch},
    },
    prewarm::{
        Puller,
        puller::{ProjectConcurrency, PullError},
    },
    registry::{self, Error},
};

use crate::world::{World, gets, is_ready, is_settled, multi, parts, platforms, state};

const MIB: usize = 1 << 20;
/// So slow that Harbor does not fetch by itself meanwhile what it misses.
const UNHURRIED: f64 = 10.0;

impl World {
    fn by(&self, strategy: PullStrategy) -> Puller {
        self.puller().on(ProjectConcurrency::default(), strategy)
    }

    /// Bytes of blobs and manifests that the upstream has sent.
    fn sent(&self) -> u64 {
        self.upstream.log().iter().map(|request| request.bytes_sent).sum()
    }

    /// Waits until nothing is sent any more.
    async fn quiet(&self) -> u64 {
        let mut last = self.sent();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.sent();
            if now == last {
                return now;
            }
            last = now;
        }
    }
}

fn size(image: &Pushed) -> u64 {
    image.children.iter().flat_map(|child| child.blobs()).map(|blob| blob.size as u64).sum()
}

#[tokio::test]
async fn by_touch_the_upstream_sends_an_image_once_and_by_stream_twice() {
    let world = World::start_at(UNHURRIED).await;
    // On the loopback interface, megabytes are in the buffers before anybody can hang up.
    world.upstream.throttle(Some(100 * MIB as u64));
    let table = [(Touch, 0.99, 1.2), (Stream, 1.9, 2.1)];
    for (strategy, least, most) in table {
        let repository = format!("app/{strategy:?}").to_lowercase();
        let image = Image::single("linux", "amd64").layers([25 * MIB; 4]).seed(&repository);
        let pushed = world.upstream.push_image(&repository, "v1", &image);
        world.upstream.clear_log();
        let warmed = world.by(strategy).warm(&world.target(&format!("{repository}:v1")), &[], &()).await.unwrap();
        let fetches = warmed.children[0].fetches;
        // The config is too small to wait for.
        let touched = if strategy == Touch { 4 } else { 0 };
        assert_eq!((fetches.touched, fetches.streamed, fetches.fell_back), (touched, 5 - touched, 0));
        let ratio = world.quiet().await as f64 / size(&pushed) as f64;
        assert!((least..most).contains(&ratio), "{strategy:?}: the upstream sent {ratio:.2} times the image");
        let read = fetches.read as f64 / size(&pushed) as f64;
        assert!(if strategy == Touch { read < 0.01 } else { read == 1.0 }, "{strategy:?}: we read {read:.2} times it");
        for blob in pushed.children[0].blobs() {
            assert_eq!(gets(&world.upstream.log(), &blob.digest), 2, "for the client, and for the store");
        }
    }
    world.end().await;
}

#[tokio::test]
async fn what_touch_has_brought_is_stored_when_the_pull_is_done() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/done", "v1", &Image::single("linux", "amd64").layers([MIB, 3 * MIB]));
    world.by(Touch).warm(&world.target("app/done:v1"), &[], &()).await.unwrap();
    world.upstream.set_down(true).await;
    let client = registry::Client::new(&world.endpoint).unwrap();
    for layer in &pushed.children[0].layers {
        let digest = layer.digest.parse().unwrap();
        assert!(client.has_blob(&format!("{}/app/done", world.project), &digest).await.unwrap());
    }
    world.upstream.set_down(false).await;
    world.end().await;
}

#[tokio::test]
async fn a_slow_copy_is_waited_for_and_not_fetched_again() {
    let world = World::start_at(UNHURRIED).await;
    let pushed =
        world.upstream.push_image("app/slow", "v1", &Image::single("linux", "amd64").layers([MIB, 2 * MIB, 3 * MIB]));
    // Three times as long as the grace of these tests.
    world.upstream.throttle(Some(MIB as u64));
    let warmed = world.by(Touch).warm(&world.target("app/slow:v1"), &[], &()).await.unwrap();
    assert_eq!((warmed.children[0].fetches.touched, warmed.children[0].fetches.fell_back), (3, 0));
    for layer in &pushed.children[0].layers {
        assert_eq!(gets(&world.upstream.log(), &layer.digest), 2);
    }
    world.end().await;
}

#[tokio::test]
async fn a_pull_that_is_cut_off_goes_on_waiting_where_it_was() {
    let world = World::start_at(UNHURRIED).await;
    let pushed = world.upstream.push_image("app/cut", "v1", &Image::single("linux", "amd64").layers([2 * MIB]));
    world.upstream.throttle(Some(MIB as u64));
    let (puller, target) = (world.by(Touch), world.target("app/cut:v1"));
    let layer = pushed.children[0].layers[0].digest.clone();
    let cut = async {
        while gets(&world.upstream.log(), &layer) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    };
    tokio::select! {
        warmed = puller.warm(&target, &[], &()) => panic!("it was done before it could be cut off: {warmed:?}"),
        () = cut => {}
    }
    let warmed = puller.warm(&target, &[], &()).await.unwrap();
    assert_eq!(warmed.children[0].fetches.touched, 1);
    assert_eq!(gets(&world.upstream.log(), &layer), 2);
    world.end().await;
}

#[tokio::test]
async fn what_does_not_come_is_read_once_and_that_names_the_cause() {
    let world = World::start().await;
    let layers = [200_000, 300_000];
    for (name, failure) in [("wrong", Failure::WrongBytes), ("short", Failure::CutShort)] {
        let image = Image::single("linux", "amd64").layers(layers).seed(name);
        let pushed = world.upstream.push_image(&format!("app/{name}"), "v1", &image);
        world.upstream.fail_next(&pushed.children[0].layers[1].digest, 1000, &failure);
        let error = world.by(Touch).warm(&world.target(&format!("app/{name}:v1")), &[], &()).await.unwrap_err();
        let named = matches!(&error, PullError::Pull(Error::DigestMismatch { .. } | Error::SizeMismatch { .. }));
        assert!(named, "{name}: {error}");
        world.upstream.clear_failures();
    }
    world.end().await;
}

#[tokio::test]
async fn where_harbor_stores_nothing_each_layer_is_read_at_most_once_and_the_image_is_not_ready() {
    let world = World::start().await;
    if world.double.is_none() {
        return world.end().await;
    }
    world.upstream.push_image("app/full", "v1", &Image::single("linux", "amd64").layers([300_000; 8]).seed("full"));
    world.limit_storage(1000).await;
    let warmed = world.by(Touch).warm(&world.target("app/full:v1"), &[], &()).await.unwrap();
    let fetches = warmed.children[0].fetches;
    assert_eq!((fetches.touched, fetches.streamed), (0, 9));
    assert!((1..=4).contains(&fetches.fell_back), "the others were not waited for: {fetches:?}");
    let mut image = world.cached("app/full:v1");
    let failed = |image: &harbor_pilot::api::CachedImage| {
        assert!(!is_ready(image));
        state(image, ConditionType::Ready) == "False/StoreTimeout"
    };
    world.live(&mut image, &world.context(), failed).await;
    world.end().await;
}

#[tokio::test]
async fn manifests_only_asks_for_no_layer_and_harbor_fetches_them_once() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/lazy", "v1", &multi("a"));
    let warmed =
        world.by(ManifestsOnly).warm(&world.target("app/lazy:v1"), &platforms(&["linux/amd64"]), &()).await.unwrap();
    let child = &warmed.children[0];
    assert_eq!((child.fetched, child.fetches.left, child.fetches.read), (0, 4, 0));
    let log = world.upstream.log();
    assert!(pushed.children[0].blobs().all(|blob| gets(&log, &blob.digest) == 0));
    let mut image = world.cached("app/lazy:v1");
    let context = world.context_by(&["linux/amd64"], ManifestsOnly);
    world.live(&mut image, &context, is_settled).await;
    assert_eq!(state(&image, ConditionType::Ready), "True/Warm");
    assert_eq!(state(&image, ConditionType::OfflineByTag), "True/Tagged");
    let log = world.upstream.log();
    for digest in parts(&pushed, "amd64") {
        assert!(gets(&log, &digest) <= 1 || digest == pushed.children[0].digest, "{digest}");
    }
    world.end().await;
}

#[tokio::test]
async fn an_image_is_warm_by_each_strategy() {
    let world = World::start().await;
    for strategy in [Touch, Stream] {
        let repository = format!("app/{strategy:?}").to_lowercase();
        world.upstream.push_image(&repository, "v1", &multi(&repository));
        let mut image = world.cached(&format!("{repository}:v1"));
        world.live(&mut image, &world.context_by(&["linux/amd64"], strategy), is_settled).await;
        assert_eq!(state(&image, ConditionType::Ready), "True/Warm", "{strategy:?}");
        assert_eq!(state(&image, ConditionType::OfflineByTag), "True/Tagged", "{strategy:?}");
    }
    world.end().await;
}
