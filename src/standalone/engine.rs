//! Reconciles every resource when it is due: does the work of watches and work queues in a cluster.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use super::memory_store::{MemoryStore, StoredKind};
use crate::{
    api::{CachedImage, HarborInstance, ProxyProject, Registry, ReplicationRule},
    controller::{FinalizeResult, Reconciler, Reconcilers, cached_image::CachedImageReconciler},
    prewarm::expiry::REQUESTED_BY,
};

/// Maximum number of concurrent reconciles, images excluded.
const AT_ONCE: usize = 8;
/// Maximum number of images reconciled concurrently.
const IMAGES_AT_ONCE: usize = 4;
/// Longest sleep: a resource may have been added elsewhere.
const LONGEST: Duration = Duration::from_secs(60);

/// Identifies a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum ResourceKey {
    Instance(String),
    Registry(String),
    Project(String),
    Rule(String),
    Image(String),
}

impl ResourceKey {
    fn is_image(&self) -> bool {
        matches!(self, Self::Image(_))
    }
}

/// Whether a resource was touched during its reconcile.
#[derive(Debug, Clone, Copy, Default)]
struct TouchedKeys(bool);

/// Result of one reconcile.
struct ReconcileDone {
    key: ResourceKey,
    changed: bool,
    /// `None` when the resource is gone.
    requeue: Option<Duration>,
}

/// Reconciles the resources of a world.
pub(super) struct Engine {
    pub(super) world: Arc<MemoryStore>,
    pub(super) kinds: Arc<Reconcilers>,
    pub(super) images: Arc<CachedImageReconciler>,
    /// Notified when resources were added, removed or changed.
    pub(super) wake: Arc<Notify>,
    /// Called when ProxyProjects may have been added, removed or changed.
    pub(super) projects_changed: Box<dyn Fn() + Send + Sync>,
}

impl Engine {
    /// Runs until dropped.
    pub(super) async fn run(self) {
        let mut due: HashMap<ResourceKey, Instant> = HashMap::new();
        // A resource that is touched during its reconcile is reconciled once more: the reconcile may have been too early.
        let mut busy: HashMap<ResourceKey, TouchedKeys> = HashMap::new();
        let mut running: FuturesUnordered<BoxFuture<'static, ReconcileDone>> = FuturesUnordered::new();
        loop {
            self.enlist(&mut due, &busy);
            for key in ready(&due, &busy, |name| self.namespace_of(name)) {
                due.remove(&key);
                busy.insert(key.clone(), TouchedKeys(false));
                running.push(self.look(key));
            }
            let next = next(&due, &busy).unwrap_or_else(|| Instant::now() + LONGEST);
            tokio::select! {
                Some(done) = running.next() => {
                    let TouchedKeys(again) = busy.remove(&done.key).unwrap_or_default();
                    if done.changed {
                        if matches!(done.key, ResourceKey::Project(_)) {
                            (self.projects_changed)();
                        }
                        touch(&mut due, &mut busy, dependents(&done.key));
                    }
                    if let Some(requeue) = done.requeue {
                        due.insert(done.key, Instant::now() + if again { Duration::ZERO } else { requeue });
                    }
                }
                () = tokio::time::sleep_until(next) => {}
                () = self.wake.notified() => {
                    // A deleted project is not reconciled again, but its rule has to be removed.
                    (self.projects_changed)();
                    touch(&mut due, &mut busy, |_| true);
                }
            }
        }
    }

    /// Makes new resources due immediately, and forgets removed ones.
    fn enlist(&self, due: &mut HashMap<ResourceKey, Instant>, busy: &HashMap<ResourceKey, TouchedKeys>) {
        let keys: HashSet<ResourceKey> = (self.names::<HarborInstance>().map(ResourceKey::Instance))
            .chain(self.names::<Registry>().map(ResourceKey::Registry))
            .chain(self.names::<ProxyProject>().map(ResourceKey::Project))
            .chain(self.names::<ReplicationRule>().map(ResourceKey::Rule))
            .chain(self.names::<CachedImage>().map(ResourceKey::Image))
            .collect();
        due.retain(|key, _| keys.contains(key));
        let now = Instant::now();
        for key in keys.into_iter().filter(|key| !busy.contains_key(key)) {
            due.entry(key).or_insert(now);
        }
    }

    /// The namespace that requested an image first.
    fn namespace_of(&self, name: &str) -> String {
        let image = self.world.get::<CachedImage>(name);
        let annotations = image.as_ref().and_then(|image| image.metadata.annotations.as_ref());
        annotations.and_then(|annotations| annotations.get(REQUESTED_BY)).cloned().unwrap_or_default()
    }

    fn names<K: StoredKind>(&self) -> impl Iterator<Item = String> + use<K> {
        self.world.all::<K>().into_iter().filter_map(|object| object.meta().name.clone())
    }

    fn look(&self, key: ResourceKey) -> BoxFuture<'static, ReconcileDone> {
        let (world, kinds, images) = (self.world.clone(), self.kinds.clone(), self.images.clone());
        async move {
            let (changed, requeue) = match &key {
                ResourceKey::Instance(name) => look::<HarborInstance, _>(&world, kinds.as_ref(), name).await,
                ResourceKey::Registry(name) => look::<Registry, _>(&world, kinds.as_ref(), name).await,
                ResourceKey::Project(name) => look::<ProxyProject, _>(&world, kinds.as_ref(), name).await,
                ResourceKey::Rule(name) => look::<ReplicationRule, _>(&world, kinds.as_ref(), name).await,
                ResourceKey::Image(name) => look::<CachedImage, _>(&world, images.as_ref(), name).await,
            };
            ReconcileDone { key, changed, requeue }
        }
        .boxed()
    }
}

/// Selects the resources that depend on a changed one.
fn dependents(key: &ResourceKey) -> fn(&ResourceKey) -> bool {
    match key {
        ResourceKey::Instance(_) => |key| !matches!(key, ResourceKey::Instance(_)),
        ResourceKey::Registry(_) => |key| matches!(key, ResourceKey::Project(_) | ResourceKey::Rule(_)),
        ResourceKey::Project(_) => |key| matches!(key, ResourceKey::Image(_) | ResourceKey::Registry(_)),
        ResourceKey::Rule(_) => |key| matches!(key, ResourceKey::Registry(_)),
        ResourceKey::Image(_) => |_| false,
    }
}

/// Makes resources due immediately, or again after their current reconcile.
fn touch(
    due: &mut HashMap<ResourceKey, Instant>,
    busy: &mut HashMap<ResourceKey, TouchedKeys>,
    which: fn(&ResourceKey) -> bool,
) {
    let now = Instant::now();
    due.iter_mut().filter(|(key, _)| which(key)).for_each(|(_, at)| *at = now);
    busy.iter_mut().filter(|(key, _)| which(key)).for_each(|(_, touched)| *touched = TouchedKeys(true));
}

/// Free slots: for images, and for all other kinds.
fn free(busy: &HashMap<ResourceKey, TouchedKeys>) -> (usize, usize) {
    let images = busy.keys().filter(|key| key.is_image()).count();
    (IMAGES_AT_ONCE.saturating_sub(images), AT_ONCE.saturating_sub(busy.len() - images))
}

/// When the next resource that may run is due. Resources that wait for a slot wait for the end of a reconcile.
fn next(due: &HashMap<ResourceKey, Instant>, busy: &HashMap<ResourceKey, TouchedKeys>) -> Option<Instant> {
    let (images, others) = free(busy);
    let may_run = |key: &ResourceKey| if key.is_image() { images > 0 } else { others > 0 };
    due.iter().filter(|(key, _)| may_run(key)).map(|(_, at)| *at).min()
}

/// The resources that are due, as many as may run. Chooses images of the namespaces with the fewest running reconciles,
/// and of these the ones that are due the longest.
fn ready(
    due: &HashMap<ResourceKey, Instant>,
    busy: &HashMap<ResourceKey, TouchedKeys>,
    namespace_of: impl Fn(&str) -> String,
) -> Vec<ResourceKey> {
    let (slots, others) = free(busy);
    let now = Instant::now();
    let is_due = |(key, at): (&ResourceKey, &Instant)| (*at <= now).then(|| (*at, key.clone()));
    let (images, mut keys): (Vec<_>, Vec<_>) = due.iter().filter_map(is_due).partition(|(_, key)| key.is_image());
    // Instances before registries before projects, so that later resources find what they refer to.
    keys.sort_by(|(_, one), (_, other)| one.cmp(other));
    keys.truncate(others);
    let mut ready: Vec<ResourceKey> = keys.into_iter().map(|(_, key)| key).collect();
    if slots == 0 || images.is_empty() {
        return ready;
    }
    let owner = |key: &ResourceKey| if let ResourceKey::Image(name) = key { namespace_of(name) } else { String::new() };
    let mut lanes: BTreeMap<String, Lane> = BTreeMap::new();
    for (at, key) in images {
        lanes.entry(owner(&key)).or_default().due.push(Reverse((at, key)));
    }
    for key in busy.keys().filter(|key| key.is_image()) {
        if let Some(lane) = lanes.get_mut(&owner(key)) {
            lane.busy += 1;
        }
    }
    for _ in 0..slots {
        let next = lanes.values_mut().filter(|lane| !lane.due.is_empty()).min_by_key(|lane| lane.rank());
        let Some(lane) = next else { break };
        lane.busy += 1;
        ready.extend(lane.due.pop().map(|Reverse((_, key))| key));
    }
    ready
}

/// The images of one namespace.
#[derive(Default)]
struct Lane {
    busy: usize,
    due: BinaryHeap<Reverse<(Instant, ResourceKey)>>,
}

impl Lane {
    fn rank(&self) -> (usize, Option<Instant>) {
        (self.busy, self.due.peek().map(|Reverse((at, _))| *at))
    }
}

async fn look<K: StoredKind, R: Reconciler<K>>(
    world: &MemoryStore,
    reconciler: &R,
    name: &str,
) -> (bool, Option<Duration>) {
    let Some(object) = world.get::<K>(name) else { return (false, None) };
    let kind = K::kind(&());
    if object.meta().deletion_timestamp.is_some() {
        return match reconciler.finalize(object.as_ref(), Timestamp::now()).await {
            FinalizeResult::Done(notes) => {
                notes.iter().for_each(|note| note.log(&kind, name));
                world.remove::<K>(name);
                (true, None)
            }
            FinalizeResult::Blocked(outcome) => {
                outcome.notes.iter().for_each(|note| note.log(&kind, name));
                (world.set_status::<K>(name, outcome.status), Some(outcome.requeue))
            }
        };
    }
    let outcome = reconciler.reconcile(object.as_ref(), Timestamp::now()).await;
    outcome.notes.iter().for_each(|note| note.log(&kind, name));
    (world.set_status::<K>(name, outcome.status), Some(outcome.requeue))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: usize) -> ResourceKey {
        ResourceKey::Image(number.to_string())
    }

    #[test]
    fn images_beyond_their_slots_wait_for_one_another_and_not_for_the_clock() {
        let now = Instant::now();
        let due: HashMap<ResourceKey, Instant> = (0..10).map(|number| (image(number), now)).collect();
        let first = ready(&due, &HashMap::new(), |_| String::new());
        assert_eq!(first.len(), IMAGES_AT_ONCE);
        let busy: HashMap<ResourceKey, TouchedKeys> = first.into_iter().map(|key| (key, TouchedKeys(false))).collect();
        assert!(ready(&due, &busy, |_| String::new()).is_empty());
        assert_eq!(next(&due, &busy), None, "a moment that has passed would spin");
    }

    #[test]
    fn ready_takes_the_image_of_a_namespace_that_has_none_under_way_before_those_of_a_flood() {
        let start = Instant::now();
        let mut due: HashMap<ResourceKey, Instant> = (0..1000).map(|number| (image(number), start)).collect();
        let shop = ResourceKey::Image("zz-shop".to_owned());
        due.insert(shop.clone(), Instant::now());
        let namespace_of = |name: &str| if name == "zz-shop" { "shop" } else { "flood" }.to_owned();
        let first = ready(&due, &HashMap::new(), namespace_of);
        assert!(first.len() == IMAGES_AT_ONCE && first.contains(&shop), "{first:?}");
        let busy: HashMap<ResourceKey, TouchedKeys> =
            (0..IMAGES_AT_ONCE - 1).map(|number| (image(number), TouchedKeys(false))).collect();
        assert_eq!(ready(&due, &busy, namespace_of), [shop]);
    }

    #[test]
    fn what_is_touched_during_a_look_is_looked_at_again() {
        let mut due = HashMap::from([(image(1), Instant::now() + LONGEST)]);
        let mut busy = HashMap::from([
            (image(2), TouchedKeys(false)),
            (ResourceKey::Registry("r".to_owned()), TouchedKeys(false)),
        ]);
        touch(&mut due, &mut busy, ResourceKey::is_image);
        assert!(due.values().all(|at| *at <= Instant::now()));
        assert!(busy[&image(2)].0 && !busy[&ResourceKey::Registry("r".to_owned())].0);
    }
}
