//! The client of Harbor's API against servers that behave badly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use harbor_pilot::{
    harbor::{Client, Error},
    transport::{self, Endpoint},
};

/// A server that answers everything alike, and counts.
async fn server(answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static) -> (Client, Arc<AtomicUsize>) {
    harbor_pilot::tls::install_crypto_provider();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let router = Router::new().fallback(move || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let answer = answer.clone();
        async move { answer(number) }
    });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Client::new(&Endpoint::new(url)).unwrap(), asked)
}

#[tokio::test]
async fn a_harbor_that_says_too_many_is_left_alone_by_all_for_as_long_as_it_says() {
    let (client, asked) = server(|number| match number {
        0 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "2")], "").into_response(),
        _ => "[]".into_response(),
    })
    .await;
    let error = client.registries().await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { retry_after: Some(2) }), "{error}");
    let others = client.clone();
    for _ in 0..5 {
        let error = others.projects().await.unwrap_err();
        assert!(matches!(error, Error::RateLimited { retry_after: Some(1..=2) }), "{error}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "nothing is sent meanwhile");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(others.projects().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_that_is_not_harbors_is_an_error_that_says_so() {
    for body in ["<html><body>Please log in</body></html>", "[{\"id\": 1, \"na"] {
        let (client, _) = server(move |_| body.into_response()).await;
        let error = client.registries().await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{body}: {error}");
        assert!(error.to_string().contains("login page"), "{error}");
    }
}

fn page(number: usize, description: &str) -> String {
    let item = |id: usize| format!(r#"{{"id": {id}, "name": "r{id}", "description": "{description}"}}"#);
    format!("[{}]", (0..100).map(|index| item(number * 100 + index)).collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn list_without_end_is_an_error_that_names_its_bounds() {
    // Full pages for ever: 100,000 objects, or 32 MiB, whichever comes first.
    for (description, pages) in [(String::new(), 1000), ("x".repeat(10_000), 34)] {
        let (client, asked) = server(move |number| page(number, &description).into_response()).await;
        let error = client.registries().await.unwrap_err();
        assert!(matches!(error, Error::Transport(transport::Error::TooLarge { .. })), "{error}");
        assert!(error.to_string().contains("no more than 100000 objects or 32 MiB are read; check"), "{error}");
        let asked = asked.load(Ordering::SeqCst);
        assert!(asked.abs_diff(pages) <= 2, "{asked} pages");
    }
}

#[tokio::test]
async fn list_whose_pages_repeat_ends_with_the_second() {
    let (client, asked) = server(|_| page(0, "again").into_response()).await;
    let error = client.registries().await.unwrap_err();
    assert!(error.to_string().contains("page 2 of the list repeats page 1"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn list_of_many_pages_is_read_whole() {
    let (client, _) = server(|number| match number {
        0..300 => page(number, "a registry of somebody").into_response(),
        _ => "[]".into_response(),
    })
    .await;
    assert_eq!(client.registries().await.unwrap().len(), 30_000);
}

#[tokio::test]
async fn an_answer_beyond_its_bound_is_not_read_on() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let (client, _) = server(move |_| {
        let taken = Arc::clone(&counted);
        // 128 MiB, as far as a client takes them.
        let pieces = stream::repeat(Bytes::from_static(&[b' '; 64 << 10])).take(2048).map(move |piece| {
            taken.fetch_add(piece.len(), Ordering::SeqCst);
            Ok::<_, std::io::Error>(piece)
        });
        Body::from_stream(pieces).into_response()
    })
    .await;
    let error = client.registries().await.unwrap_err();
    assert!(
        matches!(error, Error::Transport(transport::Error::TooLarge { .. })) && error.to_string().contains("8192 KiB"),
        "{error}"
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    // What is on its way counts, too.
    let taken = taken.load(Ordering::SeqCst);
    assert!((8 << 20..32 << 20).contains(&taken), "{taken} bytes");
}
