//! What an admission costs.
//!
//! `mutate`: the bytes of a review in, those of the reply out, in this process. `HTTP/1.1` and `HTTP/2`, which is what
//! API servers speak: the webhook as it is served, over TLS, beside its floor, the same server with a handler that reads
//! the body and sends a fixed reply of the same size. Each is a process of its own; this one drives both in turns, so that
//! what else the machine does falls on both alike. The ratio is that of their throughputs, the median of all turns; CPU is
//! that of the server alone, from the scheduler. Below 0.85 over
//! either the run fails; `HARBOR_PILOT_MIN_RATIO` sets another bound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::fs;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
use harbor_pilot::tls::certificate::Certificate;
use harbor_pilot::tls::issue::Authority;
use harbor_pilot::tls::serve::server_config;
use harbor_pilot::webhook::review::mutate;
use harbor_pilot::webhook::{Admission, BodyLimits, ServeOptions, router, serve};
use tokio::runtime::Runtime;

use support::client::Client;
use support::reviews::{create, large, update};
use support::{assert_at_least, cpu_time, is_measured, median, validity, write_certificate};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 16;
/// Each has one HTTP/2 connection.
const API_SERVERS: usize = 2;
const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(200);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, which, directory] = &arguments[..]
        && serve == "serve"
    {
        return Runtime::new().unwrap().block_on(serve_one(which, Path::new(directory)));
    }
    let mut criterion = Criterion::default().configure_from_args();
    in_process(&mut criterion);
    criterion.final_summary();
    let rounds = if is_measured() { ROUNDS } else { 3 };
    Runtime::new().unwrap().block_on(over_tls(rounds));
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

async fn over_tls(rounds: usize) {
    let body = create();
    let authority = Authority::new("bench", validity()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    write_certificate(directory.path(), &authority);
    let servers = [Server::start("ours", directory.path()), Server::start("floor", directory.path())];
    let [ours, floor] = [servers[0].address, servers[1].address];

    let (mut to_ours, mut to_floor) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        to_ours.push(Client::http1(&authority, ours, &body));
        to_floor.push(Client::http1(&authority, floor, &body));
    }
    let http1 = compare("HTTP/1.1", &servers, [to_ours, to_floor], rounds).await;

    let (mut to_ours, mut to_floor) = (Vec::new(), Vec::new());
    for _ in 0..API_SERVERS {
        let streams = CONNECTIONS / API_SERVERS;
        to_ours.extend(Client::http2(&authority, ours, streams, &body));
        to_floor.extend(Client::http2(&authority, floor, streams, &body));
    }
    let http2 = compare("HTTP/2", &servers, [to_ours, to_floor], rounds).await;

    assert_at_least("HARBOR_PILOT_MIN_RATIO", 0.85, http1.min(http2));
}

/// The ratio of the throughputs.
async fn compare(name: &str, servers: &[Server; 2], clients: [Vec<Client>; 2], rounds: usize) -> f64 {
    let clients = clients.map(|clients| clients.into_iter().map(Arc::new).collect::<Vec<_>>());
    for at in [0, 1] {
        round(&servers[at], &clients[at]).await;
    }
    let mut turns = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for turn in 0..rounds {
        // Each goes first every other time.
        for at in [turn % 2, (turn + 1) % 2] {
            turns[at].push(round(&servers[at], &clients[at]).await);
        }
    }
    let [ours, floor] = turns.each_ref().map(|turns| median(turns.iter().map(|turn| turn.rate)));
    println!("{name}: ours {ours:.0}/s, floor {floor:.0}/s, {CONNECTIONS} at a time, medians of {rounds} turns");
    let [ours, floor] = turns.each_ref().map(|turns| median(turns.iter().map(|turn| turn.cpu)));
    println!("{name}: CPU of the server for a request: ours {ours:.1} µs, floor {floor:.1} µs");
    let ratio = median(turns[0].iter().zip(&turns[1]).map(|(ours, floor)| ours.rate / floor.rate));
    println!("{name}: ratio {ratio:.3}");
    ratio
}

#[derive(Clone, Copy)]
struct Round {
    /// Requests a second.
    rate: f64,
    /// Microseconds of CPU of the server, a request.
    cpu: f64,
}

/// Drives all clients, each with one request at a time.
async fn round(server: &Server, clients: &[Arc<Client>]) -> Round {
    let (start, cpu) = (Instant::now(), cpu_time(server.process.id()));
    let end = start + ROUND;
    let tasks = clients.iter().cloned().map(|client| {
        tokio::spawn(async move {
            let mut served = 0_u32;
            while Instant::now() < end {
                client.ask().await;
                served += 1;
            }
            served
        })
    });
    let served = futures::future::join_all(tasks).await;
    let served = f64::from(served.into_iter().map(Result::unwrap).sum::<u32>());
    let cpu = (cpu_time(server.process.id()) - cpu).as_secs_f64() * 1e6;
    Round { rate: served / start.elapsed().as_secs_f64(), cpu: cpu / served }
}

/// A process that serves.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(which: &str, directory: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut process = command.args(["serve", which]).arg(directory).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, address: line.trim().parse().unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Serves, and says where.
async fn serve_one(which: &str, directory: &Path) {
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    let certificate = Certificate::from_pem(&read("tls.crt"), &read("tls.key")).unwrap();
    let tls = Arc::new(server_config(Arc::new(certificate)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    let reply = || Bytes::from(mutate(&create(), &rules(), &Namespaces::default()).unwrap().body);
    let router = if which == "floor" { floor(reply()) } else { ours() };
    let options = ServeOptions::default();
    serve(listener, Some(tls), router, Readiness::new(), options, std::future::pending()).await.unwrap();
}

fn ours() -> Router {
    router(Admission {
        rules: Arc::new(ArcSwap::from_pointee(rules())),
        policies: Arc::default(),
        scans: Arc::default(),
        namespaces: Arc::default(),
        offers: Arc::new(|offer| drop(black_box(offer))),
        metrics: Metrics::new().admission,
        readiness: Readiness::new(),
        limits: BodyLimits::default(),
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
