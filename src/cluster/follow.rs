//! One kind of resource, as a map that is always whole.

use std::collections::HashMap;

use futures::{Stream, StreamExt, TryStreamExt};
use kube::{
    Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};

use super::backoff;

/// Follows a watch until it ends. Calls `changed` with all objects by name, for the first time when the first list is
/// complete, and after each change.
///
/// While the API server is away nothing changes.
pub(super) async fn follow<K: Resource, V>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    what: &str,
    keep: impl Fn(K) -> V,
    changed: impl Fn(&HashMap<String, V>),
) {
    let mut events = events.backoff(backoff()).boxed_local();
    let mut known: HashMap<String, V> = HashMap::new();
    let mut listing: HashMap<String, V> = HashMap::new();
    loop {
        match events.try_next().await {
            // A list is collected aside: half of it would send images to the internet.
            Ok(Some(watcher::Event::Init)) => listing.clear(),
            Ok(Some(watcher::Event::InitApply(object))) => {
                listing.insert(object.name_any(), keep(object));
            }
            Ok(Some(watcher::Event::InitDone)) => {
                known = std::mem::take(&mut listing);
                changed(&known);
            }
            Ok(Some(watcher::Event::Apply(object))) => {
                known.insert(object.name_any(), keep(object));
                changed(&known);
            }
            Ok(Some(watcher::Event::Delete(object))) => {
                known.remove(&object.name_any());
                changed(&known);
            }
            Ok(None) => return,
            Err(error) => tracing::warn!(%error, "watching {what}; what is known stays in force"),
        }
    }
}
