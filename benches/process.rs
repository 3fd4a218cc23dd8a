//! What the webhook costs as a process of its own, with 10, 100 and 10,000 rules from files: memory, CPU and waiting time.
//!
//! One process for each number of rules, all alive at once and driven in turns over HTTP/1.1 and HTTP/2, so that what else
//! the machine does falls on all alike. CPU is that of the process alone, from the scheduler, in nanoseconds.
//! `HARBOR_PILOT_REVIEWS=1000000` sets how many reviews each process answers (20,000). More than 24 MiB after them, with 100
//! rules or fewer, fails the run, and so does CPU for 10,000 rules of more than 1.1 times that for 10;
//! `HARBOR_PILOT_MAX_RSS_MIB` and `HARBOR_PILOT_MAX_RULES_RATIO` set other bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use harbor_pilot::tls::issue::Authority;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use support::client::Client;
use support::reviews::create;
use support::{
    ALLOCATOR_OPTIONS, Memory, assert_at_most, cpu_time, is_measured, median, setting, validity, write_certificate,
};

const RULES: [usize; 3] = [10, 100, 10_000];
/// An unoptimised build takes minutes to read more.
const FEWER_RULES: [usize; 3] = [10, 20, 500];
const REVIEWS: usize = 20_000;
/// Each process has so many.
const ROUNDS: usize = 20;
const HTTP1_CONNECTIONS: usize = 8;
const HTTP2_CONNECTIONS: usize = 2;
const HTTP2_STREAMS: usize = 4;
const DOCUMENTS_OF_A_FILE: usize = 1_000;
const PACE: Duration = Duration::from_millis(1);
/// 10,000 manifests take a while to be checked.
const START_DEADLINE: Duration = Duration::from_secs(300);

fn main() {
    let (numbers, reviews, paced) = if is_measured() { (RULES, REVIEWS, 10) } else { (FEWER_RULES, 2_000, 1) };
    let reviews = setting("HARBOR_PILOT_REVIEWS").unwrap_or(reviews);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(numbers, reviews, Duration::from_secs(paced)));
}

async fn measure(numbers: [usize; 3], reviews: usize, paced: Duration) {
    let authority = Authority::new("bench", validity()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let body = Bytes::from(create());
    let mut webhooks = Vec::new();
    for rules in numbers {
        webhooks.push(Webhook::start(directory.path(), &authority, rules, &body).await);
    }
    for webhook in &mut webhooks {
        webhook.connect(&authority, &body).await;
    }
    println!("{reviews} reviews of {} bytes for each process, in {ROUNDS} turns", body.len());

    let mut cpu: [Vec<f64>; 3] = Default::default();
    let before: Vec<Memory> = webhooks.iter().map(|webhook| Memory::of(webhook.process.id())).collect();
    for turn in 0..ROUNDS {
        for at in 0..webhooks.len() {
            // Each goes first in its turn.
            let at = (at + turn) % webhooks.len();
            cpu[at].push(webhooks[at].cpu_of_each(reviews / ROUNDS).await);
        }
    }
    let mut largest = 0.0_f64;
    for ((webhook, before), cpu) in webhooks.iter().zip(before).zip(&cpu) {
        let after = Memory::of(webhook.process.id());
        if webhook.rules <= 100 {
            largest = largest.max(after.resident);
        }
        let each = median(cpu.iter().copied());
        println!(
            "{} rules: {each:.1} µs of CPU a review; RSS {:.1} MiB before, {:.1} MiB after, {:.1} MiB at most",
            webhook.rules, before.resident, after.resident, after.peak
        );
    }
    let ratio = median(cpu[2].iter().zip(&cpu[0]).map(|(many, few)| many / few));
    println!("CPU of a review, {} rules against {}: {ratio:.3}", numbers[2], numbers[0]);
    for webhook in &mut webhooks {
        let [half, most] = webhook.waiting_times(paced).await;
        println!("{} rules, evenly paced 1,000/s for {paced:?}: p50 {half:.0} µs, p99 {most:.0} µs", webhook.rules);
    }
    assert_at_most("HARBOR_PILOT_MAX_RSS_MIB", 24.0, largest);
    assert_at_most("HARBOR_PILOT_MAX_RULES_RATIO", 1.1, ratio);
}

/// A process with its clients.
struct Webhook {
    process: Child,
    address: SocketAddr,
    rules: usize,
    http1: Vec<Client>,
    http2: Vec<Client>,
}

impl Webhook {
    /// Starts the process and waits until it rewrites the Pod.
    async fn start(directory: &Path, authority: &Authority, rules: usize, body: &Bytes) -> Self {
        let directory = directory.join(rules.to_string());
        let (rules_directory, tls) = (directory.join("rules"), directory.join("tls"));
        write_rules(&rules_directory, rules);
        write_certificate(&tls, authority);
        let [address, ops] = free_addresses();
        let log = fs::File::create(directory.join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"))
            .arg("webhook")
            .envs(ALLOCATOR_OPTIONS)
            .args([Path::new("--rules"), &rules_directory, Path::new("--tls-dir"), &tls])
            .args(["--webhook-bind-address", &address.to_string(), "--metrics-bind-address", &ops.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut webhook = Self { process, address, rules, http1: Vec::new(), http2: Vec::new() };
        webhook.until_rewriting(authority, body, &directory.join("log")).await;
        webhook
    }

    /// Before this, connections would be idle for as long as the next process takes to start.
    async fn connect(&mut self, authority: &Authority, body: &Bytes) {
        for _ in 0..HTTP1_CONNECTIONS {
            self.http1.push(Client::http1(authority, self.address, body));
        }
        for _ in 0..HTTP2_CONNECTIONS {
            self.http2.extend(Client::http2(authority, self.address, HTTP2_STREAMS, body));
        }
        self.drive(100).await;
    }

    async fn until_rewriting(&mut self, authority: &Authority, body: &Bytes, log: &Path) {
        let end = Instant::now() + START_DEADLINE;
        loop {
            let reported = || fs::read_to_string(log).unwrap_or_default();
            assert!(self.process.try_wait().unwrap().is_none(), "the webhook has ended: {}", reported());
            assert!(Instant::now() < end, "the webhook rewrites nothing: {}", reported());
            if TcpStream::connect(self.address).await.is_ok()
                && Client::http1(authority, self.address, body).ask().await
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has so many reviews answered, half of them over each protocol, each client with one at a time.
    async fn drive(&mut self, reviews: usize) {
        async fn repeat(client: &Client, times: usize) {
            for _ in 0..times {
                client.ask().await;
            }
        }
        let share = |clients: usize| reviews.div_ceil(2 * clients);
        let (http1, http2) = (share(self.http1.len()), share(self.http2.len()));
        tokio::join!(
            futures::future::join_all(self.http1.iter().map(|client| repeat(client, http1))),
            futures::future::join_all(self.http2.iter().map(|client| repeat(client, http2))),
        );
    }

    /// Microseconds of the process's CPU for each of these reviews.
    async fn cpu_of_each(&mut self, reviews: usize) -> f64 {
        let before = cpu_time(self.process.id());
        self.drive(reviews).await;
        (cpu_time(self.process.id()) - before).as_secs_f64() * 1e6 / reviews as f64
    }

    /// Microseconds from when a review was due until it was answered, one due each millisecond: the median, and what one of
    /// a hundred exceeds.
    async fn waiting_times(&mut self, paced: Duration) -> [f64; 2] {
        let start = Instant::now() + Duration::from_millis(10);
        let reviews = (paced.as_nanos() / PACE.as_nanos()) as u32;
        let (due, queue) = mpsc::channel(reviews as usize);
        // A thread of its own: timers of the runtime tick in milliseconds.
        let pacer = std::thread::spawn(move || {
            for number in 0..reviews {
                let at = start + PACE * number;
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                due.blocking_send(at).unwrap();
            }
        });
        let queue = Mutex::new(queue);
        let one = async |client: &Client| {
            let mut waited = Vec::new();
            loop {
                let Some(due) = queue.lock().await.recv().await else { return waited };
                client.ask().await;
                waited.push(due.elapsed().as_secs_f64() * 1e6);
            }
        };
        let mut waited = futures::future::join_all(self.http1.iter().map(one)).await.concat();
        pacer.join().unwrap();
        waited.sort_by(f64::total_cmp);
        [waited[waited.len() / 2], waited[waited.len() * 99 / 100]]
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Rules for that many prefixes, of which two match the Pod's images: as a user writes them.
fn write_rules(directory: &Path, rules: usize) {
    let used = [("dockerhub".to_owned(), "docker.io".to_owned()), ("acme".to_owned(), "ghcr.io/acme".to_owned())];
    let others = (0..rules - 2).map(|index| (format!("p{index}"), format!("registry-{index}.example/team-{index}")));
    let of_ours = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        })
    };
    let harbor = json!({"url": "https://harbor.corp.example", "credentialsSecretRef": {"name": "harbor"}});
    let registry = json!({"type": "docker-registry", "url": "https://registry.example"});
    let mut documents = vec![of_ours("HarborInstance", "default", harbor), of_ours("Registry", "hub", registry)];
    documents.extend(others.chain(used).map(|(name, matched)| {
        let spec = json!({"registryRef": {"name": "hub"}, "rewrite": {"matches": [matched]}});
        of_ours("ProxyProject", &name, spec)
    }));
    fs::create_dir_all(directory).unwrap();
    for (index, documents) in documents.chunks(DOCUMENTS_OF_A_FILE).enumerate() {
        let text = documents.iter().map(|document| format!("---\n{document}\n")).collect::<String>();
        fs::write(directory.join(format!("{index:02}.yaml")), text).unwrap();
    }
}

/// Free a moment ago, and different.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
