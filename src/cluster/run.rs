//! Connects watches, drivers and reconcilers of all kinds into one run.

use std::{
    future::ready,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture, Shared},
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    runtime::{
        Config, Controller,
        controller::{self, Action},
        reflector::ObjectRef,
    },
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    admitted_namespaces::AdmittedNamespaces,
    bounded, create_cached_images,
    events::Events,
    expiry::ExpiryLoop,
    gate::{self, Entry},
    image_usage::{self, ImageUsage},
    instruments::{Instruments, RunningState},
    log_limit::LogLimit,
    nodes::NodePlatforms,
    quota::{self, Quota},
    reconcile_loop::ReconcileLoop,
    resource_store::ClusterStore,
    rules,
    scan_requirements::ScanRequirements,
    secrets::SecretStore,
    shared_watch,
    watch_mappings::{self, WatchMappings},
    workload_watch,
};
use crate::{
    active_config::ActiveConfig,
    api::{CachedImage, HarborInstance, ProxyProject, Registry, ReplicationRule},
    controller::{
        Connections, Installation, ReconciledKind, Reconciler, Reconcilers,
        cached_image::{CachedImageReconciler, ProgressObserver},
    },
    leadership::Leadership,
    prewarm::{PrewarmTiming, expiry::ImageOrigin, namespace_limit::NamespaceLimit, queue, quota::Caps},
    telemetry::controller::ControllerMetrics,
};

/// Settings of the controller.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The operator's own namespace, which holds the Secrets.
    pub namespace: String,
    /// The namespaces whose Pods reach admission. The controller does not warm images for workloads of others.
    pub admitted_namespaces: AdmittedNamespaces,
    /// Installation name in the markers in Harbor; `None` uses the uid of the `kube-system` namespace.
    pub installation: Option<String>,
    /// Maximum number of concurrent reconciles per kind.
    pub concurrency: u16,
    /// Maximum number of images warmed concurrently.
    pub warm_concurrency: u16,
    /// Maximum numbers of CachedImages that the controller creates.
    pub caps: Caps,
    /// Maximum number of layer bytes that all pulls together make Harbor fetch at once.
    pub max_inflight_bytes: u64,
    /// How long warming waits for work that Harbor does on its own.
    pub timing: PrewarmTiming,
    /// The metrics.
    pub meters: Instruments,
}

/// Retry interval after the API server did not accept a write.
const API_RETRY: Duration = Duration::from_secs(5);

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

/// Runs all controllers until `shutdown`. Sends nothing to any Harbor while `leadership` does not hold.
///
/// # Errors
/// When the installation cannot be identified.
pub async fn run(
    client: Client,
    settings: ControllerOptions,
    leadership: Leadership,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let installation = match settings.installation {
        Some(installation) => Installation(installation),
        None => identify(&client).await?,
    };
    tracing::info!(installation = installation.0, namespace = settings.namespace, "controller starts");

    let meters = settings.meters;
    let busy = Config::default().concurrency(settings.concurrency);
    let (instances, instance_changes) =
        shared_watch::controller::<HarborInstance>(&client, busy.clone(), &meters.watches);
    let (registries, registry_changes) = shared_watch::controller::<Registry>(&client, busy.clone(), &meters.watches);
    let (projects, project_changes) = shared_watch::controller::<ProxyProject>(&client, busy.clone(), &meters.watches);
    let (replications, rule_changes) = shared_watch::controller::<ReplicationRule>(&client, busy, &meters.watches);
    let warming = Config::default().concurrency(settings.warm_concurrency.saturating_add(1 + gate::SPARE));
    let (images, image_changes) = shared_watch::controller::<CachedImage>(&client, warming, &meters.watches);

    let platforms = NodePlatforms::default();
    let scans = ScanRequirements::default();
    let secrets = Arc::new(SecretStore::new(client.clone(), &settings.namespace));
    let directory = Arc::new(ClusterStore {
        instances: instances.store(),
        registries: registries.store(),
        projects: projects.store(),
        rules: replications.store(),
        platforms: platforms.clone(),
        scans: scans.clone(),
        secrets: secrets.clone(),
    });
    let observer = meters.clone();
    let connections = Connections::new(settings.max_inflight_bytes, leadership.clone());
    let connections = Arc::new(connections.observed(move |instance| observer.observer(instance)));
    let kinds = Arc::new(Reconcilers { directory: directory.clone(), instances: connections.clone(), installation });
    let in_force = ActiveConfig::default();
    let rules = in_force.rules.clone();
    let watcher: ProgressObserver = {
        let meters = meters.clone();
        Arc::new(move |_| meters.pull())
    };
    let warmer =
        CachedImageReconciler::new(directory.clone(), connections.clone(), rules, settings.timing, Some(watcher));
    let warmer = Arc::new(warmer);
    let (offers, offered) = queue::queue(queue::QueueBounds {
        waiting: WAITING,
        remembered_for: OFFERED_AGAIN,
        pace: Some(PACE),
        ..queue::QueueBounds::default()
    });
    meters.seen.store(Some(Arc::new(RunningState {
        directory: directory.clone(),
        leadership,
        images: images.store(),
        instances: connections.clone(),
        in_force: in_force.clone(),
        offers: offers.clone(),
    })));
    let wake_images = Arc::new(Notify::new());
    let (due, when_due) = image_usage::due();
    let demand = Arc::new(ImageUsage {
        in_force: in_force.clone(),
        asked: warmer.usage().clone(),
        images: images.store(),
        offers,
        due,
        admitted: settings.admitted_namespaces,
        warned: LogLimit::default(),
        missed: AtomicBool::new(false),
    });
    let quota = Arc::new(Quota {
        client: client.clone(),
        images: images.store(),
        directory: directory.clone(),
        asked: warmer.usage().clone(),
        caps: settings.caps,
        metrics: meters.controller.clone(),
        state: quota::State::default(),
    });
    let keeper = ExpiryLoop {
        client: client.clone(),
        demand: demand.clone(),
        directory: directory.clone(),
        quota: quota.clone(),
        changed: Arc::new(Notify::new()),
        metrics: meters.controller.clone(),
    };

    let events = Arc::new(Events::new(client.clone()));

    let triggers = WatchMappings {
        directory: &directory,
        instances: &instance_changes,
        registries: &registry_changes,
        projects: &project_changes,
        rules: &rule_changes,
    };
    let instances = triggers.of_instances(instances);
    let pulls = connections.allowances.news().map(|name| ObjectRef::new(&name));
    let registries = triggers.of_registries(registries).reconcile_on(pulls);
    let projects = triggers.of_projects(projects);
    let replications = triggers.of_rules(replications);
    let (gate, invited) = gate::gate(settings.warm_concurrency);
    let images = images.reconcile_all_on(watch_mappings::whenever(wake_images.clone()));
    let images = images.reconcile_on(when_due).reconcile_on(invited);

    let (loaded, when_loaded) = watch::channel(false);
    let (woken, projects_changed) = (wake_images.clone(), keeper.changed.clone());
    let follow_rules = rules::follow_projects(&directory.projects, &project_changes, in_force.clone(), move || {
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
    let known = known(listed, platforms.clone()).boxed().shared();
    let drive = || ControllerContext {
        client: client.clone(),
        events: events.clone(),
        known: known.clone(),
        shutdown: shutdown.clone(),
        metrics: meters.controller.clone(),
    };
    let (labelled, when_labelled) = watch::channel(false);
    let follow_namespaces = rules::follow_namespaces(client.clone(), &in_force, &meters.watches, move || {
        labelled.send_replace(true);
    });
    let follow_sources = async {
        // A Pod is mapped only once, and without rules no image is known to belong to a managed project.
        tokio::join!(comes_true(when_loaded), comes_true(when_labelled));
        image_changes.listed().await;
        tokio::join!(workload_watch::follow_all(&client, &demand, &meters.watches), keeper.run(&image_changes));
    };
    let manual = in_force.manual.clone();
    tokio::select! {
        () = async {
            tokio::join!(
                run_kind(instances, drive(), kinds.clone()),
                run_kind(registries, drive(), kinds.clone()),
                run_kind(projects, drive(), kinds.clone()),
                run_kind(replications, drive(), kinds),
                run_gated(images, drive(), warmer, move |image| gate.enter(image)),
            );
        } => {}
        () = platforms.watch(client.clone(), &meters.watches, || wake_images.notify_one()) => {}
        () = scans.follow(client.clone(), &meters.watches) => {}
        () = secrets.follow(&meters.watches, || directory.named_secrets()) => {}
        () = follow_rules => {}
        () = follow_namespaces => {}
        () = follow_sources => {}
        () = create_cached_images::store(client.clone(), offered, ImageOrigin::Cluster, &meters.offers, |offer| {
            !manual.load().contains(&offer.proxy_project)
        }, Some(&quota)) => {}
    }
    if !shutdown.is_cancelled() {
        tracing::error!("a watch ended");
    }
    Ok(())
}

/// Shared parts of the controllers of all kinds.
struct ControllerContext {
    client: Client,
    events: Arc<Events>,
    known: Shared<BoxFuture<'static, ()>>,
    shutdown: CancellationToken,
    metrics: ControllerMetrics,
}

/// Runs a controller whose reconciles all start immediately.
async fn run_kind<K: ReconciledKind, R: Reconciler<K>>(
    controller: Controller<K>,
    drive: ControllerContext,
    reconciler: Arc<R>,
) {
    run_gated(controller, drive, reconciler, |_| Entry::Free).await;
}

/// Runs a controller whose reconciles pass through `enter` first.
async fn run_gated<K, R>(
    controller: Controller<K>,
    drive: ControllerContext,
    reconciler: Arc<R>,
    enter: impl Fn(&K) -> Entry + Send + Sync + 'static,
) where
    K: ReconciledKind,
    R: Reconciler<K>,
{
    let enter = Arc::new(enter);
    let ControllerContext { client, events, known, shutdown, metrics } = drive;
    let driver = Arc::new(ReconcileLoop::new(Api::<K>::all(client), events, reconciler, metrics));
    controller
        .graceful_shutdown_on(async move { shutdown.cancelled().await })
        .run(
            move |object, driver: Arc<ReconcileLoop<K, Arc<R>>>| {
                let (known, enter) = (known.clone(), enter.clone());
                async move {
                    known.await;
                    let entry = enter(&object);
                    if matches!(entry, Entry::Later) {
                        return Ok(Action::requeue(gate::WAIT));
                    }
                    let requeue = driver.step(object).await?;
                    drop(entry);
                    Ok::<_, Error>(requeue.map_or_else(Action::await_change, Action::requeue))
                }
            },
            |_, error, _| {
                tracing::warn!(%error, "retrying");
                Action::requeue(API_RETRY)
            },
            driver,
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

async fn identify(client: &Client) -> Result<Installation, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = bounded("reading the namespace kube-system", namespaces.get("kube-system")).await?;
    Ok(Installation(system.metadata.uid.unwrap_or_default()))
}
