//! What a hostile Harbor, or a proxy before one, answers: nothing of it takes much memory or time, none of it leads elsewhere, no
//! secret shows anywhere, and all is well once it ends. On the paths of the controller, in this process.
//!
//! One test, because the memory and the logs of a process are looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attacks;
mod canary;
mod front;

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use harbor_double::{Harbor, Image, Upstream};
use harbor_pilot::{
    api::{
        HarborInstance, HarborInstanceStatus, ProxyProject, ProxyProjectStatus, Registry, RegistryStatus, condition,
    },
    controller::{Connections, Installation, ReconciledKind, Reconciler, Reconcilers, SecretValue},
    image::ImageRef,
    prewarm::Target,
    standalone::{ManifestSet, MemoryBackend},
    transport::Deadlines,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use attacks::{Attack, Shows};
use canary::{PASSWORD, ROBOT, UPSTREAM_PASSWORD, assert_no_secret, make_robot};
use front::Front;

/// An attack is over after this long, with all that is tried again.
const LONGEST: Duration = Duration::from_secs(20);
const AT_ONCE: usize = 6;

/// One world of resources at one front, in which one attack follows another.
struct Stage {
    front: Front,
    harbor: Harbor,
    upstream: String,
    world: MemoryBackend,
    kinds: Reconcilers,
}

impl Stage {
    async fn start(upstream: &Upstream) -> Self {
        let harbor = Harbor::builder().speed(200.0).start().await;
        let front = Front::start(harbor.url()).await;
        let world = MemoryBackend::new(vec!["linux/amd64".parse().unwrap()]);
        let short = Duration::from_millis(750);
        let deadlines = Deadlines { connect: short, request: short * 2, list: short * 16, idle: short };
        let kinds = Reconcilers {
            directory: world.directory(),
            instances: Arc::new(Connections::default().with_deadlines(deadlines)),
            installation: Installation("adversary".to_owned()),
        };
        let stage = Self { front, harbor, upstream: upstream.url(), world, kinds };
        stage.renew("first").await;
        stage
    }

    /// A new client: tokens, challenges and rests are forgotten.
    async fn renew(&self, revision: &str) {
        let instance = json!({"url": self.front.url, "credentialsSecretRef": {"name": "harbor"}});
        let registry = json!({
            "type": "docker-registry", "url": self.upstream, "credentialsSecretRef": {"name": "up"}, "harborRef": {"name": "harbor"},
        });
        let project = json!({"registryRef": {"name": "up"}, "harborRef": {"name": "harbor"}});
        let accounts = [("harbor", ROBOT, PASSWORD), ("up", "puller", UPSTREAM_PASSWORD)];
        let accounts = accounts.map(|(name, user, password)| (name.to_owned(), account(user, password, revision)));
        let manifests = ManifestSet {
            instances: vec![resource("harbor", instance)],
            registries: vec![resource("up", registry)],
            projects: vec![resource("up", project)],
            secrets: accounts.into(),
            ..ManifestSet::default()
        };
        self.world.apply(&manifests, Timestamp::now());
        let directory = self.world.directory();
        let instance = self.world.get::<HarborInstance>("harbor").unwrap();
        // Building a client takes longer than an attack may.
        self.kinds.instances.connect_to(directory.as_ref(), "harbor", &instance).await.unwrap();
    }

    /// A Harbor that has nothing, resources that know nothing, and the attack.
    async fn begin(&self, attack: &Attack) {
        self.harbor.wipe();
        make_robot(&self.harbor).await;
        self.world.set_status::<HarborInstance>("harbor", HarborInstanceStatus::default()).unwrap();
        self.world.set_status::<Registry>("up", RegistryStatus::default()).unwrap();
        self.world.set_status::<ProxyProject>("up", ProxyProjectStatus::default()).unwrap();
        if attack.shows == Shows::Pull {
            self.renew(&format!("{}{}", attack.name, attack.number)).await;
        }
        self.front.attack(attack.on, &attack.answer);
    }

    /// Reason and all that is said.
    async fn look<K: ReconciledKind>(&self, name: &str) -> (String, String)
    where
        Reconcilers: Reconciler<K>,
    {
        if let Some(connection) = self.kinds.instances.known("harbor") {
            connection.view.clear();
        }
        let object = self.world.get::<K>(name).unwrap();
        let outcome = self.kinds.reconcile(object.as_ref(), Timestamp::now()).await;
        outcome.notes.iter().for_each(|note| note.log(&K::kind(&()), name));
        let said = format!("{} {:?}", serde_json::to_string(&outcome.status).unwrap(), outcome.notes);
        let ready = condition::find(K::conditions(&outcome.status), condition::ConditionType::Ready).unwrap().clone();
        self.world.set_status::<K>(name, outcome.status).unwrap();
        (ready.reason, said)
    }

    async fn pull(&self) -> (String, String) {
        let Some(connection) = self.kinds.instances.known("harbor") else {
            return ("no connection".to_owned(), String::new());
        };
        let target = Target::new(&ImageRef::parse("harbor.test/up/team/app:v1").unwrap()).unwrap();
        match connection.puller.warm(&target, &["linux/amd64".parse().unwrap()], &()).await {
            Ok(_) => ("Warm".to_owned(), String::new()),
            Err(error) => {
                tracing::warn!(%error, "the pull failed");
                (error.reason().to_string(), format!("{error} {error:?}"))
            }
        }
    }

    /// Reasons of all four, and all that was said.
    async fn round(&self) -> ([String; 4], String) {
        let (instance, a) = self.look::<HarborInstance>("harbor").await;
        let (registry, b) = self.look::<Registry>("up").await;
        let (project, c) = self.look::<ProxyProject>("up").await;
        let (pull, d) = self.pull().await;
        ([instance, registry, project, pull], [a, b, c, d].join("\n"))
    }
}

fn account(username: &str, password: &str, revision: &str) -> SecretValue {
    let values = [("username", username), ("password", password)];
    SecretValue {
        revision: revision.to_owned(),
        values: values.map(|(key, value)| (key.to_owned(), value.to_owned().into())).into(),
    }
}

fn resource<K: ReconciledKind>(name: &str, spec: Value) -> K {
    serde_json::from_value(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap()
}

/// All that is logged, at TRACE.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes that this process had resident at most, since the last call.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
    // 5 resets it, see proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kibibytes << 10
}

/// One attack, from its beginning to its end. Answers how long it took.
async fn suffer(attack: &Attack, stage: &Stage) -> Duration {
    stage.begin(attack).await;
    let (begun, name) = (Instant::now(), attack.name);
    let (reasons, said) = stage.round().await;
    let took = begun.elapsed();
    assert!(took < LONGEST, "{name}: {took:?}");
    assert_no_secret(name, &said);
    assert!(!said.contains("\\u001b") && !said.contains('\u{1b}') && !said.contains("\\u202e"), "{name}: {said}");
    assert!(said.len() < 32 << 10, "{name}: {} bytes are said", said.len());
    let at = match attack.shows {
        Shows::Instance => 0,
        Shows::Registry => 1,
        Shows::Project => 2,
        Shows::Pull => 3,
    };
    let good = ["Healthy", "Reconciled", "Reconciled", "Warm"];
    if attack.reasons.is_empty() {
        assert_ne!(reasons[at], good[at], "{name}, attacking {}: {said}", attack.on);
    } else {
        assert!(attack.reasons.contains(&reasons[at].as_str()), "{name}: {reasons:?}: {said}");
    }
    // Credentials go to the API, to the token service, and nowhere else.
    for asked in stage.front.seen() {
        let carries = asked.text().contains(&STANDARD.encode(format!("{ROBOT}:{PASSWORD}")));
        let path = asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let api = path.starts_with("/api/v2.0/") && !path.starts_with("/api/v2.0/users");
        assert!(!carries || api || path.starts_with("/service/token?"), "{name}: credentials in {}", asked.line);
    }
    if attack.recovers {
        stage.front.relent();
        let (reasons, said) = stage.round().await;
        assert_eq!(reasons, good, "{name}, attacking {}, is over: {said}", attack.on);
    } else {
        stage.renew(name).await;
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_harbors_cost_little_learn_nothing_and_are_survived() {
    harbor_pilot::tls::install_crypto_provider();
    let logs = Logs::default();
    let writer = logs.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let elsewhere = Front::start("http://127.0.0.1:1".to_owned()).await;
    let upstream = Upstream::builder().basic_auth("puller", UPSTREAM_PASSWORD).start().await;
    upstream.push_image("team/app", "v1", &Image::single("linux", "amd64"));
    let attacks = attacks::all(&elsewhere.url);
    assert!(attacks.len() > 100, "{}", attacks.len());
    let (echoes, others): (Vec<&Attack>, Vec<&Attack>) =
        attacks.iter().partition(|attack| attack.name.contains("echo"));

    // Everything that is loaded once is loaded now.
    let mut stages = Vec::new();
    for _ in 0..AT_ONCE {
        stages.push(Stage::start(&upstream).await);
    }
    stages[0].begin(others[0]).await;
    stages[0].round().await;
    let mut slowest: Vec<(Duration, &str)> = Vec::new();
    let (hungry, small): (Vec<&Attack>, Vec<&Attack>) = others.into_iter().partition(|attack| is_hungry(attack));
    for attack in hungry {
        peak();
        let before = peak();
        slowest.push((suffer(attack, &stages[0]).await, attack.name));
        let grown = peak().saturating_sub(before);
        assert!(grown <= attack.memory, "{}: {} MiB more than before", attack.name, grown >> 20);
    }
    peak();
    let before = peak();
    slowest.extend(one_after_another(&stages, &small).await);
    let grown = peak().saturating_sub(before);
    assert!(grown <= 64 << 20, "{} MiB more for {AT_ONCE} at once", grown >> 20);

    // What is echoed may show in no line of any log, however much is logged.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    slowest.extend(one_after_another(&stages, &echoes).await);
    let logs = String::from_utf8_lossy(&logs.0.lock().unwrap()).into_owned();
    assert!(logs.contains("TRACE") && logs.contains("the pull failed"), "{} bytes of logs", logs.len());
    let own: String = logs.lines().filter(|line| !line.contains("harbor_double")).collect::<Vec<_>>().join("\n");
    assert_no_secret("the logs", &own);
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
    slowest.sort_unstable();
    println!("{} attacks, the slowest: {:?}", slowest.len(), slowest.iter().rev().take(5).collect::<Vec<_>>());
}

/// On each stage one attack after another, on all stages at once.
async fn one_after_another<'a>(stages: &[Stage], attacks: &[&'a Attack]) -> Vec<(Duration, &'a str)> {
    let lanes = stages.iter().enumerate().map(async |(lane, stage)| {
        let mut done = Vec::new();
        for attack in attacks.iter().skip(lane).step_by(AT_ONCE) {
            done.push((suffer(attack, stage).await, attack.name));
        }
        done
    });
    futures::future::join_all(lanes).await.concat()
}

/// Whether an attack tries to take memory.
fn is_hungry(attack: &Attack) -> bool {
    ["100 MB", "10 MB", "without end", "loop", "gzip"].iter().any(|part| attack.name.contains(part))
}
