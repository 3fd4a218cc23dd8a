//! Large bodies of one peer against those of others.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::attacker;
use super::client::Target;
use super::process::Webhook;
use super::reviews::small;

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
async fn bodies_of_one_peer_that_never_end_turn_away_no_large_review_of_another() {
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
