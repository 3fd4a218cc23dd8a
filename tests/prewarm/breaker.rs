//! One broken upstream stops no other: Harbor counts as silent only when Harbor itself does not answer.

use std::time::Duration;

use harbor_double::{Failure, Image};
use harbor_pilot::{
    api::{CachedImageStatus, ConditionType},
    prewarm::{PrewarmContext, Puller, puller::PullLimits, reconcile},
    reconcile::ReconcileResult,
    registry,
    transport::{Deadlines, Endpoint},
};
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{World, is_ready, state};

/// Two steps: one that says that it begins, and one that pulls.
async fn pulled(world: &World, name: &str, context: &PrewarmContext) -> (String, ReconcileResult<CachedImageStatus>) {
    let mut image = world.cached(name);
    let first = reconcile(&image, context, Timestamp::now()).await;
    image.status = Some(first.status);
    let second = reconcile(&image, context, Timestamp::now()).await;
    image.status = Some(second.status.clone());
    (state(&image, ConditionType::Ready), second)
}

#[tokio::test]
async fn reconcile_goes_on_with_good_images_after_others_broke_off() {
    // A real Harbor breaks off as its version does.
    let mut worlds = vec![World::start().await];
    if std::env::var("HARBOR_URL").is_err() {
        worlds.push(World::announcing_blobs().await);
    }
    for world in worlds {
        for number in 0..3 {
            let image = Image::single("linux", "amd64").layers([200_000, 300_000]);
            let pushed = world.upstream.push_image(&format!("bad/app{number}"), "v1", &image);
            world.upstream.fail_next(&pushed.children[0].layers[1].digest, 100_000, &Failure::CutShort);
        }
        (0..8).for_each(|number| {
            let image = Image::single("linux", "amd64");
            world.upstream.push_image(&format!("good/app{number}"), "v1", &image);
        });
        let context = world.context();
        for number in 0..3 {
            let (ready, _) = pulled(&world, &format!("bad/app{number}:v1"), &context).await;
            assert_eq!(ready, "False/PullFailed");
        }
        let good = (0..8).map(async |number| {
            let name = format!("good/app{number}:v1");
            let (ready, outcome) = pulled(&world, &name, &context).await;
            assert_eq!(ready, "False/Verifying", "{outcome:#?}");
            let mut image = world.cached(&name);
            image.status = Some(outcome.status);
            world.live(&mut image, &context, is_ready).await;
        });
        futures::future::join_all(good).await;
        world.end().await;
    }
}

#[tokio::test]
async fn reconcile_does_not_take_an_upstream_that_hangs_for_a_harbor_that_does() {
    let world = World::start().await;
    world.upstream.push_image("hangs/app", "v1", &Image::single("linux", "amd64"));
    world.upstream.push_image("good/app", "v1", &Image::single("linux", "amd64"));
    world.upstream.fail_next("hangs/app/manifests", 100_000, &Failure::Delay(Duration::from_secs(20)));
    // Less than the upstream hangs, and more than Harbor takes.
    let idle = Duration::from_millis(if world.double.is_some() { 500 } else { 8000 });
    let deadlines = Deadlines { idle, ..Deadlines::default() };
    let impatient = Endpoint { deadlines, ..world.endpoint.clone() };
    let limits = PullLimits { pause: Duration::from_millis(1), ..PullLimits::default() };
    let puller = Puller::new(registry::Client::new(&impatient).unwrap(), limits);
    let context = world.context_through(puller);
    let (ready, _) = pulled(&world, "hangs/app:v1", &context).await;
    assert_eq!(ready, "False/PullFailed");
    let (ready, _) = pulled(&world, "good/app:v1", &context).await;
    assert_eq!(ready, "False/Verifying");
    world.end().await;
}

/// Answers everything like a gateway with nothing behind it.
async fn gateway() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await;
                assert!(read.is_ok_and(|read| read > 0));
                let answer = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.ok();
            });
        }
    });
    url
}

#[tokio::test]
async fn reconcile_leaves_a_harbor_alone_that_its_gateway_does_not_reach() {
    let world = World::start().await;
    let context = world.elsewhere(&gateway().await);
    let (ready, _) = pulled(&world, "some/app:v1", &context).await;
    assert_eq!(ready, "False/HarborUnreachable");
    let (ready, _) = pulled(&world, "other/app:v1", &context).await;
    assert_eq!(ready, "False/InstanceNotReady", "one image asks for all");
    world.end().await;
}
