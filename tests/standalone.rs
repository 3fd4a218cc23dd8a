//! The whole product from manifests in a directory, without a cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use harbor_double::{Harbor, Image, Upstream};
use harbor_pilot::{
    api::{CachedImage, ConditionType, ProxyProject, condition},
    engine::run::EngineOptions,
    prewarm::{PrewarmTiming, puller::DEFAULT_BYTES},
    standalone::{Standalone, StandaloneOptions, StartError},
    tls::{
        certificate::Certificate,
        issue::{Authority, Validity},
    },
    webhook::ServeOptions,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The double does in a fortieth of the time what Harbor does in the background.
const SPEED: f64 = 40.0;
const PATIENCE: Duration = Duration::from_secs(30);

struct Site {
    harbor: Harbor,
    upstream: Upstream,
    directory: TempDir,
    authority: Authority,
}

impl Site {
    async fn new() -> Self {
        harbor_pilot::tls::install_crypto_provider();
        let upstream = Upstream::builder().start().await;
        let platforms = [("linux", "amd64", None), ("linux", "arm64", None)];
        upstream.push_image("team/app", "1", &Image::multi_arch(platforms).layers([4096, 1024]));
        let harbor = Harbor::builder().speed(SPEED).start().await;
        let directory = tempfile::tempdir().unwrap();
        let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(1));
        let site = Self { harbor, upstream, directory, authority: Authority::new("test", validity).unwrap() };
        site.write(
            "harbor.yaml",
            &format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: harbor}}\nstringData: {{username: admin, password: Harbor12345}}\n\
                 ---\napiVersion: harbor-pilot.dev/v1alpha1\nkind: HarborInstance\nmetadata: {{name: default}}\n\
                 spec: {{url: '{}', credentialsSecretRef: {{name: harbor}}}}\n",
                site.harbor.url()
            ),
        );
        site.write("proxy.yaml", &site.proxy("{}"));
        site
    }

    /// A Registry on the upstream and a ProxyProject with further fields.
    fn proxy(&self, rewrite: &str) -> String {
        format!(
            "apiVersion: harbor-pilot.dev/v1alpha1\nkind: Registry\nmetadata: {{name: up}}\n\
             spec: {{type: docker-registry, url: '{}', deletionPolicy: Delete}}\n---\n\
             apiVersion: harbor-pilot.dev/v1alpha1\nkind: ProxyProject\nmetadata: {{name: up}}\n\
             spec: {{registryRef: {{name: up}}, public: true, deletionPolicy: Delete, rewrite: {rewrite}}}\n",
            self.upstream.url()
        )
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).unwrap();
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn start(&self, shutdown: &CancellationToken) -> Result<Standalone, StartError> {
        let validity = Validity::starting(Timestamp::now(), SignedDuration::from_hours(1));
        let leaf = self.authority.issue(&["localhost".to_owned()], validity).unwrap();
        let certificate = Certificate::from_pem(leaf.certificate_pem.as_bytes(), leaf.key_pem.as_bytes()).unwrap();
        let settings = StandaloneOptions {
            directory: self.path().to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: Arc::new(certificate),
            platforms: vec!["linux/amd64".parse().unwrap()],
            installation: "test".to_owned(),
            reload: Duration::from_millis(50),
            engine: EngineOptions {
                concurrency: 8,
                warm_concurrency: 4,
                timing: PrewarmTiming::paced(Duration::from_secs_f64(20.0 / SPEED)),
                max_inflight_bytes: DEFAULT_BYTES,
                caps: harbor_pilot::prewarm::quota::Caps::default(),
                progress: None,
            },
            serve: ServeOptions { shutdown_delay: Duration::ZERO, ..ServeOptions::default() },
        };
        Standalone::start(settings, shutdown.clone()).await
    }

    /// The image that a Pod gets.
    async fn admit(&self, pilot: &Standalone, image: &str, dry_run: bool) -> String {
        let authority = self.authority.issued().certificate_pem.as_bytes();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(authority).unwrap()])
            .build()
            .unwrap();
        let mut pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": image}]}});
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "operation": "CREATE", "namespace": "shop", "dryRun": dry_run, "object": pod,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
            },
        });
        let url = format!("https://localhost:{}/mutate", pilot.address.port());
        let reply: Value = client.post(url).json(&review).send().await.unwrap().json().await.unwrap();
        assert_eq!(reply["response"]["allowed"], true);
        if let Some(patch) = reply["response"]["patch"].as_str() {
            let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
            json_patch::patch(&mut pod, &patch).unwrap();
        }
        pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    }
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn rule(pilot: &Standalone) -> Option<Vec<String>> {
    Some(pilot.resources.get::<ProxyProject>("up")?.active_rule()?.matches.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_alone_rewrite_pods_and_warm_what_they_need() {
    let (site, shutdown) = (Site::new().await, CancellationToken::new());
    let pilot = site.start(&shutdown).await.unwrap();
    eventually("the rule serves", || rule(&pilot).is_some()).await;

    let image = format!("{}/team/app:1", site.upstream.host());
    let expected = format!("{}/up/team/app:1", site.harbor.host());
    assert_eq!(site.admit(&pilot, &image, true).await, expected);
    assert_eq!(site.admit(&pilot, "ghcr.io/acme/tools:2", false).await, "ghcr.io/acme/tools:2");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(pilot.resources.all::<CachedImage>().is_empty(), "a dry run and a stranger's image warm nothing");

    assert_eq!(site.admit(&pilot, &image, false).await, expected);
    eventually("the image is warm", || {
        let images = pilot.resources.all::<CachedImage>();
        let status = images.first().and_then(|image| image.status.clone()).unwrap_or_default();
        condition::is_true(&status.conditions, ConditionType::Ready) && status.platforms.iter().all(|it| it.stored)
    })
    .await;
    shutdown.cancel();
    pilot.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_taken_and_a_wrong_one_changes_nothing() {
    let (site, shutdown) = (Site::new().await, CancellationToken::new());
    let pilot = site.start(&shutdown).await.unwrap();
    eventually("the rule serves", || rule(&pilot) == Some(vec![site.upstream.host()])).await;

    site.write("proxy.yaml", &site.proxy("{matches: [registry.example.com]}").replace("public:", "pubic:"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rule(&pilot), Some(vec![site.upstream.host()]), "a typing error must not take a rule away");

    site.write("proxy.yaml", &site.proxy("{matches: [registry.example.com]}"));
    eventually("the new match serves", || rule(&pilot) == Some(vec!["registry.example.com".to_owned()])).await;
    let expected = format!("{}/up/app", site.harbor.host());
    eventually("the new rule rewrites", || {
        let image = harbor_pilot::image::ImageRef::parse("registry.example.com/app").unwrap();
        matches!(pilot.active.rules.load().find_for_anyone(&image), harbor_pilot::rewrite::RuleDecision::Rewritten { image, .. } if image.to_string() == expected)
    })
    .await;
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_whose_file_goes_is_deleted_in_harbor_where_its_policy_says_so() {
    let (site, shutdown) = (Site::new().await, CancellationToken::new());
    let pilot = site.start(&shutdown).await.unwrap();
    eventually("the rule serves", || rule(&pilot).is_some()).await;
    assert_eq!(site.harbor.manual_request("GET", "/projects/up", None).await.0, 200);

    std::fs::remove_file(site.path().join("proxy.yaml")).unwrap();
    // The registry can go only after the project that uses it.
    eventually("both are gone", || {
        pilot.resources.all::<ProxyProject>().is_empty()
            && pilot.resources.all::<harbor_pilot::api::Registry>().is_empty()
    })
    .await;
    assert_eq!(site.harbor.manual_request("GET", "/projects/up", None).await.0, 404);
    assert_eq!(site.harbor.manual_request("GET", "/registries?name=up", None).await.1, json!([]));
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_goes_with_its_file_and_what_is_retained_stays_in_harbor() {
    let (site, shutdown) = (Site::new().await, CancellationToken::new());
    site.write("proxy.yaml", &site.proxy("{}").replace("deletionPolicy: Delete", "deletionPolicy: Retain"));
    let pilot = site.start(&shutdown).await.unwrap();
    eventually("the rule serves", || !pilot.active.rules.load().is_empty()).await;

    std::fs::remove_file(site.path().join("proxy.yaml")).unwrap();
    eventually("the rule is gone", || pilot.active.rules.load().is_empty()).await;
    assert_eq!(site.harbor.manual_request("GET", "/projects/up", None).await.0, 200);
    shutdown.cancel();
}

/// The reconciles of a kind, whatever their outcome.
fn reconciles(pilot: &Standalone, kind: &str) -> u64 {
    let text = pilot.metrics.encode().unwrap();
    let name = format!("harbor_pilot_reconciles_total{{kind=\"{kind}\"");
    let counts = text.lines().filter(|line| line.starts_with(&name));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reconciles_what_it_concerns_and_nothing_else_and_each_reconcile_is_counted() {
    let (site, shutdown) = (Site::new().await, CancellationToken::new());
    let other = |interval: &str| {
        format!(
            "apiVersion: harbor-pilot.dev/v1alpha1\nkind: Registry\nmetadata: {{name: other}}\n\
             spec: {{type: docker-registry, url: '{}', interval: {interval}}}\n",
            site.upstream.url()
        )
    };
    site.write("other.yaml", &other("10m"));
    let image = format!("{}/team/app:1", site.upstream.host());
    site.write(
        "image.yaml",
        &format!(
            "apiVersion: harbor-pilot.dev/v1alpha1\nkind: CachedImage\nmetadata: {{name: app}}\nspec: {{image: '{image}'}}\n"
        ),
    );
    let pilot = site.start(&shutdown).await.unwrap();
    let is_offline = || {
        let status =
            pilot.resources.get::<CachedImage>("app").and_then(|image| image.status.clone()).unwrap_or_default();
        condition::is_true(&status.conditions, ConditionType::OfflineByTag)
    };
    eventually("the image is warm", is_offline).await;
    let kinds = ["HarborInstance", "Registry", "ProxyProject", "ReplicationRule", "CachedImage"];
    let counts = || kinds.map(|kind| reconciles(&pilot, kind));
    assert!(counts().iter().zip(kinds).all(|(count, kind)| *count > 0 || kind == "ReplicationRule"), "{:?}", counts());

    // Until nothing follows any more from the start.
    let mut before = counts();
    loop {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if before == counts() {
            break;
        }
        before = counts();
    }
    site.write("other.yaml", &other("20m"));
    eventually("the changed Registry is reconciled", || counts()[1] > before[1]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = counts();
    let more: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert!(more[1] > 0 && more.iter().sum::<u64>() == more[1], "{kinds:?} {more:?}");
    shutdown.cancel();
}

#[tokio::test]
async fn a_wrong_manifest_at_the_start_is_refused_with_its_place() {
    let site = Site::new().await;
    site.write(
        "wrong.yaml",
        "apiVersion: harbor-pilot.dev/v1alpha1\nkind: Registry\nmetadata: {name: x}\nspec: {type: nonsense}\n",
    );
    let Err(error) = site.start(&CancellationToken::new()).await else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("wrong.yaml, document 1") && text.contains("nonsense"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_command_issues_its_certificate_serves_status_and_ends_on_sigterm() {
    let site = Site::new().await;
    let (tls, manifests) = (site.path().join("tls"), site.path().join("manifests"));
    std::fs::create_dir(&manifests).unwrap();
    for file in ["harbor.yaml", "proxy.yaml"] {
        std::fs::rename(site.path().join(file), manifests.join(file)).unwrap();
    }
    let held = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [address, ops] = held.map(|listener| listener.local_addr().unwrap().to_string());
    let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_harbor-pilot"))
        .args([
            "standalone",
            "--webhook-bind-address",
            &address,
            "--metrics-bind-address",
            &ops,
            "--shutdown-delay",
            "1s",
            "--manifests-dir",
        ])
        .arg(&manifests)
        .arg("--tls-dir")
        .arg(&tls)
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let metrics = async || reqwest::get(format!("http://{ops}/metrics")).await.ok()?.text().await.ok();
    let end = tokio::time::Instant::now() + PATIENCE;
    while !metrics().await.is_some_and(|text| text.contains("harbor_pilot_active_rules 1")) {
        assert!(tokio::time::Instant::now() < end, "{:?}", metrics().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = metrics().await.unwrap();
    let end = text.lines().find_map(|line| line.strip_prefix("harbor_pilot_certificate_not_after_timestamp_seconds "));
    assert!(end.unwrap().parse::<f64>().unwrap() > Timestamp::now().as_second() as f64, "{text}");
    let authority = reqwest::Certificate::from_pem(&std::fs::read(tls.join("ca.crt")).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
    assert!(client.get(format!("https://{address}/readyz")).send().await.unwrap().status().is_success());

    let id = rustix::process::Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    // Ten times as long is the default, of both ports.
    let status = tokio::time::timeout(Duration::from_secs(8), process.wait()).await.expect("it lingers").unwrap();
    assert!(status.success(), "{status}");
}
