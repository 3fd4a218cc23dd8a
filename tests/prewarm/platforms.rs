//! Platforms that come and go after an image was warmed, and how often an image is looked at.

use std::time::Duration;

use harbor_double::Image;
use harbor_pilot::{
    api::{CachedImage, Interval, Reason},
    prewarm::reconcile,
};
use k8s_openapi::jiff::Timestamp;

use crate::world::{World, gets, is_ready, is_settled, multi, parts, platforms};

#[tokio::test]
async fn a_platform_that_comes_is_warmed_and_one_that_goes_starts_nothing() {
    let world = World::start().await;
    let pushed = world.upstream.push_image("app/nodes", "v1", &multi("a"));
    let mut image = world.cached("app/nodes:v1");
    world.live(&mut image, &world.context(), is_settled).await;
    assert_eq!(image.status.as_ref().unwrap().wanted, platforms(&["linux/amd64"]));

    let both = world.context_for(&["linux/amd64", "linux/arm64"]);
    world.upstream.clear_log();
    let both_stored = |image: &CachedImage| {
        let stored = &image.status.as_ref().unwrap().platforms;
        is_ready(image) && stored.len() == 2 && stored.iter().all(|platform| platform.stored)
    };
    let outcomes = world.live(&mut image, &both, both_stored).await;
    let first = &outcomes[0].notes[0];
    assert_eq!(first.reason, Reason::Pulling);
    assert!(first.message.contains("linux/arm64") && !first.message.contains("amd64"), "{first:?}");
    assert_eq!(image.status.as_ref().unwrap().wanted, platforms(&["linux/amd64", "linux/arm64"]));
    let log = world.upstream.log();
    for digest in parts(&pushed, "arm64") {
        assert!(gets(&log, &digest) >= 1, "{digest} of the new platform was not fetched");
    }
    let child = pushed.children.iter().find(|child| child.platform.architecture == "amd64").unwrap();
    for blob in child.blobs() {
        assert_eq!(gets(&log, &blob.digest), 0, "{} was there", blob.digest);
    }

    world.live(&mut image, &both, is_settled).await;
    let before = image.status.clone();
    let outcome = reconcile(&image, &world.context(), Timestamp::now()).await;
    assert_eq!((Some(&outcome.status), outcome.notes.len()), (before.as_ref(), 0));
    let outcome = reconcile(&image, &both, Timestamp::now()).await;
    assert_eq!(Some(&outcome.status), before.as_ref(), "it is back, and was never gone from Harbor");
    world.end().await;
}

#[tokio::test]
async fn an_image_says_itself_how_often_it_is_looked_at() {
    let world = World::start().await;
    world.upstream.push_image("app/often", "v1", &Image::single("linux", "amd64"));
    let table = [(None, 3600), (Some(600), 600)];
    for (own, seconds) in table {
        let mut image = world.cached("app/often:v1");
        image.spec.refresh_interval = own.map(Interval::from_secs);
        let outcomes = world.live(&mut image, &world.context(), is_settled).await;
        let pause = outcomes.last().unwrap().requeue;
        let wanted = Duration::from_secs(seconds);
        assert!(pause >= wanted.mul_f64(0.89) && pause <= wanted.mul_f64(1.11), "{own:?}: {pause:?}");
    }
    world.end().await;
}
