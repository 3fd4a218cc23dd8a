//! The last written state of each object: for a moment after a write, a watch may still show the previous version.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Maximum lag of a watch.
const LAG: Duration = Duration::from_secs(300);

/// Below this number of entries no sweep runs.
const FEW: usize = 64;

/// Recently written states, by object name.
#[derive(Debug)]
pub(super) struct StatusCache<S> {
    known: HashMap<String, WrittenStatus<S>>,
    /// Number of entries at which the next sweep runs.
    sweep_at: usize,
}

#[derive(Debug)]
struct WrittenStatus<S> {
    /// The resourceVersion that the write replaced.
    over: String,
    state: S,
    at: Instant,
}

impl<S> StatusCache<S> {
    /// The state that was written over this version of the object; `None` when the object has another version.
    pub(super) fn over(&mut self, name: &str, version: Option<&str>) -> Option<&S> {
        if self.known.get(name).is_some_and(|last| Some(last.over.as_str()) != version) {
            self.known.remove(name);
        }
        self.known.get(name).map(|last| &last.state)
    }

    /// Records the state that was written over a version of the object. Old entries that were never read again, because
    /// the object is gone, are removed.
    pub(super) fn record(&mut self, name: String, over: String, state: S, now: Instant) {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, last| now.duration_since(last.at) < LAG);
            self.sweep_at = FEW.max(self.known.len() * 2);
        }
        self.known.insert(name, WrittenStatus { over, state, at: now });
    }

    /// Forgets an object that is being deleted.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}

impl<S> Default for StatusCache<S> {
    fn default() -> Self {
        Self { known: HashMap::new(), sweep_at: FEW }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_counts_until_the_watch_shows_it() {
        let mut written = StatusCache::default();
        written.record("a".to_owned(), "1".to_owned(), "warm", Instant::now());
        assert_eq!(written.over("a", Some("1")), Some(&"warm"));
        assert_eq!(written.over("b", Some("1")), None);
        assert_eq!(written.over("a", Some("2")), None, "the watch has caught up");
        assert_eq!(written.over("a", Some("1")), None, "and is not asked to go back");
    }

    #[test]
    fn objects_that_come_and_go_leave_nothing_behind() {
        let mut written = StatusCache::default();
        let start = Instant::now();
        for second in 0..100_000 {
            let now = start + Duration::from_secs(second);
            written.record(format!("image-{second}"), "1".to_owned(), (), now);
            assert!(written.known.len() <= 2 * 300 + 1, "{}", written.known.len());
        }
        assert_eq!(written.over("image-99999", Some("1")), Some(&()));
    }
}
