//! What a person sees of a hostile Harbor: on the command line, on the status page, in metrics and logs. And that `plan --apply` says
//! `done` of nothing that was not done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "adversary_harbor/attacks.rs"]
#[allow(dead_code)]
mod attacks;
#[path = "adversary_harbor/canary.rs"]
mod canary;
#[path = "adversary_harbor/front.rs"]
#[allow(dead_code)]
mod front;
mod support;

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use canary::{PASSWORD, ROBOT, UPSTREAM_PASSWORD, assert_no_secret, make_robot};
use front::{Answer, Front, answers, repeats, sends};
use harbor_double::{Harbor, Upstream};
use harbor_pilot::{
    api::{HarborInstance, Registry},
    controller::Reconciler,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use support::ran::Ran;
use tempfile::TempDir;

/// Manifests about a Harbor behind a front.
struct Site {
    front: Front,
    _harbor: Harbor,
    upstream: Upstream,
    directory: TempDir,
}

impl Site {
    async fn start() -> Self {
        let harbor = Harbor::builder().speed(100.0).start().await;
        make_robot(&harbor).await;
        let front = Front::start(harbor.url()).await;
        let upstream = Upstream::builder().basic_auth("puller", UPSTREAM_PASSWORD).start().await;
        let site = Self { front, _harbor: harbor, upstream, directory: tempfile::tempdir().unwrap() };
        let secret = |name: &str, user: &str, password: &str| {
            let account = json!({"username": user, "password": password});
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": account})
        };
        site.write("harbor", &secret("harbor", ROBOT, PASSWORD));
        site.write("up", &secret("up", "puller", UPSTREAM_PASSWORD));
        let instance = json!({"url": site.front.url, "credentialsSecretRef": {"name": "harbor"}, "interval": "1s"});
        site.write("instance", &resource("HarborInstance", "default", &instance));
        site.declare(&json!({}));
        site
    }

    fn write(&self, file: &str, document: &Value) {
        fs::write(self.directory.path().join(format!("{file}.json")), document.to_string()).unwrap();
    }

    /// One of each kind, with a change that each takes.
    fn declare(&self, change: &Value) {
        let url = self.upstream.url();
        let mut registry =
            json!({"type": "docker-registry", "url": url, "credentialsSecretRef": {"name": "up"}, "interval": "1s"});
        let mut project = json!({"registryRef": {"name": "up"}, "interval": "1s"});
        for (kind, spec) in [("Registry", &mut registry), ("ProxyProject", &mut project)] {
            if let Some(change) = change.get(kind) {
                json_patch::merge(spec, change);
            }
        }
        self.write("registry", &resource("Registry", "up", &registry));
        self.write("project", &resource("ProxyProject", "up", &project));
    }

    async fn plan(&self, more: &[&str]) -> Ran {
        let mut command = self.command();
        command.args(["plan", "-f", "."]).args(more);
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap()).await.unwrap();
        Ran::of(output)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
        for variable in ["HARBOR_USERNAME", "HARBOR_PASSWORD"] {
            command.env_remove(variable);
        }
        command.env("HARBOR_PILOT_LOG", "trace").current_dir(self.directory.path());
        command
    }
}

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn echoes(status: &'static str) -> Answer {
    answers(status, |asked| attacks::echo(asked).into_bytes())
}

#[tokio::test]
async fn plan_prints_no_secret_that_is_echoed_and_nothing_that_moves_a_terminal() {
    let site = Site::start().await;
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\nrefused  everything\u{202e}";
    let named = json!([{"id": 1, "name": "up", "type": "docker-registry", "url": evil, "description": format!("{evil} {PASSWORD}")}]);
    let listed = move || {
        answers("200 OK", {
            let named = named.to_string();
            move |_| named.clone().into_bytes()
        })
    };
    let table: [(&'static str, Answer); 5] = [
        ("/systeminfo", echoes("500 x")),
        ("GET /api/v2.0/registries", echoes("403 x")),
        ("POST /api/v2.0/registries", echoes("400 x")),
        ("POST /api/v2.0/projects", echoes("502 x")),
        ("GET /api/v2.0/registries?", listed()),
    ];
    for (on, answer) in &table {
        site.front.attack(on, answer);
        for more in [&["--apply"][..], &["--apply", "-o", "json"]] {
            let ran = site.plan(more).await;
            let all = format!("{}{}", ran.out, ran.err);
            assert_no_secret(on, &all);
            assert!(ran.code != 0 && !all.contains('\u{1b}') && !all.contains('\u{202e}'), "{on}: {ran:?}");
            assert!(!ran.out.lines().any(|line| line.starts_with("refused  everything")), "{on}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn standalone_shows_no_secret_on_its_page_in_metrics_or_logs() {
    let site = Site::start().await;
    site.front.attack("POST /api/v2.0/", &echoes("500 x"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (ops, tls) = (format!("127.0.0.1:{port}"), tempfile::tempdir().unwrap());
    let log = tls.path().join("log");
    let mut command = site.command();
    command.args([
        "standalone",
        "--manifests-dir",
        ".",
        "--webhook-bind-address",
        "127.0.0.1:0",
        "--metrics-bind-address",
        &ops,
        "--tls-dir",
    ]);
    let mut child =
        command.arg(tls.path()).stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null()).spawn().unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str| {
        let answer = http.get(format!("http://{ops}{path}")).header("accept", "text/html").send().await;
        match answer {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    };
    let mut page = String::new();
    for _ in 0..150 {
        page = get("/").await;
        if page.contains("HarborError") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let metrics = get("/metrics").await;
    child.kill().unwrap();
    child.wait().unwrap();
    let logged = fs::read_to_string(&log).unwrap();
    assert!(page.contains("HarborError") && page.contains("[redacted]"), "{page}\n{logged}");
    assert!(logged.contains("HarborError") && logged.contains("TRACE") && metrics.contains("harbor_pilot"), "{logged}");
    for (whose, text) in [("the page", page), ("metrics", metrics), ("logs", logged)] {
        assert_no_secret(whose, &text);
    }
}

/// Accepts a write, and does nothing.
fn lies(answer: &str) -> Answer {
    sends(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
}

/// Name; whether all was there before; the change; what is attacked, and how; words below Registry and ProxyProject.
type Row = (&'static str, bool, Value, &'static str, Answer, [&'static str; 2]);

#[tokio::test]
async fn plan_apply_says_done_of_nothing_that_was_not_done() {
    let changed = json!({"Registry": {"description": "changed"}, "ProxyProject": {"proxySpeedKB": 64}});
    let observed = json!({"Registry": {"managementPolicy": "ObserveOnly", "description": "seen"}, "ProxyProject": {"managementPolicy": "ObserveOnly", "public": true}});
    let suspended =
        json!({"Registry": {"suspend": true, "description": "off"}, "ProxyProject": {"suspend": true, "public": true}});
    let nothing = || (["nothing"; 2], "GET /nothing", lies("200 OK"));
    // What was there before; what is attacked, and how; words below Registry and ProxyProject.
    let created = "201 Created\r\nlocation: /api/v2.0/registries/77";
    let table: Vec<Row> = vec![
        ("all is well", false, json!({}), nothing().1, nothing().2, ["done", "done"]),
        ("a creation that is a lie", false, json!({}), "POST /api/v2.0/registries", lies(created), ["sent", ""]),
        ("a refused creation", false, json!({}), "POST /api/v2.0/registries", lies("403 x"), ["", ""]),
        (
            "a project that is a lie",
            false,
            json!({}),
            "POST /api/v2.0/projects",
            lies("201 Created\r\nlocation: /api/v2.0/projects/77"),
            ["done", "sent"],
        ),
        ("changes", true, changed.clone(), nothing().1, nothing().2, ["done", "done"]),
        ("changes that are lies", true, changed.clone(), "PUT /api/v2.0/", lies("200 OK"), ["sent", "sent"]),
        ("refused changes", true, changed.clone(), "PUT /api/v2.0/", lies("403 x"), ["", ""]),
        ("failing changes", true, changed.clone(), "PUT /api/v2.0/", lies("500 x"), ["", ""]),
        ("changes in conflict", true, changed, "PUT /api/v2.0/", lies("409 x"), ["", ""]),
        ("what is observed", true, observed, nothing().1, nothing().2, ["", ""]),
        ("what is suspended", true, suspended, nothing().1, nothing().2, ["", ""]),
    ];
    for (what, before, change, on, answer, words) in table {
        let site = Site::start().await;
        if before {
            let ran = site.plan(&["--apply"]).await;
            assert_eq!(ran.code, 0, "{what}: {ran:?}");
        }
        site.declare(&change);
        site.front.attack(on, &answer);
        let ran = site.plan(&["--apply", "-o", "json"]).await;
        site.front.relent();
        let plan = ran.json();
        let lines = plan["resources"].as_array().unwrap();
        for (kind, word) in ["Registry", "ProxyProject"].iter().zip(words) {
            let line = lines.iter().find(|line| line["kind"] == *kind).unwrap();
            let some = |key: &str| line[key].as_array().is_some_and(|list| !list.is_empty());
            let found = match (some("done"), some("unverified")) {
                (true, false) => "done",
                (false, true) => "sent",
                (false, false) => "",
                (true, true) => "both",
            };
            assert_eq!(found, word, "{what}: {kind}: {line}");
        }
        let good = words == ["done", "done"] || what == "what is suspended";
        assert_eq!(ran.code == 0, good, "{what}: {ran:?}");
    }
}

/// Answers that go on for ever, a byte now and then.
fn drips() -> Answer {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n";
    repeats(head, b" ", usize::MAX, Duration::from_millis(100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeout_ends_every_command_that_asks_a_harbor_or_an_api_server_that_drips() {
    let site = Site::start().await;
    site.front.attack("", &drips());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [],
        "clusters": [{"name": "a", "cluster": {"server": site.front.url}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": ""}}],
    });
    let unreachable = tempfile::tempdir().unwrap();
    let (config, pod) = (unreachable.path().join("config"), unreachable.path().join("pod.yaml"));
    fs::write(&config, kubeconfig.to_string()).unwrap();
    fs::write(&pod, "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: nginx}]}\n").unwrap();
    let pod = pod.to_str().unwrap();
    let table: [&[&str]; 7] = [
        &["plan", "-f", "."],
        &["plan", "-f", ".", "--apply"],
        &["status"],
        &["remove-finalizers"],
        &["check", "-f", pod],
        &["rewrite", "-f", pod],
        &["explain", "nginx"],
    ];
    let runs = table.map(|arguments| {
        let mut command = site.command();
        command.args(arguments).args(["--timeout", "3s"]).env("KUBECONFIG", &config).stdin(Stdio::null());
        async move {
            let begun = Instant::now();
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            (arguments, Ran::of(output), begun.elapsed())
        }
    });
    for (arguments, ran, took) in futures::future::join_all(runs).await {
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("no result within 3s (--timeout)"), "{arguments:?}: {ran:?}");
        assert!(took < Duration::from_secs(20), "{arguments:?}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plan_refuses_what_depends_on_a_registry_whose_host_is_not_allowed() {
    let site = Site::start().await;
    let rule = json!({"source": {"registryRef": {"name": "up"}}, "trigger": {"type": "Manual"}});
    site.write("rule", &resource("ReplicationRule", "up", &rule));
    let allow = |hosts: Value| {
        let spec =
            json!({"url": site.front.url, "credentialsSecretRef": {"name": "harbor"}, "allowedRegistryHosts": hosts});
        site.write("instance", &resource("HarborInstance", "default", &spec));
    };
    let writes = || {
        let seen = site.front.seen();
        seen.iter()
            .filter(|asked| ["POST", "PUT", "DELETE", "PATCH"].iter().any(|m| asked.text().starts_with(m)))
            .count()
    };
    let reasons = |ran: &Ran| {
        let lines = ran.json()["resources"].as_array().unwrap().clone();
        ["Registry", "ProxyProject", "ReplicationRule"].map(|kind| {
            let line = lines.iter().find(|line| line["kind"] == kind).unwrap();
            line["reason"].as_str().unwrap_or("-").to_owned()
        })
    };
    let refused = ["HostNotAllowed", "RegistryNotReady", "RegistryNotReady"];
    // Before Harbor has the Registry, and when it has it from an earlier time.
    for there in [false, true] {
        if there {
            allow(json!([]));
            let ran = site.plan(&["--apply"]).await;
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        allow(json!(["ghcr.io"]));
        site.front.attack("GET /nothing", &sends(""));
        for more in [&["-o", "json"][..], &["-o", "json", "--apply"]] {
            let ran = site.plan(more).await;
            assert_eq!((ran.code, reasons(&ran)), (2, refused.map(str::to_owned)), "{there}: {ran:?}");
            let project = ran.json()["resources"].to_string();
            assert!(project.contains("is refused (HostNotAllowed"), "{there}: {project}");
        }
        assert_eq!(writes(), 0, "{there}");
    }
}

#[tokio::test]
async fn an_instance_shows_no_secret_of_a_registry_that_was_not_reconciled_yet() {
    let site = support::Site::doubled(Harbor::builder().speed(100.0)).await;
    let front = Front::start(site.url.clone()).await;
    site.secret("up", "puller", UPSTREAM_PASSWORD);
    let registry =
        json!({"type": "docker-registry", "url": "http://127.0.0.1:9", "credentialsSecretRef": {"name": "up"}});
    site.apply::<Registry>("up", registry);
    let instance = json!({"url": front.url, "credentialsSecretRef": {"name": "harbor"}});
    site.apply::<HarborInstance>("default", instance);
    let version = || json!({"harbor_version": format!("v2.15.2 {UPSTREAM_PASSWORD}")}).to_string().into_bytes();
    let component = || {
        let component = json!({"name": format!("core {UPSTREAM_PASSWORD}"), "status": "unhealthy"});
        json!({"status": "unhealthy", "components": [component]}).to_string().into_bytes()
    };
    let table: [(&'static str, Answer); 3] = [
        ("/systeminfo", answers("200 OK", move |_| version())),
        ("/health", answers("200 OK", move |_| component())),
        ("/systeminfo", answers("500 x", |_| UPSTREAM_PASSWORD.as_bytes().to_vec())),
    ];
    for (on, answer) in table {
        front.attack(on, &answer);
        // A process that has just been started.
        let kinds = site.restarted();
        let object = site.world.get::<HarborInstance>("default").unwrap();
        let outcome = Reconciler::<HarborInstance>::reconcile(kinds.as_ref(), object.as_ref(), Timestamp::now()).await;
        let shown = format!("{} {:?}", serde_json::to_string(&outcome.status).unwrap(), outcome.notes);
        assert_no_secret(on, &shown);
        assert!(shown.contains("[redacted]"), "{on}: {shown}");
    }
}
