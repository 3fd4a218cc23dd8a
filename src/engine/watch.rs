//! The watch loop: a watch as a map that is always complete, or as a stream of events without errors.
//!
//! In: the events of a watch. Out: the objects by name, first when the initial list is complete, then after each change.
//! While the API server is unreachable, the last state stays.

use std::{collections::HashMap, time::Duration};

use backon::ExponentialBuilder;
use futures::{FutureExt, Stream, StreamExt, stream};
use kube::{
    Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, Event},
    },
};

use crate::telemetry::watches::WatchMetrics;

/// A watch that lasted this long after an error was healthy: the next error does not continue its backoff.
const HEALTHY: Duration = Duration::from_secs(60);

/// Backoff of a failed watch: one second at first, at most eight. A restarted API server refuses a watch up to three times
/// (port not open, storage not ready, resourceVersion too old to resume from), and within half a minute everything has to
/// be known again.
pub fn backoff() -> watcher::ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(Duration::from_millis(800));
    builder.with_max_delay(Duration::from_secs(4)).with_jitter().without_max_times().into()
}

/// As [`backoff`], for a watch that starts with a list after each error: the beginning of a list does not reset it.
pub struct SteadyBackoff(ResetTimerBackoff<watcher::ExponentialBackoff>);

impl Default for SteadyBackoff {
    fn default() -> Self {
        Self(ResetTimerBackoff::new(backoff(), HEALTHY))
    }
}

impl Iterator for SteadyBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for SteadyBackoff {
    fn reset(&mut self) {}
}

/// Counts each list and each failure of a watch under `kind`, before a backoff hides it.
pub fn counted<K, S>(
    events: S,
    kind: &'static str,
    watches: &WatchMetrics,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K, S>
where
    S: Stream<Item = watcher::Result<Event<K>>> + Send,
{
    let watches = watches.clone();
    events.inspect(move |event| match event {
        Ok(Event::Init) => watches.listed(kind),
        Ok(_) => {}
        Err(_) => watches.failed(kind),
    })
}

/// The events of a watch. After an error it waits, longer after each, and calls `failed`; it logs the first error of a
/// series.
pub fn resumed<K: Send>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    backoff: impl Backoff,
    what: &str,
    failed: impl Fn() + Send,
) -> impl Stream<Item = Event<K>> + Send {
    let mut warned = false;
    events.backoff(backoff).filter_map(move |event| {
        std::future::ready(match event {
            Ok(event) => {
                // `Init` comes before the first request of a list.
                warned &= matches!(event, Event::Init);
                Some(event)
            }
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(%error, "the watch of {what} failed; it is retried, and the last known state stays active");
                }
                failed();
                None
            }
        })
    })
}

/// A watch that starts again with a list after each error, so that no change in the meantime is missed.
pub fn relisting<K, S>(start: impl Fn() -> S + Send) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Send,
    S: Stream<Item = watcher::Result<Event<K>>> + Send,
{
    stream::repeat_with(start).flat_map(|events| {
        events.scan(false, |ended, event| {
            let failed = std::mem::replace(ended, event.is_err());
            std::future::ready((!failed).then_some(event))
        })
    })
}

/// Follows a watch until it ends. Keeps `keep` of each object by name, and calls `changed` with all of them: first when the
/// initial list is complete, then after each change.
pub async fn follow<K: Resource + Send, V: Send + Sync>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    what: &str,
    keep: impl Fn(K) -> V + Send,
    changed: impl Fn(&HashMap<String, V>) + Send,
) {
    follow_events(resumed(events, backoff(), what, || ()), Duration::ZERO, keep, changed).await;
}

/// As [`follow`] for events without errors, and merges changes that arrive within `together`.
pub async fn follow_events<K: Resource + Send, V: Send + Sync>(
    events: impl Stream<Item = Event<K>> + Send,
    together: Duration,
    keep: impl Fn(K) -> V + Send,
    changed: impl Fn(&HashMap<String, V>) + Send,
) {
    let mut events = std::pin::pin!(events);
    let mut objects = Objects { known: HashMap::new(), listing: HashMap::new(), keep };
    while let Some(event) = events.next().await {
        let mut differs = objects.apply(event);
        if !together.is_zero() {
            while let Some(Some(event)) = events.next().now_or_never() {
                differs |= objects.apply(event);
            }
        }
        if differs {
            changed(&objects.known);
            if !together.is_zero() {
                tokio::time::sleep(together).await;
            }
        }
    }
}

/// The objects of a watch by name.
struct Objects<V, F> {
    known: HashMap<String, V>,
    /// The list is collected separately: half of it would send images to the internet.
    listing: HashMap<String, V>,
    keep: F,
}

impl<V, F> Objects<V, F> {
    /// Applies an event. Returns whether `known` may differ.
    fn apply<K: Resource>(&mut self, event: Event<K>) -> bool
    where
        F: Fn(K) -> V,
    {
        match event {
            Event::Init => {
                self.listing.clear();
                return false;
            }
            Event::InitApply(object) => {
                self.listing.insert(object.name_any(), (self.keep)(object));
                return false;
            }
            Event::InitDone => self.known = std::mem::take(&mut self.listing),
            Event::Apply(object) => {
                self.known.insert(object.name_any(), (self.keep)(object));
            }
            Event::Delete(object) => {
                self.known.remove(&object.name_any());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    fn object(name: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        }
    }

    #[test]
    fn a_watch_never_waits_longer_than_eight_seconds_and_never_gives_up() {
        for waits in [backoff().take(50).collect::<Vec<_>>(), SteadyBackoff::default().take(50).collect()] {
            assert_eq!(waits.len(), 50);
            assert!(waits[0] < Duration::from_secs(2), "{waits:?}");
            assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(8)), "{waits:?}");
        }
    }

    #[test]
    fn a_list_that_fails_again_and_again_waits_longer_each_time() {
        let mut backoff = SteadyBackoff::default();
        let waits = (0..5).map(|_| {
            // The stream emits `Init` before each list.
            backoff.reset();
            backoff.next().unwrap()
        });
        assert!(waits.last().unwrap() >= Duration::from_secs(4));
    }

    #[tokio::test]
    async fn follow_shows_complete_states_only_and_keeps_the_last_one_after_an_error() {
        let failure = || Err(watcher::Error::NoResourceVersion);
        let events = stream::iter([
            Ok(Event::Init),
            Ok(Event::InitApply(object("a"))),
            failure(),
            Ok(Event::Init),
            Ok(Event::InitApply(object("b"))),
            Ok(Event::InitApply(object("c"))),
            Ok(Event::InitDone),
            failure(),
            Ok(Event::Apply(object("d"))),
            Ok(Event::Delete(object("b"))),
        ]);
        let seen = Mutex::new(Vec::new());
        follow(events, "ConfigMaps", drop, |known| {
            let mut names: Vec<String> = known.keys().cloned().collect();
            names.sort();
            seen.lock().unwrap().push(names.concat());
        })
        .await;
        assert_eq!(*seen.lock().unwrap(), ["bc", "bcd", "cd"]);
    }

    #[tokio::test]
    async fn relisting_starts_again_after_each_error() {
        let start = || {
            stream::iter([Ok(Event::Init), Err(watcher::Error::NoResourceVersion), Ok(Event::<ConfigMap>::InitDone)])
        };
        let events: Vec<bool> = relisting(start).map(|event| event.is_ok()).take(4).collect().await;
        assert_eq!(events, [true, false, true, false]);
    }
}
