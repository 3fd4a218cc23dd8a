//! The objects of one kind, and their watches.

use std::{collections::VecDeque, sync::Arc};

use futures::{Stream, stream};
use kube::runtime::{
    reflector::{self, ObjectRef, Store, store::Writer},
    watcher::{self, Event},
};
use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::engine::{Error, backend::WatchedKind};

/// Maximum number of changes that wait for one watch. A watch that falls behind lists again.
const BACKLOG: usize = 1024;

/// The objects of one kind.
pub(super) struct KindStore<K: WatchedKind> {
    pub(super) store: Store<K>,
    changes: Mutex<Changes<K>>,
}

struct Changes<K: WatchedKind> {
    writer: Writer<K>,
    sender: broadcast::Sender<Event<K>>,
}

impl<K: WatchedKind> Default for KindStore<K> {
    fn default() -> Self {
        let (store, writer) = reflector::store();
        Self { store, changes: Mutex::new(Changes { writer, sender: broadcast::Sender::new(BACKLOG) }) }
    }
}

impl<K: WatchedKind> KindStore<K> {
    /// The object of that name.
    pub(super) fn get(&self, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name))
    }

    /// Writes what `change` makes of the object of that name; `None` writes nothing. An object that is being deleted and
    /// has no finalizer is removed. Returns what was written.
    ///
    /// # Errors
    /// The error of `change`.
    pub(super) fn update(
        &self,
        name: &str,
        version: impl FnOnce() -> String,
        change: impl FnOnce(Option<&K>) -> Result<Option<K>, Error>,
    ) -> Result<Option<Arc<K>>, Error> {
        let mut changes = self.changes.lock();
        let Some(mut object) = change(self.get(name).as_deref())? else { return Ok(None) };
        let metadata = object.meta_mut();
        metadata.resource_version = Some(version());
        let deleted = metadata.deletion_timestamp.is_some() && metadata.finalizers.iter().flatten().next().is_none();
        let written = Arc::new(object.clone());
        let event = if deleted { Event::Delete(object) } else { Event::Apply(object) };
        changes.writer.apply_watcher_event(&event);
        // Sending fails only without a watch.
        changes.sender.send(event).ok();
        Ok(Some(written))
    }

    /// Streams the complete list, then changes.
    pub(super) fn watch(self: Arc<Self>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static {
        let watch = Watch { kind: self, queued: VecDeque::new(), changes: None };
        stream::unfold(watch, |mut watch| async move { Some((Ok(watch.next().await?), watch)) })
    }

    fn list(&self) -> (VecDeque<Event<K>>, broadcast::Receiver<Event<K>>) {
        let changes = self.changes.lock();
        let objects = self.store.state().into_iter().map(|object| Event::InitApply(Arc::unwrap_or_clone(object)));
        let events = [Event::Init].into_iter().chain(objects).chain([Event::InitDone]);
        (events.collect(), changes.sender.subscribe())
    }
}

/// One watch.
struct Watch<K: WatchedKind> {
    kind: Arc<KindStore<K>>,
    queued: VecDeque<Event<K>>,
    /// The changes since the list; `None` before it.
    changes: Option<broadcast::Receiver<Event<K>>>,
}

impl<K: WatchedKind> Watch<K> {
    async fn next(&mut self) -> Option<Event<K>> {
        loop {
            if let Some(event) = self.queued.pop_front() {
                return Some(event);
            }
            let Some(changes) = &mut self.changes else {
                let (queued, changes) = self.kind.list();
                (self.queued, self.changes) = (queued, Some(changes));
                continue;
            };
            match changes.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(_)) => self.changes = None,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
