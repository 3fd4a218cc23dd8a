//! The observer of requests to a Harbor, and what the result of a request says about that Harbor.

use std::{fmt::Debug, time::Duration};

/// Receives the result of each request to one Harbor, of both APIs. Called between requests: it must not block.
pub trait RequestObserver: Debug + Send + Sync {
    /// A request ended, with an answer or without one.
    fn answered(&self, api: Api, reads: bool, answer: RequestResult, took: Duration);
    /// A failed request is retried.
    fn repeated(&self);
}

/// An API of Harbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/api/v2.0`.
    Management,
    /// `/v2`.
    Registry,
}

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestResult {
    /// An HTTP status.
    Status(u16),
    /// A response that began and cannot be used.
    Malformed,
    /// No answer in time.
    Timeout,
    /// No connection, or it broke before an answer.
    Unreachable,
}

impl RequestResult {
    /// Returns whether no Harbor answered: no status line arrived, or a gateway reported that its backend did not answer. This
    /// is the one list of failures for the circuit breaker. A Harbor that waits for an upstream may look the same.
    pub fn is_unanswered(self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable | Self::Status(502..=504) => true,
            Self::Status(_) | Self::Malformed => false,
        }
    }
}
