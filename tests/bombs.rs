//! What a hostile upstream sends: none of it takes much memory, none is followed anywhere, and none is warm.
//!
//! One test, because the memory of a process is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "registry/fake.rs"]
mod fake;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fake::{Fake, INDEX, MANIFEST, blob_path, descriptor, pinned, puller, target};
use futures::{StreamExt, stream};
use harbor_pilot::{
    api::proxy_project::PullStrategy::{Stream, Touch},
    prewarm::{
        Puller,
        puller::{ProjectConcurrency, PullError, PullLimits},
    },
    registry::{Descriptor, Digest, Error},
    transport::{self, RetryClass},
};
use http::{StatusCode, header};
use serde_json::json;

const SIZE: usize = 256 << 10;
/// More than 100 MB, in a form that takes no memory here.
const ENDLESS: u64 = 100 << 20;

/// Bytes that this process had resident at most, since the last call.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
    // 5 resets it, see proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kibibytes << 10
}

/// A body that is as long as it says, in pieces of one buffer.
fn long(piece: &'static [u8], length: u64, taken: &Arc<AtomicU64>) -> Body {
    let taken = Arc::clone(taken);
    let pieces = length.div_ceil(piece.len() as u64);
    Body::from_stream(stream::iter(0..pieces).map(move |_| {
        taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Bytes::from_static(piece))
    }))
}

/// A manifest with so many hundreds of layers.
fn of_layers(hundreds: usize) -> Body {
    let entry = format!(r#"{{"mediaType":"l","digest":"{}","size":1}}"#, Digest::of(b"x"));
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{entry},"layers":[{entry}"#);
    let piece = Bytes::from(format!(",{entry}").repeat(100));
    let pieces = std::iter::once(Bytes::from(head)).chain(std::iter::repeat_n(piece, hundreds));
    let pieces = pieces.chain(std::iter::once(Bytes::from_static(b"]}")));
    Body::from_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)))
}

fn manifest_answer(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, MANIFEST)], body.into()).into_response()
}

fn by(fake: &Fake, strategy: harbor_pilot::api::proxy_project::PullStrategy) -> Puller {
    let limits =
        PullLimits { pause: Duration::from_millis(10), grace: Duration::from_millis(300), ..PullLimits::default() };
    Puller::new(fake.client(), limits).on(ProjectConcurrency::default(), strategy)
}

/// An image of one blob and its config, which nobody has stored.
fn image(fake: &Fake, blob: &Descriptor) -> Digest {
    let entry = json!({"mediaType": "l", "digest": blob.digest.as_str(), "size": blob.size});
    fake.answer(&format!("HEAD {}", blob_path(blob)), || StatusCode::NOT_FOUND.into_response());
    fake.manifest(MANIFEST, &json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "config": entry}))
}

#[tokio::test]
async fn bombs_take_little_memory_and_lead_nowhere() {
    let fake = Fake::start(None).await;
    let elsewhere = Fake::start(None).await;
    // Everything that is loaded once is loaded now.
    let warm_up = fake.manifest(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
    puller(&fake).warm(&pinned(&warm_up), &[], &()).await.unwrap();
    peak();
    let before = peak();

    manifests_that_are_too_large(&fake).await;
    manifests_that_drip(&fake).await;
    blobs_that_are_not_what_they_should_be(&fake).await;
    answers_that_send_elsewhere(&fake, &elsewhere).await;

    let grown = peak().saturating_sub(before);
    assert!(grown <= 16 << 20, "{} MiB more than before", grown >> 20);
    assert!(elsewhere.log().is_empty(), "{:?}", elsewhere.log());
}

async fn manifests_that_are_too_large(fake: &Fake) {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    // 100 MB of manifest, with its length and without.
    fake.answer("/v2/p/app/manifests/chunked", move || manifest_answer(long(&[b' '; 64 << 10], ENDLESS, &counted)));
    let counted = Arc::clone(&taken);
    fake.answer("/v2/p/app/manifests/announced", move || {
        let length = [(header::CONTENT_LENGTH, ENDLESS.to_string())];
        (length, manifest_answer(long(&[b' '; 64 << 10], ENDLESS, &counted))).into_response()
    });
    // 100,000 layers, and as many as 4 MiB hold.
    for (name, hundreds) in [("many", 1000), ("most", 300)] {
        fake.answer(&format!("/v2/p/app/manifests/{name}"), move || manifest_answer(of_layers(hundreds)));
    }
    peak();
    let before = peak();
    for (tag, said) in [
        ("chunked", "larger than the limit of 4096 KiB"),
        ("announced", "larger than the limit of 4096 KiB"),
        ("many", "larger than the limit of 4096 KiB"),
        ("most", "30001 layers exceed the maximum of 4096"),
    ] {
        let error = puller(fake).warm(&target(tag), &[], &()).await.unwrap_err();
        assert!(error.to_string().contains(said), "{tag}: {error}");
    }
    let grown = peak().saturating_sub(before);
    assert!(grown <= 16 << 20, "{} MiB for manifests", grown >> 20);
    assert!(taken.load(Ordering::Relaxed) < ENDLESS / 2, "read on after the limit");
}

async fn manifests_that_drip(fake: &Fake) {
    // Always in time for the next piece, and never done.
    let drip = || {
        let pieces = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        manifest_answer(Body::from_stream(pieces))
    };
    fake.answer("/v2/p/app/manifests/drip", drip);
    let start = Instant::now();
    let error = fake.client().manifest("p/app", "drip").await.unwrap_err();
    assert!(matches!(error, Error::Transport(transport::Error::BrokenOff { .. })), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "it was waited for");
}

async fn blobs_that_are_not_what_they_should_be(fake: &Fake) {
    let good: &'static [u8] = &[7; SIZE];
    let blob = descriptor(good);
    let digest = image(fake, &blob);
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    fake.answer(&blob_path(&blob), move || long(good, ENDLESS, &counted).into_response());
    for strategy in [Stream, Touch] {
        let error = by(fake, strategy).warm(&pinned(&digest), &[], &()).await.unwrap_err();
        assert!(matches!(error, PullError::Pull(Error::SizeMismatch { .. })), "{strategy:?}: {error}");
    }
    assert!(taken.load(Ordering::Relaxed) < ENDLESS, "read on after the end");

    fake.answer(&blob_path(&blob), || {
        Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![8; SIZE]))])).into_response()
    });
    for strategy in [Stream, Touch] {
        let error = by(fake, strategy).warm(&pinned(&digest), &[], &()).await.unwrap_err();
        assert!(matches!(error, PullError::Pull(Error::DigestMismatch { .. })), "{strategy:?}: {error}");
    }

    // A length that says from the start that it is wrong: nobody waits for that blob.
    let gets = fake.asked(&blob_path(&blob)) - fake.heads(&blob);
    fake.answer(&blob_path(&blob), || Bytes::from_static(b"short, and says so").into_response());
    for strategy in [Stream, Touch] {
        let error = by(fake, strategy).warm(&pinned(&digest), &[], &()).await.unwrap_err();
        assert!(matches!(error, PullError::Pull(Error::SizeMismatch { actual: 18, .. })), "{strategy:?}: {error}");
        assert_ne!(error.class(), RetryClass::Retry);
    }
    assert_eq!(fake.asked(&blob_path(&blob)) - fake.heads(&blob), gets + 2);
}

async fn answers_that_send_elsewhere(fake: &Fake, elsewhere: &Fake) {
    let places = [
        format!("{}/v2/p/app/blobs/x", elsewhere.url),
        elsewhere.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        elsewhere.url.replace("127.0.0.1", "2130706433"),
        elsewhere.url.replace("127.0.0.1", "0177.0.0.1"),
        elsewhere.url.replace("127.0.0.1", "localhost"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ];
    let blob = descriptor(&[9; 100_000]);
    let digest = image(fake, &blob);
    for place in places {
        // A Link, a Location and a Refresh beside a proper answer, and a redirect of each document.
        let headers = [
            (header::LINK, format!("<{place}>; rel=\"next\"")),
            (header::LOCATION, place.clone()),
            (header::REFRESH, format!("0; url={place}")),
            (header::CONTENT_LOCATION, place.clone()),
        ];
        let answer = headers.clone();
        fake.answer(&blob_path(&blob), move || (answer.clone(), vec![9; 100_000]).into_response());
        by(fake, Touch).warm(&pinned(&digest), &[], &()).await.unwrap();
        by(fake, Stream).warm(&pinned(&digest), &[], &()).await.unwrap();
        for status in [StatusCode::MOVED_PERMANENTLY, StatusCode::FOUND, StatusCode::TEMPORARY_REDIRECT] {
            let answer = headers.clone();
            fake.answer("/v2/p/app/manifests/moved", move || (status, answer.clone()).into_response());
            let error = by(fake, Touch).warm(&target("moved"), &[], &()).await.unwrap_err();
            assert!(matches!(error, PullError::Pull(Error::Unexpected { .. })), "{error}");
        }
        // Harbor's own token service is where Harbor is, whatever a challenge says.
        let liar = Fake::start(Some(format!("{place}?"))).await;
        liar.answer("/v2/p/app/manifests/v1", || StatusCode::NOT_FOUND.into_response());
        let error = by(&liar, Touch).warm(&target("v1"), &[], &()).await.unwrap_err();
        assert!(
            matches!(
                error,
                PullError::Pull(Error::NotFound { .. } | Error::Malformed { .. } | Error::Unauthorized { .. })
            ),
            "{error}"
        );
    }
}
