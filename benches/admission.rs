//! What an admission costs.
//!
//! `mutate`: the bytes of a review in, those of the reply out, in this process. `HTTP/1.1` and `HTTP/2`, which is what
//! API servers speak: the webhook as it is served, over TLS, beside its floor, the same server with a handler that reads
//! the body and sends a fixed reply of the same size; the same client drives both in turns, so that what else the machine
//! does falls on both alike. The ratio is that of their throughputs, the median of all turns. With
//! `HARBOR_PILOT_MIN_RATIO=0.7` a lower ratio over HTTP/1.1 fails the run; that over HTTP/2 hangs more on how two cores share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use criterion::{Criterion, Throughput};
use harbor_pilot::rewrite::{Namespaces, Rule, Rules};
use harbor_pilot::telemetry::metrics::Metrics;
use harbor_pilot::telemetry::probes::Readiness;
use harbor_pilot::tls::issue::Authority;
use harbor_pilot::tls::serve::{Certificate, server_config};
use harbor_pilot::webhook::review::mutate;
use harbor_pilot::webhook::{Admission, Limits, ServeOptions, router, serve};
use tokio::runtime::Runtime;

use support::client::Client;
use support::reviews::{create, large, update};
use support::{median, validity};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 16;
/// Each has one HTTP/2 connection.
const API_SERVERS: usize = 2;
const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(200);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    in_process(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` only wants to know that it runs.
    let rounds = if std::env::args().any(|argument| argument == "--test") { 3 } else { ROUNDS };
    // The client is another process in life, so it shares no runtime with the servers.
    let servers = Runtime::new().unwrap();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    client.block_on(over_tls(&servers, rounds));
    servers.shutdown_background();
}

fn in_process(criterion: &mut Criterion) {
    let (rules, namespaces) = (rules(), Namespaces::default());
    let mut group = criterion.benchmark_group("mutate");
    for (name, body) in
        [("create 8 KiB", create()), ("update 16 KiB, labels only", update()), ("create 1 MiB", large())]
    {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| mutate(black_box(&body), black_box(&rules), &namespaces).unwrap().body);
        });
    }
    group.finish();
}

async fn over_tls(servers: &Runtime, rounds: usize) {
    let body = Bytes::from(create());
    let reply = Bytes::from(mutate(&body, &rules(), &Namespaces::default()).unwrap().body);
    let authority = Authority::new("bench", validity()).unwrap();
    let ours = start(servers, &authority, ours());
    let floor = start(servers, &authority, floor(reply));

    let (mut to_ours, mut to_floor) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        to_ours.push(Client::http1(&authority, ours, &body));
        to_floor.push(Client::http1(&authority, floor, &body));
    }
    let http1 = compare("HTTP/1.1", &to_ours, &to_floor, rounds).await;

    let (mut to_ours, mut to_floor) = (Vec::new(), Vec::new());
    for _ in 0..API_SERVERS {
        let streams = CONNECTIONS / API_SERVERS;
        to_ours.extend(Client::http2(&authority, ours, streams, &body));
        to_floor.extend(Client::http2(&authority, floor, streams, &body));
    }
    compare("HTTP/2", &to_ours, &to_floor, rounds).await;

    if let Some(least) = std::env::var("HARBOR_PILOT_MIN_RATIO").ok().and_then(|text| text.parse::<f64>().ok()) {
        assert!(http1 >= least, "the ratio {http1:.3} is below {least}");
    }
}

/// The ratio of the throughputs.
async fn compare(name: &str, to_ours: &[Client], to_floor: &[Client], rounds: usize) -> f64 {
    for clients in [to_ours, to_floor] {
        round(clients).await;
    }
    let mut turns = Vec::with_capacity(rounds);
    for turn in 0..rounds {
        // Each goes first every other time.
        let (a, b) = if turn % 2 == 0 {
            let a = round(to_ours).await;
            (a, round(to_floor).await)
        } else {
            let b = round(to_floor).await;
            (round(to_ours).await, b)
        };
        turns.push((a, b));
    }
    let ours = median(turns.iter().map(|(ours, _)| ours.rate));
    let floor = median(turns.iter().map(|(_, floor)| floor.rate));
    let ratio = median(turns.iter().map(|(ours, floor)| ours.rate / floor.rate));
    println!("{name}: ours {ours:.0}/s, floor {floor:.0}/s, {CONNECTIONS} at a time, medians of {rounds} turns");
    let ours = mean(turns.iter().map(|(ours, _)| ours.cpu));
    let floor = mean(turns.iter().map(|(_, floor)| floor.cpu));
    println!("{name}: CPU of a request, client included: ours {ours:.1} µs, floor {floor:.1} µs");
    println!("{name}: ratio {ratio:.3}");
    ratio
}

#[derive(Clone, Copy)]
struct Round {
    /// Requests a second.
    rate: f64,
    /// Microseconds of CPU of this process, client and server, a request.
    cpu: f64,
}

/// Drives all clients, each with one request at a time.
async fn round(clients: &[Client]) -> Round {
    let (start, cpu) = (Instant::now(), cpu_time());
    let end = start + ROUND;
    let one = async |client: &Client| {
        let mut served = 0_u32;
        while Instant::now() < end {
            client.ask().await;
            served += 1;
        }
        served
    };
    let served = futures::future::join_all(clients.iter().map(one)).await;
    let served = f64::from(served.into_iter().sum::<u32>());
    let cpu = cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6;
    Round { rate: served / start.elapsed().as_secs_f64(), cpu: cpu / served }
}

/// User and system time of this process so far, where Linux tells it, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn start(servers: &Runtime, authority: &Authority, router: Router) -> SocketAddr {
    let leaf = authority.issue(&["localhost".to_owned()], validity()).unwrap();
    let certificate = Certificate::from_pem(leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes()).unwrap();
    let tls = Arc::new(server_config(Arc::new(certificate)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions::default();
    servers.spawn(serve(listener, Some(tls), router, Readiness::new(), options, std::future::pending()));
    address
}

fn ours() -> Router {
    router(Admission {
        rules: Arc::new(ArcSwap::from_pointee(rules())),
        policies: Arc::default(),
        namespaces: Arc::default(),
        offers: Arc::new(|offer| drop(black_box(offer))),
        metrics: Metrics::new().admission,
        readiness: Readiness::new(),
        limits: Limits::default(),
    })
}

fn floor(reply: Bytes) -> Router {
    let echo = async move |body: Bytes| {
        black_box(body);
        ([(CONTENT_TYPE, "application/json")], Body::from(reply))
    };
    Router::new().route("/mutate", post(echo))
}

/// 100 rules, of which two match the Pod's images.
fn rules() -> Rules {
    let rule = |name: String, matched: String| Rule {
        name: name.clone(),
        created: 1,
        matches: vec![matched],
        pull_host: "harbor.corp.example".to_owned(),
        project: name,
        ..Rule::default()
    };
    let others = (0..98).map(|index| rule(format!("p{index}"), format!("registry-{index}.example/team-{index}")));
    let used =
        [rule("dockerhub".to_owned(), "docker.io".to_owned()), rule("acme".to_owned(), "ghcr.io/acme".to_owned())];
    Rules::compile(others.chain(used))
}
