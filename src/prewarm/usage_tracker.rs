//! Records which namespaces requested which image since the start. Each Pod and workload that is seen is recorded; the record
//! is read when the CachedImage is reconciled.
//!
//! The record is in memory only, so ten thousand Pods of one image cost no write. After a restart the next list of Pods fills
//! it again; [`last_used`](super::expiry::last_used) allows for requests of Pods that have ended by then.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

/// Maximum number of namespaces of one image, in memory and in `status.requestedBy`.
pub const REQUESTERS: usize = 8;

/// Maximum number of recorded images: more than three times the default cap of managed CachedImages.
const MOST: usize = 16_384;

/// The last requests for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUse {
    /// Time of the last request.
    pub at: Timestamp,
    /// Namespaces, newest first, at most [`REQUESTERS`].
    pub namespaces: Vec<Arc<str>>,
}

/// Requests by the image's name at Harbor. Above its bound it forgets the half with the oldest requests. No image expires
/// because of that: images in use are listed again before.
#[derive(Debug, Default)]
pub struct UsageTracker {
    known: Mutex<HashMap<Box<str>, LastUse>>,
    begun: OnceLock<Timestamp>,
}

impl UsageTracker {
    /// Starts recording: every request from `now` on is noted.
    pub fn begin(&self, now: Timestamp) {
        self.begun.get_or_init(|| now);
    }

    /// Returns the time since which every request is recorded.
    pub fn begun(&self) -> Option<Timestamp> {
        self.begun.get().copied()
    }

    /// Records that a Pod or workload of a namespace needs an image.
    pub fn record(&self, image: &str, namespace: &str, now: Timestamp) {
        let mut known = self.known.lock();
        if let Some(request) = known.get_mut(image) {
            request.at = request.at.max(now);
            request.add(namespace);
            return;
        }
        if known.len() >= MOST {
            let mut times: Vec<Timestamp> = known.values().map(|request| request.at).collect();
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or(now);
            known.retain(|_, request| request.at > median);
        }
        let mut request = LastUse { at: now, namespaces: Vec::new() };
        request.add(namespace);
        known.insert(image.into(), request);
    }

    /// Returns the last requests for an image; `None` if there was none.
    pub fn last(&self, image: &str) -> Option<LastUse> {
        self.known.lock().get(image).cloned()
    }
}

impl LastUse {
    fn add(&mut self, namespace: &str) {
        let place = self.namespaces.iter().position(|known| &**known == namespace);
        match place {
            Some(0) => {}
            Some(place) => {
                if let Some(first) = self.namespaces.get_mut(..=place) {
                    first.rotate_right(1);
                }
            }
            None => {
                self.namespaces.insert(0, namespace.into());
                self.namespaces.truncate(REQUESTERS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_last_to_ask_come_first_and_are_few() {
        let asked = UsageTracker::default();
        assert_eq!(asked.last("a"), None);
        for (second, namespace) in [(1, "one"), (2, "two"), (3, "three"), (4, "one"), (3, "one")] {
            asked.record("a", namespace, at(second));
        }
        let request = asked.last("a").unwrap();
        let names: Vec<_> = request.namespaces.iter().map(|name| &**name).collect();
        assert_eq!((request.at, names), (at(4), vec!["one", "three", "two"]));
        (0..100).for_each(|number| asked.record("a", &number.to_string(), at(5)));
        assert_eq!(asked.last("a").unwrap().namespaces.len(), REQUESTERS);
    }

    #[test]
    fn memory_is_bounded_and_what_was_asked_for_last_is_kept() {
        let asked = UsageTracker::default();
        for number in 0..3 * MOST {
            asked.record(&number.to_string(), "shop", at(i64::try_from(number).unwrap()));
        }
        assert!(asked.known.lock().len() <= MOST);
        assert!(asked.last(&(3 * MOST - 1).to_string()).is_some() && asked.last("0").is_none());
    }
}
