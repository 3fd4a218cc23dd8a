//! Reduces the head of a request. The server keeps little of it, because each head counts against memory while its body
//! arrives, and copies that, because a header may be a piece of a much larger buffer.
//!
//! An API server passes on headers that its clients choose (`baggage` and `tracestate`, 24 KiB together). The server must
//! accept them; nothing here uses them.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};

/// The headers that the server reads.
const KEPT: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, HeaderName::from_static("traceparent")];
/// The longest value of a kept header. A longer value becomes empty, because the presence of a header may matter.
const LONGEST_VALUE: usize = 512;
const LONGEST_PATH: usize = 2048;
const LONGEST_METHOD: usize = 16;

/// Returns the request without the parts that are not read; fails with the HTTP status for the part that is too long.
pub(super) fn reduce<B>(request: Request<B>) -> Result<Request<B>, StatusCode> {
    let (parts, body) = request.into_parts();
    if parts.method.as_str().len() > LONGEST_METHOD {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if path.len() > LONGEST_PATH {
        return Err(StatusCode::URI_TOO_LONG);
    }
    let path = PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(path.as_bytes()));
    let mut reduced = Request::new(body);
    *reduced.method_mut() = parts.method;
    *reduced.version_mut() = parts.version;
    *reduced.uri_mut() = path.map(Uri::from).map_err(|_| StatusCode::BAD_REQUEST)?;
    for name in KEPT {
        let Some(value) = parts.headers.get(&name) else { continue };
        let value = Some(value.as_bytes()).filter(|value| value.len() <= LONGEST_VALUE).unwrap_or_default();
        let value = HeaderValue::from_bytes(value).unwrap_or(HeaderValue::from_static(""));
        reduced.headers_mut().insert(name, value);
    }
    Ok(reduced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduce_keeps_what_is_read_and_drops_the_rest() {
        let request = Request::post("https://webhook.svc/mutate?timeout=10s")
            .header("content-length", "12")
            .header("traceparent", "00-a-b-01")
            .header("tracestate", "k=v".repeat(5_000))
            .header("baggage", "a".repeat(8_192))
            .header("origin", "x".repeat(1_000));
        let reduced = reduce(request.body(7).unwrap()).unwrap();
        assert_eq!((reduced.method().as_str(), *reduced.body()), ("POST", 7));
        assert_eq!(reduced.uri(), "/mutate?timeout=10s");
        let mut names: Vec<&str> = reduced.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "origin", "traceparent"]);
        assert_eq!(reduced.headers()["origin"], "");
    }

    #[test]
    fn reduce_refuses_a_path_or_a_method_that_is_too_long() {
        let long = Request::post(format!("/mutate?{}", "a".repeat(LONGEST_PATH))).body(()).unwrap();
        assert_eq!(reduce(long).unwrap_err(), StatusCode::URI_TOO_LONG);
        let method = Request::builder().method("A".repeat(1_000).as_str()).body(()).unwrap();
        assert_eq!(reduce(method).unwrap_err(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
