//! The directories of `examples/scenarios` do what their READMEs promise: each is applied as it is, but for the address of Harbor,
//! and then somebody pulls, pushes, or waits for the night.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/ran.rs"]
mod ran;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use harbor_double::{Harbor, HarborBuilder, Image, Upstream};
use ran::Ran;
use serde_json::{Value, json};

/// The account of the examples.
const ACCOUNT: (&str, &str) = ("robot$harbor-pilot", "change-me");
/// What their account at another Harbor may do there, as the READMEs say.
const PEER_SYSTEM: [(&str, &str); 2] = [("project", "list"), ("project", "create")];
const PEER_PROJECTS: [(&str, &str); 2] = [("repository", "pull"), ("repository", "push")];
const PEER_DELETIONS: [(&str, &str); 2] = [("repository", "delete"), ("tag", "delete")];
const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
const PLATFORMS: [(&str, &str, Option<&str>); 2] = [("linux", "amd64", None), ("linux", "arm64", Some("v8"))];

fn directory(scenario: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios").join(scenario)
}

fn harbor() -> HarborBuilder {
    Harbor::builder().speed(100.0).admin(ACCOUNT.0, ACCOUNT.1)
}

fn image() -> Image {
    Image::multi_arch(PLATFORMS).layers([2000, 100])
}

/// The command runs beside the double, which lives on this runtime.
async fn run(arguments: &[&str], input: String) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
    for variable in ["HARBOR_USERNAME", "HARBOR_PASSWORD"] {
        command.env_remove(variable);
    }
    command.args(arguments).env("HARBOR_PILOT_INSTALLATION", "scenario");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = ran.await.unwrap();
    Ran::of(output)
}

/// Makes the account `robot$replication` of the examples at the Harbor that is pushed to; answers its password.
async fn peer_account(harbor: &Harbor, rights: &[(&str, &str)]) -> String {
    let access = |rights: &[(&str, &str)]| -> Vec<Value> {
        rights.iter().map(|(resource, action)| json!({"resource": resource, "action": action})).collect()
    };
    let body = json!({
        "name": "replication", "level": "system", "duration": -1, "permissions": [
            {"kind": "system", "namespace": "/", "access": access(&PEER_SYSTEM)},
            {"kind": "project", "namespace": "*", "access": access(rights)},
        ],
    });
    let (status, robot) = harbor.manual_request("POST", "/robots", Some(body)).await;
    assert_eq!(status, 201, "{robot}");
    robot["secret"].as_str().unwrap().to_owned()
}

/// Applies a scenario to this Harbor; after that nothing is left to do.
async fn apply(scenario: &str, harbor: &Harbor) {
    apply_with(scenario, harbor, "change-me").await;
}

/// The same with the password of the account at the other end.
async fn apply_with(scenario: &str, harbor: &Harbor, password: &str) {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory(scenario)).unwrap() {
        let path = entry.unwrap().path();
        let mut text = fs::read_to_string(&path).unwrap();
        if path.ends_with("10-harbor.yaml") {
            let url = text.lines().find_map(|line| line.trim().strip_prefix("url: ")).unwrap().to_owned();
            text = text.replace(&url, &harbor.url());
        } else {
            text = text.replace("password: change-me", &format!("password: {password}"));
        }
        fs::write(copy.path().join(path.file_name().unwrap()), text).unwrap();
    }
    let path = copy.path().display().to_string();
    let applied = run(&["plan", "-f", &path, "--apply"], String::new()).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    let again = run(&["plan", "-f", &path], String::new()).await;
    assert_eq!(again.code, 0, "{again:?}");
}

/// What becomes of a Pod with this image in the company of the example: the image, and the names of its pull secrets.
async fn admitted(scenario: &str, image: &str) -> (String, Vec<String>) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "main", "image": image}]},
    });
    let rules = directory(scenario).display().to_string();
    let ran = run(&["rewrite", "-f", "-", "--rules", &rules, "--pull-secrets"], pod.to_string()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let pod: Value = serde_json::from_str(&ran.out).unwrap();
    let secrets = pod["spec"]["imagePullSecrets"].as_array().cloned().unwrap_or_default();
    let secrets = secrets.iter().map(|secret| secret["name"].as_str().unwrap().to_owned());
    (pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned(), secrets.collect())
}

/// GET below `/v2`, with an account or without.
async fn get(harbor: &Harbor, path: &str, account: Option<(&str, &str)>) -> (u16, bytes::Bytes) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
    let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
    let mut request = client.get(format!("{}/v2/{path}", harbor.url())).header("accept", accept);
    if let Some((user, password)) = account {
        request = request.basic_auth(user, Some(password));
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap())
}

/// Pulls the image `from:tag` of the upstream as `to:tag` of Harbor: all manifests and blobs, byte for byte.
async fn pull(harbor: &Harbor, upstream: &Upstream, from: &str, to: &str, tag: &str) {
    let pulled = async |path: String, wanted: bytes::Bytes| {
        assert_eq!(get(harbor, &path, Some(ACCOUNT)).await, (200, wanted), "{path}");
    };
    let index = upstream.manifest(from, tag).unwrap();
    let listed: Value = serde_json::from_slice(&index).unwrap();
    pulled(format!("{to}/manifests/{tag}"), index).await;
    for child in listed["manifests"].as_array().unwrap() {
        let digest = child["digest"].as_str().unwrap();
        let child = upstream.manifest(from, digest).unwrap();
        let parts: Value = serde_json::from_slice(&child).unwrap();
        pulled(format!("{to}/manifests/{digest}"), child).await;
        let layers = parts["layers"].as_array().unwrap().iter();
        for digest in layers.chain([&parts["config"]]).map(|blob| blob["digest"].as_str().unwrap()) {
            pulled(format!("{to}/blobs/{digest}"), upstream.blob(from, digest).unwrap()).await;
        }
    }
}

/// A hosted project, as an administrator makes it.
async fn host(harbor: &Harbor, project: &str) {
    let body = json!({"project_name": project, "metadata": {"public": "false"}});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(body)).await.0, 201);
}

/// Waits until so many executions of the policy have ended well, and answers how many there are after that.
async fn succeeded(harbor: &Harbor, policy: &str, wanted: usize) -> usize {
    let path = format!("/replication/policies?name={policy}");
    let id = harbor.manual_request("GET", &path, None).await.1[0]["id"].as_i64().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let path = format!("/replication/executions?policy_id={id}&page_size=100");
        let executions = harbor.manual_request("GET", &path, None).await.1.as_array().cloned().unwrap_or_default();
        let well = executions.iter().filter(|execution| execution["status"] == "Succeed").count();
        if well >= wanted && well == executions.len() {
            return well;
        }
        assert!(Instant::now() < end, "{policy}: {executions:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tags of a repository (`project/name`), sorted.
fn tags(harbor: &Harbor, repository: &str) -> Vec<String> {
    let mut tags: Vec<_> = harbor.artifacts(repository).into_values().flatten().collect();
    tags.sort();
    tags
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_hub_is_pulled_through_harbor() {
    let hub = Upstream::builder().start().await;
    hub.push_image("library/nginx", "1.27", &image());
    let harbor = harbor().route("registry-1.docker.io", hub.url()).start().await;
    apply("proxy-docker-hub", &harbor).await;
    pull(&harbor, &hub, "library/nginx", "dockerhub/library/nginx", "1.27").await;
    for (image, became) in [
        ("nginx:1.27", "harbor.example.com/dockerhub/library/nginx:1.27"),
        ("docker.io/grafana/grafana:12.0.0", "harbor.example.com/dockerhub/grafana/grafana:12.0.0"),
        ("quay.io/prometheus/prometheus", "quay.io/prometheus/prometheus"),
    ] {
        assert_eq!(admitted("proxy-docker-hub", image).await, (became.to_owned(), vec![]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_ecr_is_pulled_through_harbor() {
    let ecr = Upstream::builder().start().await;
    ecr.push_image("docker/library/busybox", "1.37", &image());
    let harbor = harbor().route("public.ecr.aws", ecr.url()).start().await;
    apply("proxy-public-ecr", &harbor).await;
    pull(&harbor, &ecr, "docker/library/busybox", "public-ecr/docker/library/busybox", "1.37").await;
    let (became, _) = admitted("proxy-public-ecr", "public.ecr.aws/docker/library/busybox:1.37").await;
    assert_eq!(became, "harbor.example.com/public-ecr/docker/library/busybox:1.37");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_ecr_is_pulled_through_harbor_with_keys_by_those_who_have_an_account_there() {
    let ecr = Upstream::builder().amazon("AKIAEXAMPLE", "change-me").start().await;
    ecr.push_image("team/app", "v1", &image());
    let harbor = harbor().route(ECR, ecr.url()).start().await;
    apply("proxy-private-ecr", &harbor).await;
    pull(&harbor, &ecr, "team/app", "ecr/team/app", "v1").await;
    assert_eq!(get(&harbor, "ecr/team/app/manifests/v1", None).await.0, 401);
    let (became, secrets) = admitted("proxy-private-ecr", &format!("{ECR}/team/app:v1")).await;
    assert_eq!((became.as_str(), secrets), ("harbor.example.com/ecr/team/app:v1", vec!["harbor".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_ecr_rejects_are_named_and_no_pod_is_sent_to_a_project_that_cannot_serve_it() {
    let ecr = Upstream::builder().amazon("AKIAEXAMPLE", "another").start().await;
    let harbor = harbor().route(ECR, ecr.url()).start().await;
    let rules = directory("proxy-private-ecr").join("20-registry.yaml");
    let rules = [rules, directory("proxy-private-ecr").join("30-project.yaml")].map(|file| file.display().to_string());
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: harbor}\n";
    let account = json!({"username": ACCOUNT.0, "password": ACCOUNT.1});
    let instance = format!(
        "{secret}stringData: {account}\n---\napiVersion: harbor-pilot.dev/v1alpha1\nkind: HarborInstance\n\
         metadata: {{name: default}}\nspec: {{url: '{}', credentialsSecretRef: {{name: harbor}}}}\n",
        harbor.url()
    );
    let ran = run(&["plan", "-f", "-", "-f", &rules[0], "-f", &rules[1], "--apply"], instance).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.out.contains("UpstreamUnhealthy") || ran.out.contains("CredentialsRejected"), "{ran:?}");
    assert_eq!(harbor.manual_request("GET", "/projects/ecr", None).await.0, 404, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_in_harbor_after_the_night() {
    let quay = Upstream::builder().start().await;
    let mut pushed = Vec::new();
    for repository in ["prometheus/prometheus", "prometheus/alertmanager", "prometheus/node-exporter"] {
        for tag in ["v2.55.0", "v3.1.0"] {
            pushed.push(quay.push_image(repository, tag, &image().seed(tag)));
        }
    }
    let harbor = harbor().route("quay.io", quay.url()).start().await;
    apply("replicate-nightly", &harbor).await;
    let (_, policies) = harbor.manual_request("GET", "/replication/policies?name=monitoring", None).await;
    assert_eq!(policies[0]["trigger"]["trigger_settings"]["cron"], "0 30 2 * * *", "{policies}");
    assert_eq!(tags(&harbor, "mirror/quay/prometheus/prometheus"), Vec::<String>::new());

    assert_eq!(harbor.run_schedules(), 1);
    assert_eq!(succeeded(&harbor, "monitoring", 1).await, 1);
    for name in ["prometheus", "alertmanager"] {
        assert_eq!(tags(&harbor, &format!("mirror/quay/prometheus/{name}")), ["v3.1.0"], "{name}");
    }
    assert!(harbor.artifacts("mirror/quay/prometheus/node-exporter").is_empty());
    // And can be pulled when the upstream is gone.
    quay.set_down(true).await;
    let path = "mirror/quay/prometheus/prometheus/manifests/v3.1.0";
    let wanted = quay.manifest("prometheus/prometheus", "v3.1.0").unwrap();
    assert_eq!(get(&harbor, path, Some(ACCOUNT)).await, (200, wanted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_arrives_at_the_other_harbor_and_nothing_else_does() {
    let dr = harbor().start().await;
    let harbor = harbor().route("dr.example.com", dr.url()).start().await;
    host(&harbor, "production").await;
    host(&harbor, "dev").await;
    apply_with("replicate-to-dr", &harbor, &peer_account(&dr, &PEER_PROJECTS).await).await;

    harbor.push_image("dev/app", "v1", &image().seed("dev"));
    harbor.push_image("production/app", "latest", &image().seed("latest"));
    let release = harbor.push_image("production/app", "v1", &image());
    harbor.push_image("production/team/tool", "v2.0", &image().seed("tool"));
    succeeded(&harbor, "releases-to-dr", 2).await;
    assert_eq!(tags(&dr, "production/app"), ["v1"]);
    assert_eq!(tags(&dr, "production/team/tool"), ["v2.0"]);
    assert_eq!(dr.artifacts("production/app")[&release.digest], ["v1"]);
    assert!(dr.artifacts("dev/app").is_empty());
    // What is deleted here stays there.
    let artifact = "/projects/production/repositories/app/artifacts/v1";
    assert_eq!(harbor.manual_request("DELETE", artifact, None).await.0, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tags(&dr, "production/app"), ["v1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_arrives_in_a_private_ecr_in_a_repository_that_was_not_there() {
    let ecr = Upstream::builder().amazon("AKIAEXAMPLE", "change-me").start().await;
    let harbor = harbor().route(ECR, ecr.url()).start().await;
    host(&harbor, "production").await;
    apply("push-to-private-ecr", &harbor).await;

    harbor.push_image("production/app", "latest", &image().seed("latest"));
    let release = harbor.push_image("production/app", "v1", &image());
    succeeded(&harbor, "releases-to-ecr", 1).await;
    let arrived = ecr.tags("harbor/app");
    assert_eq!(arrived.into_iter().collect::<Vec<_>>(), [("v1".to_owned(), release.digest)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_at_one_site_is_at_both_and_comes_to_rest() {
    // Each has to know the other one's address before it starts.
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [port_a, port_b] = ports.map(|listener| listener.local_addr().unwrap().port());
    let at = |port: u16| format!("http://127.0.0.1:{port}");
    let site_a = harbor().port(port_a).route("harbor.site-b.example.com", at(port_b)).start().await;
    let site_b = harbor().port(port_b).route("harbor.site-a.example.com", at(port_a)).start().await;
    let sites = [(&site_a, "site-a", "a-to-b"), (&site_b, "site-b", "b-to-a")];
    let rights = [PEER_PROJECTS, PEER_DELETIONS].concat();
    for ((harbor, project, _), other) in sites.into_iter().zip([&site_b, &site_a]) {
        host(harbor, project).await;
        apply_with(&format!("both-ways/{project}"), harbor, &peer_account(other, &rights).await).await;
    }
    for ((harbor, project, policy), other) in sites.into_iter().zip([&site_b, &site_a]) {
        let repository = format!("{project}/app");
        harbor.push_image(&repository, "v1", &Image::single("linux", "amd64").seed(project));
        succeeded(harbor, policy, 1).await;
        assert_eq!(tags(other, &repository), ["v1"]);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (harbor, _, policy) in sites {
        assert_eq!(succeeded(harbor, policy, 1).await, 1, "{policy}: what arrives is not sent on");
    }
    let artifact = "/projects/site-a/repositories/app/artifacts/v1";
    assert_eq!(site_a.manual_request("DELETE", artifact, None).await.0, 200);
    succeeded(&site_a, "a-to-b", 2).await;
    assert_eq!(tags(&site_b, "site-a/app"), Vec::<String>::new());
    assert_eq!(tags(&site_b, "site-b/app"), ["v1"]);
}

/// The directories and their READMEs.
fn all() -> Vec<(String, String)> {
    let entries = fs::read_dir(directory("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<_> = entries
        .map(|name| {
            let readme = fs::read_to_string(directory(&name).join("README.md")).unwrap();
            (name, readme)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn each_scenario_is_explained_is_in_the_overview_and_its_links_lead_somewhere() {
    let overview = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for (name, readme) in all() {
        let title = readme.lines().next().unwrap().strip_prefix("# ").unwrap();
        let link = format!("[{title}](examples/scenarios/{name})");
        assert!(overview.contains(&link), "README.md lacks {link}");
        assert!(readme.contains("Harbor then has**") && readme.contains("**You see**"), "{name}");
        for link in readme.split("](").skip(1) {
            let path = link.split([')', '#']).next().unwrap();
            assert!(directory(&name).join(path).exists(), "{name}: {path}");
        }
    }
}
