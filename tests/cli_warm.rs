//! `harbor-pilot warm` as a person and a CI job run it: images through a Harbor, the double or the one of `HARBOR_URL`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use harbor_double::{Harbor, Image, Upstream};
use harbor_pilot::api::{ProxyProject, Registry};
use serde_json::{Value, json};
use support::{Site, ran::Ran};
use tempfile::TempDir;

/// A proxy project on an upstream of ours, and manifests that say so.
struct Stage {
    site: Site,
    upstream: Upstream,
    name: String,
    directory: TempDir,
}

impl Ran {
    /// Image, state and reason of each line.
    fn states(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let read = self.json();
        let lines = read["images"].as_array().unwrap();
        lines.iter().map(|line| (text(&line["state"]), text(&line["reason"]))).collect()
    }
}

impl Stage {
    async fn set() -> Self {
        Self::at(Site::start().await).await
    }

    async fn at(site: Site) -> Self {
        let upstream = Upstream::builder().start().await;
        let name = site.name("warm");
        let directory = tempfile::tempdir().unwrap();
        let stage = Self { site, upstream, name, directory };
        let (registry, project) = (stage.registry(), stage.project());
        stage.site.apply::<Registry>(&stage.name, registry.clone());
        stage.site.apply::<ProxyProject>(&stage.name, project.clone());
        assert!(stage.site.reconcile::<Registry>(&stage.name).await.ready().starts_with("True"));
        assert!(stage.site.reconcile::<ProxyProject>(&stage.name).await.ready().starts_with("True"));
        let Site { url, username, password, .. } = &stage.site;
        let account = json!({"username": username, "password": password});
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "harbor"}, "stringData": account});
        let instance = json!({"url": url, "credentialsSecretRef": {"name": "harbor"}});
        let rules = [
            secret.to_string(),
            object("HarborInstance", "default", &instance),
            object("Registry", &stage.name, &registry),
            object("ProxyProject", &stage.name, &project),
        ];
        fs::write(stage.directory.path().join("rules.yaml"), rules.join("\n---\n")).unwrap();
        stage
    }

    fn registry(&self) -> Value {
        json!({"type": "docker-registry", "url": self.upstream.url()})
    }

    fn project(&self) -> Value {
        json!({"registryRef": {"name": self.name}})
    }

    /// As a Pod names an image of the upstream.
    fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.upstream.host())
    }

    /// The same at Harbor.
    fn at_harbor(&self, rest: &str) -> String {
        let host = self.site.url.split_once("://").unwrap().1;
        format!("{host}/{}/{rest}", self.name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
        for variable in ["HARBOR_USERNAME", "HARBOR_PASSWORD", "POD_NAMESPACE"] {
            command.env_remove(variable);
        }
        command.env("KUBECONFIG", "/nonexistent").current_dir(self.directory.path()).arg("warm").args(arguments);
        if self.site.double.is_some() {
            command.args(["--store-delay", "1s"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// With the rules of the stage, for linux/amd64.
    async fn warm(&self, arguments: &[&str]) -> Ran {
        let all = [&["--rules", "rules.yaml", "--platform", "linux/amd64"], arguments].concat();
        run(self.command(&all)).await
    }

    /// Whether Harbor's API has an artifact of that tag.
    async fn is_listed(&self, repository: &str, tag: &str) -> bool {
        self.site.client().artifact(&self.name, repository, tag).await.unwrap().is_some()
    }

    fn gets(&self) -> usize {
        self.upstream.log().iter().filter(|request| request.method == "GET" && request.path.contains("/blobs/")).count()
    }

    /// A real Harbor keeps nothing: a project goes once nothing is in it.
    async fn end(self) {
        let client = self.site.client();
        for repository in client.repositories(&self.name).await.unwrap() {
            client.delete_repository(&self.name, &repository).await.unwrap();
        }
        self.site.clean(&[&self.name]).await;
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> String {
    json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// The process runs beside the double, which lives on this runtime.
async fn run(mut command: Command) -> Ran {
    tokio::task::spawn_blocking(move || Ran::of(command.output().unwrap())).await.unwrap()
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|character| character == '\n' || !character.is_control())
}

fn multi(seed: &str) -> Image {
    Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", Some("v8"))]).layers([1000, 200_000]).seed(seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_warmed_as_a_pod_names_it_and_a_second_time_nothing_is_fetched() {
    let stage = Stage::set().await;
    let pushed = stage.upstream.push_image("team/app", "1", &multi("a"));
    let first = stage.warm(&[&stage.image("team/app:1")]).await;
    assert_eq!(first.code, 0, "{first:?}");
    assert!(is_plain(&first.out) && is_plain(&first.err), "{first:?}");
    let row = first.out.lines().nth(1).unwrap();
    let cells: Vec<&str> = row.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells[..4], [stage.at_harbor("team/app:1").as_str(), "Warm", "linux/amd64", &pushed.digest[7..19]]);
    assert!(cells[5].ends_with("KiB"), "{row}");
    assert!(first.out.contains("1 of 1 image warm, "), "{}", first.out);
    for line in ["pulled 199.", "warm after "] {
        assert!(first.err.contains(&format!("{}: {line}", stage.at_harbor("team/app:1"))), "{line}: {}", first.err);
    }

    assert!(stage.is_listed("team/app", "1").await, "exit status 0, and Harbor's API does not list it");

    let fetched = stage.gets();
    let again = stage.warm(&[&stage.at_harbor("team/app:1"), "--quiet"]).await;
    assert_eq!((again.code, again.err.as_str(), stage.gets()), (0, "", fetched), "{again:?}");
    assert!(again.out.contains("cached") && again.out.contains("nothing was fetched"), "{}", again.out);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_images_of_manifests_are_warmed_each_once_and_what_is_not_is_said_with_its_reason() {
    let stage = Stage::set().await;
    for name in ["web", "init", "cached"] {
        stage.upstream.push_image(&format!("team/{name}"), "1", &multi(name));
    }
    let [web, init, cached, deleted] =
        ["web:1", "init:1", "cached:1", "gone:1"].map(|name| stage.image(&format!("team/{name}")));
    let pod = json!({
        "initContainers": [{"name": "init", "image": init}],
        "containers": [{"name": "web", "image": web}, {"name": "again", "image": web}],
    });
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"metadata": {}, "spec": pod}}});
    let stranger = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"},
        "spec": {"containers": [{"name": "c", "image": "ghcr.io/acme/app:1"}]}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        stranger, {"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": "c"}, "spec": {"image": cached}},
    ]});
    fs::write(stage.directory.path().join("deploy.yaml"), format!("{deployment}\n---\n{list}\n")).unwrap();

    let done = stage.warm(&[&deleted, "-f", "deploy.yaml", "-o", "json"]).await;
    assert_eq!(done.code, 1, "{done:?}");
    let found = done.states();
    let warm = ("Warm".to_owned(), String::new());
    let failed = |reason: &str| ("Failed".to_owned(), reason.to_owned());
    assert_eq!(found, [failed("ImageNotFound"), warm.clone(), warm.clone(), failed("NotProxied"), warm], "{done:?}");
    let read = done.json();
    let lines = read["images"].as_array().unwrap();
    assert_eq!(lines[1]["image"], stage.at_harbor("team/web:1"));
    assert_eq!(lines[1]["proxyProject"], stage.name);
    assert!(lines[1]["named"].as_str().unwrap().contains("Deployment web, deploy.yaml:"), "{}", lines[1]);
    assert_eq!(lines[1]["platforms"][0]["platform"], "linux/amd64");
    assert_eq!(
        (lines[1]["bytes"].as_u64(), lines[1]["fetchedBytes"].as_u64()),
        (lines[1]["fetchedBytes"].as_u64(), lines[1]["bytes"].as_u64())
    );
    assert_eq!(lines[1]["fetchedBlobs"], 3);
    let count = |name: &str| read["summary"][name].as_u64().unwrap();
    assert_eq!((count("images"), count("warm"), count("failed")), (5, 3, 2));

    let documentation = include_str!("../docs/commands.md");
    for field in lines.iter().chain([&read["summary"]]).flat_map(|line| line.as_object().unwrap().keys()) {
        let named = [format!("`{field}`"), format!(".{field}`")];
        assert!(named.iter().any(|name| documentation.contains(name)), "{field} is not documented");
    }

    let text = stage.warm(&[&deleted, "-f", "deploy.yaml"]).await;
    assert_eq!(text.code, 1, "{text:?}");
    for part in [
        "\nImageNotFound: ",
        "\nNotProxied: ",
        "3 of 5 images warm, ",
        ". 2 failed\n",
        "  ghcr.io/acme/app:1 (Pod other, deploy.yaml:",
    ] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rules_images_are_named_at_harbor_and_the_account_is_that_of_the_environment() {
    let stage = Stage::set().await;
    stage.upstream.push_image("team/app", "1", &multi("a"));
    let image = stage.at_harbor("team/app:1");
    let arguments = ["--harbor", stage.site.url.as_str(), "--all-platforms", image.as_str(), "-o", "json"];
    let anonymous = run(stage.command(&arguments)).await;
    assert_eq!(anonymous.code, 2, "{anonymous:?}");
    assert!(anonymous.err.contains("set HARBOR_USERNAME and HARBOR_PASSWORD"), "{}", anonymous.err);

    let with = |username: &str| {
        let mut command = stage.command(&arguments);
        command.env("HARBOR_USERNAME", username).env("HARBOR_PASSWORD", &stage.site.password);
        run(command)
    };
    let before = stage.upstream.log().len();
    // Harbor locks an account whose password is wrong, and other tests use it.
    let wrong = with("nobody").await;
    assert_eq!(
        (wrong.code, wrong.states()),
        (1, vec![("Failed".to_owned(), "HarborUnauthorized".to_owned())]),
        "{wrong:?}"
    );
    assert!(wrong.json()["images"][0]["advice"].as_str().unwrap().contains("HARBOR_PASSWORD"), "{wrong:?}");
    assert_eq!(stage.upstream.log().len(), before, "an account that is wrong is not tried with images");

    let right = with(&stage.site.username).await;
    assert_eq!(right.code, 0, "{right:?}");
    let platforms = right.json()["images"][0]["platforms"].as_array().unwrap().len();
    assert_eq!(platforms, 2);

    let mut stranger = stage.command(&["--harbor", stage.site.url.as_str(), "nginx:1"]);
    stranger.env("HARBOR_USERNAME", &stage.site.username).env("HARBOR_PASSWORD", &stage.site.password);
    let stranger = run(stranger).await;
    assert_eq!(stranger.code, 1, "{stranger:?}");
    assert!(stranger.out.contains("NotProxied: there are no rules"), "{}", stranger.out);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_required_is_waited_for_and_what_can_never_be_fails() {
    let stage = Stage::set().await;
    stage.upstream.push_image("team/app", "1", &multi("a"));
    let image = stage.image("team/app:1");
    let pulled = stage.warm(&[&image, "--no-verify", "-o", "json"]).await;
    assert_eq!((pulled.code, pulled.states()), (0, vec![("Pulled".to_owned(), String::new())]), "{pulled:?}");

    let by_tag = stage.warm(&[&image, "--require", "offline-by-tag", "-o", "json"]).await;
    assert_eq!(by_tag.code, 0, "{by_tag:?}");
    assert_eq!(by_tag.json()["images"][0]["offlineByTag"], json!({"status": "True", "reason": "Tagged"}));

    // Of an index with one child Harbor keeps another one than the upstream's.
    let by_digest = stage.warm(&[&image, "--require", "offline-by-digest"]).await;
    assert_eq!(by_digest.code, 1, "{by_digest:?}");
    assert!(by_digest.out.contains("IndexDigestChanged: "), "{}", by_digest.out);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_image_is_listed_by_harbors_api_when_the_exit_status_is_0() {
    let stage = Stage::set().await;
    let two = stage.upstream.push_image("team/two", "1", &multi("two").with_attestations());
    assert!(stage.upstream.move_tag("team/two", "stable", &two.digest));
    stage.upstream.push_image("team/single", "1", &Image::single("linux", "amd64"));
    let names = ["team/two:1", "team/two:stable", "team/single:1"];
    let images = names.map(|name| stage.image(name));
    let arguments =
        [&["--rules", "rules.yaml", "--all-platforms", "-o", "json"][..], &images.each_ref().map(String::as_str)];
    let done = run(stage.command(&arguments.concat())).await;
    assert_eq!(done.code, 0, "{done:?}");
    for name in names {
        let (repository, tag) = name.split_once(':').unwrap();
        assert!(stage.is_listed(repository, tag).await, "{name}");
    }

    // Known too late for a tag: what works is said, and nobody waits.
    assert!(stage.upstream.move_tag("team/two", "late", &two.digest));
    let late = run(stage.command(&["--rules", "rules.yaml", "--all-platforms", &stage.image("team/two:late")])).await;
    assert_eq!(late.code, 0, "{late:?}");
    assert!(late.out.contains("PullByDigest: ") && late.out.contains("team/two@sha256:"), "{}", late.out);
    let required = ["--rules", "rules.yaml", "--all-platforms", "--require", "offline-by-tag", "-o", "json"];
    let required = run(stage.command(&[&required[..], &[&stage.image("team/two:late")]].concat())).await;
    assert_eq!((required.code, required.states()), (1, vec![("Failed".to_owned(), "PullByDigest".to_owned())]));
    let advice = required.json()["images"][0]["advice"].as_str().unwrap().to_owned();
    assert!(advice.contains("a longer --timeout does not help"), "{advice}");
    stage.end().await;
}

/// A Harbor that begins well and then sends a byte now and then, for ever.
fn dripping(from: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let own = url.clone();
    let serve = move |mut stream: std::net::TcpStream| -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(Ok(first)) = lines.next() {
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let path = first.split(' ').nth(1).unwrap_or_default();
            if path.starts_with(from) {
                let begin = if from == "/" {
                    "HTTP/1.1 200 OK\r\nX-Drip: "
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"
                };
                stream.write_all(begin.as_bytes())?;
                loop {
                    stream.write_all(b" ")?;
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            let (status, head, body) = match path {
                "/v2/" => (
                    "401 Unauthorized",
                    format!("WWW-Authenticate: Bearer realm=\"{own}/service/token\",service=\"x\"\r\n"),
                    "",
                ),
                path if path.starts_with("/service/token") => {
                    ("200 OK", String::new(), r#"{"token":"t","expires_in":1800}"#)
                }
                path if path.starts_with("/api/v2.0/systeminfo") => {
                    ("200 OK", String::new(), r#"{"harbor_version":"v2.15.2"}"#)
                }
                _ => ("200 OK", String::new(), "[]"),
            };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{head}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream).ok());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_and_no_input_holds_a_run_beyond_its_timeout() {
    let run_against = async |from: &'static str| {
        let url = dripping(from);
        let image = format!("{}/p/app:1", url.trim_start_matches("http://"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
        command.env("HARBOR_USERNAME", "admin").env("HARBOR_PASSWORD", "x").env("KUBECONFIG", "/nonexistent");
        command.args(["warm", "--harbor", &url, "--platform", "linux/amd64", "--timeout", "3s", &image]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let ran = run(command).await;
        (from, ran, begun.elapsed())
    };
    // Headers, then the bodies of each kind of answer.
    let places = ["/", "/api/v2.0/systeminfo", "/service/token", "/v2/p/app/manifests"];
    for (from, ran, took) in futures::future::join_all(places.map(run_against)).await {
        assert_eq!(ran.code, 1, "{from}: {ran:?}");
        assert!(took < Duration::from_secs(15), "{from}: {took:?}");
        assert!(format!("{}{}", ran.out, ran.err).contains("time"), "{from}: {ran:?}");
    }

    let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
    command.args(["warm", "--harbor", "http://127.0.0.1:9", "--timeout", "2s", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let held = child.stdin.take();
    let begun = Instant::now();
    let ran = tokio::task::spawn_blocking(move || Ran::of(child.wait_with_output().unwrap())).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(ran.code == 1 && ran.err.contains("timed out"), "{ran:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_or_out_of_time_says_what_was_done_and_the_next_one_goes_on() {
    let stage = Stage::set().await;
    stage.upstream.push_image("team/small", "1", &multi("small"));
    stage.upstream.push_image("team/large", "1", &Image::single("linux", "amd64").layers([10_000_000]));
    let small = stage.image("team/small:1");
    assert_eq!(stage.warm(&[&small]).await.code, 0);
    stage.upstream.throttle(Some(1 << 20));
    let large = stage.image("team/large:1");
    let arguments = ["--rules", "rules.yaml", "--platform", "linux/amd64", &small, &large, "-o", "json"];

    stage.upstream.clear_log();
    let mut child = stage.command(&arguments).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.any(|line| line.contains("team/small:1: warm after"))
    });
    assert!(tokio::time::timeout(Duration::from_secs(60), said).await.unwrap().unwrap());
    let begun = Instant::now();
    while stage.gets() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no pull began");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stopped = tokio::task::spawn_blocking(move || interrupted(child)).await.unwrap();
    assert_eq!((stopped.code, stopped.states()[0].0.as_str()), (1, "Warm"), "{stopped:?}");
    assert_eq!(stopped.states()[1].0, "Interrupted", "{stopped:?}");
    assert!(stopped.json()["images"][1]["advice"].as_str().unwrap().contains("run the command again"), "{stopped:?}");

    let late = run(stage.command(&[&arguments[..], &["--timeout", "2s"]].concat())).await;
    assert_eq!((late.code, late.states()[1].0.as_str()), (1, "TimedOut"), "{late:?}");

    stage.upstream.throttle(None);
    let done = run(stage.command(&arguments)).await;
    assert_eq!(done.code, 0, "{done:?}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warm_respects_the_concurrency_limit_of_an_upstream() {
    // Slow enough not to fetch the layers by itself meanwhile.
    let stage = Stage::at(Site::with(Harbor::builder().speed(10.0)).await).await;
    let rules = stage.directory.path().join("rules.yaml");
    let unbound = fs::read_to_string(&rules).unwrap();
    let url = format!("\"url\":\"{}\"", stage.upstream.url());
    let bound = unbound.replace(&url, &format!("{url},\"maxConcurrentPulls\":1"));
    assert_ne!(bound, unbound);
    fs::write(&rules, bound).unwrap();
    let layers = ["one", "two", "three"].map(|name| {
        let image = Image::single("linux", "amd64").layers([100_000]).seed(name);
        stage.upstream.push_image(&format!("team/{name}"), "1", &image).children[0].layers[0].digest.clone()
    });
    let asked = || {
        let log = stage.upstream.log();
        let gets = || log.iter().filter(|request| request.method == "GET");
        let is_asked = |layer: &&String| gets().any(|request| request.path.ends_with(layer.as_str()));
        layers.iter().filter(is_asked).count()
    };
    stage.upstream.throttle(Some(20_000));
    let images = ["one", "two", "three"].map(|name| stage.image(&format!("team/{name}:1")));
    let arguments = [&["--rules", "rules.yaml", "--no-verify"][..], &images.each_ref().map(String::as_str)].concat();
    let child = stage.command(&arguments).spawn().unwrap();
    let begun = Instant::now();
    while asked() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no pull began");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The others would be asked for together with the first, which takes 5 s.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked(), 1);
    stage.upstream.throttle(None);
    tokio::task::spawn_blocking(move || interrupted(child)).await.unwrap();
    stage.end().await;
}

/// As Ctrl-C does it.
fn interrupted(child: Child) -> Ran {
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    Ran::of(child.wait_with_output().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_line_that_says_nothing_to_do_is_wrong() {
    let stage = Stage::set().await;
    fs::write(stage.directory.path().join("none.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")
        .unwrap();
    for (arguments, about) in [
        (&[][..], "required"),
        (&["--rules", "rules.yaml", "-f", "none.yaml"], "no image"),
        (&["nginx"], "KUBECONFIG"),
        (&["nginx", "--harbor", "harbor.example.com"], "http://"),
        (&["nginx", "--rules", "rules.yaml", "--platform", "amd64"], "os/architecture"),
    ] {
        let done = run(stage.command(arguments)).await;
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{arguments:?}: {done:?}");
        assert!(done.err.contains(about), "{arguments:?}: {}", done.err);
    }
    stage.end().await;
}
