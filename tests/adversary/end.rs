//! Signals under load: no request is lost.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use super::client::{Target, head, read_answer};
use super::process::Webhook;
use super::reviews::small;
use super::wire;

const LINGER: Duration = Duration::from_secs(4);

/// Asks over HTTP/1.1 until `end`, on one connection for as long as the server keeps it. Returns how many were answered.
async fn ask_http1(target: Target, pause: Duration, end: Instant) -> io::Result<usize> {
    let body = small("http1");
    let request = [head("/mutate", body.len()).as_bytes(), &body].concat();
    let (mut answered, mut kept) = (0, None);
    while Instant::now() < end {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => target.tls("http/1.1").await?,
        };
        stream.write_all(&request).await?;
        let answer = read_answer(&mut stream).await?;
        assert_eq!(answer.status, 200);
        answered += 1;
        kept = Some(stream).filter(|_| !answer.close);
        tokio::time::sleep(pause).await;
    }
    Ok(answered)
}

/// The same over HTTP/2. A connection that says GOAWAY is not used for further requests, and those that it did not take
/// are sent again, as RFC 9113 allows.
async fn ask_http2(target: Target, pause: Duration, end: Instant) -> io::Result<usize> {
    let (mut answered, body) = (0, small("http2"));
    let (mut sender, _) = wire::http2(&target, 65_535).await?;
    while Instant::now() < end {
        match wire::send(sender.clone(), "/mutate", &body).await {
            Ok(status) => {
                assert_eq!(status, 200);
                answered += 1;
            }
            Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {
                (sender, _) = wire::http2(&target, 65_535).await?;
                continue;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        tokio::time::sleep(pause).await;
    }
    Ok(answered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_loses_no_request_of_connections_that_are_kept() {
    let mut webhook = Webhook::start(&["--shutdown-delay", "4s"]);
    let started = Instant::now();
    // Until shortly before nobody listens any more, of which Services know by then.
    let terminated = Duration::from_secs(1);
    let end = started + terminated + LINGER - Duration::from_millis(500);
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..16_u64 {
        let target = Target::of(&webhook, Ipv4Addr::new(127, 0, 0, 10 + index as u8));
        // Some ask all the time, and others are idle in between, also when half of the time is over.
        let pause = Duration::from_millis([0, 5, 70, 700][index as usize % 4]);
        if index % 8 < 4 {
            clients.spawn(ask_http1(target, pause, end));
        } else {
            clients.spawn(ask_http2(target, pause, end));
        }
    }
    tokio::time::sleep(terminated).await;
    webhook.signal(Signal::TERM);
    let mut answered = 0;
    while let Some(client) = clients.join_next().await {
        answered += client.unwrap().expect("a request was lost");
    }
    assert!(answered > 100, "{answered}");
    assert!(webhook.ended().success());
}

#[tokio::test]
async fn signals_that_ask_for_nothing_end_nothing() {
    let mut webhook = Webhook::start(&["--shutdown-delay", "1s"]);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        webhook.signal(signal);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = Target::of(&webhook, Ipv4Addr::LOCALHOST).post("/mutate", &small("signal")).await;
        assert_eq!(answer.unwrap().status, 200, "{signal:?}");
    }
    webhook.signal(Signal::INT);
    assert!(webhook.ended().success());
}
