//! What is under way at once, in all pulls together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::response::IntoResponse;
use bytes::Bytes;
use harbor_pilot::{
    api::proxy_project::PullStrategy::{Stream, Touch},
    prewarm::{
        Puller,
        puller::{ProjectConcurrency, PullConcurrency, PullLimits},
    },
    registry::{Client, Descriptor, Digest},
    transport::Endpoint,
};
use http::StatusCode;
use serde_json::json;

use crate::fake::{Fake, MANIFEST, blob_path, descriptor, pinned};

/// More than what is read without much ado.
const LARGE: usize = 100_000;

/// An image of blobs of that size that nobody has stored; the numbers make their content.
fn image(fake: &Fake, numbers: std::ops::Range<u8>, size: usize) -> (Digest, Vec<Descriptor>) {
    let blobs: Vec<Descriptor> = numbers
        .map(|number| {
            let content = Bytes::from(vec![number; size]);
            let blob = descriptor(&content);
            fake.answer(&format!("HEAD {}", blob_path(&blob)), || StatusCode::NOT_FOUND.into_response());
            fake.answer(&blob_path(&blob), move || content.clone().into_response());
            blob
        })
        .collect();
    let entry = |blob: &Descriptor| json!({"mediaType": "l", "digest": blob.digest.as_str(), "size": blob.size});
    let layers: Vec<_> = blobs.iter().map(entry).collect();
    let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers, "config": layers[0]});
    (fake.manifest(MANIFEST, &document), blobs)
}

/// A Harbor that stores each of the blobs so long after it was asked for.
fn store(fake: &Fake, blobs: &[Descriptor], after: Duration) {
    for blob in blobs {
        let stored = Arc::new(AtomicBool::new(false));
        let content = Bytes::from(vec![0; usize::try_from(blob.size).unwrap()]);
        fake.answer(&format!("HEAD {}", blob_path(blob)), {
            let stored = Arc::clone(&stored);
            move || if stored.load(Ordering::SeqCst) { StatusCode::OK } else { StatusCode::NOT_FOUND }.into_response()
        });
        fake.answer(&blob_path(blob), move || {
            let stored = Arc::clone(&stored);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                stored.store(true, Ordering::SeqCst);
            });
            content.clone().into_response()
        });
    }
}

fn roomy(fake: &Fake, lanes: &PullConcurrency) -> Puller {
    let endpoint = Endpoint { max_concurrent_requests: 32, ..fake.endpoint() };
    let limits = PullLimits { blobs_at_once: 16, ..PullLimits::default() };
    Puller::new(Client::new(&endpoint).unwrap(), limits).within(lanes.clone())
}

fn most_fetches(fake: &Fake) -> usize {
    fake.inner.most_fetches.swap(0, Ordering::SeqCst)
}

#[tokio::test]
async fn pull_limits_of_project_and_upstream_apply_together_and_change_immediately() {
    let fake = Fake::start(None).await;
    let lanes = PullConcurrency::default();
    let pull = async |numbers: std::ops::Range<u8>, lane: ProjectConcurrency| {
        let digest = image(&fake, numbers, 1000).0;
        roomy(&fake, &lanes).on(lane, Stream).warm(&pinned(&digest), &[], &()).await.unwrap();
    };
    let lane = |project, own, theirs| lanes.lane((project, own), ("hub", theirs));
    tokio::join!(pull(0..12, lane("a", None, None)), pull(12..24, lane("b", None, None)));
    assert!(most_fetches(&fake) > 8, "nothing bounds them");
    tokio::join!(pull(30..42, lane("a", Some(2), None)), pull(42..54, lane("a", Some(2), None)));
    assert_eq!(most_fetches(&fake), 2);
    tokio::join!(pull(60..72, lane("a", None, Some(3))), pull(72..84, lane("b", None, Some(3))));
    assert_eq!(most_fetches(&fake), 3);
    let both = async {
        while fake.inner.most_fetches.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(most_fetches(&fake), 1);
        lane("a", Some(12), None);
    };
    tokio::join!(pull(90..130, lane("a", Some(1), None)), both);
    assert!(most_fetches(&fake) > 4, "the pull under way did not learn of it");
}

#[tokio::test]
async fn the_sizes_of_all_blobs_under_way_are_bounded_and_a_larger_one_goes_alone() {
    let fake = Fake::start(None).await;
    let lanes = PullConcurrency::new(2500);
    let pull = async |numbers: std::ops::Range<u8>, size: usize| {
        let digest = image(&fake, numbers, size).0;
        roomy(&fake, &lanes).on(ProjectConcurrency::default(), Stream).warm(&pinned(&digest), &[], &()).await.unwrap();
    };
    tokio::join!(pull(0..8, 1000), pull(8..16, 1000));
    assert_eq!(most_fetches(&fake), 2);
    tokio::join!(pull(20..24, 3000), pull(24..28, 3000));
    assert_eq!((most_fetches(&fake), lanes.bytes_under_way()), (1, 0));
}

#[tokio::test]
async fn while_harbor_stores_the_client_is_free_and_the_upstream_is_not() {
    let fake = Fake::start(None).await;
    let (digest, blobs) = image(&fake, 0..6, LARGE);
    store(&fake, &blobs, Duration::from_millis(800));
    let lanes = PullConcurrency::default();
    let endpoint = Endpoint { max_concurrent_requests: 1, ..fake.endpoint() };
    let limits = PullLimits { blobs_at_once: 6, ..PullLimits::default() };
    let puller = Puller::new(Client::new(&endpoint).unwrap(), limits).within(lanes.clone());
    let pull = async |lane| {
        let start = tokio::time::Instant::now();
        let warmed = puller.clone().on(lane, Touch).warm(&pinned(&digest), &[], &()).await.unwrap();
        (warmed.children[0].fetches.touched, start.elapsed())
    };
    let (touched, took) = pull(ProjectConcurrency::default()).await;
    assert!(touched == 6 && took < Duration::from_millis(3000), "one after the other: {took:?}");

    store(&fake, &blobs, Duration::from_millis(800));
    let (touched, took) = pull(lanes.lane(("a", None), ("hub", Some(2)))).await;
    assert!(touched == 6 && took > Duration::from_millis(2300), "more than two at once: {took:?}");
}

#[tokio::test]
async fn a_blob_that_two_images_share_is_fetched_once_by_whichever_strategy() {
    for strategy in [Stream, Touch] {
        let fake = Fake::start(None).await;
        let (one, blobs) = image(&fake, 0..4, LARGE);
        let layers: Vec<_> = blobs
            .iter()
            .map(|blob| json!({"mediaType": "l", "digest": blob.digest.as_str(), "size": blob.size}))
            .collect();
        let other = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers[1..], "config": layers[0]});
        let other = fake.manifest(MANIFEST, &other);
        if strategy == Touch {
            store(&fake, &blobs, Duration::from_millis(100));
        }
        let puller = roomy(&fake, &PullConcurrency::default()).on(ProjectConcurrency::default(), strategy);
        let warm = async |digest| puller.warm(&pinned(digest), &[], &()).await.unwrap().children[0].fetched;
        let (first, second) = tokio::join!(warm(&one), warm(&other));
        assert_eq!(first + second, 4, "{strategy:?}");
        for blob in &blobs {
            let fetched = fake.log().iter().filter(|(path, _)| *path == blob_path(blob)).count() - fake.heads(blob);
            assert_eq!(fetched, 1, "{strategy:?}");
        }
    }
}

#[tokio::test]
async fn a_pull_that_ends_in_the_middle_leaves_the_blob_to_the_next() {
    let fake = Fake::start(None).await;
    let (digest, blobs) = image(&fake, 0..1, LARGE);
    let gets = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&gets);
    // Never stored.
    fake.answer(&format!("GET {}", blob_path(&blobs[0])), move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Bytes::from(vec![0; LARGE]).into_response()
    });
    let limits = PullLimits { grace: Duration::from_millis(100), ..PullLimits::default() };
    let puller = Puller::new(fake.client(), limits);
    let target = pinned(&digest);
    let first = puller.warm(&target, &[], &());
    assert!(tokio::time::timeout(Duration::from_millis(60), first).await.is_err());
    let second = puller.warm(&pinned(&digest), &[], &()).await.unwrap();
    assert_eq!((second.children[0].fetches.fell_back, gets.load(Ordering::SeqCst)), (1, 2));
    // Harbor stores any moment now what we read.
    let third = puller.warm(&pinned(&digest), &[], &()).await.unwrap();
    assert_eq!((third.children[0].fetches.shared, gets.load(Ordering::SeqCst)), (1, 2));
}
