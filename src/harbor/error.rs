//! Errors of requests to Harbor's API.

use std::time::Duration;

use crate::{
    api::Reason,
    transport::{self, Refusal, RequestResult, RetryClass, timings::RATE_LIMIT_PAUSE_MAX},
};

/// A failed request.
///
/// `operation` is method and path, and `message` is what Harbor said, without secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs, reason = "said once, above")]
pub enum Error {
    /// Harbor was not asked, or did not answer as an HTTP server does.
    #[error(transparent)]
    Transport(transport::Error),
    /// HTTP status 401.
    #[error("Harbor refused the credentials (401) for {operation}; check the Secret of the HarborInstance")]
    Unauthorized { operation: String },
    /// HTTP status 403.
    #[error(
        "Harbor forbids {operation} for this account (403): {message}; `harbor-pilot permissions` prints the required permissions"
    )]
    Forbidden { operation: String, message: String },
    /// HTTP status 404.
    #[error("Harbor has no such object ({operation}): {message}")]
    NotFound { operation: String, message: String },
    /// HTTP status 409.
    #[error("Harbor already has an object of that name: {message}")]
    Conflict { message: String },
    /// 412: another object or a setting blocks the request.
    #[error("{message}")]
    Precondition { message: String },
    /// HTTP status 429.
    #[error("Harbor limits our request rate; retrying after {} s", retry_after.unwrap_or(60))]
    RateLimited { retry_after: Option<u64> },
    /// Another 4xx.
    #[error("Harbor refused {operation} ({status}): {message}")]
    Refused { operation: String, status: u16, message: String },
    /// HTTP status 5xx.
    #[error("Harbor failed at {operation} ({status}): {message}")]
    Server { operation: String, status: u16, message: String },
    /// An answer that Harbor does not send, such as a login page.
    #[error("the response to {operation} is not from Harbor: {detail}; is a proxy or a login page in between?")]
    Malformed { operation: String, detail: String },
}

impl From<transport::Error> for Error {
    fn from(error: transport::Error) -> Self {
        let refusal = match error {
            transport::Error::Refused(refusal) => *refusal,
            other => return Self::Transport(other),
        };
        let Refusal { operation, status, retry_after, message, .. } = refusal;
        match status {
            401 => Self::Unauthorized { operation },
            403 => Self::Forbidden { operation, message },
            404 => Self::NotFound { operation, message },
            409 => Self::Conflict { message },
            412 => Self::Precondition { message },
            429 => {
                Self::RateLimited { retry_after: retry_after.map(|pause| pause.min(RATE_LIMIT_PAUSE_MAX).as_secs()) }
            }
            400..500 => Self::Refused { operation, status, message },
            500..600 => Self::Server { operation, status, message },
            _ => Self::Malformed { operation, detail: format!("status {status}") },
        }
    }
}

impl Error {
    /// Returns how to handle the error.
    pub fn class(&self) -> RetryClass {
        match self {
            Self::Transport(error) => error.class(),
            Self::Server { .. } | Self::Malformed { .. } | Self::Conflict { .. } => RetryClass::Retry,
            Self::RateLimited { retry_after } => RetryClass::Wait(retry_after.map(Duration::from_secs)),
            Self::Unauthorized { .. } | Self::Forbidden { .. } | Self::NotFound { .. } | Self::Precondition { .. } => {
                RetryClass::Wait(None)
            }
            Self::Refused { .. } => RetryClass::Stalled,
        }
    }

    /// Returns the reason for a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Transport(transport::Error::Endpoint(_)) => Reason::InvalidSpec,
            Self::Transport(error) if error.is_unreachable() => Reason::HarborUnreachable,
            Self::Transport(_) | Self::Server { .. } | Self::Malformed { .. } => Reason::HarborError,
            Self::Unauthorized { .. } => Reason::HarborUnauthorized,
            Self::Forbidden { .. } => Reason::HarborForbidden,
            Self::Conflict { .. } => Reason::NameConflict,
            Self::Precondition { .. } => Reason::InUse,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::Refused { .. } | Self::NotFound { .. } => Reason::HarborRefused,
        }
    }

    /// Returns whether Harbor itself may be the cause; see [`RequestResult::is_unanswered`].
    pub fn may_be_harbor(&self) -> bool {
        match self {
            Self::Transport(error) => error.may_be_harbor(),
            Self::Server { status, .. } => RequestResult::Status(*status).is_unanswered(),
            _ => false,
        }
    }

    /// Returns whether this is the one 400 that Harbor sends for every upstream that it cannot use.
    pub fn is_unhealthy_registry(&self) -> bool {
        matches!(self, Self::Refused { status: 400, message, .. } if message.contains("registry is unhealthy"))
    }
}
