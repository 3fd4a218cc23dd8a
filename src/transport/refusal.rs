//! A response with a status other than 2xx, as both APIs of Harbor send it. Every message of Harbor passes through the
//! [`Redactor`] here before it becomes an error.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use k8s_openapi::jiff::{Timestamp, fmt::rfc2822};
use oci_client::errors::{OciEnvelope, OciErrorCode};

use super::{Redactor, timings::RETRY_AFTER_MAX};

/// A response with a status other than 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Method and path.
    pub operation: String,
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, if the response has it.
    pub retry_after: Option<Duration>,
    /// Whether it limits the rate: status 429, or an upstream's 429 that Harbor relays with another status.
    pub rate_limited: bool,
    /// Whether its challenge is empty: Harbor sends one for everything except a project that does not exist.
    pub no_challenge: bool,
    /// Harbor's message without secrets, or the name of the status.
    pub message: String,
}

impl Refusal {
    /// Reads a response. `more`: secrets that its message must not contain either. `cut`: the body ends early.
    pub fn read(
        operation: String,
        (status, headers): (StatusCode, &HeaderMap),
        (body, cut): (&[u8], bool),
        (redactor, more): (&Redactor, &[&str]),
        now: Timestamp,
    ) -> Self {
        let header = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let errors = serde_json::from_slice::<OciEnvelope>(body).ok().map(|envelope| envelope.errors);
        let rate_limited = status == StatusCode::TOO_MANY_REQUESTS
            || errors.as_ref().and_then(|errors| errors.first()).is_some_and(|error| limits_rate(&error.code));
        let message = match errors {
            Some(errors) => {
                let messages: Vec<String> = errors.into_iter().map(|error| error.message).collect();
                redactor.message(messages.join("; ").as_bytes(), true, more)
            }
            None => redactor.message(body, cut, more),
        };
        let name = status.canonical_reason().unwrap_or("no message");
        Self {
            operation,
            status: status.as_u16(),
            retry_after: header(header::RETRY_AFTER).and_then(|text| retry_after(text, now)),
            rate_limited,
            no_challenge: header(header::WWW_AUTHENTICATE).is_some_and(str::is_empty),
            message: if message.is_empty() { name.to_owned() } else { message },
        }
    }
}

/// Harbor's own code has underscores.
fn limits_rate(code: &OciErrorCode) -> bool {
    match code {
        OciErrorCode::Toomanyrequests => true,
        OciErrorCode::Other(code) => code.replace('_', "").starts_with("TOOMANYREQUEST"),
        _ => false,
    }
}

/// Parses `Retry-After`: seconds, or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let seconds = text.trim().parse::<u64>().ok().or_else(|| {
        let date = rfc2822::parse(text.trim()).ok()?.timestamp();
        u64::try_from(date.as_second() - now.as_second()).ok()
    })?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
