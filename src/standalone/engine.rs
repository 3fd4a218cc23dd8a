//! Looks at every resource when it is due: the part that watches and work queues play in a cluster.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};

use super::world::{Kept, World};
use crate::{
    api::{CachedImage, HarborInstance, ProxyProject, Registry, ReplicationRule},
    controller::{Finalized, Kinds, Reconciler, cached_image::Images},
    prewarm::lifetime::REQUESTED_BY,
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
    Rule(String),
    Image(String),
}

impl Key {
    fn is_image(&self) -> bool {
        matches!(self, Self::Image(_))
    }
}

/// Whether a resource was touched while it was being looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Touched(bool);

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
    /// Called when ProxyProjects may have come, gone or changed.
    pub(super) projects_changed: Box<dyn Fn() + Send + Sync>,
}

impl Engine {
    /// Goes on until dropped.
    pub(super) async fn run(self) {
        let mut due: HashMap<Key, Instant> = HashMap::new();
        // What is touched while it is being looked at is looked at once more: the look may have come too early.
        let mut busy: HashMap<Key, Touched> = HashMap::new();
        let mut running: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        loop {
            self.enlist(&mut due, &busy);
            for key in ready(&due, &busy, |name| self.namespace_of(name)) {
                due.remove(&key);
                busy.insert(key.clone(), Touched(false));
                running.push(self.look(key));
            }
            let next = next(&due, &busy).unwrap_or_else(|| Instant::now() + LONGEST);
            tokio::select! {
                Some(done) = running.next() => {
                    let Touched(again) = busy.remove(&done.key).unwrap_or_default();
                    if done.changed {
                        if matches!(done.key, Key::Project(_)) {
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
                    // A project that is gone is looked at no more, and its rule has to go nevertheless.
                    (self.projects_changed)();
                    touch(&mut due, &mut busy, |_| true);
                }
            }
        }
    }

    /// New resources are due at once; those that are gone are forgotten.
    fn enlist(&self, due: &mut HashMap<Key, Instant>, busy: &HashMap<Key, Touched>) {
        let keys: HashSet<Key> = (self.names::<HarborInstance>().map(Key::Instance))
            .chain(self.names::<Registry>().map(Key::Registry))
            .chain(self.names::<ProxyProject>().map(Key::Project))
            .chain(self.names::<ReplicationRule>().map(Key::Rule))
            .chain(self.names::<CachedImage>().map(Key::Image))
            .collect();
        due.retain(|key, _| keys.contains(key));
        let now = Instant::now();
        for key in keys.into_iter().filter(|key| !busy.contains_key(key)) {
            due.entry(key).or_insert(now);
        }
    }

    /// The namespace that asked first for an image.
    fn namespace_of(&self, name: &str) -> String {
        let image = self.world.get::<CachedImage>(name);
        let annotations = image.as_ref().and_then(|image| image.metadata.annotations.as_ref());
        annotations.and_then(|annotations| annotations.get(REQUESTED_BY)).cloned().unwrap_or_default()
    }

    fn names<K: Kept>(&self) -> impl Iterator<Item = String> + use<K> {
        self.world.all::<K>().into_iter().filter_map(|object| object.meta().name.clone())
    }

    fn look(&self, key: Key) -> BoxFuture<'static, Done> {
        let (world, kinds, images) = (self.world.clone(), self.kinds.clone(), self.images.clone());
        async move {
            let (changed, requeue) = match &key {
                Key::Instance(name) => look::<HarborInstance, _>(&world, kinds.as_ref(), name).await,
                Key::Registry(name) => look::<Registry, _>(&world, kinds.as_ref(), name).await,
                Key::Project(name) => look::<ProxyProject, _>(&world, kinds.as_ref(), name).await,
                Key::Rule(name) => look::<ReplicationRule, _>(&world, kinds.as_ref(), name).await,
                Key::Image(name) => look::<CachedImage, _>(&world, images.as_ref(), name).await,
            };
            Done { key, changed, requeue }
        }
        .boxed()
    }
}

/// What depends on a resource that changed.
fn dependents(key: &Key) -> fn(&Key) -> bool {
    match key {
        Key::Instance(_) => |key| !matches!(key, Key::Instance(_)),
        Key::Registry(_) => |key| matches!(key, Key::Project(_) | Key::Rule(_)),
        Key::Project(_) => |key| matches!(key, Key::Image(_) | Key::Registry(_)),
        Key::Rule(_) => |key| matches!(key, Key::Registry(_)),
        Key::Image(_) => |_| false,
    }
}

/// Makes resources due at once, or again once the look at them is over.
fn touch(due: &mut HashMap<Key, Instant>, busy: &mut HashMap<Key, Touched>, which: fn(&Key) -> bool) {
    let now = Instant::now();
    due.iter_mut().filter(|(key, _)| which(key)).for_each(|(_, at)| *at = now);
    busy.iter_mut().filter(|(key, _)| which(key)).for_each(|(_, touched)| *touched = Touched(true));
}

/// Slots that are free: for images, and for all else.
fn free(busy: &HashMap<Key, Touched>) -> (usize, usize) {
    let images = busy.keys().filter(|key| key.is_image()).count();
    (IMAGES_AT_ONCE.saturating_sub(images), AT_ONCE.saturating_sub(busy.len() - images))
}

/// When the next resource is due that may run. What has to wait for a slot waits for the end of another.
fn next(due: &HashMap<Key, Instant>, busy: &HashMap<Key, Touched>) -> Option<Instant> {
    let (images, others) = free(busy);
    let may_run = |key: &Key| if key.is_image() { images > 0 } else { others > 0 };
    due.iter().filter(|(key, _)| may_run(key)).map(|(_, at)| *at).min()
}

/// Those that are due, as many as may run. The images are those of the namespaces with the fewest under way, and of these the ones
/// that are due the longest.
fn ready(due: &HashMap<Key, Instant>, busy: &HashMap<Key, Touched>, namespace_of: impl Fn(&str) -> String) -> Vec<Key> {
    let (slots, others) = free(busy);
    let now = Instant::now();
    let is_due = |(key, at): (&Key, &Instant)| (*at <= now).then(|| (*at, key.clone()));
    let (images, mut keys): (Vec<_>, Vec<_>) = due.iter().filter_map(is_due).partition(|(_, key)| key.is_image());
    // Instances before registries before projects: what the later ones need is there.
    keys.sort_by(|(_, one), (_, other)| one.cmp(other));
    keys.truncate(others);
    let mut ready: Vec<Key> = keys.into_iter().map(|(_, key)| key).collect();
    if slots == 0 || images.is_empty() {
        return ready;
    }
    let owner = |key: &Key| if let Key::Image(name) = key { namespace_of(name) } else { String::new() };
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
    due: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Lane {
    fn rank(&self) -> (usize, Option<Instant>) {
        (self.busy, self.due.peek().map(|Reverse((at, _))| *at))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: usize) -> Key {
        Key::Image(number.to_string())
    }

    #[test]
    fn images_beyond_their_slots_wait_for_one_another_and_not_for_the_clock() {
        let now = Instant::now();
        let due: HashMap<Key, Instant> = (0..10).map(|number| (image(number), now)).collect();
        let first = ready(&due, &HashMap::new(), |_| String::new());
        assert_eq!(first.len(), IMAGES_AT_ONCE);
        let busy: HashMap<Key, Touched> = first.into_iter().map(|key| (key, Touched(false))).collect();
        assert!(ready(&due, &busy, |_| String::new()).is_empty());
        assert_eq!(next(&due, &busy), None, "a moment that has passed would spin");
    }

    #[test]
    fn ready_takes_the_image_of_a_namespace_that_has_none_under_way_before_those_of_a_flood() {
        let start = Instant::now();
        let mut due: HashMap<Key, Instant> = (0..1000).map(|number| (image(number), start)).collect();
        let shop = Key::Image("zz-shop".to_owned());
        due.insert(shop.clone(), Instant::now());
        let namespace_of = |name: &str| if name == "zz-shop" { "shop" } else { "flood" }.to_owned();
        let first = ready(&due, &HashMap::new(), namespace_of);
        assert!(first.len() == IMAGES_AT_ONCE && first.contains(&shop), "{first:?}");
        let busy: HashMap<Key, Touched> =
            (0..IMAGES_AT_ONCE - 1).map(|number| (image(number), Touched(false))).collect();
        assert_eq!(ready(&due, &busy, namespace_of), [shop]);
    }

    #[test]
    fn what_is_touched_during_a_look_is_looked_at_again() {
        let mut due = HashMap::from([(image(1), Instant::now() + LONGEST)]);
        let mut busy = HashMap::from([(image(2), Touched(false)), (Key::Registry("r".to_owned()), Touched(false))]);
        touch(&mut due, &mut busy, Key::is_image);
        assert!(due.values().all(|at| *at <= Instant::now()));
        assert!(busy[&image(2)].0 && !busy[&Key::Registry("r".to_owned())].0);
    }
}
