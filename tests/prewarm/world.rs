//! A Harbor with a proxy project on an upstream of ours: the double, or a real one that `HARBOR_URL` names.
//!
//! A real Harbor must reach this machine's loopback address, and is used with its own times: minutes instead of seconds.
//! `HARBOR_USERNAME` and `HARBOR_PASSWORD` default to those of the double. What a test makes there, [`World::end`] removes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use harbor_double::{Harbor, Image, Pushed, Request, Severity, Upstream};
use harbor_pilot::{
    api::{
        CachedImage, CachedImageSpec, CachedImageStatus, ConditionType, Platform, cached_image::Require, condition,
        proxy_project::PullStrategy,
    },
    harbor,
    image::ImageRef,
    prewarm::{
        Environment, PrewarmContext, PrewarmTiming, Puller, RateLimiter, Resolved, ScanTerms, Target, Unresolved,
        puller::{ProjectConcurrency, PullLimits},
        rate_limiter::RateLimitState,
        reconcile,
    },
    reconcile::ReconcileResult,
    registry,
    transport::{Credentials, Endpoint},
};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::scanner::Scanner;

/// How much faster than Harbor the double is.
const SPEED: f64 = 200.0;

pub(crate) struct World {
    pub(crate) upstream: Upstream,
    /// The double; `None` with a real Harbor.
    pub(crate) double: Option<Harbor>,
    pub(crate) project: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: harbor::Client,
    registry_id: i64,
    /// A scanner that a real Harbor was given, and its id there.
    scanner: Option<(Scanner, String)>,
    http: reqwest::Client,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::build(SPEED, json!({"public": "false"}), false).await
    }

    /// With a double that answers cold blobs as Harbor does after 2.15.
    pub(crate) async fn announcing_blobs() -> Self {
        Self::of(Harbor::builder().speed(SPEED).announces_blobs(), json!({"public": "false"}), false).await
    }

    /// With a double that is so many times faster than Harbor.
    pub(crate) async fn start_at(speed: f64) -> Self {
        Self::build(speed, json!({"public": "false"}), false).await
    }

    /// A project with this metadata, in a Harbor that has a scanner or none.
    pub(crate) async fn with(metadata: Value, scanner: bool) -> Self {
        Self::build(SPEED, metadata, scanner).await
    }

    async fn build(speed: f64, metadata: Value, scanner: bool) -> Self {
        Self::of(Harbor::builder().speed(speed), metadata, scanner).await
    }

    async fn of(builder: harbor_double::HarborBuilder, metadata: Value, scanner: bool) -> Self {
        let upstream = Upstream::builder().start().await;
        let from_env = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let (double, url) = match std::env::var("HARBOR_URL") {
            Ok(url) => (None, url),
            Err(_) => {
                let double = if scanner { builder.scanner() } else { builder }.start().await;
                let url = double.url();
                (Some(double), url)
            }
        };
        let username = from_env("HARBOR_USERNAME", "admin");
        let password = secrecy::SecretString::from(from_env("HARBOR_PASSWORD", "Harbor12345"));
        let endpoint = Endpoint { credentials: Some(Credentials { username, password }), ..Endpoint::new(url) };
        let client = harbor::Client::new(&endpoint).unwrap();
        let mut world = Self {
            upstream,
            double,
            project: format!("pilot-test-{}", unique()),
            endpoint,
            client,
            registry_id: 0,
            scanner: None,
            http: reqwest::Client::new(),
        };
        let name = world.project.clone();
        let registry = json!({"name": name, "type": "docker-registry", "url": world.upstream.url()});
        assert_eq!(world.api("POST", "/registries", Some(registry)).await, 201);
        world.registry_id = world.client.registry_named(&name).await.unwrap().unwrap().id;
        let project = json!({"project_name": name, "registry_id": world.registry_id, "metadata": metadata});
        assert_eq!(world.api("POST", "/projects", Some(project)).await, 201);
        if scanner && world.double.is_none() {
            world.register_scanner().await;
        }
        world
    }

    /// Removes what was made in a real Harbor.
    pub(crate) async fn end(self) {
        if self.double.is_some() {
            return;
        }
        let project = &self.project;
        let listed = self.send("GET", &format!("/projects/{project}/repositories?page_size=100"), None).await;
        for repository in listed.json::<Vec<Value>>().await.unwrap() {
            let name = repository["name"].as_str().unwrap().trim_start_matches(&format!("{project}/")).to_owned();
            self.api("DELETE", &format!("/projects/{project}/repositories/{}", name.replace('/', "%252F")), None).await;
        }
        self.api("DELETE", &format!("/projects/{project}"), None).await;
        self.api("DELETE", &format!("/registries/{}", self.registry_id), None).await;
        if let Some((_, id)) = &self.scanner {
            self.api("DELETE", &format!("/scanners/{id}"), None).await;
        }
    }

    async fn register_scanner(&mut self) {
        let scanner = Scanner::start().await;
        let body = json!({"name": self.project, "url": scanner.url});
        assert_eq!(self.api("POST", "/scanners", Some(body)).await, 201);
        let known = self.send("GET", "/scanners?page_size=100", None).await.json::<Vec<Value>>().await.unwrap();
        let own = known.iter().find(|known| known["name"] == self.project.as_str()).unwrap();
        let id = own["uuid"].as_str().unwrap().to_owned();
        let path = format!("/projects/{}/scanner", self.project);
        assert_eq!(self.api("PUT", &path, Some(json!({"uuid": id}))).await, 200);
        self.scanner = Some((scanner, id));
    }

    /// What the scanner finds in a manifest: the worst first.
    pub(crate) fn set_report(&self, digest: &str, severities: &[&'static str]) {
        if let (Some(double), Some(worst)) = (&self.double, severities.first()) {
            let worst = if *worst == "Critical" { Severity::Critical } else { Severity::High };
            double.set_report(digest, worst, severities.len());
        }
        if let Some((scanner, _)) = &self.scanner {
            scanner.set_report(digest, severities);
        }
    }

    /// Lets the next scan of a manifest fail.
    pub(crate) fn fail_next_scan(&self, digest: &str) {
        if let Some(double) = &self.double {
            double.fail_scans(digest, 1);
        }
        if let Some((scanner, _)) = &self.scanner {
            scanner.fail_next(digest);
        }
    }

    /// Lets the project store so many bytes and no more.
    pub(crate) async fn limit_storage(&self, bytes: i64) {
        let project = self.get(&format!("/projects/{}", self.project)).await;
        let quotas = format!("/quotas?reference=project&reference_id={}", project["project_id"]);
        let quotas = self.get(&quotas).await;
        let body = json!({"hard": {"storage": bytes}});
        assert_eq!(self.api("PUT", &format!("/quotas/{}", quotas[0]["id"]), Some(body)).await, 200);
    }

    pub(crate) async fn api(&self, method: &str, path: &str, body: Option<Value>) -> u16 {
        self.send(method, path, body).await.status().as_u16()
    }

    async fn get(&self, path: &str) -> Value {
        self.send("GET", path, None).await.json().await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> reqwest::Response {
        use secrecy::ExposeSecret as _;
        let own = self.endpoint.credentials.as_ref().unwrap();
        let url = format!("{}/api/v2.0{path}", self.endpoint.url);
        let request = self.http.request(method.parse().unwrap(), url);
        let request = request.basic_auth(&own.username, Some(own.password.expose_secret()));
        let request = if let Some(body) = body { request.json(&body) } else { request };
        request.send().await.unwrap()
    }

    pub(crate) fn puller(&self) -> Puller {
        let grace = if self.double.is_some() { Duration::from_millis(300) } else { PullLimits::default().grace };
        let limits = PullLimits { pause: self.timing().backoff / 10, grace, ..PullLimits::default() };
        Puller::new(registry::Client::new(&self.endpoint).unwrap(), limits)
    }

    /// One that waits as long after a refusal as for anything else.
    pub(crate) fn allowance(&self) -> RateLimiter {
        RateLimiter::new(RateLimitState::default().with_pause(self.timing().backoff), || {})
    }

    /// `harbor/project/repository:tag`, or `@digest`.
    pub(crate) fn image(&self, rest: &str) -> ImageRef {
        let host = self.endpoint.url.split_once("://").unwrap().1;
        ImageRef::parse(&format!("{host}/{}/{rest}", self.project)).unwrap()
    }

    pub(crate) fn target(&self, rest: &str) -> Target {
        Target::new(&self.image(rest)).unwrap()
    }

    /// Harbor's times, divided as the double's are, with room for whole seconds.
    pub(crate) fn timing(&self) -> PrewarmTiming {
        let real = PrewarmTiming::default();
        if self.double.is_none() {
            return PrewarmTiming { backoff: Duration::from_secs(2), ..real };
        }
        let scaled = |time: Duration| time.div_f64(SPEED);
        PrewarmTiming {
            first_look: scaled(real.first_look),
            look_min: scaled(real.look_min),
            look_max: scaled(real.look_max),
            store_first: Duration::from_millis(1500),
            store_bound: Duration::from_secs(6),
            tag_bound: Duration::from_millis(1500),
            settle: Duration::from_secs(1),
            offline_bound: Duration::from_secs(6),
            backoff: Duration::from_millis(200),
            ..real
        }
    }

    /// The longest that Harbor takes for anything, with room.
    fn patience(&self) -> Duration {
        Duration::from_secs(if self.double.is_some() { 30 } else { 1200 })
    }

    /// The same with a Harbor at another address.
    pub(crate) fn elsewhere(&self, url: &str) -> PrewarmContext {
        let endpoint = Endpoint { url: url.to_owned(), ..self.endpoint.clone() };
        let limits = PullLimits { pause: Duration::from_millis(1), ..PullLimits::default() };
        let client = harbor::Client::new(&Endpoint::new(url));
        let around = Around {
            resolved: Resolved {
                puller: Puller::new(registry::Client::new(&endpoint).unwrap(), limits),
                harbor: client.unwrap(),
                ..self.resolved()
            },
            cluster: platforms(&["linux/amd64"]),
            scans: ScanTerms::default(),
        };
        PrewarmContext::new(Arc::new(around))
    }

    fn resolved(&self) -> Resolved {
        Resolved {
            image: self.image("placeholder:1"),
            proxy_project: "hub".to_owned(),
            platforms: Vec::new(),
            puller: self.puller(),
            harbor: self.client.clone(),
            allowance: self.allowance(),
            away: None,
        }
    }

    pub(crate) fn context(&self) -> PrewarmContext {
        self.context_for(&["linux/amd64"])
    }

    pub(crate) fn context_for(&self, cluster: &[&str]) -> PrewarmContext {
        self.context_of(cluster, PullStrategy::default(), ScanTerms::default())
    }

    pub(crate) fn context_by(&self, cluster: &[&str], strategy: PullStrategy) -> PrewarmContext {
        self.context_of(cluster, strategy, ScanTerms::default())
    }

    pub(crate) fn context_with(&self, cluster: &[&str], scans: ScanTerms) -> PrewarmContext {
        self.context_of(cluster, PullStrategy::default(), scans)
    }

    /// The same through another puller.
    pub(crate) fn context_through(&self, puller: Puller) -> PrewarmContext {
        let resolved = Resolved { puller, ..self.resolved() };
        let around = Around { resolved, cluster: platforms(&["linux/amd64"]), scans: ScanTerms::default() };
        PrewarmContext { timing: self.timing(), ..PrewarmContext::new(Arc::new(around)) }
    }

    /// The tags of a repository in Harbor, each with the digest that it has there.
    pub(crate) async fn tags(&self, repository: &str) -> Vec<(String, String)> {
        let artifacts = self.client.scanned_artifacts(&self.project, repository).await.unwrap();
        let tagged = artifacts.iter().flat_map(|artifact| artifact.tags.iter().map(move |tag| (tag, artifact)));
        let mut tags: Vec<_> = tagged.map(|(tag, artifact)| (tag.name.clone(), artifact.digest.clone())).collect();
        tags.sort();
        tags
    }

    fn context_of(&self, cluster: &[&str], strategy: PullStrategy, scans: ScanTerms) -> PrewarmContext {
        let puller = self.puller().on(ProjectConcurrency::default(), strategy);
        let around = Around { resolved: Resolved { puller, ..self.resolved() }, cluster: platforms(cluster), scans };
        PrewarmContext { timing: self.timing(), ..PrewarmContext::new(Arc::new(around)) }
    }

    /// Reconciles as a controller would, with nothing kept but the status, until `enough`.
    pub(crate) async fn live(
        &self,
        image: &mut CachedImage,
        context: &PrewarmContext,
        enough: impl Fn(&CachedImage) -> bool,
    ) -> Vec<ReconcileResult<CachedImageStatus>> {
        let start = Instant::now();
        let mut outcomes = Vec::new();
        while !enough(image) {
            assert!(start.elapsed() < self.patience(), "it did not come about: {:#?}", image.status);
            if let Some(last) = outcomes
                .last()
                .map(|last: &ReconcileResult<CachedImageStatus>| last.requeue.min(Duration::from_secs(5)))
            {
                tokio::time::sleep(last).await;
            }
            let outcome = reconcile(image, context, Timestamp::now()).await;
            image.status = Some(outcome.status.clone());
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Reconciles as [`World::live`] does, so many times.
    pub(crate) async fn live_for(
        &self,
        image: &mut CachedImage,
        context: &PrewarmContext,
        times: usize,
    ) -> Vec<ReconcileResult<CachedImageStatus>> {
        let left = std::cell::Cell::new(times + 1);
        let enough = |_: &CachedImage| {
            left.set(left.get().saturating_sub(1));
            left.get() == 0
        };
        self.live(image, context, enough).await
    }

    pub(crate) fn cached(&self, rest: &str) -> CachedImage {
        let spec = CachedImageSpec {
            image: self.image(rest).to_string(),
            platforms: Vec::new(),
            require: Require::Online,
            refresh_interval: None,
        };
        let mut image = CachedImage::new("image", spec);
        image.metadata.generation = Some(1);
        image
    }
}

/// Every image is what it says, at the world's project.
struct Around {
    resolved: Resolved,
    cluster: Vec<Platform>,
    scans: ScanTerms,
}

impl Environment for Around {
    fn resolve(&self, image: &str) -> Result<Resolved, Unresolved> {
        let image = ImageRef::parse(image).map_err(|error| Unresolved::InvalidImage(error.to_string()))?;
        Ok(Resolved { image, ..self.resolved.clone() })
    }

    fn cluster_platforms(&self) -> Option<Vec<Platform>> {
        Some(self.cluster.clone())
    }

    fn scan_terms(&self, _: &str) -> ScanTerms {
        self.scans
    }
}

pub(crate) fn platforms(texts: &[&str]) -> Vec<Platform> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// An image for three platforms, with attestations, as BuildKit makes them.
pub(crate) fn multi(seed: &str) -> Image {
    Image::multi_arch([("linux", "amd64", None), ("linux", "arm64", Some("v8")), ("linux", "s390x", None)])
        .layers([1000, 40_000, 200_000])
        .with_attestations()
        .seed(seed)
}

/// `status/reason` of a condition; empty when it is not there.
pub(crate) fn state(image: &CachedImage, kind: ConditionType) -> String {
    let list = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::find(list, kind).map(|found| format!("{}/{}", found.status, found.reason)).unwrap_or_default()
}

pub(crate) fn is_ready(image: &CachedImage) -> bool {
    state(image, ConditionType::Ready) == "True/Warm"
}

/// Nothing more is waited for.
pub(crate) fn is_settled(image: &CachedImage) -> bool {
    let status = image.status.as_ref();
    status.is_some_and(|status| status.next_attempt_at.is_some() && status.attempts.is_none())
}

/// How often the upstream was asked by GET, successfully, for a digest.
pub(crate) fn gets(log: &[Request], digest: &str) -> usize {
    log.iter()
        .filter(|request| request.method == "GET" && request.status == 200 && request.path.ends_with(digest))
        .count()
}

/// The manifests and blobs of the platform, by digest.
pub(crate) fn parts(image: &Pushed, architecture: &str) -> Vec<String> {
    let children = image.children.iter().filter(|child| child.platform.architecture == architecture);
    children
        .flat_map(|child| std::iter::once(&child.digest).chain(child.blobs().map(|blob| &blob.digest)))
        .cloned()
        .collect()
}

fn unique() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:010x}", RandomState::new().hash_one(std::process::id()) >> 24)
}
