//! What can go wrong when pulling through Harbor.

use std::time::Duration;

use super::digest::Digest;
use crate::api::Reason;

/// A pull that did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint cannot be used at all.
    #[error("the registry endpoint cannot be used: {0}; check the URL and the CA of the HarborInstance")]
    Endpoint(String),
    /// No connection, or it was closed before a status line came.
    #[error("Harbor cannot be reached ({operation}): {detail}; check the URL, DNS, the network and the certificate")]
    Unreachable {
        /// Method and path.
        operation: String,
        /// What the HTTP client said.
        detail: String,
    },
    /// A response began, and its body did not come to its end. Harbor passes on what the upstream does: this says nothing of
    /// Harbor itself.
    #[error(
        "the response to {operation} broke off ({detail}): the upstream ended it early, or something on the way did"
    )]
    BrokenOff {
        /// Method and path.
        operation: String,
        /// What the HTTP client said.
        detail: String,
    },
    /// No status line came within the deadline.
    #[error("no answer to {operation} within {} s", deadline.as_secs_f32())]
    Timeout {
        /// Method and path.
        operation: String,
        /// The deadline.
        deadline: Duration,
    },
    /// 401 with a fresh token. Harbor answers a wrong password with a token that allows nothing.
    #[error(
        "Harbor refused {operation} (401): {message}; check the credentials of the HarborInstance and the rights of the account"
    )]
    Unauthorized {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 401 because the project is not there: Harbor says so to an administrator, too.
    #[error(
        "Harbor has no such project, or none that the account may see: {message}; check the project's name in the image, and the ProxyProject"
    )]
    ProjectNotFound {
        /// Harbor's message.
        message: String,
    },
    /// 403.
    #[error("Harbor forbids {operation} (403): {message}; check the rights of the account")]
    Forbidden {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 404. An upstream that is down looks the same, so it is not for ever.
    #[error("not found ({operation}): {message}; check the name, and that the upstream has it")]
    NotFound {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 404 from Harbor's own store: it could not ask the upstream, or was refused there, and has not stored the image.
    #[error(
        "Harbor did not get it from the upstream (which is unreachable, refuses Harbor's credentials, or answers what Harbor \
         cannot use), and has not stored it: {message}"
    )]
    UpstreamUnavailable {
        /// Harbor's message.
        message: String,
    },
    /// 412: a policy of the project stops the pull, such as one on vulnerabilities.
    #[error("a policy of the project stops the pull (412): {message}")]
    PolicyBlocked {
        /// Harbor's message.
        message: String,
    },
    /// 429, of Harbor or of the upstream behind it.
    #[error("the rate of pulls is limited (429): {message}")]
    RateLimited {
        /// How long to wait, when the answer says so.
        retry_after: Option<Duration>,
        /// Harbor's message.
        message: String,
    },
    /// 5xx, of Harbor or of the upstream behind it.
    #[error("Harbor or the upstream failed at {operation} ({status}): {message}")]
    Server {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// How long to wait, when the answer says so.
        retry_after: Option<Duration>,
        /// Harbor's message.
        message: String,
    },
    /// A status that a registry should not give.
    #[error("unexpected answer to {operation} ({status}): {message}")]
    Unexpected {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Harbor's message.
        message: String,
    },
    /// The bytes have another digest than was asked for.
    #[error("the content of {expected} has the digest {actual}: the upstream or something on the way altered it")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A blob is not as long as its manifest says.
    #[error("{digest} has {actual} bytes and its manifest says {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Bytes that the manifest states.
        expected: u64,
        /// Bytes that came, or the first count that was too many.
        actual: u64,
    },
    /// More than we are willing to read.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// What it is.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// An answer that is not what a registry sends: a login page, a truncated body, a manifest of an old schema.
    #[error("the answer to {operation} cannot be used: {detail}")]
    Malformed {
        /// Method and path.
        operation: String,
        /// What was wrong.
        detail: String,
    },
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again soon, with backoff.
    Retry,
    /// Try again later: at the time that the answer named, or when something else changes.
    Wait(Option<Duration>),
    /// A person has to change something.
    Stalled,
}

impl Error {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. }
            | Self::BrokenOff { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Unexpected { .. } => Class::Retry,
            Self::Server { retry_after: None, .. } | Self::UpstreamUnavailable { .. } => Class::Retry,
            Self::Server { retry_after, .. } | Self::RateLimited { retry_after, .. } => Class::Wait(*retry_after),
            Self::Unauthorized { .. }
            | Self::ProjectNotFound { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::PolicyBlocked { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. } => Class::Wait(None),
            Self::Endpoint(_) | Self::TooLarge { .. } => Class::Stalled,
        }
    }

    /// The reason to put into a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Endpoint(_) => Reason::InvalidSpec,
            Self::Unreachable { .. } => Reason::HarborUnreachable,
            Self::Unauthorized { .. } => Reason::HarborUnauthorized,
            Self::Forbidden { .. } => Reason::HarborForbidden,
            Self::NotFound { .. } => Reason::ImageNotFound,
            Self::UpstreamUnavailable { .. } => Reason::UpstreamUnhealthy,
            Self::ProjectNotFound { .. } | Self::PolicyBlocked { .. } => Reason::PullRefused,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::BrokenOff { .. }
            | Self::Timeout { .. }
            | Self::Server { .. }
            | Self::Unexpected { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => Reason::PullFailed,
        }
    }

    /// Whether Harbor itself may be the cause: no status line came, or a gateway in front of it answered. An upstream that hangs
    /// looks the same, so [`Client::answers`](super::Client::answers) decides.
    pub fn may_be_harbor(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Server { status, .. } => is_gateway(*status),
            _ => false,
        }
    }
}

/// The statuses with which a gateway says that what is behind it does not answer.
pub(super) fn is_gateway(status: u16) -> bool {
    matches!(status, 502..=504)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What decides whether the circuit breaker of a Harbor opens.
    #[test]
    fn may_be_harbor_holds_only_where_no_response_began_or_a_gateway_answered() {
        let (operation, message) = ("GET /v2/x".to_owned(), "said".to_owned());
        let server = |status| Error::Server {
            operation: operation.clone(),
            status,
            retry_after: None,
            message: message.clone(),
        };
        let unreachable = Error::Unreachable { operation: operation.clone(), detail: "refused".to_owned() };
        let timeout = Error::Timeout { operation: operation.clone(), deadline: Duration::from_secs(1) };
        for error in [unreachable, timeout, server(502), server(503), server(504)] {
            assert!(error.may_be_harbor(), "{error}");
        }
        let broken_off = Error::BrokenOff { operation: operation.clone(), detail: "end of file".to_owned() };
        assert_eq!((broken_off.reason(), broken_off.class()), (Reason::PullFailed, Class::Retry));
        let size = Error::SizeMismatch { digest: Digest::of(b"x"), expected: 2, actual: 1 };
        let limited = Error::RateLimited { retry_after: None, message: message.clone() };
        let unavailable = Error::UpstreamUnavailable { message: message.clone() };
        for error in [broken_off, size, limited, unavailable, server(500)] {
            assert!(!error.may_be_harbor(), "{error}");
            assert_ne!(error.reason(), Reason::HarborUnreachable, "{error}");
        }
    }
}
