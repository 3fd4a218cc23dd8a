//! One watch per kind, shared by its controller and all followers.
//!
//! In: the watch of a kind. Out: its controller, and for followers each object that changed. A follower that falls behind
//! receives `Change::Any` and has to reconcile everything.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use kube::{
    ResourceExt,
    runtime::{
        Controller, WatchStreamExt,
        controller::Config,
        reflector::{self, ObjectRef, Store},
        watcher::Event,
    },
};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use super::{backend::Resources, watch::backoff};
use crate::controller::ReconciledKind;

/// Maximum number of changes that wait for one follower.
const BACKLOG: usize = 1024;

/// A change of a kind, as followers receive it.
#[derive(Debug, Clone)]
pub(super) enum WatchChange<T> {
    /// This object was created, changed or deleted.
    One(T),
    /// All objects were listed, or more changed than the backlog holds: any object may differ.
    Any,
}

/// The changes of a kind, for followers.
pub(super) struct SharedWatch<K> {
    sender: broadcast::Sender<WatchChange<Arc<K>>>,
    listed: watch::Sender<bool>,
}

/// The only watch of a kind, and its controller. The watch starts when the controller runs.
pub(super) fn controller<K: ReconciledKind>(
    backend: &impl Resources,
    config: Config,
) -> (Controller<K>, SharedWatch<K>) {
    let (store, writer) = reflector::store();
    let sender = broadcast::Sender::new(BACKLOG);
    let listed = watch::Sender::new(false);
    let (followers, done) = (sender.clone(), listed.clone());
    // managedFields take more memory than the other fields, and no code here reads them.
    let events = backend.watch::<K>().modify(|object| object.managed_fields_mut().clear()).reflect(writer);
    // The store already has the change at this point, so followers find the object there.
    let events = events.inspect_ok(move |event| {
        notify(&followers, event);
        if matches!(event, Event::InitDone) {
            done.send_replace(true);
        }
    });
    // The controller receives deletions, too: otherwise it keeps the scheduled reconcile of a deleted object until that is
    // due.
    let controller = Controller::for_stream(events.touched_objects(), store).with_config(config);
    (controller.trigger_backoff(backoff()), SharedWatch { sender, listed })
}

impl<K: ReconciledKind> SharedWatch<K> {
    /// Completes when all objects were listed once. Any number of callers may wait. When several wait for the store
    /// itself, only the last to poll is woken, and the store's controller is one of them.
    pub(super) fn listed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut listed = self.listed.subscribe();
        async move {
            // An error means that the watch has ended, and the process stops.
            listed.wait_for(|listed| *listed).await.ok();
        }
    }

    /// Streams the changes from now on.
    pub(super) fn follow(&self) -> impl Stream<Item = WatchChange<Arc<K>>> + Send + 'static {
        stream::unfold(self.sender.subscribe(), |mut changes| async move {
            match changes.recv().await {
                Ok(change) => Some((change, changes)),
                Err(RecvError::Lagged(_)) => Some((WatchChange::Any, changes)),
                Err(RecvError::Closed) => None,
            }
        })
    }

    /// The objects to reconcile when an object of this kind changes: those that `concerned` returns, or all of `store`.
    pub(super) fn concern<L: ReconciledKind>(
        &self,
        store: &Store<L>,
        concerned: impl Fn(&K) -> Vec<ObjectRef<L>> + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<L>> + Send + 'static {
        let store = store.clone();
        self.follow().flat_map(move |change| {
            stream::iter(match change {
                WatchChange::One(object) => concerned(&object),
                WatchChange::Any => store.state().iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect(),
            })
        })
    }
}

fn notify<K: Clone>(sender: &broadcast::Sender<WatchChange<Arc<K>>>, event: &Event<K>) {
    let change = match event {
        Event::Apply(object) | Event::Delete(object) => WatchChange::One(Arc::new(object.clone())),
        Event::InitDone => WatchChange::Any,
        Event::Init | Event::InitApply(_) => return,
    };
    // Sending fails only without a follower, and then no one misses the change.
    sender.send(change).ok();
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures::FutureExt;
    use k8s_openapi::jiff::Timestamp;
    use kube::{api::Preconditions, runtime::controller::Action};

    use super::*;
    use crate::{
        api::{HarborInstance, Registry},
        standalone::MemoryBackend,
    };

    fn registry(name: &str) -> Registry {
        let spec = serde_json::json!({"type": "docker-registry", "url": "https://registry.example"});
        Registry::new(name, serde_json::from_value(spec).unwrap())
    }

    fn instance(name: &str) -> HarborInstance {
        let spec = serde_json::json!({"url": "https://harbor.example", "credentialsSecretRef": {"name": "harbor"}});
        HarborInstance::new(name, serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn a_change_concerns_those_who_are_named_and_a_list_or_a_backlog_concerns_all() {
        let (store, mut writer) = reflector::store();
        for name in ["one", "two"] {
            writer.apply_watcher_event(&Event::Apply(registry(name)));
        }
        let changes = SharedWatch { sender: broadcast::Sender::new(2), listed: watch::Sender::new(true) };
        let named = |instance: &HarborInstance| vec![ObjectRef::new(instance.metadata.name.as_deref().unwrap())];
        let mut concerned = changes.concern::<Registry>(&store, named).boxed();
        let mut next = || {
            let mut names = Vec::new();
            while let Some(Some(found)) = concerned.next().now_or_never() {
                names.push(found.name);
            }
            names.sort();
            names
        };
        notify(&changes.sender, &Event::Apply(instance("two")));
        assert_eq!(next(), ["two"]);
        notify(&changes.sender, &Event::Delete(instance("one")));
        assert_eq!(next(), ["one"]);

        notify(&changes.sender, &Event::Init);
        notify(&changes.sender, &Event::InitApply(instance("two")));
        assert!(next().is_empty(), "half of a list says nothing");
        notify(&changes.sender, &Event::InitDone);
        assert_eq!(next(), ["one", "two"], "what is gone is in no list");

        for _ in 0..3 {
            notify(&changes.sender, &Event::Apply(instance("two")));
        }
        assert_eq!(next(), ["one", "two", "two", "two"], "one was lost, and two came");
    }

    #[tokio::test]
    async fn a_controller_hears_of_what_is_gone_and_does_not_wait_until_its_look_is_due() {
        let backend = MemoryBackend::new(Vec::new());
        backend.create_object(registry("one"), Timestamp::UNIX_EPOCH).unwrap();
        let (controller, _changes) = controller::<Registry>(&backend, Config::default());
        let in_an_hour = async |object: Arc<Registry>, backend: Arc<MemoryBackend>| {
            backend
                .delete_object::<Registry>(&object.name_any(), &Preconditions::default(), Timestamp::UNIX_EPOCH)
                .ok();
            Ok::<_, Infallible>(Action::requeue(Duration::from_secs(3600)))
        };
        let looks = controller.run(in_an_hour, |_, _, _| Action::await_change(), Arc::new(backend));
        let mut gone = std::pin::pin!(looks.filter(|look| {
            std::future::ready(matches!(look, Err(kube::runtime::controller::Error::ObjectNotFound(_))))
        }));
        tokio::time::timeout(Duration::from_secs(20), gone.next()).await.unwrap().unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn all_who_wait_for_the_first_list_are_woken() {
        let changes = SharedWatch::<Registry> { sender: broadcast::Sender::new(2), listed: watch::Sender::new(false) };
        let waiting: Vec<_> = (0..8).map(|_| tokio::spawn(changes.listed())).collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        changes.listed.send_replace(true);
        for waiting in waiting {
            tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        }
    }
}
