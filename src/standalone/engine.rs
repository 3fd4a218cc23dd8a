//! Looks at every resource when it is due: the part that watches and work queues play in a cluster.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use super::world::{Kept, World};
use crate::{
    api::{CachedImage, HarborInstance, ProxyProject, Registry},
    controller::{Finalized, Kinds, Reconciler, cached_image::Images},
};

/// Reconciles under way at once, apart from images.
const AT_ONCE: usize = 8;
/// Images under way at once.
const IMAGES_AT_ONCE: usize = 4;
/// Nothing sleeps longer: a resource may have come from elsewhere.
const LONGEST: Duration = Duration::from_secs(60);

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Instance(String),
    Registry(String),
    Project(String),
    Image(String),
}

/// What came of one look.
struct Done {
    key: Key,
    changed: bool,
    /// `None`: the resource is gone.
    requeue: Option<Duration>,
}

/// Looks at the resources of a world.
pub(super) struct Engine {
    pub(super) world: Arc<World>,
    pub(super) kinds: Arc<Kinds>,
    pub(super) images: Arc<Images>,
    /// Told when resources came, went or changed.
    pub(super) wake: Arc<Notify>,
    /// Called after a ProxyProject changed.
    pub(super) projects_changed: Box<dyn Fn() + Send + Sync>,
}

impl Engine {
    /// Goes on until dropped.
    pub(super) async fn run(self) {
        let mut due: HashMap<Key, Instant> = HashMap::new();
        let mut busy: HashSet<Key> = HashSet::new();
        let mut running: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        loop {
            self.enlist(&mut due, &busy);
            for key in ready(&due, &busy) {
                due.remove(&key);
                busy.insert(key.clone());
                running.push(self.look(key));
            }
            let next = due.values().min().copied().unwrap_or_else(|| Instant::now() + LONGEST);
            let full = busy.len() >= AT_ONCE;
            tokio::select! {
                Some(done) = running.next() => {
                    busy.remove(&done.key);
                    if done.changed {
                        self.touch_dependents(&done.key, &mut due);
                    }
                    if let Some(requeue) = done.requeue {
                        due.insert(done.key, Instant::now() + requeue);
                    }
                }
                () = tokio::time::sleep_until(next), if !full => {}
                () = self.wake.notified() => {
                    let now = Instant::now();
                    due.values_mut().for_each(|at| *at = now);
                }
            }
        }
    }

    /// New resources are due at once; those that are gone are forgotten.
    fn enlist(&self, due: &mut HashMap<Key, Instant>, busy: &HashSet<Key>) {
        let keys: HashSet<Key> = (self.names::<HarborInstance>().map(Key::Instance))
            .chain(self.names::<Registry>().map(Key::Registry))
            .chain(self.names::<ProxyProject>().map(Key::Project))
            .chain(self.names::<CachedImage>().map(Key::Image))
            .collect();
        due.retain(|key, _| keys.contains(key));
        let now = Instant::now();
        for key in keys.into_iter().filter(|key| !busy.contains(key)) {
            due.entry(key).or_insert(now);
        }
    }

    fn names<K: Kept>(&self) -> impl Iterator<Item = String> + use<K> {
        self.world.all::<K>().into_iter().filter_map(|object| object.meta().name.clone())
    }

    /// What depends on a resource that changed is due at once.
    fn touch_dependents(&self, key: &Key, due: &mut HashMap<Key, Instant>) {
        let touched: fn(&Key) -> bool = match key {
            Key::Instance(_) => |_| true,
            Key::Registry(_) => |key| matches!(key, Key::Project(_)),
            Key::Project(_) => {
                (self.projects_changed)();
                |key| matches!(key, Key::Image(_) | Key::Registry(_))
            }
            Key::Image(_) => |_| false,
        };
        let now = Instant::now();
        due.iter_mut().filter(|(other, _)| *other != key && touched(other)).for_each(|(_, at)| *at = now);
    }

    fn look(&self, key: Key) -> BoxFuture<'static, Done> {
        let (world, kinds, images) = (self.world.clone(), self.kinds.clone(), self.images.clone());
        async move {
            let (changed, requeue) = match &key {
                Key::Instance(name) => look::<HarborInstance, _>(&world, kinds.as_ref(), name).await,
                Key::Registry(name) => look::<Registry, _>(&world, kinds.as_ref(), name).await,
                Key::Project(name) => look::<ProxyProject, _>(&world, kinds.as_ref(), name).await,
                Key::Image(name) => look::<CachedImage, _>(&world, images.as_ref(), name).await,
            };
            Done { key, changed, requeue }
        }
        .boxed()
    }
}

/// Those that are due, as many as may run.
fn ready(due: &HashMap<Key, Instant>, busy: &HashSet<Key>) -> Vec<Key> {
    let is_image = |key: &&Key| matches!(key, Key::Image(_));
    let images = busy.iter().filter(is_image).count();
    let (mut image_slots, mut slots) =
        (IMAGES_AT_ONCE.saturating_sub(images), AT_ONCE.saturating_sub(busy.len() - images));
    let now = Instant::now();
    let mut keys: Vec<Key> = due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
    // Instances before registries before projects before images: what the later ones need is there.
    keys.sort();
    keys.retain(|key| {
        let slots = if matches!(key, Key::Image(_)) { &mut image_slots } else { &mut slots };
        let free = *slots > 0;
        *slots = slots.saturating_sub(1);
        free
    });
    keys
}

async fn look<K: Kept, R: Reconciler<K>>(world: &World, reconciler: &R, name: &str) -> (bool, Option<Duration>) {
    let Some(object) = world.get::<K>(name) else { return (false, None) };
    let kind = K::kind(&());
    if object.meta().deletion_timestamp.is_some() {
        return match reconciler.finalize(object.as_ref(), Timestamp::now()).await {
            Finalized::Done(notes) => {
                notes.iter().for_each(|note| note.log(&kind, name));
                world.remove::<K>(name);
                (true, None)
            }
            Finalized::Blocked(outcome) => {
                outcome.notes.iter().for_each(|note| note.log(&kind, name));
                (world.set_status::<K>(name, outcome.status), Some(outcome.requeue))
            }
        };
    }
    let outcome = reconciler.reconcile(object.as_ref(), Timestamp::now()).await;
    outcome.notes.iter().for_each(|note| note.log(&kind, name));
    (world.set_status::<K>(name, outcome.status), Some(outcome.requeue))
}
