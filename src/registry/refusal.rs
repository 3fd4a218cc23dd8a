//! Converts an unsuccessful answer, or a broken connection, to an [`Error`].

use std::{error::Error as _, time::Duration};

use jiff::Timestamp;
use reqwest::{Response, StatusCode, header};
use serde::Deserialize;

use super::error::Error;
use crate::harbor::Redactor;

/// Maximum bytes that are read of an error's body.
const MAX_BODY: usize = 16 << 10;
/// Maximum time to read an error's body: the part that arrived by then is enough.
const BODY_DEADLINE: Duration = Duration::from_secs(3);
/// Maximum wait, whatever `Retry-After` says.
const MAX_WAIT: Duration = Duration::from_secs(6 * 3600);

/// Reads an answer into the error that it represents.
pub(super) async fn read(operation: &str, response: Response, secrets: &Redactor, token: Option<&str>) -> Error {
    let status = response.status();
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| wait(text, Timestamp::now()));
    let no_challenge = response.headers().get(header::WWW_AUTHENTICATE).is_some_and(|value| value.is_empty());
    let text = body(response).await;
    classify(
        operation,
        status,
        retry_after,
        no_challenge,
        &|text: &str| secrets.message(text.as_bytes(), true, token.as_slice()),
        &text,
    )
}

/// The error of a request without a response.
pub(super) fn unanswered(operation: &str, error: reqwest::Error, deadline: Duration, secrets: &Redactor) -> Error {
    let operation = operation.to_owned();
    if error.is_timeout() && !error.is_connect() {
        return Error::Timeout { operation, deadline };
    }
    Error::Unreachable { operation, detail: detail(error, secrets) }
}

/// The error of a response that ended early.
pub(super) fn broken_off(operation: &str, error: reqwest::Error, deadline: Duration, secrets: &Redactor) -> Error {
    let operation = operation.to_owned();
    if error.is_timeout() {
        let detail = format!("no data within {} s", deadline.as_secs_f32());
        return Error::BrokenOff { operation, detail };
    }
    Error::BrokenOff { operation, detail: detail(error, secrets) }
}

fn detail(error: reqwest::Error, secrets: &Redactor) -> String {
    // The causes help a reader; the URL of a token request does not.
    let error = error.without_url();
    let mut detail = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        detail = format!("{detail}: {inner}");
        cause = inner.source();
    }
    secrets.message(detail.as_bytes(), false, &[])
}

fn classify(
    operation: &str,
    status: StatusCode,
    retry_after: Option<Duration>,
    no_challenge: bool,
    conceal: &dyn Fn(&str) -> String,
    body: &str,
) -> Error {
    let (code, message) = said(body, status, conceal);
    let operation = operation.to_owned();
    if status == StatusCode::TOO_MANY_REQUESTS || code.replace('_', "").starts_with("TOOMANYREQUEST") {
        return Error::RateLimited { retry_after, message };
    }
    match status.as_u16() {
        // Harbor sends a challenge for everything except a project that does not exist.
        401 if no_challenge => Error::ProjectNotFound { message },
        401 => Error::Unauthorized { operation, message },
        403 => Error::Forbidden { operation, message },
        // Harbor answers "resource not found" for content that the upstream does not have; these messages are about its own
        // store.
        404 if message.starts_with("artifact ") || message.starts_with("repository ") => {
            Error::UpstreamUnavailable { message }
        }
        404 => Error::NotFound { operation, message },
        412 => Error::PolicyBlocked { message },
        code @ 500..=599 => Error::Server { operation, status: code, retry_after, message },
        code => Error::Unexpected { operation, status: code, message },
    }
}

/// Returns code and message of the first error in the body, as distribution and Harbor write them; the message without secrets.
fn said(body: &str, status: StatusCode, conceal: &dyn Fn(&str) -> String) -> (String, String) {
    #[derive(Deserialize)]
    struct RefusalEnvelope {
        errors: Vec<RefusalEntry>,
    }
    #[derive(Deserialize)]
    struct RefusalEntry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let parsed = serde_json::from_str::<RefusalEnvelope>(body).ok();
    let (code, message) = match parsed.and_then(|envelope| envelope.errors.into_iter().next()) {
        Some(entry) => (entry.code, entry.message),
        None => (String::new(), body.to_owned()),
    };
    let message = conceal(&message);
    let message =
        if message.is_empty() { status.canonical_reason().unwrap_or("no message").to_owned() } else { message };
    (code, message)
}

/// Parses `Retry-After`: seconds, or a date.
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    let seconds = text.trim().parse::<u64>().ok().or_else(|| {
        let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
        u64::try_from(date.as_second() - now.as_second()).ok()
    })?;
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

async fn body(mut response: Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            let room = MAX_BODY - body.len();
            body.extend(piece.iter().take(room));
            if piece.len() >= room {
                break;
            }
        }
    };
    tokio::time::timeout(BODY_DEADLINE, read).await.ok();
    String::from_utf8_lossy(&body).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, no_challenge: bool, body: &str) -> Error {
        let conceal = |text: &str| Redactor::default().message(text.as_bytes(), false, &[]);
        classify("GET /v2/x", StatusCode::from_u16(status).unwrap(), None, no_challenge, &conceal, body)
    }

    #[test]
    fn refusal_is_classified_from_each_response_of_harbor() {
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

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_bounded() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let table = [
            ("30", Some(30)),
            (" 0 ", Some(0)),
            ("Fri, 02 Jan 2026 03:05:05 GMT", Some(60)),
            ("Fri, 02 Jan 2026 03:00:00 GMT", None),
            ("99999999999", Some(6 * 3600)),
            ("soon", None),
        ];
        for (text, seconds) in table {
            assert_eq!(wait(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
