//! What can go wrong between us and Harbor.

use crate::api::Reason;

/// A request that did not do what it should.
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
        /// What the HTTP client said.
        detail: String,
    },
    /// No answer within the deadline.
    #[error("Harbor did not answer {operation} within {seconds} s")]
    Timeout {
        /// Method and path.
        operation: String,
        /// The deadline in seconds.
        seconds: u64,
    },
    /// 401.
    #[error("Harbor refused the credentials (401) for {operation}; check the Secret of the HarborInstance")]
    Unauthorized {
        /// Method and path.
        operation: String,
    },
    /// 403.
    #[error(
        "Harbor forbids {operation} to this account (403): {message}; `harbor-pilot permissions` prints the rights"
    )]
    Forbidden {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 404.
    #[error("Harbor has no such object ({operation}): {message}")]
    NotFound {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 409.
    #[error("Harbor has an object of that name already: {message}")]
    Conflict {
        /// Harbor's message.
        message: String,
    },
    /// 412: something else stands in the way.
    #[error("{message}")]
    Precondition {
        /// Harbor's message.
        message: String,
    },
    /// 429.
    #[error("Harbor limits our rate; tried again after {} s", retry_after.unwrap_or(60))]
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
    /// 5xx.
    #[error("Harbor failed at {operation} ({status}): {message}")]
    Server {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Harbor's message.
        message: String,
    },
    /// An answer that is not what Harbor sends: a login page, a truncated body.
    #[error("the answer to {operation} is not Harbor's: {detail}; is there a proxy or a login page in between?")]
    Malformed {
        /// Method and path.
        operation: String,
        /// What was wrong.
        detail: String,
    },
    /// An answer, or a list, that is longer than those of a Harbor.
    #[error(
        "the answer to {operation} is too large: {detail}; check that nothing between here and Harbor repeats or pads answers, and delete from Harbor what nobody needs"
    )]
    TooLarge {
        /// Method and path.
        operation: String,
        /// How much was read, and what the limit is.
        detail: String,
    },
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again soon, with backoff.
    Retry,
    /// Look again at the next interval, or when something else changes.
    Wait,
    /// A person has to change something.
    Stalled,
}

impl Error {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Server { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Conflict { .. }
            | Self::RateLimited { .. } => Class::Retry,
            Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::NotFound { .. } | Self::Precondition { .. } => {
                Class::Wait
            }
            Self::Endpoint(_) | Self::Refused { .. } => Class::Stalled,
        }
    }

    /// The reason to put into a condition.
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

    /// Whether Harbor cannot be talked to now, whatever is asked.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. })
    }

    /// Whether this is the one 400 with which Harbor answers for every upstream that it cannot use.
    pub fn is_unhealthy_registry(&self) -> bool {
        matches!(self, Self::Refused { status: 400, message, .. } if message.contains("registry is unhealthy"))
    }
}
