//! Errors of requests to Harbor's API.

use crate::api::Reason;

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint cannot be used at all.
    #[error("the Harbor endpoint cannot be used: {0}")]
    Endpoint(String),
    /// No connection, or it broke.
    #[error(
        "Harbor cannot be reached at {url}: {detail}; check the address (http:// or https://, and the port), DNS, the network and the certificate"
    )]
    Unreachable {
        /// Scheme, host and port.
        url: String,
        /// Message of the HTTP client.
        detail: String,
    },
    /// No answer arrived within the deadline.
    #[error("Harbor did not answer {operation} within {seconds} s")]
    Timeout {
        /// Method and path.
        operation: String,
        /// The deadline in seconds.
        seconds: u64,
    },
    /// HTTP status 401.
    #[error("Harbor refused the credentials (401) for {operation}; check the Secret of the HarborInstance")]
    Unauthorized {
        /// Method and path.
        operation: String,
    },
    /// HTTP status 403.
    #[error(
        "Harbor forbids {operation} for this account (403): {message}; `harbor-pilot permissions` prints the required permissions"
    )]
    Forbidden {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// HTTP status 404.
    #[error("Harbor has no such object ({operation}): {message}")]
    NotFound {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// HTTP status 409.
    #[error("Harbor already has an object of that name: {message}")]
    Conflict {
        /// Harbor's message.
        message: String,
    },
    /// 412: another object or a setting blocks the request.
    #[error("{message}")]
    Precondition {
        /// Harbor's message.
        message: String,
    },
    /// HTTP status 429.
    #[error("Harbor limits our request rate; retrying after {} s", retry_after.unwrap_or(60))]
    RateLimited {
        /// `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// Another 4xx.
    #[error("Harbor refused {operation} ({status}): {message}")]
    Refused {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Harbor's message.
        message: String,
    },
    /// HTTP status 5xx.
    #[error("Harbor failed at {operation} ({status}): {message}")]
    Server {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Harbor's message.
        message: String,
    },
    /// An answer that Harbor does not send: a login page, a truncated body.
    #[error("the response to {operation} is not from Harbor: {detail}; is a proxy or a login page in between?")]
    Malformed {
        /// Method and path.
        operation: String,
        /// The fault in the answer.
        detail: String,
    },
    /// An answer, or a list, that is longer than any of a Harbor.
    #[error(
        "the response to {operation} is too large: {detail}; check that no proxy repeats or pads responses, and delete unneeded objects from Harbor"
    )]
    TooLarge {
        /// Method and path.
        operation: String,
        /// The number of read bytes or objects, and the limit.
        detail: String,
    },
}

/// How to handle an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// Retry soon, with backoff.
    Retry,
    /// Retry at the next interval, or when something else changes.
    Wait,
    /// A person must change something.
    Stalled,
}

impl Error {
    /// Returns how to handle the error.
    pub fn class(&self) -> RetryClass {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Server { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Conflict { .. }
            | Self::RateLimited { .. } => RetryClass::Retry,
            Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::NotFound { .. } | Self::Precondition { .. } => {
                RetryClass::Wait
            }
            Self::Endpoint(_) | Self::Refused { .. } => RetryClass::Stalled,
        }
    }

    /// Returns the reason for a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Endpoint(_) => Reason::InvalidSpec,
            Self::Unreachable { .. } | Self::Timeout { .. } => Reason::HarborUnreachable,
            Self::Unauthorized { .. } => Reason::HarborUnauthorized,
            Self::Forbidden { .. } => Reason::HarborForbidden,
            Self::Conflict { .. } => Reason::NameConflict,
            Self::Precondition { .. } => Reason::InUse,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::Refused { .. } | Self::NotFound { .. } => Reason::HarborRefused,
            Self::Server { .. } | Self::Malformed { .. } | Self::TooLarge { .. } => Reason::HarborError,
        }
    }

    /// Returns whether Harbor is unreachable now, whatever the request.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Returns whether this is the one 400 that Harbor sends for every upstream that it cannot use.
    pub fn is_unhealthy_registry(&self) -> bool {
        matches!(self, Self::Refused { status: 400, message, .. } if message.contains("registry is unhealthy"))
    }
}
