//! Harbor. In: HTTP requests, and what a test sets by hand. Out: answers, pulls from upstreams, a log.

mod api;
mod artifacts;
mod auth;
mod cache;
mod ecr;
mod hold;
mod http;
mod immutable;
mod labels;
mod metadata;
mod page;
mod projects;
mod proxy;
mod push;
mod registries;
mod remote;
mod replication;
mod retention;
mod robots;
mod scan;
mod serve;
mod state;
mod v2;

use std::{collections::BTreeMap, future::Future, net::Ipv4Addr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::Rng as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Severity,
    image::{self, Image, Pushed},
    log::{Log, Request},
    net::Server,
};
pub use hold::Hold;
use hold::Holds;
use state::State;

/// A running Harbor on a loopback port. Dropping it stops it.
#[derive(Debug)]
pub struct Harbor {
    server: Server,
    core: Arc<Core>,
    _jobs: DropGuard,
}

/// Settings of a [`Harbor`].
#[derive(Debug)]
pub struct Builder {
    address: Ipv4Addr,
    port: u16,
    settings: Settings,
    tls: Option<(String, String)>,
}

#[derive(Debug, Clone)]
struct Settings {
    speed: f64,
    admin: (String, String),
    routes: Vec<(String, String)>,
    token_lifetime: Duration,
    version: String,
    health_interval: Option<Duration>,
    scanner: bool,
    distance: Duration,
    announces_blobs: bool,
}

/// What the end points share.
#[derive(Debug)]
pub(crate) struct Core {
    settings: Settings,
    base: String,
    host: String,
    /// Signs tokens.
    key: String,
    state: Mutex<State>,
    log: Log,
    holds: Holds,
    client: reqwest::Client,
    jobs: CancellationToken,
}

impl Harbor {
    /// Harbor at its own pace, with `admin` and `Harbor12345`, and nothing in it but the public project `library`.
    #[must_use]
    pub fn builder() -> Builder {
        let settings = Settings {
            speed: 1.0,
            admin: ("admin".to_owned(), "Harbor12345".to_owned()),
            routes: Vec::new(),
            token_lifetime: Duration::from_secs(1800),
            version: "v2.15.2-080b0220".to_owned(),
            health_interval: None,
            scanner: false,
            distance: Duration::ZERO,
            announces_blobs: false,
        };
        Builder { address: Ipv4Addr::LOCALHOST, port: 0, settings, tls: None }
    }

    /// `http://127.0.0.1:PORT`, or `https://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.core.base.clone()
    }

    /// `127.0.0.1:PORT`: what stands before the project in an image reference.
    #[must_use]
    pub fn host(&self) -> String {
        self.core.host.clone()
    }

    /// Each request so far, oldest first (the newest 20,000).
    #[must_use]
    pub fn log(&self) -> Vec<Request> {
        self.core.log.snapshot()
    }

    /// The writes to the API so far, refused ones too.
    #[must_use]
    pub fn writes(&self) -> Vec<Request> {
        self.log().into_iter().filter(Request::is_api_write).collect()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.core.log.clear();
    }

    /// Leaves whoever asks the API without an answer, from this request on; `None` ends that for the requests that come then.
    /// What is done by hand is not concerned.
    pub fn hold(&self, hold: Option<Hold>) {
        self.core.holds.set(hold);
    }

    /// Requests to the API since [`Harbor::hold`] was called last.
    #[must_use]
    pub fn requests_since_hold(&self) -> usize {
        self.core.holds.seen()
    }

    /// Returns when a client has been left without an answer.
    pub async fn until_held(&self) {
        self.core.holds.until_reached().await;
    }

    /// Closes the port and cuts every connection, or opens it again. Returns once it is so. Harbor's own jobs go on.
    pub async fn set_down(&self, down: bool) {
        self.server.set_down(down).await;
    }

    /// Stops it, as dropping it does.
    pub fn stop(self) {
        drop(self);
    }

    /// Changes something by hand, as an administrator in Harbor's portal would: a call of the API that is not logged.
    /// `path` starts below `/api/v2.0`, `body` is JSON. Answers the status and the body, `Null` for none.
    pub async fn manual_request(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        self.core.manual_request(method, path, body).await
    }

    /// Looks at every upstream now instead of at the next five minutes.
    pub async fn check_upstreams(&self) {
        self.core.check_registries().await;
    }

    /// Artifacts that are stored of a repository (`project/name`): digest → tags. Children of indexes are there, too.
    #[must_use]
    pub fn artifacts(&self, repository: &str) -> BTreeMap<String, Vec<String>> {
        let state = self.core.state.lock();
        let artifacts = state.repositories.get(repository).map_or(&[][..], |found| found.artifacts.as_slice());
        let tags = |artifact: &state::Artifact| artifact.tags.iter().map(|tag| tag.name.clone()).collect();
        artifacts.iter().map(|artifact| (artifact.digest.clone(), tags(artifact))).collect()
    }

    /// The registry behind Harbor loses a blob of a repository, as when somebody cleans its storage by hand. Harbor does not notice.
    pub fn lose_blob(&self, repository: &str, digest: &str) {
        self.core.state.lock().links.remove(&(repository.to_owned(), digest.to_owned()));
    }

    /// Whether a repository (`project/name`) has a blob in the store.
    #[must_use]
    pub fn has_blob(&self, repository: &str, digest: &str) -> bool {
        self.core.state.lock().blob(repository, digest).is_some()
    }

    /// Puts an image into a repository (`project/name`) under a tag, as if it had been pushed or cached long ago. It has the
    /// bytes that an [`crate::Upstream`] has under `name`.
    pub fn store_image(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let name = repository.split_once('/').map_or(repository, |(_, name)| name);
        let built = image::build(&format!("{name}:{tag}"), image);
        let mut state = self.core.state.lock();
        for (digest, bytes) in built.blobs {
            state.store_blob(repository, &digest, bytes);
        }
        for (digest, media_type, bytes) in built.manifests {
            let tag = Some(tag).filter(|_| digest == built.pushed.digest);
            state.store_manifest(repository, &media_type, bytes, tag);
        }
        built.pushed
    }

    /// Pushes an image into a repository (`project/name`) of a hosted project, and what follows from that follows: each manifest
    /// is an event for replication, and may be scanned.
    pub fn push_image(&self, repository: &str, tag: &str, image: &Image) -> Pushed {
        let name = repository.split_once('/').map_or(repository, |(_, name)| name);
        let built = image::build(&format!("{name}:{tag}"), image);
        for (digest, bytes) in built.blobs {
            drop(self.core.accept_blob(repository, &digest, bytes));
        }
        for (digest, media_type, bytes) in built.manifests {
            let reference = if digest == built.pushed.digest { tag } else { &digest };
            drop(self.core.accept_manifest(repository, reference, &media_type, bytes));
        }
        built.pushed
    }

    /// Deletes a repository (`project/name`) with everything that is stored of it, also what waits to be stored as an index.
    pub fn evict(&self, repository: &str) {
        let mut state = self.core.state.lock();
        state.remove_repository(repository);
        state.indexes.retain(|(name, _), _| name != repository);
    }

    /// Starts each enabled replication policy that has a schedule, as if its time had come. Answers how many.
    pub fn run_schedules(&self) -> usize {
        self.core.run_schedules()
    }

    /// Whether a schedule that never fires has brought the job service to a halt: from then on no execution ends and no scan
    /// begins, until Harbor is wiped.
    #[must_use]
    pub fn job_service_hangs(&self) -> bool {
        self.core.state.lock().job_service_hangs
    }

    /// What the scanner will find in the manifest of this digest: `CVE-2026-0` with this severity, and more that are low. It
    /// finds nothing in others.
    pub fn set_report(&self, digest: &str, severity: Severity, vulnerabilities: usize) {
        let report = scan::Report { severity, total: vulnerabilities };
        self.core.state.lock().reports.insert(digest.to_owned(), report);
    }

    /// Lets the next scans of this digest fail, so many of them.
    pub fn fail_scans(&self, digest: &str, count: u32) {
        self.core.state.lock().failing_scans.insert(digest.to_owned(), count);
    }

    /// A rebuilt Harbor at the same address: everything is gone, ids start again.
    pub fn wipe(&self) {
        self.core.reset();
    }
}

impl Builder {
    /// Divides Harbor's own delays (20 s, 200 s, 5 minutes) by this; default 1.
    #[must_use]
    pub fn speed(mut self, factor: f64) -> Self {
        self.settings.speed = factor.max(0.001);
        self
    }

    /// The administrator's name and password.
    #[must_use]
    pub fn admin(mut self, name: &str, password: &str) -> Self {
        self.settings.admin = (name.to_owned(), password.to_owned());
        self
    }

    /// Where the host of a registry's URL is to be found: the double's own name resolution. With a port in `host` only that
    /// port. Hosts that have no route and are not loopback addresses cannot be reached. A registry of the type docker-hub
    /// with the URL `https://hub.docker.com` goes where `registry-1.docker.io` goes.
    #[must_use]
    pub fn route(mut self, host: &str, url: impl Into<String>) -> Self {
        self.settings.routes.push((host.to_owned(), url.into()));
        self
    }

    /// The address to listen on, and in its URL; the default is 127.0.0.1, which no container reaches.
    #[must_use]
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.address = address;
        self
    }

    /// The port to listen on; the default is any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// What it says to be; default `v2.15.2-080b0220`, and it behaves like that whatever it says.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.settings.version);
        self
    }

    /// How long a registry token is good for (not divided by the speed); default 30 minutes.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.token_lifetime = lifetime;
        self
    }

    /// The interval of the health check of upstreams, instead of 5 minutes divided by the speed.
    #[must_use]
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.settings.health_interval = Some(interval);
        self
    }

    /// Gives it a scanner, which takes 10 seconds for an image: 5 it is pending, 5 it runs.
    #[must_use]
    pub fn scanner(mut self) -> Self {
        self.settings.scanner = true;
        self
    }

    /// Answers cold blobs as Harbor does after 2.15: with length and digest, and with a connection that breaks off where the upstream
    /// ends early. The default is that of 2.15: chunked, an error document appended, and ended properly.
    #[must_use]
    pub fn announces_blobs(mut self) -> Self {
        self.settings.announces_blobs = true;
        self
    }

    /// How far away it is: each answer takes so much longer.
    #[must_use]
    pub fn distance(mut self, round_trip: Duration) -> Self {
        self.settings.distance = round_trip;
        self
    }

    /// Serves TLS with this chain and key (PEM).
    #[must_use]
    pub fn tls(mut self, certificates: &str, key: &str) -> Self {
        self.tls = Some((certificates.to_owned(), key.to_owned()));
        self
    }

    /// Starts Harbor.
    ///
    /// # Errors
    /// Address and port cannot be bound, or certificate and key are no PEM or do not fit together.
    pub async fn try_start(self) -> std::io::Result<Harbor> {
        let acceptor = self.tls.as_ref().map(|(certificates, key)| serve::acceptor(certificates, key)).transpose()?;
        let listener = TcpListener::bind((self.address, self.port)).await?;
        let host = listener.local_addr()?.to_string();
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let jobs = CancellationToken::new();
        let client = reqwest::Client::builder()
            .user_agent("harbor-registry-client")
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(std::io::Error::other)?;
        let core = Arc::new(Core {
            base: format!("{scheme}://{host}"),
            host,
            key: format!("{:032x}", rand::rng().random::<u128>()),
            state: Mutex::default(),
            log: Log::default(),
            holds: Holds::default(),
            client,
            jobs: jobs.clone(),
            settings: self.settings,
        });
        core.reset();
        let server = Server::start(listener, acceptor, core.clone())?;
        core.watch_upstreams();
        Ok(Harbor { server, core, _jobs: jobs.drop_guard() })
    }

    /// Starts Harbor.
    ///
    /// # Panics
    /// As [`Builder::try_start`] fails.
    #[allow(clippy::expect_used, reason = "a test that cannot start its Harbor shall end there")]
    pub async fn start(self) -> Harbor {
        self.try_start().await.expect("Harbor's loopback port can be bound")
    }
}

impl Core {
    /// A job that ends with Harbor.
    fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        let ended = self.jobs.clone();
        drop(tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = job => {}
            }
        }));
    }

    fn watch_upstreams(self: &Arc<Self>) {
        let core = self.clone();
        let interval = self.settings.health_interval.unwrap_or(Duration::from_secs_f64(300.0 / self.settings.speed));
        self.spawn(async move {
            loop {
                tokio::time::sleep(interval.max(Duration::from_millis(20))).await;
                core.check_registries().await;
            }
        });
    }

    /// Nothing but the project `library`.
    fn reset(&self) {
        let mut state = State::default();
        let id = state.next("project");
        let public = BTreeMap::from([("public".to_owned(), "true".to_owned())]);
        self.insert_project(&mut state, id, "library", None, public, -1);
        *self.state.lock() = state;
    }
}
