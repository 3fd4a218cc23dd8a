//! Starts all parts and shuts them down in order.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ManifestProblem, ManifestSet, MemoryBackend, manifest_source};
use crate::{
    active_config::ActiveConfig,
    api::Platform,
    controller::Installation,
    engine::{
        collectors::{AdmissionCollector, StandaloneCollector},
        instruments::Instruments,
        rules,
        run::{self, Engine, EngineOptions},
    },
    leadership::Leadership,
    prewarm::expiry::ImageOrigin,
    telemetry::{metrics::Metrics, probes::Readiness},
    tls::{certificate::Certificate, serve::server_config},
    webhook::{self, Admission, BodyLimits, ServeError, ServeOptions},
};

/// Settings of standalone mode.
pub struct StandaloneOptions {
    /// Directory of the manifests.
    pub directory: PathBuf,
    /// Address of the webhook; port 0 selects a free one.
    pub listen: SocketAddr,
    /// Serving certificate of the webhook.
    pub certificate: Arc<Certificate>,
    /// Platforms to warm when neither the image nor its ProxyProject names any.
    pub platforms: Vec<Platform>,
    /// Installation name in the markers in Harbor.
    pub installation: String,
    /// Interval of the check for changed files.
    pub reload: Duration,
    /// Settings of the engine.
    pub engine: EngineOptions,
    /// Limits of the server.
    pub serve: ServeOptions,
}

/// Why standalone mode could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A manifest is wrong.
    #[error(transparent)]
    Manifests(#[from] ManifestProblem),
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

/// A running standalone instance.
pub struct Standalone {
    /// Resources and their status.
    pub resources: MemoryBackend,
    /// The active rules, policies and namespace labels of admission.
    pub active: ActiveConfig,
    /// Address of the webhook.
    pub address: SocketAddr,
    /// The metrics. Callers may add to them before they are served.
    pub metrics: Metrics,
    /// The part of the metrics that the status page shows, too.
    pub instruments: Instruments,
    /// Whether the webhook is ready.
    pub readiness: Readiness,
    served: tokio::task::JoinHandle<Result<(), StartError>>,
}

impl Standalone {
    /// Reads the manifests, binds the address and runs until `shutdown`.
    ///
    /// # Errors
    /// [`StartError`] when a manifest is invalid or the address is in use.
    pub async fn start(settings: StandaloneOptions, shutdown: CancellationToken) -> Result<Self, StartError> {
        let manifests = manifest_source::read(&settings.directory)?;
        let resources = MemoryBackend::new(settings.platforms);
        resources.apply(&manifests, Timestamp::now());
        let listener =
            TcpListener::bind(settings.listen).map_err(|error| StartError::Listen(settings.listen, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Listen(settings.listen, error))?;
        let tls = Arc::new(server_config(settings.certificate)?);

        let active = ActiveConfig::default();
        let (offers, offered) = run::prewarm_queue();
        let mut metrics = Metrics::new();
        let instruments = Instruments::register(metrics.exposition_mut().registry_mut());
        let admission = AdmissionCollector { in_force: active.clone(), offers: Some(offers.clone()) };
        metrics.exposition_mut().collect(StandaloneCollector(instruments.clone(), admission));
        let readiness = Readiness::new();
        let router = webhook::router(Admission {
            rules: active.rules.clone(),
            policies: active.policies.clone(),
            scans: active.scans.clone(),
            namespaces: active.namespaces.clone(),
            offers: webhook::queued(offers.clone(), &metrics.admission),
            metrics: metrics.admission.clone(),
            readiness: readiness.clone(),
            limits: BodyLimits::default(),
        });
        let engine = Engine {
            backend: resources.clone(),
            options: settings.engine,
            meters: instruments.clone(),
            installation: Installation(settings.installation),
            queue: (offers, offered),
            origin: ImageOrigin::Admission,
            leadership: Leadership::always(),
        };
        let engine = Box::pin(run::run(engine, shutdown.clone()));
        let (loaded, mut when_loaded) = watch::channel(false);
        let rules = {
            let (resources, active) = (resources.clone(), active.clone());
            async move {
                let loaded = || {
                    loaded.send_replace(true);
                };
                Box::pin(rules::follow_all(&resources, &active, loaded)).await;
            }
        };
        let files = follow_files(settings.directory, settings.reload, manifests.fingerprint, resources.clone());
        let serve = {
            let readiness = readiness.clone();
            async move {
                // No Pod is admitted before the policies are active.
                when_loaded.wait_for(|loaded| *loaded).await.ok();
                readiness.set(true);
                webhook::serve(listener, Some(tls), router, readiness, settings.serve, shutdown.cancelled_owned()).await
            }
        };
        let served = tokio::spawn(async move {
            tokio::select! {
                result = serve => Ok(result?),
                // After `shutdown` the engine ends first, and the server still serves for a while.
                ((), (), ()) = async { tokio::join!(engine, rules, files) } => Ok(()),
            }
        });
        Ok(Self { resources, active, address, metrics, instruments, readiness, served })
    }

    /// Waits until the end after `shutdown`.
    ///
    /// # Errors
    /// When the server failed.
    pub async fn ended(self) -> Result<(), StartError> {
        self.served.await.unwrap_or(Ok(()))
    }
}

/// Checks the directory for changes in an endless loop. A directory with an invalid file changes nothing.
async fn follow_files(directory: PathBuf, every: Duration, mut fingerprint: Vec<u8>, resources: MemoryBackend) {
    let mut warned = String::new();
    loop {
        tokio::time::sleep(every).await;
        let path = directory.clone();
        match tokio::task::spawn_blocking(move || manifest_source::read(&path)).await {
            Ok(Ok(ManifestSet { fingerprint: same, .. })) if same == fingerprint => {}
            Ok(Ok(manifests)) => {
                tracing::info!(directory = %directory.display(), "manifests changed");
                resources.apply(&manifests, Timestamp::now());
                fingerprint = manifests.fingerprint;
                warned.clear();
            }
            Ok(Err(problem)) => {
                let problem = problem.to_string();
                if problem != warned {
                    tracing::warn!(problem, "the manifests are invalid; keeping the last valid ones");
                    warned = problem;
                }
            }
            Err(_) => {}
        }
    }
}
