//! Starts everything and ends it in order.

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

use super::{Manifests, Problem, World, engine::Engine, files};
use crate::{
    api::{CachedImage, HarborInstance, Platform, ProxyProject},
    controller::{
        Installation, Instances, Kinds,
        cached_image::{Images, Watcher, lifetime_of, offered, wants_offers},
    },
    image::ImageRef,
    in_force::{InForce, LOOK},
    leadership::Leadership,
    prewarm::{
        Asked, Offer, OfferReceiver, Offers, Timing,
        lifetime::{Record, Source, choose},
        limit::Limit,
        name::cached_image_name,
        queue,
        quota::{Caps, Ledger, Room, Worth},
    },
    rewrite::{self, Rules},
    telemetry::{metrics::Metrics, probes::Readiness},
    tls::serve::{Certificate, server_config},
    webhook::{self, Admission, Limits, ServeError, ServeOptions},
};

/// How fast the images of one namespace are taken. What Pods ask for waits; no watch would find it again.
const PACE: Limit = Limit { burst: 100, per_second: 10.0 };
/// How often it is looked whether some are to go.
const SWEEP: Duration = Duration::from_secs(60);

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
    /// Bytes of layers that Harbor is brought to fetch at once, in all pulls together.
    pub pull_budget: u64,
    /// How many CachedImages there may be because Pods asked for them.
    pub caps: Caps,
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
    /// All that admission goes by.
    pub in_force: InForce,
    /// Where the webhook listens.
    pub address: SocketAddr,
    /// What is counted, for others to add to before it is shown.
    pub metrics: Metrics,
    /// What waits to be warmed.
    pub offers: Offers,
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

        let (rules, shown) = (in_force.rules.clone(), in_force.clone());
        let instances = Arc::new(Instances::new(settings.pull_budget, Leadership::always()));
        let kinds = Kinds {
            directory: world.clone(),
            instances: instances.clone(),
            installation: Installation(settings.installation),
        };
        let images = Images::new(world.clone(), instances, rules.clone(), settings.timing, settings.watcher);
        let asked = images.asked().clone();
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
        let (offers, offered) = queue::queue(queue::Bounds { pace: Some(PACE), ..queue::Bounds::default() });
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
            limits: Limits::default(),
        });
        let caps = settings.caps;
        let background = {
            let (world, wake, directory) = (world.clone(), wake, settings.directory);
            async move {
                tokio::join!(
                    engine.run(),
                    follow_outages(world.clone(), in_force.clone()),
                    follow_files(directory, settings.reload, manifests, in_force, world.clone(), wake.clone()),
                    keep_offers(offered, world, asked, wake, caps),
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

/// Makes offers CachedImages as far as there is room, and deletes those that no Pod has asked for in time.
async fn keep_offers(mut offers: OfferReceiver, world: Arc<World>, asked: Arc<Asked>, wake: Arc<Notify>, caps: Caps) {
    let mut ledger = Ledger::default();
    let mut refused = 0_usize;
    let mut sweeps = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            offer = offers.next() => {
                let Some(offer) = offer else { return };
                let now = Timestamp::now();
                asked.note(offer.image.as_str(), &offer.namespace, now);
                if !wants_offers(world.as_ref(), &offer.proxy_project) || is_known(&world, &offer) {
                    continue;
                }
                if !make_room(&world, &asked, &mut ledger, &offer, &caps) {
                    if refused == 0 {
                        tracing::warn!(namespace = offer.namespace, "no room for more CachedImages of this namespace");
                    }
                    refused = refused.saturating_add(1);
                    offers.forget(&offer.image);
                } else if world.add(offered(&offer, Source::Admission), now) {
                    tracing::info!(image = %offer.image, namespace = offer.namespace, "to be warmed");
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

fn is_known(world: &World, offer: &Offer) -> bool {
    world.get::<CachedImage>(&cached_image_name(&offer.image)).is_some()
}

/// Makes room for an image, and notes it as created; false when there is none.
fn make_room(world: &World, asked: &Asked, ledger: &mut Ledger, offer: &Offer, caps: &Caps) -> bool {
    let now = Instant::now();
    ledger.refresh(|| records(world, asked).into_iter().map(Record::holding).collect(), now);
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

fn records(world: &World, asked: &Asked) -> Vec<Record> {
    world.all::<CachedImage>().iter().filter_map(|image| lifetime_of(image, world, asked)).collect()
}

/// Deletes what no Pod has asked for in time, and those beyond the caps. Answers which images.
fn expire(world: &World, asked: &Asked, caps: &Caps, wanted: usize, now: Timestamp) -> Vec<ImageRef> {
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
        let world = World::new(Vec::new());
        let asked = Asked::default();
        let at = |hour: i64| Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap();
        let offer = |image: &str| {
            let image = ImageRef::parse(image).unwrap();
            Offer { image, proxy_project: "hub".to_owned(), namespace: "shop".to_owned() }
        };
        for image in ["h.example/hub/once:1", "h.example/hub/again:1"] {
            assert!(world.add(offered(&offer(image), Source::Admission), at(0)));
        }
        let spec = serde_json::from_value(json!({"image": "h.example/hub/mine:1"})).unwrap();
        assert!(world.add(CachedImage::new("mine", spec), at(0)));
        asked.begin(at(0));
        asked.note("h.example/hub/again:1", "shop", at(20));
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
        let (world, asked, mut ledger) = (World::new(Vec::new()), Asked::default(), Ledger::default());
        let caps = Caps { total: 30, of_namespace: 20 };
        let mut ask = |namespace: &str, number: usize| {
            let image = ImageRef::parse(&format!("h.example/hub/{namespace}:{number}")).unwrap();
            let offer = Offer { image, proxy_project: "hub".to_owned(), namespace: namespace.to_owned() };
            let room = make_room(&world, &asked, &mut ledger, &offer, &caps);
            assert!(!room || world.add(offered(&offer, Source::Admission), Timestamp::now()));
            assert!(world.all::<CachedImage>().len() <= caps.total);
            room
        };
        let mut flood = |namespace: &str| (0..100).filter(|number| ask(namespace, *number)).count();
        assert_eq!((flood("flood"), flood("other")), (20, 15));
        let small = (0..5).all(|number| ask("shop", number));
        assert!(small && world.all::<CachedImage>().len() == caps.total);
    }
}
