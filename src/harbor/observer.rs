//! Whoever is told of each request to a Harbor.

use std::{fmt::Debug, time::Duration};

use super::Error;

/// Told of each request to one Harbor, whichever of its APIs it goes to. Called between requests: it must not block.
pub trait Observer: Debug + Send + Sync {
    /// A request was answered, or was not.
    fn answered(&self, api: Api, reads: bool, answer: Answer, took: Duration);
    /// A request that failed is made again.
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

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP status.
    Status(u16),
    /// 2xx, and a body that is not what it should be.
    Malformed,
    /// None in time.
    Timeout,
    /// No connection, or it broke.
    Unreachable,
}

impl Answer {
    /// What a request came to; `None` for one that was never sent.
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
