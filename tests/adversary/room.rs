//! Peers that keep connections whose answers they do not take, against the room for connections.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
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

/// The same at the ops port.
async fn stuck_at_ops(webhook: &Webhook, peers: usize, each: usize) -> io::Result<Vec<SendRequest<Bytes>>> {
    let mut held = Vec::new();
    for index in 0..peers * each {
        let mut target = Target::of(webhook, attacker(index % peers));
        target.address = webhook.ops_address();
        let stream = target.tcp().await?;
        let handshake = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(stream);
        let Ok(Ok((sender, connection))) = timeout(WAIT, handshake).await else { continue };
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        let Ok(mut ready) = sender.clone().ready().await else { continue };
        let request = Request::get("http://localhost/metrics").body(()).unwrap();
        if let Ok((answer, _)) = ready.send_request(request, true) {
            timeout(WAIT, answer).await.ok();
        }
        held.push(sender);
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
async fn a_flood_of_the_ops_port_turns_away_no_probe_and_leaves_the_process_ready() {
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
