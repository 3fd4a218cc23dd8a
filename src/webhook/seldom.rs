//! Rate limit for a log line: logs a frequent event at most once per interval.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts the events between two log lines. Takes no lock.
#[derive(Debug)]
pub(super) struct Seldom {
    began: Instant,
    every: Duration,
    /// Milliseconds from `began` to the earliest next log line.
    next: AtomicU64,
    times: AtomicU64,
}

impl Seldom {
    pub(super) fn new(every: Duration) -> Self {
        Self { began: Instant::now(), every, next: AtomicU64::new(0), times: AtomicU64::new(0) }
    }

    /// Logs if the interval is over, with the number of events since the last line.
    pub(super) fn log(&self, now: Instant, log: impl FnOnce(u64)) {
        self.times.fetch_add(1, Ordering::Relaxed);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (now, next) = (millis(now.saturating_duration_since(self.began)), self.next.load(Ordering::Relaxed));
        let later = now.saturating_add(millis(self.every));
        if now >= next && self.next.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            log(self.times.swap(0, Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_called_once_in_each_interval_with_how_often_it_happened() {
        let (seldom, mut logged) = (Seldom::new(Duration::from_secs(10)), Vec::new());
        for second in 0..25 {
            seldom.log(seldom.began + Duration::from_secs(second), |times| logged.push((second, times)));
        }
        assert_eq!(logged, [(0, 1), (10, 10), (20, 10)]);
    }
}
