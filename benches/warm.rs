//! What warming an image costs, beside bare parallel GETs of the same blobs: 20 layers of 25 MiB, cold, through a Harbor.
//!
//! Without `HARBOR_URL` that is the double; with it a real Harbor, which must reach this machine's loopback address
//! (`HARBOR_USERNAME` and `HARBOR_PASSWORD` default to those of the double). The upstream is here and counts what it sends.
//! Each run is a process of its own and has an image of its own; bare GETs (plain reqwest, as many at once) and the strategies
//! take turns, so that what else the machine does falls on all alike. CPU is that of the process alone, from the scheduler.
//!
//! The run fails when, in the median of the rounds, `Stream` takes more than 1.1 times the bare GETs' time or 1.3 times their
//! CPU, or the upstream sends more than 1.2 times the image by `Touch`, or that takes more than 1.5 times the bare GETs' time,
//! or memory grows by more than 32 MiB. `HARBOR_PILOT_MAX_STREAM_WALL`, `…_STREAM_CPU`, `…_TOUCH_SENT`, `…_TOUCH_WALL` and
//! `…_WARM_RSS_MIB` set other bounds, `HARBOR_PILOT_ROUNDS` another number of rounds (5).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use harbor_double::{Harbor, Image, Pushed, Upstream};
use harbor_pilot::{
    api::proxy_project::PullStrategy,
    image::ImageRef,
    prewarm::{
        Puller, Target,
        puller::{ProjectConcurrency, PullLimits},
    },
    registry::Client,
    transport::{Credentials, Endpoint},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use support::{Memory, assert_at_most, cpu_time, is_measured, median, setting};

const MIB: usize = 1 << 20;
const AT_ONCE: usize = 4;
const MODES: [&str; 3] = ["bare", "stream", "touch"];
/// In the environment of a process that does one run.
const MODE: &str = "HARBOR_PILOT_WARM_MODE";
const TASK: &str = "HARBOR_PILOT_WARM_TASK";

/// What a process is to fetch.
#[derive(Serialize, Deserialize)]
struct Task {
    url: String,
    username: String,
    password: String,
    repository: String,
    manifest: String,
    blobs: Vec<String>,
}

/// What it took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cost {
    /// Seconds.
    wall: f64,
    cpu: f64,
    /// MiB.
    grown: f64,
    #[serde(default)]
    sent: f64,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::var(MODE) {
        Ok(mode) => runtime.block_on(run(&mode)),
        Err(_) => runtime.block_on(measure()),
    }
}

async fn measure() {
    let (layers, size, rounds) = if is_measured() { (20, 25 * MIB, 5) } else { (4, MIB, 1) };
    let rounds = setting("HARBOR_PILOT_ROUNDS").unwrap_or(rounds);
    println!("{layers} layers of {} MiB, {AT_ONCE} at once, {rounds} rounds", size / MIB);
    let mut costs: [Vec<Cost>; 3] = Default::default();
    for round in 0..rounds {
        let stage = Stage::start(round).await;
        for turn in 0..MODES.len() {
            // Each goes first in its turn.
            let at = (turn + round) % MODES.len();
            let cost = stage.cost(MODES[at], vec![size; layers]).await;
            println!(
                "{:>6}: {:.2} s, {:.2} s of CPU, {:.1} MiB more memory, the upstream sent {:.2} times the image",
                MODES[at], cost.wall, cost.cpu, cost.grown, cost.sent
            );
            costs[at].push(cost);
        }
        stage.end().await;
    }
    let ratio = |mode: usize, of: fn(&Cost) -> f64| {
        median(costs[mode].iter().zip(&costs[0]).map(|(cost, bare)| of(cost) / of(bare)))
    };
    let most = |of: fn(&Cost) -> f64| costs[1].iter().chain(&costs[2]).map(of).fold(0.0, f64::max);
    let found = [
        ("HARBOR_PILOT_MAX_STREAM_WALL", 1.1, ratio(1, |cost| cost.wall)),
        ("HARBOR_PILOT_MAX_STREAM_CPU", 1.3, ratio(1, |cost| cost.cpu)),
        ("HARBOR_PILOT_MAX_TOUCH_SENT", 1.2, median(costs[2].iter().map(|cost| cost.sent))),
        ("HARBOR_PILOT_MAX_TOUCH_WALL", 1.5, ratio(2, |cost| cost.wall)),
        ("HARBOR_PILOT_MAX_WARM_RSS_MIB", 32.0, most(|cost| cost.grown)),
    ];
    println!("CPU of touch, of the bare GETs': {:.3}", ratio(2, |cost| cost.cpu));
    for (name, promised, found) in found {
        println!("{name}: {found:.3} of {promised}");
    }
    for (name, promised, found) in found {
        assert_at_most(name, promised, found);
    }
}

/// A proxy project at a Harbor, for one round.
struct Stage {
    upstream: Upstream,
    double: Option<Harbor>,
    url: String,
    username: String,
    password: String,
    name: String,
    http: reqwest::Client,
}

impl Stage {
    /// Harbor's registry does not forget the blobs of a repository that is deleted, so each round has other names.
    async fn start(round: usize) -> Self {
        let from_env = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let (double, url) = match std::env::var("HARBOR_URL") {
            Ok(url) => (None, url),
            Err(_) => {
                let double = Harbor::builder().start().await;
                let url = double.url();
                (Some(double), url)
            }
        };
        let stage = Self {
            upstream: Upstream::builder().start().await,
            double,
            url,
            username: from_env("HARBOR_USERNAME", "admin"),
            password: from_env("HARBOR_PASSWORD", "Harbor12345"),
            name: format!("pilot-bench-{}-{round}", std::process::id()),
            http: reqwest::Client::new(),
        };
        let registry = json!({"name": stage.name, "type": "docker-registry", "url": stage.upstream.url()});
        assert_eq!(stage.api("POST", "registries", Some(registry)).await.0, 201);
        let project = json!({"project_name": stage.name, "registry_id": stage.registry().await});
        assert_eq!(stage.api("POST", "projects", Some(project)).await.0, 201);
        stage
    }

    /// Runs one process on an image of its own.
    async fn cost(&self, mode: &str, layers: Vec<usize>) -> Cost {
        let image = Image::single("linux", "amd64").layers(layers).seed(&format!("{}-{mode}", self.name));
        let pushed = self.upstream.push_image(mode, "v1", &image);
        self.upstream.clear_log();
        let task = Task {
            url: self.url.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            repository: format!("{}/{mode}", self.name),
            manifest: pushed.digest.clone(),
            blobs: pushed.children[0].blobs().map(|blob| blob.digest.clone()).collect(),
        };
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.env(MODE, mode).env(TASK, serde_json::to_string(&task).unwrap()).stderr(Stdio::inherit());
        let output = tokio::task::spawn_blocking(move || process.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{mode}: {}", output.status);
        let cost: Cost = serde_json::from_slice(&output.stdout).unwrap();
        Cost { sent: self.quiet().await as f64 / size(&pushed) as f64, ..cost }
    }

    /// Bytes that the upstream has sent, once it sends no more.
    async fn quiet(&self) -> u64 {
        let sent = || self.upstream.log().iter().map(|request| request.bytes_sent).sum::<u64>();
        let mut last = sent();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = sent();
            if now == last {
                return now;
            }
            last = now;
        }
    }

    async fn registry(&self) -> Value {
        let found = self.api("GET", &format!("registries?q=name={}", self.name), None).await.1;
        found[0]["id"].clone()
    }

    async fn end(self) {
        if self.double.is_some() {
            return;
        }
        // What was fetched is listed 20 s later, and only then can it be deleted.
        tokio::time::sleep(Duration::from_secs(45)).await;
        for mode in MODES {
            self.api("DELETE", &format!("projects/{}/repositories/{mode}", self.name), None).await;
        }
        self.api("DELETE", &format!("projects/{}", self.name), None).await;
        self.api("DELETE", &format!("registries/{}", self.registry().await), None).await;
    }

    async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.http.request(method.parse().unwrap(), format!("{}/api/v2.0/{path}", self.url));
        let request = request.basic_auth(&self.username, Some(&self.password));
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }
}

fn size(image: &Pushed) -> u64 {
    image.children[0].blobs().map(|blob| blob.size as u64).sum()
}

/// One run, in a process of its own; tells what it took on standard output.
async fn run(mode: &str) {
    let task: Task = serde_json::from_str(&std::env::var(TASK).unwrap()).unwrap();
    let own = std::process::id();
    let cost = match mode {
        "bare" => {
            let http = reqwest::Client::builder().http1_only().build().unwrap();
            let token = token(&http, &task).await;
            let before = (Instant::now(), cpu_time(own), Memory::of(own).resident);
            bare(&http, &token, &task).await;
            cost(before)
        }
        mode => {
            let strategy = if mode == "touch" { PullStrategy::Touch } else { PullStrategy::Stream };
            let credentials = Credentials { username: task.username.clone(), password: task.password.clone().into() };
            let endpoint = Endpoint { credentials: Some(credentials), ..Endpoint::new(task.url.clone()) };
            let limits = PullLimits { blobs_at_once: AT_ONCE, ..PullLimits::default() };
            let puller =
                Puller::new(Client::new(&endpoint).unwrap(), limits).on(ProjectConcurrency::default(), strategy);
            let image = ImageRef::parse(&format!("h.example/{}:v1", task.repository)).unwrap();
            let target = Target::new(&image).unwrap();
            // A token, as the bare GETs have one.
            puller.resolve(&target).await.unwrap();
            let before = (Instant::now(), cpu_time(own), Memory::of(own).resident);
            let warmed = puller.warm(&target, &[], &()).await.unwrap();
            let cost = cost(before);
            assert_eq!((warmed.fetches().fell_back, warmed.children[0].fetched as usize), (0, task.blobs.len()));
            cost
        }
    };
    println!("{}", serde_json::to_string(&cost).unwrap());
}

fn cost((start, cpu, resident): (Instant, Duration, f64)) -> Cost {
    let own = std::process::id();
    Cost {
        wall: start.elapsed().as_secs_f64(),
        cpu: (cpu_time(own) - cpu).as_secs_f64(),
        grown: Memory::of(own).peak - resident,
        sent: 0.0,
    }
}

async fn token(http: &reqwest::Client, task: &Task) -> String {
    let url = format!("{}/service/token", task.url);
    let scope = format!("repository:{}:pull", task.repository);
    let request = http.get(url).query(&[("service", "harbor-registry"), ("scope", scope.as_str())]);
    let answer = request.basic_auth(&task.username, Some(&task.password)).send().await.unwrap();
    answer.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned()
}

async fn bare(http: &reqwest::Client, token: &str, task: &Task) {
    let get = async |path: String| {
        let request = http.get(format!("{}/v2/{}/{path}", task.url, task.repository)).bearer_auth(token);
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let mut answer = request.header("accept", accept).send().await.unwrap().error_for_status().unwrap();
        while let Some(piece) = answer.chunk().await.unwrap() {
            std::hint::black_box(piece);
        }
    };
    get(format!("manifests/{}", task.manifest)).await;
    let gets = task.blobs.iter().map(|digest| get(format!("blobs/{digest}")));
    stream::iter(gets).buffer_unordered(AT_ONCE).for_each(async |()| ()).await;
}
