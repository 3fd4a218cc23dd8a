//! Requests and answers as text, and the error that an answer represents. Every message of Harbor passes through [`Secrets`]
//! here before it becomes an error.

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::{Error, Redactor};

/// A request.
pub(super) struct ApiRequest<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
}

/// A successful answer.
pub(super) struct ApiResponse {
    pub(super) body: Vec<u8>,
    pub(super) location: Option<String>,
    pub(super) total: Option<usize>,
}

/// The body of an error, or the beginning of it.
#[derive(Default)]
pub(super) struct ErrorBody {
    pub(super) bytes: Vec<u8>,
    pub(super) cut: bool,
}

impl std::fmt::Display for ApiRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} /{}", self.method, self.path)
    }
}

impl ApiRequest<'_> {
    pub(super) fn span(&self) -> tracing::Span {
        tracing::debug_span!(
            "harbor request",
            otel.kind = "client",
            http.request.method = %self.method,
            url.path = self.path,
            http.response.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
        )
    }

    pub(super) fn malformed(&self, detail: &str) -> Error {
        Error::Malformed { operation: self.to_string(), detail: detail.to_owned() }
    }

    pub(super) fn too_large(&self, detail: String) -> Error {
        Error::TooLarge { operation: self.to_string(), detail }
    }
}

/// Parses a body as JSON. Secrets are removed from the parser's message, because it may quote the body.
pub(super) fn decode<T: DeserializeOwned>(
    request: &ApiRequest<'_>,
    body: &[u8],
    secrets: &Redactor,
) -> Result<T, Error> {
    let said = |error: serde_json::Error| secrets.message(error.to_string().as_bytes(), false, &[]);
    serde_json::from_slice(body).map_err(|error| request.malformed(&said(error)))
}

/// The error of an unsuccessful answer.
pub(super) fn refusal(
    request: &ApiRequest<'_>,
    status: StatusCode,
    retry_after: Option<u64>,
    body: &ErrorBody,
    secrets: &Redactor,
) -> Error {
    let operation = request.to_string();
    let message = message_of(body, secrets);
    match status {
        StatusCode::UNAUTHORIZED => Error::Unauthorized { operation },
        StatusCode::FORBIDDEN => Error::Forbidden { operation, message },
        StatusCode::NOT_FOUND => Error::NotFound { operation, message },
        StatusCode::CONFLICT => Error::Conflict { message },
        StatusCode::PRECONDITION_FAILED => Error::Precondition { message },
        StatusCode::TOO_MANY_REQUESTS => Error::RateLimited { retry_after },
        _ if status.is_client_error() => Error::Refused { operation, status: status.as_u16(), message },
        _ if status.is_server_error() => Error::Server { operation, status: status.as_u16(), message },
        _ => Error::Malformed { operation, detail: format!("status {status}") },
    }
}

/// Returns the message of Harbor's `{"errors":[{"code","message"}]}`, or the beginning of any other body.
fn message_of(body: &ErrorBody, secrets: &Redactor) -> String {
    #[derive(serde::Deserialize)]
    struct ErrorEnvelope {
        errors: Vec<ErrorEntry>,
    }
    #[derive(serde::Deserialize)]
    struct ErrorEntry {
        message: String,
    }
    match serde_json::from_slice::<ErrorEnvelope>(&body.bytes) {
        Ok(envelope) => {
            let messages: Vec<String> = envelope.errors.into_iter().map(|entry| entry.message).collect();
            secrets.message(messages.join("; ").as_bytes(), false, &[])
        }
        Err(_) => secrets.message(&body.bytes, body.cut, &[]),
    }
}
