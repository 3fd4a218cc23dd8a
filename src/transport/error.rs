//! Errors of the transport, the same for both APIs of Harbor.

use std::time::Duration;

use super::{Refusal, RequestResult};

/// A request that failed, whatever it asked for.
///
/// `operation` is method and path, and `detail` says what is wrong: without secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs, reason = "said once, above")]
pub enum Error {
    /// The endpoint cannot be used at all.
    #[error("the Harbor endpoint cannot be used: {0}; check the URL and the CA of the HarborInstance")]
    Endpoint(String),
    /// No connection, or it broke before a status line arrived.
    #[error(
        "Harbor cannot be reached at {url}: {detail}; check the address (http:// or https://, and the port), DNS, the network and the certificate"
    )]
    Unreachable { url: String, detail: String },
    /// The circuit breaker is open: nothing was sent. Holds the message of the last failure.
    #[error("{0}")]
    CircuitOpen(String),
    /// No answer arrived within the deadline.
    #[error("Harbor did not answer {operation} within {} s", deadline.as_secs_f32())]
    Timeout { operation: String, deadline: Duration },
    /// A response began, and its body ended early. Harbor relays what an upstream does, so this is no sign of a failure of
    /// Harbor itself.
    #[error(
        "the response to {operation} broke off ({detail}): Harbor or its upstream ended it early, or something on the way did"
    )]
    BrokenOff { operation: String, detail: String },
    /// A response, or a list, that is longer than any that is needed.
    #[error(
        "the answer to {operation} is too large: {detail}; check that nothing between here and Harbor repeats or pads answers, and delete from Harbor what is not needed"
    )]
    TooLarge { operation: String, detail: String },
    /// A status other than 2xx. The protocols map it to an error of their own.
    #[error("Harbor failed at {} ({}): {}", .0.operation, .0.status, .0.message)]
    Refused(Box<Refusal>),
}

/// How to handle an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// Retry soon, with backoff.
    Retry,
    /// Retry later: at the time that the answer named, or when something else changes.
    Wait(Option<Duration>),
    /// A person must change something.
    Stalled,
}

impl Error {
    /// Returns how to handle the error.
    pub fn class(&self) -> RetryClass {
        if matches!(self, Self::Endpoint(_)) { RetryClass::Stalled } else { RetryClass::Retry }
    }

    /// Returns whether no answer of Harbor began.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::CircuitOpen(_) | Self::Timeout { .. })
    }

    /// Returns whether Harbor itself may be the cause; see [`RequestResult::is_unanswered`].
    pub fn may_be_harbor(&self) -> bool {
        self.is_unreachable() || self.result().is_some_and(RequestResult::is_unanswered)
    }

    /// Returns the result of the request; `None` for one that was never sent.
    pub fn result(&self) -> Option<RequestResult> {
        Some(match self {
            Self::Endpoint(_) | Self::CircuitOpen(_) => return None,
            Self::Unreachable { .. } => RequestResult::Unreachable,
            Self::Timeout { .. } => RequestResult::Timeout,
            Self::BrokenOff { .. } | Self::TooLarge { .. } => RequestResult::Malformed,
            Self::Refused(refusal) => RequestResult::Status(refusal.status),
        })
    }
}
