//! Errors of pulls through Harbor.

use std::time::Duration;

use super::digest::Digest;
use crate::api::Reason;

/// A failed pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint cannot be used at all.
    #[error("the registry endpoint cannot be used: {0}; check the URL and the CA of the HarborInstance")]
    Endpoint(String),
    /// No connection, or it was closed before a status line arrived.
    #[error("Harbor cannot be reached ({operation}): {detail}; check the URL, DNS, the network and the certificate")]
    Unreachable {
        /// Method and path.
        operation: String,
        /// Message of the HTTP client.
        detail: String,
    },
    /// A response began, but its body ended early. Harbor relays what the upstream does, so this is no sign of a failure of
    /// Harbor itself.
    #[error("the response to {operation} ended early ({detail}): the upstream or a proxy closed it")]
    BrokenOff {
        /// Method and path.
        operation: String,
        /// Message of the HTTP client.
        detail: String,
    },
    /// No status line arrived within the deadline.
    #[error("no answer to {operation} within {} s", deadline.as_secs_f32())]
    Timeout {
        /// Method and path.
        operation: String,
        /// The deadline.
        deadline: Duration,
    },
    /// 401 with a fresh token. Harbor answers a wrong password with a token that grants nothing.
    #[error(
        "Harbor refused {operation} (401): {message}; check the credentials of the HarborInstance and the permissions of the account"
    )]
    Unauthorized {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 401 because the project does not exist: Harbor answers this to an administrator too.
    #[error(
        "Harbor has no such project, or the account may not see it: {message}; check the project's name in the image, and the ProxyProject"
    )]
    ProjectNotFound {
        /// Harbor's message.
        message: String,
    },
    /// HTTP status 403.
    #[error("Harbor forbids {operation} (403): {message}; check the permissions of the account")]
    Forbidden {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 404: an upstream that is down looks the same, so it is not permanent.
    #[error("not found ({operation}): {message}; check the name, and that the upstream has it")]
    NotFound {
        /// Method and path.
        operation: String,
        /// Harbor's message.
        message: String,
    },
    /// 404 from Harbor's own store: Harbor could not ask the upstream, or was refused there, and has not stored the image.
    #[error(
        "Harbor did not get it from the upstream (which is unreachable, refuses Harbor's credentials, or sends an invalid \
         response), and has not stored it: {message}"
    )]
    UpstreamUnavailable {
        /// Harbor's message.
        message: String,
    },
    /// 412: a policy of the project blocks the pull, for example one on vulnerabilities.
    #[error("a policy of the project blocks the pull (412): {message}")]
    PolicyBlocked {
        /// Harbor's message.
        message: String,
    },
    /// 429, from Harbor or from the upstream behind it.
    #[error("the rate of pulls is limited (429): {message}")]
    RateLimited {
        /// `Retry-After`, if the answer has it.
        retry_after: Option<Duration>,
        /// Harbor's message.
        message: String,
    },
    /// 5xx, from Harbor or from the upstream behind it.
    #[error("Harbor or the upstream failed at {operation} ({status}): {message}")]
    Server {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// `Retry-After`, if the answer has it.
        retry_after: Option<Duration>,
        /// Harbor's message.
        message: String,
    },
    /// A status that a registry must not send.
    #[error("unexpected response to {operation} ({status}): {message}")]
    Unexpected {
        /// Method and path.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Harbor's message.
        message: String,
    },
    /// The bytes have another digest than the requested one.
    #[error("the content of {expected} has the digest {actual}: the upstream or a proxy changed it")]
    DigestMismatch {
        /// The requested digest.
        expected: Digest,
        /// The digest of the received bytes.
        actual: Digest,
    },
    /// The length of a blob differs from its manifest.
    #[error("{digest} has {actual} bytes and its manifest says {expected}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Bytes that the manifest states.
        expected: u64,
        /// Received bytes, or the first count above the expected one.
        actual: u64,
    },
    /// The content exceeds the limit.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// The content that is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// An answer that no registry sends: a login page, a truncated body, a manifest of an old schema.
    #[error("the response to {operation} is invalid: {detail}")]
    Malformed {
        /// Method and path.
        operation: String,
        /// The fault in the answer.
        detail: String,
    },
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
        match self {
            Self::Unreachable { .. }
            | Self::BrokenOff { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Unexpected { .. } => RetryClass::Retry,
            Self::Server { retry_after: None, .. } | Self::UpstreamUnavailable { .. } => RetryClass::Retry,
            Self::Server { retry_after, .. } | Self::RateLimited { retry_after, .. } => RetryClass::Wait(*retry_after),
            Self::Unauthorized { .. }
            | Self::ProjectNotFound { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::PolicyBlocked { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. } => RetryClass::Wait(None),
            Self::Endpoint(_) | Self::TooLarge { .. } => RetryClass::Stalled,
        }
    }

    /// Returns the reason for a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Endpoint(_) => Reason::InvalidSpec,
            Self::Unreachable { .. } => Reason::HarborUnreachable,
            Self::Unauthorized { .. } => Reason::HarborUnauthorized,
            Self::Forbidden { .. } => Reason::HarborForbidden,
            Self::NotFound { .. } => Reason::ImageNotFound,
            Self::UpstreamUnavailable { .. } => Reason::UpstreamUnhealthy,
            Self::ProjectNotFound { .. } | Self::PolicyBlocked { .. } => Reason::PullBlocked,
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

    /// Returns whether Harbor itself may be the cause: no status line arrived, or a gateway in front of it answered. An
    /// upstream that hangs looks the same, so [`Client::answers`](super::Client::answers) decides.
    pub fn may_be_harbor(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Server { status, .. } => is_gateway(*status),
            _ => false,
        }
    }
}

/// Whether a gateway sends this status when its backend does not answer.
pub(super) fn is_gateway(status: u16) -> bool {
    matches!(status, 502..=504)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This decides whether the circuit breaker of a Harbor opens.
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
        assert_eq!((broken_off.reason(), broken_off.class()), (Reason::PullFailed, RetryClass::Retry));
        let size = Error::SizeMismatch { digest: Digest::of(b"x"), expected: 2, actual: 1 };
        let limited = Error::RateLimited { retry_after: None, message: message.clone() };
        let unavailable = Error::UpstreamUnavailable { message: message.clone() };
        for error in [broken_off, size, limited, unavailable, server(500)] {
            assert!(!error.may_be_harbor(), "{error}");
            assert_ne!(error.reason(), Reason::HarborUnreachable, "{error}");
        }
    }
}
