//! One watch a kind, for its own controller and for all who follow it.
//!
//! In: the watch of a kind. Out: its controller, and for others each object that changed. Whoever cannot keep up is told to look
//! at everything.

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
use crate::{controller::Managed, telemetry::watches::Watches};

/// Changes that may wait for one who follows.
const BACKLOG: usize = 1024;

/// What followers are told of a kind.
#[derive(Debug, Clone)]
pub(super) enum Change<T> {
    /// This one was created, changed or deleted.
    One(T),
    /// All were listed, or more changed than could be told: anything may be different.
    Any,
}

/// The changes of a kind, to be followed.
pub(super) struct Changes<K> {
    sender: broadcast::Sender<Change<Arc<K>>>,
    listed: watch::Sender<bool>,
}

/// The one watch of a kind, as its controller. Nothing is watched until that runs.
pub(super) fn controller<K: Managed>(
    client: &Client,
    config: Config,
    watches: &Watches,
) -> (Controller<K>, Changes<K>) {
    let (store, writer) = reflector::store();
    let sender = broadcast::Sender::new(BACKLOG);
    let listed = watch::Sender::new(false);
    let (told, done) = (sender.clone(), listed.clone());
    let events = watch(Api::<K>::all(client.clone()), watcher::Config::default(), K::KIND, watches);
    // Who owns which field takes more memory than the fields, and nobody here asks.
    let events = events.modify(|object| object.managed_fields_mut().clear()).reflect(writer);
    // By now the store has it, so that followers find there what they are told of.
    let events = events.inspect_ok(move |event| {
        tell(&told, event);
        if matches!(event, Event::InitDone) {
            done.send_replace(true);
        }
    });
    // The controller hears of deletions, too: otherwise it keeps each look at what is gone until the look is due.
    let controller = Controller::for_stream(events.touched_objects(), store).with_config(config);
    (controller.trigger_backoff(backoff()), Changes { sender, listed })
}

impl<K: Managed> Changes<K> {
    /// Comes when all were listed once. Any number may wait for it; of those who wait for the store itself only the last to look is
    /// woken, and its controller is one of them.
    pub(super) fn listed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut listed = self.listed.subscribe();
        async move {
            // An error says that the watch has ended, and with it everything.
            listed.wait_for(|listed| *listed).await.ok();
        }
    }

    /// From now on.
    pub(super) fn follow(&self) -> impl Stream<Item = Change<Arc<K>>> + Send + 'static {
        stream::unfold(self.sender.subscribe(), |mut changes| async move {
            match changes.recv().await {
                Ok(change) => Some((change, changes)),
                Err(RecvError::Lagged(_)) => Some((Change::Any, changes)),
                Err(RecvError::Closed) => None,
            }
        })
    }

    /// What is to be looked at because something of this kind changed: those that `concerned` names, or all of `store`.
    pub(super) fn concern<L: Managed>(
        &self,
        store: &Store<L>,
        concerned: impl Fn(&K) -> Vec<ObjectRef<L>> + Send + 'static,
    ) -> impl Stream<Item = ObjectRef<L>> + Send + 'static {
        let store = store.clone();
        self.follow().flat_map(move |change| {
            stream::iter(match change {
                Change::One(object) => concerned(&object),
                Change::Any => store.state().iter().map(|object| ObjectRef::from_obj(object.as_ref())).collect(),
            })
        })
    }
}

fn tell<K: Clone>(sender: &broadcast::Sender<Change<Arc<K>>>, event: &Event<K>) {
    let change = match event {
        Event::Apply(object) | Event::Delete(object) => Change::One(Arc::new(object.clone())),
        Event::InitDone => Change::Any,
        Event::Init | Event::InitApply(_) => return,
    };
    // With nobody there nobody misses it.
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
        let changes = Changes { sender: broadcast::Sender::new(2), listed: watch::Sender::new(true) };
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
        tell(&changes.sender, &Event::Apply(instance("two")));
        assert_eq!(next(), ["two"]);
        tell(&changes.sender, &Event::Delete(instance("one")));
        assert_eq!(next(), ["one"]);

        tell(&changes.sender, &Event::Init);
        tell(&changes.sender, &Event::InitApply(instance("two")));
        assert!(next().is_empty(), "half of a list says nothing");
        tell(&changes.sender, &Event::InitDone);
        assert_eq!(next(), ["one", "two"], "what is gone is in no list");

        for _ in 0..3 {
            tell(&changes.sender, &Event::Apply(instance("two")));
        }
        assert_eq!(next(), ["one", "two", "two", "two"], "one was lost, and two came");
    }

    /// An API server with one Registry, which is deleted once it was looked at.
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
    async fn a_controller_hears_of_what_is_gone_and_does_not_wait_until_its_look_is_due() {
        let looked_at = Arc::new(Notify::new());
        let told = looked_at.clone();
        let client = Client::new(tower::service_fn(move |request| soon_without_it(request, told.clone())), "default");
        let watches = Watches::register(&mut prometheus_client::registry::Registry::default());
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
        let changes = Changes::<Registry> { sender: broadcast::Sender::new(2), listed: watch::Sender::new(false) };
        let waiting: Vec<_> = (0..8).map(|_| tokio::spawn(changes.listed())).collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        changes.listed.send_replace(true);
        for waiting in waiting {
            tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        }
    }
}
