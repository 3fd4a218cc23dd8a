//! Starts everything and ends it in order.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Manifests, Problem, World, engine::Engine, files};
use crate::{
    api::{CachedImage, HarborInstance, Platform, ProxyProject},
    controller::{
        Installation, Instances, Kinds,
        cached_image::{Images, Watcher, offered, wants_offers},
    },
    in_force::{InForce, LOOK},
    prewarm::{OfferReceiver, Timing, queue},
    rewrite::{self, Rules},
    telemetry::{metrics::Metrics, probes::Readiness},
    tls::serve::{Certificate, server_config},
    webhook::{self, Admission, Limits, ServeError, ServeOptions},
};

/// What standalone mode is told from outside.
pub struct Settings {
    /// Where the manifests are.
    pub directory: PathBuf,
    /// Where the webhook listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What the webhook shows to its clients.
    pub certificate: Arc<Certificate>,
    /// Platforms to warm where neither image nor ProxyProject says.
    pub platforms: Vec<Platform>,
    /// What markers in Harbor name this installation by.
    pub installation: String,
    /// How often the directory is looked at for changes.
    pub reload: Duration,
    /// How long warming waits for what Harbor does on its own.
    pub timing: Timing,
    /// Who watches the pulls.
    pub watcher: Option<Watcher>,
    /// Bounds of the server.
    pub serve: ServeOptions,
}

/// Why it could not start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A manifest is wrong.
    #[error(transparent)]
    Manifests(#[from] Problem),
    /// The address cannot be bound.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The server configuration was refused.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// A running standalone pilot.
pub struct Standalone {
    /// Resources and their status.
    pub world: Arc<World>,
    /// The rules in force.
    pub rules: Arc<ArcSwap<Rules>>,
    /// Where the webhook listens.
    pub address: SocketAddr,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether admission is wanted here.
    pub readiness: Readiness,
    served: tokio::task::JoinHandle<Result<(), StartError>>,
}

impl Standalone {
    /// Reads the manifests, binds the address and starts working until `shutdown`.
    ///
    /// # Errors
    /// [`StartError`] when a manifest is wrong or the address is taken.
    pub async fn start(settings: Settings, shutdown: CancellationToken) -> Result<Self, StartError> {
        let manifests = files::read(&settings.directory)?;
        let world = Arc::new(World::new(settings.platforms));
        world.apply(&manifests, Timestamp::now());
        let in_force = InForce::default();
        follow_manifests(&in_force, &manifests);
        let listener =
            TcpListener::bind(settings.listen).map_err(|error| StartError::Listen(settings.listen, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Listen(settings.listen, error))?;
        let tls = Arc::new(server_config(settings.certificate)?);

        let rules = in_force.rules.clone();
        let instances = Arc::new(Instances::default());
        let kinds = Kinds {
            directory: world.clone(),
            instances: instances.clone(),
            installation: Installation(settings.installation),
        };
        let images = Images::new(world.clone(), instances, rules.clone(), settings.timing, settings.watcher);
        let wake = Arc::new(Notify::new());
        let engine = Engine {
            world: world.clone(),
            kinds: Arc::new(kinds),
            images: Arc::new(images),
            wake: wake.clone(),
            projects_changed: {
                let (world, in_force) = (world.clone(), in_force.clone());
                Box::new(move || recompile(&world, &in_force))
            },
        };
        let (offers, offered) = queue::queue(queue::Bounds::default());
        let metrics = Arc::new(Metrics::new());
        let readiness = Readiness::new();
        readiness.set(true);
        let offers = webhook::queued(offers, &metrics.admission);
        let router = webhook::router(Admission {
            rules: rules.clone(),
            policies: in_force.policies.clone(),
            scans: in_force.scans.clone(),
            namespaces: in_force.namespaces.clone(),
            offers,
            metrics: metrics.admission.clone(),
            readiness: readiness.clone(),
            limits: Limits::default(),
        });
        let background = {
            let (world, wake, directory) = (world.clone(), wake, settings.directory);
            async move {
                tokio::join!(
                    engine.run(),
                    follow_outages(world.clone(), in_force.clone()),
                    follow_files(directory, settings.reload, manifests, in_force, world.clone(), wake.clone()),
                    keep_offers(offered, world, wake),
                );
            }
        };
        let served = tokio::spawn({
            let readiness = readiness.clone();
            async move {
                let server =
                    webhook::serve(listener, Some(tls), router, readiness, settings.serve, shutdown.cancelled_owned());
                tokio::select! {
                    result = server => Ok(result?),
                    () = background => Ok(()),
                }
            }
        });
        Ok(Self { world, rules, address, metrics, readiness, served })
    }

    /// Waits for the end that `shutdown` brings.
    ///
    /// # Errors
    /// When the server failed.
    pub async fn ended(self) -> Result<(), StartError> {
        self.served.await.unwrap_or(Ok(()))
    }
}

/// Compiles the rules anew where ProxyProjects changed, or a Harbor has become unavailable, or available again.
fn recompile(world: &World, in_force: &InForce) {
    let instances = world.all::<HarborInstance>();
    let unavailable = rewrite::unavailable(instances.iter().map(AsRef::as_ref), Timestamp::now());
    in_force.recompile(&world.all::<ProxyProject>(), unavailable);
}

/// Asks for ever whether a Harbor has become unavailable, or available again, and what scans have found.
async fn follow_outages(world: Arc<World>, in_force: InForce) {
    loop {
        tokio::time::sleep(LOOK).await;
        recompile(&world, &in_force);
        in_force.remember_scans(world.all::<CachedImage>().iter().map(AsRef::as_ref));
    }
}

/// Puts what `/validate` goes by in force.
fn follow_manifests(in_force: &InForce, manifests: &Manifests) {
    in_force.enforce(&manifests.policies);
    in_force.namespaces.store(Arc::new(manifests.namespaces.clone().into_iter().collect()));
}

/// Looks at the directory for ever. A directory in which a file is wrong changes nothing.
async fn follow_files(
    directory: PathBuf,
    every: Duration,
    mut last: Manifests,
    in_force: InForce,
    world: Arc<World>,
    wake: Arc<Notify>,
) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(every).await;
        let path = directory.clone();
        match tokio::task::spawn_blocking(move || files::read(&path)).await {
            Ok(Ok(manifests)) if manifests.fingerprint != last.fingerprint => {
                tracing::info!(directory = %directory.display(), "manifests changed");
                world.apply(&manifests, Timestamp::now());
                follow_manifests(&in_force, &manifests);
                last = manifests;
                told.clear();
                wake.notify_one();
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(problem)) => {
                let problem = problem.to_string();
                if problem != told {
                    tracing::warn!(problem, "the manifests are not taken; the last good ones stay in force");
                    told = problem;
                }
            }
        }
    }
}

async fn keep_offers(mut offers: OfferReceiver, world: Arc<World>, wake: Arc<Notify>) {
    while let Some(offer) = offers.next().await {
        if wants_offers(world.as_ref(), &offer.proxy_project) && world.add(offered(&offer), Timestamp::now()) {
            tracing::info!(image = %offer.image, namespace = offer.namespace, "to be warmed");
            wake.notify_one();
        }
    }
}
