//! Hostile tenants and network peers against the real process: each alone costs little memory, all at once stay under the
//! memory limit of the chart, and meanwhile others are served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bodies;
mod bystander;
mod client;
mod end;
mod frames;
mod process;
mod reviews;
mod room;
mod wire;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::bystander::Bystanders;
use self::client::Target;
use self::process::Webhook;
use self::reviews::{Hostile, hostile};

const MIB: u64 = 1024 * 1024;
/// What one request may add to the memory of the process.
const EACH: u64 = 64 * MIB;

/// What the chart allows the webhook (`webhook.resources.limits.memory`).
fn chart_limit() -> u64 {
    let values = include_str!("../../charts/harbor-pilot/values.yaml");
    let webhook = values.split("\nwebhook:").nth(1).unwrap();
    let limits = webhook.split("limits:").nth(1).unwrap();
    let memory = limits.lines().find_map(|line| line.trim().strip_prefix("memory: ")).unwrap();
    memory.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() * MIB
}

/// An address of its own for each attacker.
fn attacker(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1 + (index / 200) as u8, 1 + (index % 200) as u8)
}

/// An answer is one in kind, or none at all.
fn assert_well_formed(hostile: &Hostile, path: &str, answer: &client::Answer) {
    let what = format!("{} at {path}: {} {}", hostile.name, answer.status, String::from_utf8_lossy(&answer.body));
    let what = &what[..what.floor_char_boundary(400)];
    assert!([200, 400, 408, 413, 503].contains(&answer.status), "{what}");
    if answer.status != 200 {
        assert!(answer.body.len() < 200, "{what}");
        return;
    }
    let review: Value = serde_json::from_slice(&answer.body).expect(what);
    let response = &review["response"];
    assert!(response["uid"].as_str().expect(what).len() <= 128, "{what}");
    let allowed = response["allowed"].as_bool().expect(what);
    if path == "/mutate" {
        assert!(allowed, "{what}");
    } else {
        assert!(!(allowed && hostile.runs_foreign), "a foreign image passes: {what}");
    }
}

/// Sends one, and returns how much memory that took at the most.
async fn cost(webhook: &Webhook, hostile: &Hostile, path: &str) -> u64 {
    let before = webhook.reset_high_water();
    let target = Target::of(webhook, attacker(0));
    if let Ok(answer) = target.post(&format!("{path}?timeout=2s"), &hostile.body()).await {
        assert_well_formed(hostile, path, &answer);
    }
    webhook.high_water().saturating_sub(before)
}

#[tokio::test]
async fn each_hostile_review_costs_little_memory_and_passes_no_foreign_image() {
    let webhook = Webhook::start(&[]);
    let bystanders = Bystanders::start(&webhook);
    let all = hostile();
    assert!(all.len() >= 60, "{}", all.len());
    let mut costly = Vec::new();
    for (index, review) in all.iter().enumerate() {
        let paths = ["/mutate", "/validate"];
        // Large ones go to one of them, for the sake of time.
        let paths = if review.body().len() > 100_000 { &paths[index % 2..][..1] } else { &paths[..] };
        for path in paths {
            let cost = cost(&webhook, review, path).await;
            if cost > EACH {
                costly.push(format!("{} at {path}: {} MiB", review.name, cost / MIB));
            }
        }
    }
    bystanders.assert_served();
    assert!(costly.is_empty(), "{costly:#?}");
}

#[tokio::test]
async fn each_attack_on_the_wire_costs_little_memory() {
    let webhook = Webhook::start(&[]);
    let bystanders = Bystanders::start(&webhook);
    let mut costly = Vec::new();
    for (index, (name, attack)) in wire::attacks().into_iter().enumerate() {
        let before = webhook.reset_high_water();
        let target = Target::of(&webhook, attacker(index));
        // Whether it succeeds is not what counts.
        tokio::time::timeout(Duration::from_secs(10), attack(target)).await.ok();
        let cost = webhook.high_water().saturating_sub(before);
        if cost > EACH {
            costly.push(format!("{name}: {} MiB", cost / MIB));
        }
    }
    bystanders.assert_served();
    assert!(costly.is_empty(), "{costly:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_attacks_stay_under_the_memory_limit_of_the_chart() {
    let webhook = Webhook::start(&[]);
    let bystanders = Bystanders::start(&webhook);
    webhook.reset_high_water();
    let mut tasks = tokio::task::JoinSet::new();
    for (index, (_, attack)) in wire::attacks().into_iter().enumerate() {
        tasks.spawn(attack(Target::of(&webhook, attacker(index))));
    }
    for (index, review) in hostile().into_iter().enumerate() {
        let target = Target::of(&webhook, attacker(300 + index));
        tasks.spawn(async move {
            for path in ["/mutate", "/validate"] {
                if let Ok(answer) = target.post(path, &review.body()).await {
                    assert_well_formed(&review, path, &answer);
                }
            }
        });
    }
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
    let _ = ended.await;
    bystanders.assert_served();
    let (high_water, limit) = (webhook.high_water(), chart_limit());
    assert!(high_water < limit, "{} of {} MiB", high_water / MIB, limit / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_one_peer_do_not_lock_out_other_peers() {
    let webhook = Webhook::start(&[]);
    let mut held = Vec::new();
    // Some bring a request, so that they look like clients; all of them answer pings.
    for index in 0..1100 {
        let target = Target::of(&webhook, Ipv4Addr::new(127, 0, 0, 2));
        let Ok((sender, _)) = wire::http2(&target, 65_535).await else { continue };
        if index % 2 == 0 {
            wire::send(sender.clone(), "/mutate", &reviews::small("idle")).await.ok();
        }
        held.push(sender);
    }
    assert!(held.len() > 1000, "only {} connected", held.len());
    for source in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST] {
        for _ in 0..5 {
            let start = Instant::now();
            let answer = Target::of(&webhook, source).post("/mutate", &reviews::small("new")).await.unwrap();
            assert_eq!(answer.status, 200);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?} from {source}", start.elapsed());
        }
    }
    assert_eq!(webhook.ops("/readyz").0, 200);
    let metrics = webhook.ops("/metrics").1;
    let evicted = process::metric(&metrics, "harbor_pilot_admission_connections_evicted_total");
    let open = process::metric(&metrics, "harbor_pilot_admission_connections");
    assert!(evicted > 500.0 && open < 500.0, "{evicted} evicted, {open} open");
}
