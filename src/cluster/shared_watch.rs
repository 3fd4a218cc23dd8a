//! One watch per kind, shared by its controller and all followers.
//!
//! In: the watch of a kind. Out: its controller, and for followers each object that changed. A follower that falls behind
//! receives `Change::Any` and has to reconcile everything.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        Controller, WatchStreamExt,
        controller::Config,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event},
    },
};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use super::{backoff, watch::watch};
use crate::{controller::ReconciledKind, telemetry::watches::WatchMetrics};

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
    client: &Client,
    config: Config,
    watches: &WatchMetrics,
) -> (Controller<K>, SharedWatch<K>) {
    let (store, writer) = reflector::store();
    let sender = broadcast::Sender::new(BACKLOG);
    let listed = watch::Sender::new(false);
    let (told, done) = (sender.clone(), listed.clone());
    let events = watch(Api::<K>::all(client.clone()), watcher::Config::default(), K::KIND, watches);
    // managedFields take more memory than the other fields, and no code here reads them.
    let events = events.modify(|object| object.managed_fields_mut().clear()).reflect(writer);
    // The store already has the change at this point, so followers find the object there.
    let events = events.inspect_ok(move |event| {
        notify(&told, event);
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
    use kube::{client::Body, runtime::controller::Action};
    use tokio::sync::Notify;

    use super::*;
    use crate::api::{HarborInstance, Registry};

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

    /// An API server with one Registry, which is deleted after it was reconciled.
    async fn soon_without_it(
        request: http::Request<Body>,
        looked_at: Arc<Notify>,
    ) -> Result<http::Response<Body>, Infallible> {
        let version = |version: &str| serde_json::json!({"resourceVersion": version});
        let mut object = serde_json::to_value(registry("one")).unwrap();
        object["metadata"]["resourceVersion"] = "1".into();
        let query = request.uri().query().unwrap_or_default();
        let answer = match query.contains("watch=") {
            false => {
                serde_json::json!({"kind": "RegistryList", "apiVersion": "v1", "metadata": version("1"), "items": [object]})
            }
            true if query.contains("resourceVersion=1") => {
                looked_at.notified().await;
                object["metadata"]["resourceVersion"] = "2".into();
                serde_json::json!({"type": "DELETED", "object": object})
            }
            true => std::future::pending().await,
        };
        Ok(http::Response::new(Body::from(format!("{answer}\n").into_bytes())))
    }

    #[tokio::test]
    async fn shared_watch_reconciles_a_deleted_object_immediately() {
        let looked_at = Arc::new(Notify::new());
        let told = looked_at.clone();
        let client = Client::new(tower::service_fn(move |request| soon_without_it(request, told.clone())), "default");
        let watches = WatchMetrics::register(&mut prometheus_client::registry::Registry::default());
        let (controller, _changes) = controller::<Registry>(&client, Config::default(), &watches);
        let in_an_hour = async |_: Arc<Registry>, looked_at: Arc<Notify>| {
            looked_at.notify_one();
            Ok::<_, Infallible>(Action::requeue(Duration::from_secs(3600)))
        };
        let looks = controller.run(in_an_hour, |_, _, _| Action::await_change(), looked_at);
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
