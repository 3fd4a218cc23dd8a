//! The observer of requests to a Harbor.

use std::{fmt::Debug, time::Duration};

use super::Error;

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
    /// 2xx with a malformed body.
    Malformed,
    /// No answer in time.
    Timeout,
    /// No connection, or it broke.
    Unreachable,
}

impl RequestResult {
    /// Returns the result of a request; `None` for one that was never sent.
    pub(super) fn of<T>(result: &Result<T, Error>) -> Option<Self> {
        Some(match result {
            Ok(_) => Self::Status(200),
            Err(Error::Endpoint(_)) => return None,
            Err(Error::Unreachable { .. }) => Self::Unreachable,
            Err(Error::Timeout { .. }) => Self::Timeout,
            Err(Error::Unauthorized { .. }) => Self::Status(401),
            Err(Error::Forbidden { .. }) => Self::Status(403),
            Err(Error::NotFound { .. }) => Self::Status(404),
            Err(Error::Conflict { .. }) => Self::Status(409),
            Err(Error::Precondition { .. }) => Self::Status(412),
            Err(Error::RateLimited { .. }) => Self::Status(429),
            Err(Error::Refused { status, .. } | Error::Server { status, .. }) => Self::Status(*status),
            Err(Error::Malformed { .. } | Error::TooLarge { .. }) => Self::Malformed,
        })
    }
}
