//! Connects watches, controllers and reconcilers of all kinds into one run.

use std::{
    future::ready,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture, Shared},
};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{
    Config, Controller,
    controller::{self, Action},
    reflector::ObjectRef,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    backend::{Backend, Error},
    create_cached_images,
    expiry::ExpiryLoop,
    gate::{self, Entry},
    image_usage::{self, ImageUsage},
    instruments::{Instruments, RunningState},
    node_platforms::NodePlatforms,
    quota::{self, Quota},
    reconcile_loop::ReconcileLoop,
    resource_store::{self, ResourceStore},
    rules,
    scan_requirements::{self, ScanRequirements},
    shared_watch,
    watch_mappings::{self, WatchMappings},
};
use crate::{
    active_config::ActiveConfig,
    api::{CachedImage, HarborInstance, ProxyProject, Registry, ReplicationRule},
    controller::{
        Connections, Installation, ReconciledKind, Reconciler, Reconcilers, Stores,
        cached_image::{CachedImageReconciler, ProgressObserver},
    },
    leadership::Leadership,
    prewarm::{
        PrewarmQueue, PrewarmReceiver, PrewarmTiming,
        expiry::ImageOrigin,
        namespace_limit::NamespaceLimit,
        queue::{self, QueueBounds},
        quota::Caps,
    },
    telemetry::controller::ControllerMetrics,
};

/// Settings of the engine.
#[derive(Clone)]
pub struct EngineOptions {
    /// Maximum number of concurrent reconciles per kind.
    pub concurrency: u16,
    /// Maximum number of images warmed concurrently.
    pub warm_concurrency: u16,
    /// Maximum numbers of CachedImages that the engine creates.
    pub caps: Caps,
    /// Maximum number of layer bytes that all pulls together make Harbor fetch at once.
    pub max_inflight_bytes: u64,
    /// How long warming waits for work that Harbor does on its own.
    pub timing: PrewarmTiming,
    /// Creates the observers of pulls; `None` counts them in the metrics.
    pub progress: Option<ProgressObserver>,
}

/// Retry interval after the backend did not accept a write.
const WRITE_RETRY: Duration = Duration::from_secs(5);

/// How long to wait for the first list of nodes. Images that name their platforms need no nodes, so the wait is bounded.
const NODES_DEADLINE: Duration = Duration::from_secs(15);

/// How long the queue ignores an image that it already enqueued: the time until the watch shows the new CachedImage.
const OFFERED_AGAIN: Duration = Duration::from_secs(10);

/// Maximum number of images that wait for a CachedImage: about 5 MiB at most. A later list finds an image that did not
/// fit.
const WAITING: usize = 4096;

/// Rate limit for new CachedImages per namespace: faster than images are warmed, and slow enough to leave the API server
/// capacity for others.
const PACE: NamespaceLimit = NamespaceLimit { burst: 100, per_second: 10.0 };

/// The queue of images that the engine creates CachedImages for.
pub fn prewarm_queue() -> (PrewarmQueue, PrewarmReceiver) {
    let bounds =
        QueueBounds { waiting: WAITING, remembered_for: OFFERED_AGAIN, pace: Some(PACE), ..QueueBounds::default() };
    queue::queue(bounds)
}

/// The engine over a backend.
pub struct Engine<B> {
    /// The source of resources and the sink of their state.
    pub backend: B,
    /// The options.
    pub options: EngineOptions,
    /// The metrics.
    pub meters: Instruments,
    /// The identity of this installation, part of every marker in Harbor.
    pub installation: Installation,
    /// The queue of images that need a CachedImage.
    pub queue: (PrewarmQueue, PrewarmReceiver),
    /// Where the images of the queue come from.
    pub origin: ImageOrigin,
    /// Whether this process may write to Harbor.
    pub leadership: Leadership,
}

/// Runs all controllers until `shutdown`. Sends nothing to any Harbor while `leadership` does not hold.
pub async fn run<B: Backend>(engine: Engine<B>, shutdown: CancellationToken) {
    let Engine { backend, options, meters, installation, queue: (offers, offered), origin, leadership } = engine;
    let busy = || Config::default().concurrency(options.concurrency);
    let (instances, instance_changes) = shared_watch::controller::<HarborInstance>(&backend, busy());
    let (registries, registry_changes) = shared_watch::controller::<Registry>(&backend, busy());
    let (projects, project_changes) = shared_watch::controller::<ProxyProject>(&backend, busy());
    let (replications, rule_changes) = shared_watch::controller::<ReplicationRule>(&backend, busy());
    let warming = Config::default().concurrency(options.warm_concurrency.saturating_add(1 + gate::SPARE));
    let (images, image_changes) = shared_watch::controller::<CachedImage>(&backend, warming);

    let stores = Stores {
        instances: instances.store(),
        registries: registries.store(),
        projects: projects.store(),
        rules: replications.store(),
        images: images.store(),
    };
    let scans = ScanRequirements::default();
    let directory = Arc::new(ResourceStore { stores: stores.clone(), scans: scans.clone(), backend: backend.clone() });
    let observer = meters.clone();
    let connections = Connections::new(options.max_inflight_bytes, leadership.clone());
    let connections = Arc::new(connections.observed(move |instance| observer.observer(instance)));
    let kinds = Arc::new(Reconcilers { directory: directory.clone(), instances: connections.clone(), installation });
    let active = ActiveConfig::default();
    let counts = meters.clone();
    let progress = options.progress.unwrap_or_else(|| Arc::new(move |_| counts.pull()));
    let (rules, timing) = (active.rules.clone(), options.timing);
    let warmer = CachedImageReconciler::new(directory.clone(), connections.clone(), rules, timing, Some(progress));
    let warmer = Arc::new(warmer);
    meters.seen.store(Some(Arc::new(RunningState {
        stores: stores.clone(),
        leadership,
        instances: connections.clone(),
        in_force: active.clone(),
        offers: offers.clone(),
    })));
    let wake_images = Arc::new(Notify::new());
    let (due, when_due) = image_usage::due();
    let usage = Arc::new(ImageUsage {
        active: active.clone(),
        tracker: warmer.usage().clone(),
        images: stores.images.clone(),
        offers,
        due,
        missed: AtomicBool::new(false),
    });
    let quota = Arc::new(Quota {
        directory: directory.clone(),
        asked: warmer.usage().clone(),
        caps: options.caps,
        metrics: meters.controller.clone(),
        state: quota::State::default(),
    });
    let expiry = ExpiryLoop { usage: usage.clone(), quota: quota.clone(), changed: Arc::default() };

    let mappings = WatchMappings {
        stores: &stores,
        secrets: backend.secret_changes(),
        instances: &instance_changes,
        registries: &registry_changes,
        projects: &project_changes,
        rules: &rule_changes,
    };
    let instances = mappings.of_instances(instances);
    let pulls = connections.allowances.news().map(|name| ObjectRef::new(&name));
    let registries = mappings.of_registries(registries).reconcile_on(pulls);
    let projects = mappings.of_projects(projects);
    let replications = mappings.of_rules(replications);
    drop(mappings);
    let (gate, invited) = gate::gate(options.warm_concurrency);
    let images = images.reconcile_all_on(watch_mappings::whenever(wake_images.clone()));
    let images = images.reconcile_on(when_due).reconcile_on(invited);

    let (loaded, when_loaded) = watch::channel(false);
    let (woken, projects_changed) = (wake_images.clone(), expiry.changed.clone());
    let follow_rules = rules::follow_projects(&stores.projects, &project_changes, active.clone(), move || {
        loaded.send_replace(true);
        woken.notify_one();
        projects_changed.notify_one();
    });
    // Reconciles wait for the first lists: before these, a reference to an existing object would be reported as missing.
    let listed = future::join_all([
        instance_changes.listed().boxed(),
        registry_changes.listed().boxed(),
        project_changes.listed().boxed(),
        rule_changes.listed().boxed(),
        comes_true(when_loaded.clone()).boxed(),
    ]);
    let known = known(listed, backend.platforms().clone()).boxed().shared();
    let context = || ControllerContext {
        backend: backend.clone(),
        known: known.clone(),
        shutdown: shutdown.clone(),
        metrics: meters.controller.clone(),
    };
    let (labelled, when_labelled) = watch::channel(false);
    let follow_namespaces = rules::follow_namespaces(&backend, &active, move || {
        labelled.send_replace(true);
    });
    let follow_sources = async {
        // A Pod is mapped only once, and without rules no image is known to belong to a managed project.
        tokio::join!(comes_true(when_loaded), comes_true(when_labelled));
        image_changes.listed().await;
        usage.tracker.begin(Timestamp::now());
        tokio::join!(backend.follow_image_sources(&usage), expiry.run(&image_changes));
    };
    let create = create_cached_images::store(offered, &meters.offers, &active.manual, |offer| {
        if origin == ImageOrigin::Admission {
            // No watch of Pods records it.
            usage.tracker.record(offer.image.as_str(), &offer.namespace, Timestamp::now());
        }
        let quota = quota.clone();
        async move { quota.create(&offer, origin).await }
    });
    tokio::select! {
        () = async {
            tokio::join!(
                Box::pin(run_kind(instances, context(), kinds.clone())),
                Box::pin(run_kind(registries, context(), kinds.clone())),
                Box::pin(run_kind(projects, context(), kinds.clone())),
                Box::pin(run_kind(replications, context(), kinds)),
                Box::pin(run_gated(images, context(), warmer, move |image| gate.enter(image))),
            );
        } => {}
        () = backend.follow_platforms(|| wake_images.notify_one()) => {}
        () = scan_requirements::follow_policies(&backend, &scans) => {}
        () = backend.follow_secrets(|| resource_store::referenced_secrets(&stores)) => {}
        () = follow_rules => {}
        () = follow_namespaces => {}
        () = follow_sources => {}
        () = create => {}
    }
    if !shutdown.is_cancelled() {
        tracing::error!("a watch ended");
    }
}

/// Shared parts of the controllers of all kinds.
struct ControllerContext<B> {
    backend: B,
    known: Shared<BoxFuture<'static, ()>>,
    shutdown: CancellationToken,
    metrics: ControllerMetrics,
}

/// Runs a controller whose reconciles all start immediately.
async fn run_kind<K: ReconciledKind, R: Reconciler<K>, B: Backend>(
    controller: Controller<K>,
    context: ControllerContext<B>,
    reconciler: Arc<R>,
) {
    run_gated(controller, context, reconciler, |_| Entry::Free).await;
}

/// Runs a controller whose reconciles pass through `enter` first.
async fn run_gated<K, R, B>(
    controller: Controller<K>,
    context: ControllerContext<B>,
    reconciler: Arc<R>,
    enter: impl Fn(&K) -> Entry + Send + Sync + 'static,
) where
    K: ReconciledKind,
    R: Reconciler<K>,
    B: Backend,
{
    let enter = Arc::new(enter);
    let ControllerContext { backend, known, shutdown, metrics } = context;
    let reconcile_loop = Arc::new(ReconcileLoop::new(backend, reconciler, metrics));
    controller
        .graceful_shutdown_on(async move { shutdown.cancelled().await })
        .run(
            move |object, reconcile_loop: Arc<ReconcileLoop<K, Arc<R>, B>>| {
                let (known, enter) = (known.clone(), enter.clone());
                async move {
                    known.await;
                    let entry = enter(&object);
                    if matches!(entry, Entry::Later) {
                        return Ok(Action::requeue(gate::WAIT));
                    }
                    let requeue = reconcile_loop.step(object).await?;
                    drop(entry);
                    Ok::<_, Error>(requeue.map_or_else(Action::await_change, Action::requeue))
                }
            },
            |_, error, _| {
                tracing::warn!(%error, "retrying");
                Action::requeue(WRITE_RETRY)
            },
            reconcile_loop,
        )
        .for_each(move |result| {
            match result {
                Err(controller::Error::QueueError(error)) => tracing::warn!(kind = K::KIND, %error, "watching"),
                Err(error) => tracing::debug!(kind = K::KIND, %error, "reconcile"),
                Ok(_) => {}
            }
            ready(())
        })
        .await;
}

/// Completes when every kind that a resource may refer to has been listed once.
async fn known(listed: future::JoinAll<BoxFuture<'static, ()>>, platforms: NodePlatforms) {
    let nodes = tokio::time::timeout(NODES_DEADLINE, platforms.listed());
    drop(tokio::join!(listed, nodes));
}

async fn comes_true(mut value: watch::Receiver<bool>) {
    value.wait_for(|value| *value).await.ok();
}
