//! Backoff for a Harbor that does not answer: one image asks it each half minute, however many wait for it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::probe_backoff::{ProbeBackoff, ProbeDenied};

/// Pause after a Harbor did not answer.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Whether one Harbor is backed off. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CircuitBreaker {
    rest: Arc<Mutex<ProbeBackoff>>,
}

/// Permission to ask a Harbor. Dropping it without [`Attempt::end`] records no result.
#[derive(Debug)]
pub struct CircuitProbe {
    silence: CircuitBreaker,
    probe: bool,
}

impl CircuitBreaker {
    /// Returns permission to ask Harbor now.
    ///
    /// # Errors
    /// The time to retry, while Harbor is backed off.
    pub fn attempt(&self, now: Timestamp) -> Result<CircuitProbe, Timestamp> {
        let mut rest = self.rest.lock();
        rest.check(now).map_err(|held| match held {
            ProbeDenied::Until(until) => until,
            ProbeDenied::Trial => after(now),
        })?;
        let probe = rest.ask();
        drop(rest);
        Ok(CircuitProbe { silence: self.clone(), probe })
    }
}

impl CircuitProbe {
    /// Records whether Harbor answered, as of `now`.
    pub fn end(self, answered: bool, now: Timestamp) {
        let mut rest = self.silence.rest.lock();
        if answered { rest.serves() } else { rest.extend(after(now)) }
    }
}

impl Drop for CircuitProbe {
    fn drop(&mut self) {
        if self.probe {
            self.silence.rest.lock().ask_over();
        }
    }
}

fn after(now: Timestamp) -> Timestamp {
    now.checked_add(SILENCE).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn a_harbor_that_answers_is_asked_by_all_and_a_silent_one_by_one_each_half_minute() {
        let silence = CircuitBreaker::default();
        let under_way: Vec<_> = (0..4).map(|_| silence.attempt(at(0)).unwrap()).collect();
        under_way.into_iter().for_each(|attempt| attempt.end(false, at(1)));
        let mut asked = Vec::new();
        for second in 1..200 {
            for _ in 0..100 {
                if let Ok(attempt) = silence.attempt(at(second)) {
                    asked.push(second);
                    attempt.end(false, at(second));
                }
            }
        }
        assert_eq!(asked, [31, 61, 91, 121, 151, 181]);
    }

    #[test]
    fn while_one_asks_the_others_wait_and_its_success_is_that_of_all() {
        let silence = CircuitBreaker::default();
        silence.attempt(at(0)).unwrap().end(false, at(0));
        let probe = silence.attempt(at(30)).unwrap();
        assert_eq!(silence.attempt(at(31)).unwrap_err(), at(61));
        drop(probe);
        let probe = silence.attempt(at(32)).unwrap();
        probe.end(true, at(33));
        assert!((0..10).all(|_| silence.attempt(at(33)).is_ok()));
    }
}
