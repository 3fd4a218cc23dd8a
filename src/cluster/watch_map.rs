//! One kind of resource, as a map that is always complete.

use std::{collections::HashMap, time::Duration};

use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use kube::{
    Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};

use super::backoff;

/// Follows a watch until it ends. Calls `changed` with all objects by name: first when the initial list is complete, then
/// after each change.
///
/// Nothing changes while the API server is unreachable.
pub(super) async fn follow<K: Resource, V>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    what: &str,
    keep: impl Fn(K) -> V,
    changed: impl Fn(&HashMap<String, V>),
) {
    follow_together(events, what, Duration::ZERO, keep, changed).await;
}

/// As [`follow`], but merges changes that arrive within `together`.
pub(super) async fn follow_together<K: Resource, V>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    what: &str,
    together: Duration,
    keep: impl Fn(K) -> V,
    changed: impl Fn(&HashMap<String, V>),
) {
    let mut events = events.backoff(backoff()).boxed_local();
    let mut known: HashMap<String, V> = HashMap::new();
    let mut listing: HashMap<String, V> = HashMap::new();
    loop {
        let mut event = events.try_next().await;
        let mut untold = false;
        loop {
            match event {
                // The list is collected separately: half of it would send images to the internet.
                Ok(Some(watcher::Event::Init)) => listing.clear(),
                Ok(Some(watcher::Event::InitApply(object))) => {
                    listing.insert(object.name_any(), keep(object));
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    known = std::mem::take(&mut listing);
                    untold = true;
                }
                Ok(Some(watcher::Event::Apply(object))) => {
                    known.insert(object.name_any(), keep(object));
                    untold = true;
                }
                Ok(Some(watcher::Event::Delete(object))) => {
                    known.remove(&object.name_any());
                    untold = true;
                }
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "cannot watch {what}; keeping the known objects"),
            }
            if together.is_zero() {
                break;
            }
            match events.try_next().now_or_never() {
                Some(next) => event = next,
                None => break,
            }
        }
        if untold {
            changed(&known);
            if !together.is_zero() {
                tokio::time::sleep(together).await;
            }
        }
    }
}
