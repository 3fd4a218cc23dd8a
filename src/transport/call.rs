//! Records each request: in its span, in metrics and in the circuit breaker.

use std::time::Instant;

use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;

use super::{Api, Client, Error, Request, RequestResult, Shared};

/// A request that was sent: its span, and what its result is compared with.
pub(super) struct Call<'c> {
    client: &'c Client,
    reads: bool,
    /// Whether Harbor may wait for an upstream before it answers.
    asks_upstream: bool,
    operation: String,
    pub(super) span: tracing::Span,
    begin: Instant,
    sent: Timestamp,
}

impl<'c> Call<'c> {
    pub(super) fn begin(client: &'c Client, request: &Request<'_>) -> Self {
        let span = tracing::debug_span!(
            "harbor request",
            otel.kind = "client",
            http.request.method = %request.method,
            url.path = request.path,
            http.response.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let asks_upstream = match client.0.api {
            Api::Management => !reads,
            Api::Registry => request.path != "v2/",
        };
        let (begin, sent) = (Instant::now(), Timestamp::now());
        Self { client, reads, asks_upstream, operation: request.to_string(), span, begin, sent }
    }

    /// Records the result in span, metrics and circuit breaker. `None`: nothing was sent.
    pub(super) fn end(self, result: Result<StatusCode, &Error>) -> Option<RequestResult> {
        let answer = match result {
            Ok(status) => RequestResult::Status(status.as_u16()),
            Err(error) => error.result()?,
        };
        if let RequestResult::Status(status) = answer {
            self.span.record("http.response.status_code", status);
        }
        if !matches!(answer, RequestResult::Status(..400)) {
            let kind = match answer {
                RequestResult::Status(status) => status.to_string(),
                other => format!("{other:?}"),
            };
            self.span.record("otel.status_code", "ERROR").record("error.type", kind);
        }
        let Shared { breaker, observer, .. } = &self.client.0.shared;
        if let Some(observer) = observer {
            observer.answered(self.client.0.api, self.reads, answer, self.begin.elapsed());
        }
        let now = Timestamp::now();
        match (answer.is_unanswered(), self.asks_upstream) {
            (false, _) => breaker.succeeded(now),
            (true, false) => {
                let status = || format!("a gateway answered {} in place of Harbor: {answer:?}", self.operation);
                breaker.failed(self.sent, now, result.err().map_or_else(status, ToString::to_string));
            }
            (true, true) => {}
        }
        Some(answer)
    }
}
