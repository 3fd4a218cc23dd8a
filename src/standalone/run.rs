//! Starts all parts and shuts them down in order.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{ManifestProblem, ManifestSet, MemoryStore, engine::Engine, manifest_source};
use crate::{
    active_config::{ActiveConfig, LOOK},
    api::{CachedImage, HarborInstance, Platform, ProxyProject},
    controller::{
        Connections, Installation, Reconcilers,
        cached_image::{CachedImageReconciler, ProgressObserver, cached_image_for, lifetime_of, prewarms_on_admission},
    },
    image::ImageRef,
    leadership::Leadership,
    prewarm::{
        PrewarmQueue, PrewarmReceiver, PrewarmRequest, PrewarmTiming, UsageTracker,
        expiry::{ExpiryCandidate, ImageOrigin, choose},
        name::cached_image_name,
        namespace_limit::NamespaceLimit,
        queue,
        quota::{Caps, Ledger, Room, Worth},
    },
    rewrite::{self, Rules},
    telemetry::{metrics::Metrics, probes::Readiness},
    tls::serve::{Certificate, server_config},
    webhook::{self, Admission, BodyLimits, ServeError, ServeOptions},
};

/// Rate limit for new CachedImages per namespace. Requests beyond it wait, because no watch would find the image again.
const PACE: NamespaceLimit = NamespaceLimit { burst: 100, per_second: 10.0 };
/// Interval of the check for expired CachedImages.
const SWEEP: Duration = Duration::from_secs(60);

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
    /// How long warming waits for work that Harbor does on its own.
    pub timing: PrewarmTiming,
    /// Maximum number of layer bytes that all pulls together make Harbor fetch at once.
    pub max_inflight_bytes: u64,
    /// Maximum numbers of CachedImages created for Pods.
    pub caps: Caps,
    /// Creates observers of the pulls.
    pub watcher: Option<ProgressObserver>,
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
    pub world: Arc<MemoryStore>,
    /// The active rules.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The active rules, policies and namespace labels.
    pub in_force: ActiveConfig,
    /// Address of the webhook.
    pub address: SocketAddr,
    /// The metrics. Callers may add to them before they are served.
    pub metrics: Metrics,
    /// The prewarm queue.
    pub offers: PrewarmQueue,
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
        let world = Arc::new(MemoryStore::new(settings.platforms));
        world.apply(&manifests, Timestamp::now());
        let in_force = ActiveConfig::default();
        follow_manifests(&in_force, &manifests);
        let listener =
            TcpListener::bind(settings.listen).map_err(|error| StartError::Listen(settings.listen, error))?;
        let address = listener.local_addr().map_err(|error| StartError::Listen(settings.listen, error))?;
        let tls = Arc::new(server_config(settings.certificate)?);

        let (rules, shown) = (in_force.rules.clone(), in_force.clone());
        let instances = Arc::new(Connections::new(settings.max_inflight_bytes, Leadership::always()));
        let kinds = Reconcilers {
            directory: world.clone(),
            instances: instances.clone(),
            installation: Installation(settings.installation),
        };
        let images =
            CachedImageReconciler::new(world.clone(), instances, rules.clone(), settings.timing, settings.watcher);
        let asked = images.usage().clone();
        asked.begin(Timestamp::now());
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
        let (offers, offered) = queue::queue(queue::QueueBounds { pace: Some(PACE), ..queue::QueueBounds::default() });
        let metrics = Metrics::new();
        let readiness = Readiness::new();
        readiness.set(true);
        let sink = webhook::queued(offers.clone(), &metrics.admission);
        let router = webhook::router(Admission {
            rules: rules.clone(),
            policies: in_force.policies.clone(),
            scans: in_force.scans.clone(),
            namespaces: in_force.namespaces.clone(),
            offers: sink,
            metrics: metrics.admission.clone(),
            readiness: readiness.clone(),
            limits: BodyLimits::default(),
        });
        let caps = settings.caps;
        let background = {
            let (world, wake, directory) = (world.clone(), wake, settings.directory);
            async move {
                tokio::join!(
                    engine.run(),
                    follow_outages(world.clone(), in_force.clone()),
                    follow_files(directory, settings.reload, manifests, in_force, world.clone(), wake.clone()),
                    keep_cached_images(offered, world, asked, wake, caps),
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
        Ok(Self { world, rules, in_force: shown, address, metrics, offers, readiness, served })
    }

    /// Waits until the end after `shutdown`.
    ///
    /// # Errors
    /// When the server failed.
    pub async fn ended(self) -> Result<(), StartError> {
        self.served.await.unwrap_or(Ok(()))
    }
}

/// Recompiles the rules when ProxyProjects changed, or a Harbor became unavailable or available again.
fn recompile(world: &MemoryStore, in_force: &ActiveConfig) {
    let instances = world.all::<HarborInstance>();
    let unavailable = rewrite::unavailable(instances.iter().map(AsRef::as_ref), Timestamp::now());
    in_force.recompile(&world.all::<ProxyProject>(), unavailable);
}

/// Checks in an endless loop whether a Harbor became unavailable or available again, and reads new scan results.
async fn follow_outages(world: Arc<MemoryStore>, in_force: ActiveConfig) {
    loop {
        tokio::time::sleep(LOOK).await;
        recompile(&world, &in_force);
        in_force.set_scans(world.all::<CachedImage>().iter().map(AsRef::as_ref));
    }
}

/// Activates the policies and namespace labels that `/validate` uses.
fn follow_manifests(in_force: &ActiveConfig, manifests: &ManifestSet) {
    in_force.enforce(&manifests.policies);
    in_force.namespaces.store(Arc::new(manifests.namespaces.clone().into_iter().collect()));
}

/// Checks the directory for changes in an endless loop. A directory with an invalid file changes nothing.
async fn follow_files(
    directory: PathBuf,
    every: Duration,
    mut last: ManifestSet,
    in_force: ActiveConfig,
    world: Arc<MemoryStore>,
    wake: Arc<Notify>,
) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(every).await;
        let path = directory.clone();
        match tokio::task::spawn_blocking(move || manifest_source::read(&path)).await {
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
                    tracing::warn!(problem, "the manifests are invalid; keeping the last valid ones");
                    told = problem;
                }
            }
        }
    }
}

/// Turns prewarm requests into CachedImages as far as there is room, and deletes those that no Pod requested within their
/// lifetime.
async fn keep_cached_images(
    mut offers: PrewarmReceiver,
    world: Arc<MemoryStore>,
    asked: Arc<UsageTracker>,
    wake: Arc<Notify>,
    caps: Caps,
) {
    let mut ledger = Ledger::default();
    let mut refused = 0_usize;
    let mut sweeps = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            offer = offers.next() => {
                let Some(offer) = offer else { return };
                let now = Timestamp::now();
                asked.record(offer.image.as_str(), &offer.namespace, now);
                if !prewarms_on_admission(world.as_ref(), &offer.proxy_project) || is_known(&world, &offer) {
                    continue;
                }
                if !make_room(&world, &asked, &mut ledger, &offer, &caps) {
                    if refused == 0 {
                        tracing::warn!(namespace = offer.namespace, "the namespace has its maximum of CachedImages");
                    }
                    refused = refused.saturating_add(1);
                    offers.forget(&offer.image);
                } else if world.add(cached_image_for(&offer, ImageOrigin::Admission), now) {
                    tracing::info!(image = %offer.image, namespace = offer.namespace, "created a CachedImage");
                    wake.notify_one();
                }
            }
            _ = sweeps.tick() => {
                for image in expire(&world, &asked, &caps, std::mem::take(&mut refused), Timestamp::now()) {
                    offers.forget(&image);
                }
            }
        }
    }
}

fn is_known(world: &MemoryStore, offer: &PrewarmRequest) -> bool {
    world.get::<CachedImage>(&cached_image_name(&offer.image)).is_some()
}

/// Makes room for an image and records it as created; `false` when there is no room.
fn make_room(
    world: &MemoryStore,
    asked: &UsageTracker,
    ledger: &mut Ledger,
    offer: &PrewarmRequest,
    caps: &Caps,
) -> bool {
    let now = Instant::now();
    ledger.refresh(|| records(world, asked).into_iter().map(ExpiryCandidate::holding).collect(), now);
    match ledger.holdings().room(&offer.namespace, caps) {
        Room::Free => {}
        Room::InPlaceOf(name) => {
            tracing::info!(name, "evicted: another namespace has fewer images");
            world.remove::<CachedImage>(&name);
            ledger.deleted(name, now);
        }
        Room::None(_) => return false,
    }
    let worth = Worth { refused: false, ready: false, last: Timestamp::now() };
    ledger.created(&offer.namespace, cached_image_name(&offer.image), worth, now);
    true
}

fn records(world: &MemoryStore, asked: &UsageTracker) -> Vec<ExpiryCandidate> {
    world.all::<CachedImage>().iter().filter_map(|image| lifetime_of(image, world, asked)).collect()
}

/// Deletes CachedImages that no Pod requested within their lifetime, and those beyond the caps. Returns the deleted
/// images.
fn expire(world: &MemoryStore, asked: &UsageTracker, caps: &Caps, wanted: usize, now: Timestamp) -> Vec<ImageRef> {
    let records = records(world, asked);
    let gone = choose(&records, &HashSet::new(), caps, wanted, now).into_iter().map(|(record, cause)| {
        tracing::info!(name = record.name, image = record.image, last = %record.last, ?cause, "expired");
        world.remove::<CachedImage>(&record.name);
        ImageRef::parse(&record.image).ok()
    });
    gone.flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_that_no_pod_asks_for_goes_after_its_time_and_one_of_a_manifest_stays() {
        let world = MemoryStore::new(Vec::new());
        let asked = UsageTracker::default();
        let at = |hour: i64| Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap();
        let offer = |image: &str| {
            let image = ImageRef::parse(image).unwrap();
            PrewarmRequest { image, proxy_project: "hub".to_owned(), namespace: "shop".to_owned() }
        };
        for image in ["h.example/hub/once:1", "h.example/hub/again:1"] {
            assert!(world.add(cached_image_for(&offer(image), ImageOrigin::Admission), at(0)));
        }
        let spec = serde_json::from_value(json!({"image": "h.example/hub/mine:1"})).unwrap();
        assert!(world.add(CachedImage::new("mine", spec), at(0)));
        asked.begin(at(0));
        asked.record("h.example/hub/again:1", "shop", at(20));
        let expire = |now| expire(&world, &asked, &Caps::default(), 0, now);
        assert!(expire(at(23)).is_empty());
        let gone = expire(at(25));
        assert_eq!(gone.iter().map(ImageRef::as_str).collect::<Vec<_>>(), ["h.example/hub/once:1"]);
        assert_eq!(world.all::<CachedImage>().len(), 2);
        assert_eq!(expire(at(10_000)).len(), 1);
        assert!(world.get::<CachedImage>("mine").is_some());
    }

    #[test]
    fn make_room_holds_the_caps_and_evicts_from_the_namespace_with_the_most() {
        let (world, asked, mut ledger) = (MemoryStore::new(Vec::new()), UsageTracker::default(), Ledger::default());
        let caps = Caps { total: 30, of_namespace: 20 };
        let mut ask = |namespace: &str, number: usize| {
            let image = ImageRef::parse(&format!("h.example/hub/{namespace}:{number}")).unwrap();
            let offer = PrewarmRequest { image, proxy_project: "hub".to_owned(), namespace: namespace.to_owned() };
            let room = make_room(&world, &asked, &mut ledger, &offer, &caps);
            assert!(!room || world.add(cached_image_for(&offer, ImageOrigin::Admission), Timestamp::now()));
            assert!(world.all::<CachedImage>().len() <= caps.total);
            room
        };
        let mut flood = |namespace: &str| (0..100).filter(|number| ask(namespace, *number)).count();
        assert_eq!((flood("flood"), flood("other")), (20, 15));
        let small = (0..5).all(|number| ask("shop", number));
        assert!(small && world.all::<CachedImage>().len() == caps.total);
    }
}
