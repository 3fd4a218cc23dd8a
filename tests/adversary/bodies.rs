//! Large bodies of one peer against those of others.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::attacker;
use super::client::Target;
use super::process::Webhook;
use super::reviews::small;
use super::wire;

/// Sends bodies of unknown length that never end, again and again.
async fn endless(target: Target) {
    let head = b"POST /mutate?timeout=30s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10010\r\n";
    loop {
        let Ok(mut stream) = target.tls("http/1.1").await else { continue };
        stream.write_all(head).await.ok();
        stream.write_all(&[b' '; 0x10010]).await.ok();
        stream.write_all(b"\r\n").await.ok();
        // Until the answer, or the end.
        stream.read_u8().await.ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_bodies_of_one_peer_do_not_block_large_reviews_of_another() {
    let webhook = Webhook::start(&[]);
    let mut attack = tokio::task::JoinSet::new();
    for _ in 0..40 {
        attack.spawn(endless(Target::of(&webhook, attacker(0))));
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let review = [small("large"), vec![b' '; 100_000]].concat();
    for _ in 0..20 {
        let answer = Target::of(&webhook, Ipv4Addr::LOCALHOST).post("/mutate?timeout=2s", &review).await.unwrap();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert!(String::from_utf8_lossy(&answer.body).contains("\"patch\""));
    }
}

/// A review of a foreign Pod with so many bytes of arguments, as an API server writes it.
fn foreign(bytes: usize) -> Vec<u8> {
    let about = r#""uid":"u-1","kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"namespace":"shop","operation":"CREATE""#;
    let pod = format!(
        r#"{{"metadata":{{}},"spec":{{"containers":[{{"name":"a","image":"evil.example/x","args":["{}"]}}]}}}}"#,
        "x".repeat(bytes)
    );
    let review = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"#;
    format!("{review}{about},\"object\":{pod}}}}}").into_bytes()
}

/// All tenants are one peer to the webhook: the API server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_reviews_of_one_peer_let_no_foreign_pod_of_the_same_peer_pass() {
    let webhook = Webhook::start(&[]);
    let target = Target::of(&webhook, Ipv4Addr::LOCALHOST);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..80 {
        let target = target.clone();
        // Most are large, and the others are what an API server usually sends, below and above 16 KiB.
        let size = [1_800_000, 1_800_000, 1_800_000, 1_800_000, 1_800_000, 1_800_000, 20_000, 100][index % 8];
        tasks.spawn(async move {
            let (review, mut answers) = (foreign(size), Vec::new());
            for _ in 0..3 {
                answers.push((size, target.post("/validate?timeout=2s", &review).await));
            }
            answers
        });
    }
    let answers = tasks.join_all().await.into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(answers.len(), 240);
    for (size, answer) in answers {
        let answer = answer.unwrap();
        let body = String::from_utf8_lossy(&answer.body);
        assert!(answer.status == 200 && body.contains("\"allowed\":false"), "{size} bytes: {} {body}", answer.status);
    }
}

/// A body that is too large is answered before it came, and the answer arrives in both versions of HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_that_are_too_large_are_refused_early_and_the_answer_arrives() {
    let webhook = Webhook::start(&[]);
    let target = Target::of(&webhook, Ipv4Addr::LOCALHOST);
    let review = foreign(20 << 20);
    let answer = target.post("/validate?timeout=10s", &review).await.unwrap();
    let body = String::from_utf8_lossy(&answer.body);
    assert!(answer.status == 200 && body.contains("\"allowed\":false"), "{} {body}", answer.status);

    let (sender, _) = wire::http2(&target, 65_535).await.unwrap();
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post("https://localhost/validate").header("content-length", review.len());
    let (answer, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(review.into(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let (mut text, mut body) = (Vec::new(), answer.into_body());
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    assert!(String::from_utf8_lossy(&text).contains("\"allowed\":false"));
}
