//! Errors of pulls through Harbor.

use std::time::Duration;

use super::digest::Digest;
use crate::{
    api::Reason,
    transport::{self, Refusal, RequestResult, RetryClass},
};

/// A failed pull.
///
/// `operation` is method and path, and `message` is what Harbor said, without secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs, reason = "said once, above")]
pub enum Error {
    /// Nothing was sent, no HTTP response began, or it ended early.
    #[error(transparent)]
    Transport(transport::Error),
    /// 401 with a fresh token. Harbor answers a wrong password with a token that grants nothing.
    #[error(
        "Harbor refused {operation} (401): {message}; check the credentials of the HarborInstance and the permissions of the account"
    )]
    Unauthorized { operation: String, message: String },
    /// 401 because the project does not exist: Harbor answers this to an administrator too.
    #[error(
        "Harbor has no such project, or the account may not see it: {message}; check the project's name in the image, and the ProxyProject"
    )]
    ProjectNotFound { message: String },
    /// HTTP status 403.
    #[error("Harbor forbids {operation} (403): {message}; check the permissions of the account")]
    Forbidden { operation: String, message: String },
    /// 404: an upstream that is down looks the same, so it is not permanent.
    #[error("not found ({operation}): {message}; check the name, and that the upstream has it")]
    NotFound { operation: String, message: String },
    /// 404 from Harbor's own store: Harbor could not ask the upstream, or was refused there, and has not stored the image.
    #[error(
        "Harbor did not get it from the upstream (which is unreachable, refuses Harbor's credentials, or sends an invalid \
         response), and has not stored it: {message}"
    )]
    UpstreamUnavailable { message: String },
    /// 412: a policy of the project blocks the pull, for example one on vulnerabilities.
    #[error("a policy of the project blocks the pull (412): {message}")]
    PolicyBlocked { message: String },
    /// 429, from Harbor or from the upstream behind it.
    #[error("the rate of pulls is limited (429): {message}")]
    RateLimited { retry_after: Option<Duration>, message: String },
    /// 5xx, from Harbor or from the upstream behind it.
    #[error("Harbor or the upstream failed at {operation} ({status}): {message}")]
    Server { operation: String, status: u16, retry_after: Option<Duration>, message: String },
    /// A status that a registry must not send.
    #[error("unexpected response to {operation} ({status}): {message}")]
    Unexpected { operation: String, status: u16, message: String },
    /// The bytes have another digest than the requested one.
    #[error("the content of {expected} has the digest {actual}: the upstream or a proxy changed it")]
    DigestMismatch { expected: Digest, actual: Digest },
    /// The length of a blob differs from its manifest.
    #[error("{digest} has {actual} bytes and its manifest says {expected}")]
    SizeMismatch { digest: Digest, expected: u64, actual: u64 },
    /// An answer that no registry sends: a login page, a truncated body, a manifest of an old schema.
    #[error("the response to {operation} is invalid: {detail}")]
    Malformed { operation: String, detail: String },
}

impl From<transport::Error> for Error {
    fn from(error: transport::Error) -> Self {
        let refusal = match error {
            transport::Error::Refused(refusal) => *refusal,
            other => return Self::Transport(other),
        };
        let Refusal { operation, status, retry_after, rate_limited, no_challenge, message } = refusal;
        match status {
            _ if rate_limited => Self::RateLimited { retry_after, message },
            401 if no_challenge => Self::ProjectNotFound { message },
            401 => Self::Unauthorized { operation, message },
            403 => Self::Forbidden { operation, message },
            // Harbor answers "resource not found" for content that the upstream does not have; these messages are about its
            // own store.
            404 if message.starts_with("artifact ") || message.starts_with("repository ") => {
                Self::UpstreamUnavailable { message }
            }
            404 => Self::NotFound { operation, message },
            412 => Self::PolicyBlocked { message },
            500..600 => Self::Server { operation, status, retry_after, message },
            _ => Self::Unexpected { operation, status, message },
        }
    }
}

impl Error {
    /// Returns how to handle the error.
    pub fn class(&self) -> RetryClass {
        match self {
            // A manifest is as large at the next attempt.
            Self::Transport(transport::Error::TooLarge { .. }) => RetryClass::Stalled,
            Self::Transport(error) => error.class(),
            Self::Malformed { .. } | Self::Unexpected { .. } | Self::UpstreamUnavailable { .. } => RetryClass::Retry,
            Self::Server { retry_after: None, .. } => RetryClass::Retry,
            Self::Server { retry_after, .. } | Self::RateLimited { retry_after, .. } => RetryClass::Wait(*retry_after),
            Self::Unauthorized { .. }
            | Self::ProjectNotFound { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::PolicyBlocked { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. } => RetryClass::Wait(None),
        }
    }

    /// Returns the reason for a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Transport(transport::Error::Endpoint(_)) => Reason::InvalidSpec,
            Self::Transport(transport::Error::Unreachable { .. } | transport::Error::CircuitOpen(_)) => {
                Reason::HarborUnreachable
            }
            Self::Unauthorized { .. } => Reason::HarborUnauthorized,
            Self::Forbidden { .. } => Reason::HarborForbidden,
            Self::NotFound { .. } => Reason::ImageNotFound,
            Self::UpstreamUnavailable { .. } => Reason::UpstreamUnhealthy,
            Self::ProjectNotFound { .. } | Self::PolicyBlocked { .. } => Reason::PullBlocked,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::Transport(_)
            | Self::Server { .. }
            | Self::Unexpected { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Malformed { .. } => Reason::PullFailed,
        }
    }

    /// Returns whether no status line arrived in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Transport(transport::Error::Timeout { .. }))
    }

    /// Returns whether Harbor itself may be the cause. An upstream that hangs looks the same, so
    /// [`transport::Client::ping`] decides.
    pub fn may_be_harbor(&self) -> bool {
        match self {
            Self::Transport(error) => error.may_be_harbor(),
            Self::Server { status, .. } => RequestResult::Status(*status).is_unanswered(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header};
    use jiff::Timestamp;

    use super::*;
    use crate::transport::Redactor;

    fn of(status: u16, no_challenge: bool, body: &str) -> Error {
        let mut headers = HeaderMap::new();
        if no_challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(""));
        }
        let head = (StatusCode::from_u16(status).unwrap(), &headers);
        let (redactor, now) = (Redactor::default(), Timestamp::UNIX_EPOCH);
        let body = (body.as_bytes(), false);
        transport::Error::Refused(Box::new(Refusal::read("GET /v2/x".to_owned(), head, body, (&redactor, &[]), now)))
            .into()
    }

    #[test]
    fn each_refusal_of_harbor_is_told_apart() {
        let missing =
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"project nope not found: project nope not found"}]}"#;
        assert!(matches!(of(401, true, missing), Error::ProjectNotFound { message } if message.contains("nope")));
        assert!(matches!(of(401, false, "{}"), Error::Unauthorized { .. }));
        assert!(matches!(of(403, false, ""), Error::Forbidden { message, .. } if message == "Forbidden"));
        let policy =
            r#"{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"current image with 3 vulnerabilities"}]}"#;
        assert!(matches!(of(412, false, policy), Error::PolicyBlocked { message } if message.contains("3 vuln")));
        assert!(
            matches!(of(502, false, "<html>bad\u{7}</html>"), Error::Server { message, .. } if message == "<html>bad </html>")
        );
        let hidden = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#;
        assert!(matches!(of(500, false, hidden), Error::RateLimited { .. }));
        let unproxied = r#"{"errors":[{"code":"NOT_FOUND","message":"artifact hub/app:v1 not found"}]}"#;
        assert!(matches!(of(404, false, unproxied), Error::UpstreamUnavailable { .. }));
        let absent =
            r#"{"errors":[{"code":"NOT_FOUND","message":"resource not found: repo hub/app, tag v1 not found"}]}"#;
        assert!(matches!(of(404, false, absent), Error::NotFound { .. }));
        assert!(matches!(of(301, false, ""), Error::Unexpected { status: 301, .. }));
    }

    /// This decides whether the circuit breaker of a Harbor opens.
    #[test]
    fn may_be_harbor_holds_only_where_no_response_began_or_a_gateway_answered() {
        let operation = "GET /v2/x".to_owned();
        let (url, detail) = ("http://harbor.test".to_owned(), "refused".to_owned());
        let unreachable = transport::Error::Unreachable { url, detail: detail.clone() }.into();
        let timeout =
            transport::Error::Timeout { operation: operation.clone(), deadline: Duration::from_secs(1) }.into();
        for error in [unreachable, timeout, of(502, false, ""), of(503, false, ""), of(504, false, "")] {
            assert!(error.may_be_harbor(), "{error}");
        }
        let broken_off = Error::from(transport::Error::BrokenOff { operation, detail });
        assert_eq!((broken_off.reason(), broken_off.class()), (Reason::PullFailed, RetryClass::Retry));
        let size = Error::SizeMismatch { digest: Digest::of(b"x"), expected: 2, actual: 1 };
        let limited = Error::RateLimited { retry_after: None, message: String::new() };
        let unavailable = Error::UpstreamUnavailable { message: String::new() };
        for error in [broken_off, size, limited, unavailable, of(500, false, "")] {
            assert!(!error.may_be_harbor(), "{error}");
            assert_ne!(error.reason(), Reason::HarborUnreachable, "{error}");
        }
    }
}
