//! The pull client against registries that are wrong, slow, endless or hostile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bounds;
mod fake;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use futures::{StreamExt, stream};
use harbor_pilot::{
    prewarm::{
        Puller,
        puller::{PullError, PullLimits},
    },
    registry::{BlobResponse, Client, Descriptor, Digest, Error},
    transport::{self, Deadlines, Endpoint},
};
use http::{StatusCode, header};
use serde_json::{Value, json};

use fake::{CANARY, Fake, INDEX, MANIFEST, blob_path, descriptor, endless, pinned, puller, target};

#[tokio::test]
async fn an_endless_manifest_is_given_up_at_its_limit() {
    let fake = Fake::start(None).await;
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    fake.answer("/v2/p/app/manifests/v1", move || {
        ([(header::CONTENT_TYPE, MANIFEST)], endless(&counted)).into_response()
    });
    let error = fake.client().manifest("p/app", "v1").await.unwrap_err();
    assert!(matches!(error, Error::Transport(transport::Error::TooLarge { .. })), "{error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(taken.load(Ordering::Relaxed) < 32 << 20, "read on after the limit");
}

#[tokio::test]
async fn a_blob_that_goes_on_or_stops_short_or_differs_is_refused() {
    let fake = Fake::start(None).await;
    let good = vec![7_u8; 300_000];
    let blob = descriptor(&good);
    let path = blob_path(&blob);
    let taken = Arc::new(AtomicU64::new(0));
    let chunked = |bytes: Vec<u8>| Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]));
    let client = fake.client();

    let counted = Arc::clone(&taken);
    fake.answer(&path, move || endless(&counted).into_response());
    let error = client.stream_blob("p/app", &blob, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    assert!(taken.load(Ordering::Relaxed) < 32 << 20, "read on after the end");

    fake.answer(&path, || Bytes::from_static(b"short, and says so").into_response());
    let error = client.stream_blob("p/app", &blob, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { actual: 18, .. }), "{error}");

    fake.answer(&path, move || chunked(vec![7; 299_999]).into_response());
    let error = client.stream_blob("p/app", &blob, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { actual: 299_999, .. }), "{error}");

    fake.answer(&path, move || chunked(vec![8; 300_000]).into_response());
    let error = client.stream_blob("p/app", &blob, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");

    fake.answer(&path, move || good.clone().into_response());
    let received = AtomicU64::new(0);
    let counted = |bytes| {
        received.fetch_add(bytes, Ordering::Relaxed);
    };
    assert_eq!(client.stream_blob("p/app", &blob, counted).await.unwrap(), BlobResponse::Streamed);
    assert_eq!(received.into_inner(), 300_000);
}

#[tokio::test]
async fn blob_redirect_means_stored_and_is_not_followed() {
    let (fake, elsewhere) = (Fake::start(None).await, Fake::start(None).await);
    let blob = descriptor(b"x");
    for status in [StatusCode::TEMPORARY_REDIRECT, StatusCode::FOUND] {
        for location in
            [format!("{}/bucket/x?X-Amz-Signature=1", elsewhere.url), "http://[::ffff:169.254.169.254]/".to_owned()]
        {
            fake.answer(&blob_path(&blob), move || (status, [(header::LOCATION, location.clone())]).into_response());
            let client = fake.client();
            assert!(client.has_blob("p/app", &blob.digest).await.unwrap());
            assert_eq!(client.stream_blob("p/app", &blob, |_| {}).await.unwrap(), BlobResponse::Stored);
        }
    }
    let there = format!("{}/v2/p/app/manifests/v1", elsewhere.url);
    fake.answer("/v2/p/app/manifests/v1", move || {
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, there.clone())]).into_response()
    });
    let error = fake.client().manifest("p/app", "v1").await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { status: 307, .. }), "{error}");
    assert!(elsewhere.log().is_empty());
}

#[tokio::test]
async fn credentials_go_to_the_configured_address_whatever_realm_is_named() {
    let elsewhere = Fake::start(None).await;
    let fake = Fake::start(Some(format!("{}/service/token", elsewhere.url))).await;
    fake.answer("/v2/p/app/manifests/v1", || StatusCode::OK.into_response());
    fake.client().head("p/app", "v1").await.unwrap();
    assert!(elsewhere.log().is_empty());
    let (query, headers) = fake.log().into_iter().find(|(path, _)| path.starts_with("/service/token")).unwrap();
    assert!(headers[header::AUTHORIZATION].to_str().unwrap().starts_with("Basic "));
    assert!(query.contains("repository%3Ap%2Fapp%3Apull") && query.contains("service=harbor-registry"), "{query}");
}

#[tokio::test]
async fn one_token_serves_a_repository_until_it_is_refused_and_then_one_new_one_is_tried() {
    let fake = Fake::start(None).await;
    for repository in ["p/app", "p/other"] {
        fake.answer(&format!("/v2/{repository}/manifests/v1"), || StatusCode::OK.into_response());
    }
    let client = fake.client();
    for repository in ["p/app", "p/app", "p/other", "p/app"] {
        client.head(repository, "v1").await.unwrap();
    }
    assert_eq!((fake.asked("/service/token"), fake.asked("/v2/")), (2, 1));
    fake.inner.good_from.store(2, Ordering::Relaxed);
    client.head("p/app", "v1").await.unwrap();
    assert_eq!(fake.asked("/service/token"), 3);
    fake.inner.good_from.store(usize::MAX, Ordering::Relaxed);
    let error = client.head("p/app", "v1").await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(fake.asked("/service/token"), 4);
    assert!(fake.log().iter().all(|(_, headers)| !headers.contains_key(header::COOKIE)), "a cookie was sent back");
}

#[tokio::test]
async fn silence_and_dripping_end_at_the_deadline() {
    let fake = Fake::start(None).await;
    let blob = descriptor(&[0; 1000]);
    let drip = || {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(&[0]))]);
        Body::from_stream(first.chain(stream::pending()))
    };
    fake.answer(&blob_path(&blob), move || drip().into_response());
    let start = Instant::now();
    let error = fake.client().stream_blob("p/app", &blob, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Transport(transport::Error::BrokenOff { .. })), "{error}");
    assert!(!error.may_be_harbor(), "a response had begun");

    // Accepts, and never answers.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint { url: format!("http://{}", mute.local_addr().unwrap()), ..fake.endpoint() };
    let error = Client::new(&endpoint).unwrap().head("p/app", "v1").await.unwrap_err();
    assert!(matches!(error, Error::Transport(transport::Error::Timeout { .. })) && error.may_be_harbor(), "{error}");
    drop(mute);
    let error = Client::new(&endpoint).unwrap().head("p/app", "v1").await.unwrap_err();
    assert!(
        matches!(error, Error::Transport(transport::Error::Unreachable { .. })) && error.may_be_harbor(),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_blob_and_a_manifest_that_drip_below_every_read_timeout_end_at_their_deadline() {
    let fake = Fake::start(None).await;
    let blob = descriptor(&[0; 1000]);
    // A byte each 20 ms: 20 s for all.
    let drip = || {
        Body::from_stream(stream::repeat(()).take(1000).then(async |()| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, std::io::Error>(Bytes::from_static(&[0]))
        }))
    };
    fake.answer(&blob_path(&blob), move || drip().into_response());
    fake.answer("/v2/p/app/manifests/v1", move || ([(header::CONTENT_TYPE, MANIFEST)], drip()).into_response());
    let deadlines = Deadlines { idle: Duration::from_secs(1), ..Deadlines::default() };
    let client = Client::new(&Endpoint { deadlines, ..fake.endpoint() }).unwrap();
    let received = AtomicU64::new(0);
    let both = futures::future::join(
        client.stream_blob("p/app", &blob, |bytes| {
            received.fetch_add(bytes, Ordering::Relaxed);
        }),
        client.manifest("p/app", "v1"),
    );
    let (blob, manifest) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("a drip has no deadline");
    for error in [blob.unwrap_err(), manifest.unwrap_err()] {
        assert!(
            matches!(&error, Error::Transport(transport::Error::BrokenOff { detail, .. }) if detail == "not complete within 2 s"),
            "{error}"
        );
    }
    assert!(received.into_inner() > 2, "it did not drip");
}

#[tokio::test]
async fn retry_after_is_reported_and_respected() {
    let fake = Fake::start(None).await;
    let refusal = || {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")], body).into_response()
    };
    fake.answer("/v2/p/app/manifests/v1", refusal);
    let error = puller(&fake).warm(&target("v1"), &[], &()).await.unwrap_err();
    let PullError::Pull(Error::RateLimited { retry_after, .. }) = error else { panic!("{error}") };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
    assert_eq!(fake.asked("/v2/p/app/manifests/v1"), 1);
}

#[tokio::test]
async fn indexes_may_nest_once_and_no_deeper() {
    let fake = Fake::start(None).await;
    let config = Bytes::from_static(b"{}");
    let blob = descriptor(&config);
    fake.answer(&blob_path(&blob), || StatusCode::OK.into_response());
    let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob.digest.as_str(), "size": 2}});
    let index = |child: &Digest, kind: &str| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": kind, "size": 1, "digest": child.as_str()}]});
    let image = fake.manifest(MANIFEST, &image);
    let one = fake.manifest(INDEX, &index(&image, MANIFEST));
    let two = fake.manifest(INDEX, &index(&one, INDEX));
    let three = fake.manifest(INDEX, &index(&two, INDEX));
    let warm = async |digest: &Digest| puller(&fake).warm(&pinned(digest), &[], &()).await;
    assert_eq!(warm(&one).await.unwrap().children[0].digest, image);
    assert_eq!(warm(&two).await.unwrap().children[0].digest, image);
    assert!(matches!(warm(&three).await.unwrap_err(), PullError::TooDeep));
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let fake = Fake::start(None).await;
    let other = Digest::of(b"other");
    fake.answer(&format!("/v2/p/app/manifests/{other}"), || ([(header::CONTENT_TYPE, MANIFEST)], "{}").into_response());
    let error = fake.client().manifest("p/app", other.as_str()).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn requests_under_way_are_bounded_and_shared_layers_are_fetched_once() {
    let fake = Fake::start(None).await;
    let contents: Vec<Vec<u8>> = (0..24_u8).map(|number| vec![number; 1000]).collect();
    let blobs: Vec<Descriptor> = contents.iter().map(|content| descriptor(content)).collect();
    for (content, blob) in contents.iter().zip(&blobs) {
        let content = content.clone();
        fake.answer(&format!("HEAD {}", blob_path(blob)), || StatusCode::NOT_FOUND.into_response());
        fake.answer(&blob_path(blob), move || content.clone().into_response());
    }
    let layers: Vec<Value> =
        blobs.iter().map(|blob| json!({"mediaType": "l", "digest": blob.digest.as_str(), "size": 1000})).collect();
    let child = |name: &str| {
        let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers, "config": layers[0], "annotations": {"n": name}});
        json!({"mediaType": MANIFEST, "size": 1, "digest": fake.manifest(MANIFEST, &image).as_str()})
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child("a"), child("b"), child("c")]});
    let digest = fake.manifest(INDEX, &index);
    let endpoint = Endpoint { max_concurrent_requests: 3, ..fake.endpoint() };
    let puller = Puller::new(Client::new(&endpoint).unwrap(), PullLimits::default());
    let warmed = puller.warm(&pinned(&digest), &[], &()).await.unwrap();
    assert_eq!(warmed.children.iter().map(|child| child.fetched).sum::<u32>(), 24);
    for blob in &blobs {
        assert_eq!(fake.asked(&blob_path(blob)), 2, "one HEAD, one GET");
    }
    let peak = fake.inner.peak.load(Ordering::SeqCst);
    assert!((2..=3).contains(&peak), "{peak}");
}

#[tokio::test]
async fn no_secret_stands_in_what_is_printed() {
    let fake = Fake::start(None).await;
    fake.answer("/v2/p/app/manifests/html", || ([(header::CONTENT_TYPE, "text/html")], "<html>").into_response());
    fake.answer("/v2/p/app/manifests/500", || StatusCode::INTERNAL_SERVER_ERROR.into_response());
    let client = fake.client();
    let mut printed = format!("{client:?} {:?}", fake.endpoint());
    for reference in ["html", "500", "404"] {
        let error = client.manifest("p/app", reference).await.unwrap_err();
        printed += &format!("{error} {error:?}");
    }
    fake.inner.good_from.store(usize::MAX, Ordering::Relaxed);
    let error = client.head("p/app", "401").await.unwrap_err();
    printed += &format!("{error} {error:?} {client:?}");
    for secret in [CANARY, "Bearer t", "\"t0\"", "cm9ib3Q"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

/// Answers as a registry without anything in it, and never for the repository `hangs`.
async fn hanging() -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]);
                if request.contains("/hangs/") {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                let status = if request.starts_with("GET /v2/ ") { "200 OK" } else { "404 Not Found" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok();
            });
        }
    });
    url
}

#[tokio::test]
async fn a_request_that_an_upstream_holds_up_gives_its_slot_to_others() {
    let endpoint = Endpoint { max_concurrent_requests: 1, ..Endpoint::new(hanging().await) };
    let client = Client::new(&endpoint).unwrap();
    let held = tokio::spawn({
        let client = client.clone();
        async move { client.head("p/hangs", "v1").await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(client.transport().ping().await, "it takes no slot");
    let other = tokio::time::timeout(Duration::from_secs(20), client.head("p/other", "v1")).await;
    assert!(matches!(other, Ok(Err(Error::NotFound { .. }))), "{other:?}");
    assert!(!held.is_finished());
    held.abort();
}
