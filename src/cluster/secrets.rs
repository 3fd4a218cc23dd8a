//! Watches of the Secrets that resources refer to, so that a rotation takes effect within seconds.
//!
//! In: reads of Secrets by name, and the names still in use. Out: the names of those that changed. Each watch selects one
//! name in the operator's own namespace, so that a Role can be restricted to names, and reads metadata only. A Secret is
//! not read again while the watch still shows the revision that was read.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, core::PartialObjectMeta, runtime::watcher::Config};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, bounded, watch::watch};
use crate::{
    controller::SecretValue,
    engine::watch::{SteadyBackoff, follow_events, relisting, resumed},
    telemetry::watches::WatchMetrics,
};

/// Maximum number of watched Secrets: each takes a connection to the API server. A change of any other Secret is found at
/// the interval of the resource that refers to it.
pub const MOST: usize = 256;

/// A watch of a Secret that no resource refers to ends after this long at most.
const LOOK: Duration = Duration::from_secs(10);

/// Maximum number of changes that wait for a controller. A controller that falls behind reconciles all its resources.
const BACKLOG: usize = 1024;

/// Maximum number of different revisions remembered per Secret until its watch has started.
const MOST_READ: usize = 8;

/// Identity and version of a Secret; `None` when it does not exist.
type SecretRevision = Option<String>;

/// The Secrets of the operator's own namespace: read by name, then watched.
pub struct SecretStore {
    api: Api<Secret>,
    metadata: Api<PartialObjectMeta<Secret>>,
    known: Mutex<HashMap<String, WatchedSecret>>,
    /// Notified when a name needs a new watch.
    wanted: Notify,
    changed: broadcast::Sender<String>,
}

/// The known state of one Secret.
#[derive(Debug, Default)]
struct WatchedSecret {
    /// The revision that the watch saw last; `None` before its first list.
    seen: Option<SecretRevision>,
    /// The revisions read before the first list.
    read: Vec<SecretRevision>,
    /// The content that was read last.
    value: Option<SecretValue>,
}

impl SecretStore {
    /// Creates a reader for this namespace. Watches start with `follow`.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            metadata: Api::namespaced(client, namespace),
            known: Mutex::default(),
            wanted: Notify::new(),
            changed: broadcast::Sender::new(BACKLOG),
        }
    }

    /// Reads a Secret, and watches it from now on.
    ///
    /// # Errors
    /// [`Error`] of the API server.
    pub async fn read(&self, name: &str) -> Result<Option<SecretValue>, Error> {
        let known = self.known.lock().get(name).and_then(WatchedSecret::current);
        if let Some(value) = known {
            return Ok(value);
        }
        let watched = self.begin(name);
        let found = bounded("reading a Secret", self.api.get_opt(name)).await?.map(value_of);
        self.was_read(name, found.clone(), watched);
        Ok(found)
    }

    /// The names of Secrets that change from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<String> {
        self.changed.subscribe()
    }

    /// Watches the Secrets that were read, until dropped. `named` returns the names still in use.
    pub(super) async fn follow(&self, watches: &WatchMetrics, named: impl Fn() -> HashSet<String> + Send) {
        let mut guards: HashMap<String, DropGuard> = HashMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            self.forget_all_but(&named());
            let wanted: HashSet<String> = self.known.lock().keys().cloned().collect();
            guards.retain(|name, _| wanted.contains(name));
            for name in wanted {
                if !guards.contains_key(&name) {
                    let ended = CancellationToken::new();
                    guards.insert(name.clone(), ended.clone().drop_guard());
                    running.push(async move {
                        tokio::select! {
                            () = ended.cancelled() => {}
                            () = self.watch(&name, watches) => {}
                        }
                    });
                }
            }
            let ended = running.next().then(|ended| async move {
                if ended.is_none() {
                    std::future::pending::<()>().await;
                }
            });
            tokio::select! {
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = ended => {}
            }
        }
    }

    /// Lists again after each error: reads in the meantime are compared with that list.
    async fn watch(&self, name: &str, watches: &WatchMetrics) {
        let config = Config::default().fields(&format!("metadata.name={name}"));
        let events = relisting(|| watch(self.metadata.clone(), config.clone(), "Secret", watches));
        let what = format!("Secret {name}");
        let events = resumed(events, SteadyBackoff::default(), &what, || self.lost(name));
        let keep = |secret: PartialObjectMeta<Secret>| revision(&secret.metadata);
        follow_events(events, Duration::ZERO, keep, |revisions| self.saw(name, revisions.get(name).cloned())).await;
    }

    /// Records that a read of a Secret starts; returns whether its watch has already seen it.
    fn begin(&self, name: &str) -> bool {
        let mut known = self.known.lock();
        if let Some(watched) = known.get(name) {
            return watched.seen.is_some();
        }
        if known.len() < MOST {
            known.insert(name.to_owned(), WatchedSecret::default());
            self.wanted.notify_one();
        } else {
            tracing::debug!(name, "the limit of {MOST} watched Secrets is reached");
        }
        false
    }

    fn was_read(&self, name: &str, found: Option<SecretValue>, was_watched: bool) {
        let revision = found.as_ref().map(|value| value.revision.clone());
        let was_read = |watched: &mut WatchedSecret| {
            watched.value = found;
            watched.was_read(revision, was_watched)
        };
        let changed = self.known.lock().get_mut(name).is_some_and(was_read);
        self.tell(name, changed);
    }

    fn saw(&self, name: &str, revision: SecretRevision) {
        let changed = self.known.lock().get_mut(name).is_some_and(|watched| watched.saw(revision));
        self.tell(name, changed);
    }

    fn lost(&self, name: &str) {
        if let Some(watched) = self.known.lock().get_mut(name) {
            watched.lost();
        }
    }

    fn tell(&self, name: &str, changed: bool) {
        if changed {
            tracing::info!(name, "Secret changed");
            // Sending fails only without a controller.
            self.changed.send(name.to_owned()).ok();
        }
    }

    fn forget_all_but(&self, named: &HashSet<String>) {
        self.known.lock().retain(|name, _| named.contains(name));
    }
}

impl WatchedSecret {
    /// The content of the Secret, or that it does not exist, if known for the revision that the watch saw last.
    fn current(&self) -> Option<Option<SecretValue>> {
        match self.seen.as_ref()? {
            None => Some(None),
            Some(seen) => self.value.as_ref().filter(|value| value.revision == *seen).cloned().map(Some),
        }
    }

    /// Whether a caller holds outdated content: the Secret changed between a read and the first list of the watch.
    fn was_read(&mut self, revision: SecretRevision, was_watched: bool) -> bool {
        match &self.seen {
            None => {
                if self.read.len() < MOST_READ && !self.read.contains(&revision) {
                    self.read.push(revision);
                }
                false
            }
            // A read that started after the first list is at least as new as what the watch has seen, and the watch
            // reports later changes.
            Some(seen) => !was_watched && *seen != revision,
        }
    }

    /// The watch has ended: its last revision may be outdated, and is compared with the first one of the next watch.
    fn lost(&mut self) {
        if let Some(seen) = self.seen.take() {
            self.read = vec![seen];
        }
    }

    /// Whether this revision is new to those that read the Secret.
    fn saw(&mut self, revision: SecretRevision) -> bool {
        let read = std::mem::take(&mut self.read);
        let changed = match &self.seen {
            None => read.len() >= MOST_READ || read.iter().any(|read| *read != revision),
            Some(seen) => *seen != revision,
        };
        self.seen = Some(revision);
        changed
    }
}

fn value_of(secret: Secret) -> SecretValue {
    let revision = revision(&secret.metadata);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let values = secret.data.unwrap_or_default().into_iter();
    let values = values.filter_map(|(key, value)| Some((key, text(value.0)?.into()))).collect();
    SecretValue { revision, values }
}

/// The revision, in the format of [`SecretValue::revision`].
fn revision(metadata: &ObjectMeta) -> String {
    let (uid, version) = (metadata.uid.as_deref(), metadata.resource_version.as_deref());
    let uid = uid.unwrap_or_default();
    format!("{}/{}", uid.get(..8).unwrap_or(uid), version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn some(text: &str) -> SecretRevision {
        Some(text.to_owned())
    }

    #[test]
    fn secret_watch_triggers_once_for_each_change() {
        let mut watched = WatchedSecret::default();
        assert!(!watched.was_read(some("1"), false));
        assert!(!watched.saw(some("1")));
        // The list after a lost watch shows the same revision.
        assert!(!watched.saw(some("1")));
        assert!(watched.saw(some("2")));
        assert!(!watched.was_read(some("2"), true));
        assert!(watched.saw(None));
        assert!(watched.saw(some("3")));
        assert!(!watched.saw(some("3")));
    }

    #[test]
    fn a_secret_is_read_again_once_the_watch_has_seen_another_state_of_it() {
        let value = |revision: &str| SecretValue { revision: revision.to_owned(), values: BTreeMap::new() };
        let known = |watched: &WatchedSecret| watched.current().map(|value| value.map(|value| value.revision));
        let mut watched = WatchedSecret { value: Some(value("1")), ..WatchedSecret::default() };
        assert_eq!(known(&watched), None, "not watched yet");
        watched.saw(some("1"));
        assert_eq!(known(&watched), Some(some("1")));
        watched.saw(some("2"));
        assert_eq!(known(&watched), None);
        watched.value = Some(value("2"));
        assert_eq!(known(&watched), Some(some("2")));
        watched.saw(None);
        assert_eq!(known(&watched), Some(None));
    }

    #[test]
    fn secret_without_a_watch_is_read_each_time_and_missed_changes_trigger() {
        let value = |revision: &str| SecretValue { revision: revision.to_owned(), values: BTreeMap::new() };
        for (then, changed) in [(some("1"), false), (some("2"), true), (None, true)] {
            let mut watched = WatchedSecret { value: Some(value("1")), ..WatchedSecret::default() };
            watched.saw(some("1"));
            assert!(watched.current().is_some());
            watched.lost();
            watched.lost();
            assert!(watched.current().is_none(), "it may have changed");
            assert_eq!(watched.saw(then.clone()), changed, "{then:?}");
        }
    }

    #[test]
    fn a_change_between_the_read_and_the_beginning_of_the_watch_is_not_missed() {
        for (read, listed) in [(some("1"), some("2")), (None, some("1")), (some("1"), None)] {
            let mut watched = WatchedSecret::default();
            watched.was_read(read.clone(), false);
            assert!(watched.saw(listed.clone()), "{read:?} {listed:?}");

            // The answer to the read arrives after the first list.
            let mut watched = WatchedSecret::default();
            assert!(!watched.saw(listed.clone()));
            assert!(watched.was_read(read.clone(), false), "{read:?} {listed:?}");
        }
    }

    #[test]
    fn secret_read_ahead_of_the_watch_triggers_at_most_once() {
        let mut watched = WatchedSecret::default();
        watched.was_read(some("1"), false);
        watched.saw(some("1"));
        for _ in 0..3 {
            assert!(!watched.was_read(some("2"), true));
        }
    }
}
