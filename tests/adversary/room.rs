//! Peers that keep connections whose answers they do not take, against the room for connections.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Target;
use super::process::{Webhook, get};
use super::reviews::small;
use super::{attacker, wire};

/// Within this a client is answered, with room for a busy machine.
const ANSWERED: Duration = Duration::from_secs(2);
const WAIT: Duration = Duration::from_millis(500);

/// Connections of HTTP/2 with a window of zero, each with an answer that it does not take.
async fn stuck(webhook: &Webhook, peers: usize, each: usize) -> Vec<SendRequest<Bytes>> {
    let mut held = Vec::new();
    for index in 0..peers * each {
        let target = Target::of(webhook, attacker(index % peers));
        let Ok(Ok((sender, _))) = timeout(WAIT, wire::http2(&target, 0)).await else { continue };
        timeout(WAIT, wire::send(sender.clone(), "/mutate", &small("stuck"))).await.ok();
        held.push(sender);
    }
    held
}

/// Connections to the ops port with more answers than they take.
async fn stuck_at_ops(webhook: &Webhook, peers: usize, each: usize) -> io::Result<Vec<TcpStream>> {
    let requests = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
    let mut held = Vec::new();
    for index in 0..peers * each {
        let mut target = Target::of(webhook, attacker(index % peers));
        target.address = webhook.ops_address();
        let mut stream = target.tcp().await?;
        timeout(WAIT, stream.write_all(&requests)).await.ok();
        held.push(stream);
    }
    Ok(held)
}

async fn assert_answered(webhook: &Webhook) {
    for _ in 0..10 {
        let start = Instant::now();
        let answer = Target::of(webhook, Ipv4Addr::LOCALHOST).post("/mutate", &small("bystander")).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(start.elapsed() < ANSWERED, "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_at_its_own_limit_leaves_the_process_ready_and_others_served() {
    let webhook = Webhook::start(&[]);
    // Often, so that the answers of the first do not wait long enough to be closed.
    let (held, ready) = tokio::join!(stuck(&webhook, 1, 500), async {
        let mut ready = Vec::new();
        for _ in 0..20 {
            assert_answered(&webhook).await;
            ready.push(webhook.ops("/readyz").0);
        }
        ready
    });
    assert!(held.len() > 300, "{}", held.len());
    assert!(ready.iter().all(|status| *status == 200), "{ready:?}");
    assert_eq!(webhook.ops("/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_take_their_answers_make_room_for_others() {
    let webhook = Webhook::start(&[]);
    let held = stuck(&webhook, 4, 250).await;
    assert!(held.len() > 700, "{}", held.len());
    assert_answered(&webhook).await;
    assert_eq!(webhook.ops("/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_the_ops_port_blocks_no_probe_and_leaves_the_process_ready() {
    let webhook = Webhook::start(&[]);
    for peers in [1, 8] {
        let held = stuck_at_ops(&webhook, peers, 320 / peers).await.unwrap();
        assert!(held.len() > 200, "{}", held.len());
        for _ in 0..10 {
            assert_eq!(get(webhook.ops_address(), "/readyz").0, 200);
        }
        assert!(get(webhook.ops_address(), "/metrics").1.contains("harbor_pilot_admission_connections"));
    }
    assert_answered(&webhook).await;
}

#[tokio::test]
async fn the_ops_port_serves_no_http2() {
    let webhook = Webhook::start(&[]);
    let mut target = Target::of(&webhook, Ipv4Addr::LOCALHOST);
    target.address = webhook.ops_address();
    let mut stream = target.tcp().await.unwrap();
    stream.write_all(&[wire::PREFACE, &wire::frame(4, 0, 0, &[])].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(ANSWERED, stream.read_to_end(&mut answer)).await.unwrap().ok();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1"), "{answer:?}");
    assert_eq!(webhook.ops("/healthz").0, 200);
}
