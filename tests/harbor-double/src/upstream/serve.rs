//! The distribution API of the upstream: requests in, answers of the store out.

use std::sync::{Arc, atomic::AtomicU64};

use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Method, Response, StatusCode, header};
use rand::Rng as _;
use serde_json::json;

use super::{Auth, Failure, Inner, ecr};
use crate::{body, digest::is_digest, log::Request, net::Handler};

/// The largest body that is read.
const MOST: usize = 64 << 20;

impl Handler for Inner {
    async fn handle(self: Arc<Self>, request: http::Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let given = axum::body::to_bytes(body, MOST).await.unwrap_or_default();
        let path = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let user = self.user(&parts.headers);
        let sent = Arc::new(AtomicU64::new(0));
        let failure = self.store.lock().failure(&path);
        let mut answer = self.answer(&parts, user.as_deref(), given, &sent);
        if let Some(failure) = failure {
            answer = fail(failure, answer).await;
        }
        let status = answer.status().as_u16();
        self.log.push(Request { method: parts.method, path, status, user, bytes_sent: 0 }, sent);
        answer
    }
}

impl Inner {
    fn user(&self, headers: &HeaderMap) -> Option<String> {
        let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        match &self.auth {
            Auth::Anonymous => None,
            Auth::Basic(user, password) => (given == basic(user, password)).then(|| user.clone()),
            Auth::Token(user, password) => {
                let token = given.strip_prefix("Bearer ").unwrap_or_default();
                let known = self.store.lock().tokens.iter().any(|each| each == token);
                (known || given == basic(user, password)).then(|| user.clone())
            }
            Auth::Amazon(..) => {
                let store = self.store.lock();
                let known = store.tokens.iter().any(|token| given == basic(ecr::USER, token));
                known.then(|| ecr::USER.to_owned())
            }
        }
    }

    fn answer(
        &self,
        parts: &http::request::Parts,
        user: Option<&str>,
        given: Bytes,
        sent: &Arc<AtomicU64>,
    ) -> Response<Body> {
        let path = parts.uri.path();
        let authorised = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if path == "/token" {
            return self.token(authorised, user);
        }
        if let Auth::Amazon(access_key, secret_key) = &self.auth
            && let Some(answer) = self.amazon((access_key, secret_key), path, &parts.headers, &given)
        {
            return answer;
        }
        let challenge = match &self.auth {
            Auth::Anonymous => None,
            _ if user.is_some() && (!matches!(self.auth, Auth::Token(..)) || is_bearer(authorised)) => None,
            Auth::Basic(..) => Some("Basic realm=\"upstream\"".to_owned()),
            Auth::Amazon(..) => Some("Basic realm=\"upstream\",service=\"ecr.amazonaws.com\"".to_owned()),
            Auth::Token(..) => {
                let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                Some(format!("Bearer realm=\"http://{host}/token\",service=\"upstream\""))
            }
        };
        if let Some(challenge) = challenge {
            let mut answer = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required", None);
            put(&mut answer, header::WWW_AUTHENTICATE, &challenge);
            return answer;
        }
        if path == "/v2/" {
            return plain(StatusCode::OK, "application/json", Body::from("{}"));
        }
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return self.write(parts, rest, given);
        }
        if rest == "_catalog" {
            return self.catalog();
        }
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            return self.manifest(repository, reference, sent);
        }
        if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
            return self.blob(repository, digest, &parts.headers, sent);
        }
        match rest.strip_suffix("/tags/list") {
            Some(repository) => self.tags(repository),
            None => plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", Body::from("404 page not found\n")),
        }
    }

    fn token(&self, authorised: Option<&str>, user: Option<&str>) -> Response<Body> {
        if authorised.is_some() && user.is_none() || !matches!(self.auth, Auth::Token(..)) {
            return error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "incorrect username or password", None);
        }
        let token = format!("{:032x}", rand::rng().random::<u128>());
        if user.is_some() {
            self.store.lock().remember(&token);
        }
        let body = json!({"token": token, "expires_in": 300});
        plain(StatusCode::OK, "application/json", Body::from(body.to_string()))
    }

    fn manifest(&self, repository: &str, reference: &str, sent: &Arc<AtomicU64>) -> Response<Body> {
        if reference.contains(':') && !is_digest(reference) {
            return error(
                StatusCode::BAD_REQUEST,
                "DIGEST_INVALID",
                "provided digest did not match uploaded content",
                None,
            );
        }
        match self.store.lock().manifest(repository, reference) {
            Some((digest, media_type, bytes)) => content(&digest, &media_type, bytes, None, sent),
            None => error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown", None),
        }
    }

    fn blob(&self, repository: &str, digest: &str, headers: &HeaderMap, sent: &Arc<AtomicU64>) -> Response<Body> {
        let store = self.store.lock();
        let Some(bytes) = store.blobs.get(&(repository.to_owned(), digest.to_owned())).cloned() else {
            return error(
                StatusCode::NOT_FOUND,
                "BLOB_UNKNOWN",
                "blob unknown to registry",
                Some(&format!("\"{digest}\"")),
            );
        };
        let start = headers
            .get(header::RANGE)
            .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
            .filter(|start| *start < bytes.len());
        let Some(start) = start else {
            return content(digest, "application/octet-stream", bytes, store.rate, sent);
        };
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        let mut answer = content(digest, "application/octet-stream", bytes.slice(start..), store.rate, sent);
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        put(&mut answer, header::CONTENT_RANGE, &range);
        answer
    }

    fn tags(&self, repository: &str) -> Response<Body> {
        let store = self.store.lock();
        let tags: Vec<&String> = store.tags.keys().filter(|(name, _)| name == repository).map(|(_, tag)| tag).collect();
        if tags.is_empty() {
            let detail = format!("{{\"name\":\"{repository}\"}}");
            let message = "repository name not known to registry";
            return error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message, Some(&detail));
        }
        let body = json!({"name": repository, "tags": tags});
        plain(StatusCode::OK, "application/json", Body::from(body.to_string()))
    }
}

async fn fail(failure: Failure, answer: Response<Body>) -> Response<Body> {
    match failure {
        Failure::TooManyRequests(after) => {
            let mut answer =
                error(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "You have reached your pull rate limit.", None);
            if let Some(after) = after {
                put(&mut answer, header::RETRY_AFTER, &after.to_string());
            }
            answer
        }
        Failure::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            error(status, "UNKNOWN", "the double was told to fail", None)
        }
        Failure::Delay(delay) => {
            tokio::time::sleep(delay).await;
            answer
        }
        Failure::WrongBytes => {
            answer.map(|body| {
                Body::from_stream(body.into_data_stream().map(|piece| {
                    piece.map(|bytes| Bytes::from(bytes.iter().map(|byte| byte ^ 0x55).collect::<Vec<u8>>()))
                }))
            })
        }
        Failure::CutShort => {
            let length =
                answer.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            let half: usize = length.unwrap_or(0usize) / 2;
            answer.map(|body| {
                let cut = futures::stream::once(async move {
                    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
                    Ok::<_, std::io::Error>(bytes.slice(..half.min(bytes.len())))
                });
                let end = futures::stream::once(async {
                    // Long enough for what was written to leave.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    Err(std::io::Error::other("cut short"))
                });
                Body::from_stream(cut.chain(end))
            })
        }
    }
}

fn content(digest: &str, media_type: &str, bytes: Bytes, rate: Option<u64>, sent: &Arc<AtomicU64>) -> Response<Body> {
    let length = bytes.len().to_string();
    let mut answer = plain(StatusCode::OK, media_type, body::counted(bytes, rate, sent.clone()));
    put(&mut answer, header::CONTENT_LENGTH, &length);
    put(&mut answer, header::HeaderName::from_static("docker-content-digest"), digest);
    put(&mut answer, header::ETAG, &format!("\"{digest}\""));
    answer
}

/// `detail` is JSON.
pub(super) fn error(status: StatusCode, code: &str, message: &str, detail: Option<&str>) -> Response<Body> {
    // Spelled out, for Harbor quotes the very bytes in its own errors.
    let detail = detail.map(|detail| format!(",\"detail\":{detail}")).unwrap_or_default();
    let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\"{detail}}}]}}\n");
    plain(status, "application/json; charset=utf-8", Body::from(body))
}

pub(super) fn plain(status: StatusCode, media_type: &str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    put(&mut answer, header::CONTENT_TYPE, media_type);
    put(&mut answer, header::HeaderName::from_static("docker-distribution-api-version"), "registry/2.0");
    answer
}

pub(super) fn put(answer: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = http::HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn is_bearer(authorised: Option<&str>) -> bool {
    authorised.is_some_and(|value| value.starts_with("Bearer "))
}
