//! Warnings about the workloads of a tenant: each is logged once per interval, however often it occurs.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Interval after which the same warning is logged again.
const AGAIN: Duration = Duration::from_secs(600);
/// Maximum number of remembered warnings. Beyond it no new one is logged until older ones may be logged again.
const MOST: usize = 1024;

/// The warnings that were logged recently.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// Whether a warning should be logged now.
    pub(super) fn is_due(&self, warning: &str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < AGAIN;
        if told.get(warning).is_some_and(recent) {
            return false;
        }
        if told.len() >= MOST {
            told.retain(|_, at| recent(at));
            if told.len() >= MOST {
                return false;
            }
        }
        told.insert(warning.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_repeats_a_warning_after_a_while_and_is_bounded() {
        let (told, now) = (Told::default(), Instant::now());
        assert!(told.is_due("shop", now) && !told.is_due("shop", now) && told.is_due("bank", now));
        let due = (0..3 * MOST).filter(|number| told.is_due(&number.to_string(), now)).count();
        assert_eq!(due, MOST - 2);
        assert!(told.is_due("shop", now + AGAIN) && told.is_due("new", now + AGAIN));
    }
}
