//! Warnings about the workloads of a tenant: each is logged once per interval, however often it occurs.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Interval after which the same warning is logged again.
const AGAIN: Duration = Duration::from_secs(600);
/// Maximum number of remembered warnings. Beyond it no new one is logged until older ones may be logged again.
const MOST: usize = 1024;

/// The warnings that were logged recently.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<HashMap<String, Instant>>);

impl LogLimit {
    /// Whether a warning should be logged now.
    pub fn is_due(&self, warning: &str, now: Instant) -> bool {
        let mut logged = self.0.lock();
        let recent = |at: &Instant| now.saturating_duration_since(*at) < AGAIN;
        if logged.get(warning).is_some_and(recent) {
            return false;
        }
        if logged.len() >= MOST {
            logged.retain(|_, at| recent(at));
            if logged.len() >= MOST {
                return false;
            }
        }
        logged.insert(warning.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_limit_repeats_a_warning_after_a_while_and_is_bounded() {
        let (logged, now) = (LogLimit::default(), Instant::now());
        assert!(logged.is_due("shop", now) && !logged.is_due("shop", now) && logged.is_due("bank", now));
        let due = (0..3 * MOST).filter(|number| logged.is_due(&number.to_string(), now)).count();
        assert_eq!(due, MOST - 2);
        assert!(logged.is_due("shop", now + AGAIN) && logged.is_due("new", now + AGAIN));
    }
}
