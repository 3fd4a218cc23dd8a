//! Decides whether a Harbor is unreachable, for all its users: after a failure nothing is sent for a while, and then one request
//! probes whether it answers again.
//!
//! The cache of Harbor's state and each image ask for permission. The reconcile of the HarborInstance does not: it asks Harbor
//! each half minute, and its first answer closes the circuit for all.
//!
//! [`CircuitState`] is pure. [`CircuitBreaker`] shares one state between all users of a Harbor. What counts as a failure is
//! [`RequestResult::is_unanswered`](super::RequestResult::is_unanswered).

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::timings::PROBE_INTERVAL;

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CircuitState {
    /// All requests pass.
    #[default]
    Closed,
    /// No request passes until this time, and then one: the probe.
    Open(Timestamp),
    /// The pause ended at this time, and the probe has no result yet.
    HalfOpen(Timestamp),
}

/// Why no request passes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The circuit is open until this time.
    Until(Timestamp),
    /// A probe is running.
    Probing,
}

impl CircuitState {
    /// Returns the end of the pause; in the past while a probe is due or running.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Self::Closed => None,
            Self::Open(until) | Self::HalfOpen(until) => Some(until),
        }
    }

    /// Returns whether the pause lasts now.
    pub fn is_open(self, now: Timestamp) -> bool {
        self.until().is_some_and(|until| until > now)
    }

    /// Returns whether a request passes now.
    pub fn check(self, now: Timestamp) -> Result<(), Denied> {
        match self {
            Self::Open(until) if until > now => Err(Denied::Until(until)),
            Self::HalfOpen(_) => Err(Denied::Probing),
            Self::Closed | Self::Open(_) => Ok(()),
        }
    }

    /// Starts a request that passed. It is the probe if the circuit was open.
    pub fn begin(&mut self) {
        if let Self::Open(until) = *self {
            *self = Self::HalfOpen(until);
        }
    }

    /// Ends the probe without a result: another request may probe.
    pub fn release(&mut self) {
        if let Self::HalfOpen(until) = *self {
            *self = Self::Open(until);
        }
    }

    /// Opens the circuit after a failure.
    pub fn fail(&mut self, until: Timestamp) {
        *self = Self::Open(until);
    }

    /// Closes the circuit after a success.
    pub fn succeed(&mut self) {
        *self = Self::Closed;
    }
}

/// The circuit breaker of one Harbor. Clones share it. The transport records the result of each request; callers that would send
/// many requests ask [`CircuitBreaker::admit`] first.
#[derive(Debug, Clone, Default)]
pub struct CircuitBreaker(Arc<Mutex<Circuit>>);

#[derive(Debug, Default)]
struct Circuit {
    state: CircuitState,
    /// Message of the last failure.
    why: String,
    /// Time of the last answer.
    answered: Option<Timestamp>,
}

/// An open circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Time to retry.
    pub until: Timestamp,
    /// Message of the last failure.
    pub why: String,
}

/// Permission to send requests. If it is the probe and is dropped without a result, another one may probe.
#[derive(Debug)]
pub struct Probe {
    breaker: CircuitBreaker,
    state: CircuitState,
}

impl CircuitBreaker {
    /// Returns permission to send requests now.
    ///
    /// # Errors
    /// [`Open`] while Harbor is unreachable.
    pub fn admit(&self, now: Timestamp) -> Result<Probe, Open> {
        let mut circuit = self.0.lock();
        circuit.state.check(now).map_err(|denied| {
            let until = if let Denied::Until(until) = denied { until } else { next_probe(now) };
            Open { until, why: circuit.why.clone() }
        })?;
        circuit.state.begin();
        Ok(Probe { breaker: self.clone(), state: circuit.state })
    }

    /// Records that Harbor answered.
    pub fn succeeded(&self, now: Timestamp) {
        let mut circuit = self.0.lock();
        circuit.state.succeed();
        circuit.answered = Some(now);
    }

    /// Records that Harbor did not answer a request that was sent at `sent`. It counts unless Harbor answered another one since.
    pub fn failed(&self, sent: Timestamp, now: Timestamp, why: impl Into<String>) {
        let mut circuit = self.0.lock();
        if circuit.answered.is_none_or(|answered| answered <= sent) {
            circuit.state.fail(next_probe(now));
            circuit.why = why.into();
        }
    }
}

impl Probe {
    /// Ends the requests. If one of them opened the circuit, its pause starts at `now`.
    pub fn end(self, now: Timestamp) {
        let mut circuit = self.breaker.0.lock();
        if matches!(circuit.state, CircuitState::Open(_)) && circuit.state != self.state {
            circuit.state.fail(next_probe(now));
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let mut circuit = self.breaker.0.lock();
        if circuit.state == self.state {
            circuit.state.release();
        }
    }
}

fn next_probe(now: Timestamp) -> Timestamp {
    now.checked_add(PROBE_INTERVAL).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CircuitState::{Closed, HalfOpen, Open};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn circuit_state_passes_all_while_closed_none_while_open_and_one_while_half_open() {
        let table = [
            (Closed, Ok(()), Closed, Closed),
            (Open(at(30)), Ok(()), HalfOpen(at(30)), Open(at(30))),
            (Open(at(31)), Err(Denied::Until(at(31))), HalfOpen(at(31)), Open(at(31))),
            (HalfOpen(at(30)), Err(Denied::Probing), HalfOpen(at(30)), Open(at(30))),
        ];
        for (state, passes, begun, released) in table {
            let after = |event: fn(&mut CircuitState)| {
                let mut next = state;
                event(&mut next);
                next
            };
            assert_eq!(state.check(at(30)), passes, "{state:?}");
            assert_eq!((after(CircuitState::begin), after(CircuitState::release)), (begun, released), "{state:?}");
            assert_eq!(after(CircuitState::succeed), Closed, "{state:?}");
            assert_eq!(after(|state| state.fail(at(60))), Open(at(60)), "{state:?}");
        }
    }

    #[test]
    fn admit_passes_all_while_harbor_answers_and_one_each_half_minute_while_it_does_not() {
        let breaker = CircuitBreaker::default();
        let under_way: Vec<_> = (0..4).map(|_| breaker.admit(at(0)).unwrap()).collect();
        under_way.into_iter().for_each(|_| breaker.failed(at(0), at(1), "refused"));
        let mut asked = Vec::new();
        for second in 1..200 {
            for _ in 0..100 {
                if let Ok(_probe) = breaker.admit(at(second)) {
                    asked.push(second);
                    breaker.failed(at(second), at(second), "refused");
                }
            }
        }
        assert_eq!(asked, [31, 61, 91, 121, 151, 181]);
    }

    #[test]
    fn admit_waits_for_the_probe_and_its_success_is_that_of_all() {
        let breaker = CircuitBreaker::default();
        breaker.failed(at(0), at(0), "refused");
        let probe = breaker.admit(at(30)).unwrap();
        let open = breaker.admit(at(31)).unwrap_err();
        assert_eq!((open.until, open.why.as_str()), (at(61), "refused"));
        drop(probe);
        let _probe = breaker.admit(at(32)).unwrap();
        breaker.succeeded(at(33));
        assert!((0..10).all(|_| breaker.admit(at(33)).is_ok()));
    }

    #[test]
    fn failed_ignores_a_request_from_before_the_last_answer() {
        let breaker = CircuitBreaker::default();
        breaker.succeeded(at(10));
        breaker.failed(at(0), at(30), "slow");
        assert!(breaker.admit(at(30)).is_ok());
        breaker.failed(at(10), at(30), "refused");
        assert!(breaker.admit(at(30)).is_err());
    }
}
