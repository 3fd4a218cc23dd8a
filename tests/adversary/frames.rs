//! Frames of HTTP/2 that cost the server much and the client little, against clients that want nothing special.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::attacker;
use super::bystander::Bystanders;
use super::client::Target;
use super::process::{Webhook, metric};
use super::reviews::small;
use super::wire::{PREFACE, frame, post_to};

/// How long one attack lasts.
const LASTS: Duration = Duration::from_secs(3);
/// Answers that wait to be written on each connection.
const BLOCKED: u32 = 240;

/// The frames that an attack repeats, by the number of the stream that the next request may have.
type Unit = Box<dyn Fn(u32) -> Vec<u8>>;

/// SETTINGS with a new window for each stream (RFC 9113, section 6.5.2).
fn window(size: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat())
}

/// Sends requests whose answers are not taken, and then frames without an end.
async fn flood(target: &Target, blocked: u32, unit: &Unit) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(target.tls("h2").await?);
    let mut first = [PREFACE.to_vec(), window(0)].concat();
    for number in 0..blocked {
        let (stream, review) = (2 * number + 1, small("blocked"));
        first.extend([frame(1, 4, stream, &post_to("/mutate")), frame(0, 1, stream, &review)].concat());
    }
    write.write_all(&first).await?;
    let sending = async {
        let mut streams = (blocked..).map(|number| 2 * number + 1);
        loop {
            let mut batch = Vec::with_capacity(32_768);
            while batch.len() < 16_384 {
                batch.extend(unit(streams.next().unwrap()));
            }
            write.write_all(&batch).await?;
        }
    };
    let mut sink = vec![0; 65_536];
    let reading = async {
        while read.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::select! {
        ended = sending => ended,
        ended = reading => ended,
    }
}

/// The same on so many connections, each opened again once it is closed. Returns how often that was.
async fn floods(webhook: &Webhook, connections: usize, blocked: u32, unit: &Unit) -> usize {
    let end = Instant::now() + LASTS;
    let one = async |index: usize| {
        let (target, mut closed) = (Target::of(webhook, attacker(index % 4)), 0);
        while Instant::now() < end {
            let left = end - Instant::now();
            closed += usize::from(timeout(left, flood(&target, blocked, unit)).await.is_ok());
            sleep(Duration::from_millis(200)).await;
        }
        closed
    };
    futures::future::join_all((0..connections).map(one)).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_without_requests_keep_no_other_client_waiting() {
    let flip = [window(1), window(0)].concat();
    let updates: Vec<u8> = (0..BLOCKED).flat_map(|number| frame(8, 0, 2 * number + 1, &[0, 0, 0, 1])).collect();
    let request = |stream: u32| frame(1, 5, stream, &post_to("/nope"));
    let always = |unit: Vec<u8>| -> Unit { Box::new(move |_| unit.clone()) };
    let flips = flip.repeat(4);
    let rows: [(_, _, _, Unit); 7] = [
        ("windows of 0 and 1 on 2 connections", 2, BLOCKED, always(flip.clone())),
        ("windows of 0 and 1 on 6 connections", 6, BLOCKED, always(flip.clone())),
        ("windows of 0 and 1 on 40 connections", 40, BLOCKED, always(flip)),
        ("a window of one more byte", 6, BLOCKED, always(updates)),
        (
            "windows of 0 and 1 among requests",
            16,
            95,
            Box::new(move |stream| [request(stream), flips.clone()].concat()),
        ),
        ("pings", 120, 0, always(frame(6, 0, 0, &[0; 8]))),
        ("frames of no known type", 120, 0, always(frame(77, 0, 0, &[]))),
    ];
    for (name, connections, blocked, unit) in rows {
        println!("{name}");
        let webhook = Webhook::start(&[]);
        let bystanders = Bystanders::start(&webhook);
        let closed = floods(&webhook, connections, blocked, &unit).await;
        bystanders.assert_served();
        assert!(closed >= connections / 2, "{name}: {closed} connections were closed");
        let counted = metric(&webhook.ops("/metrics").1, "harbor_pilot_admission_connections_flooding_total");
        assert!(counted > 0.0, "{name}");
    }
}
