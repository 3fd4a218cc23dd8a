//! Requests, deadlines, paging and errors, the same for every operation.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;
use tracing::Instrument;
use url::Url;

use super::{
    Error,
    observer::{self, Api, Observer},
};
use crate::leadership::Leadership;

/// Harbor's own limit; anything above is 422.
const PAGE_SIZE: usize = 100;
/// Pages of one list that are read at most: 100,000 objects.
const MAX_PAGES: usize = 1000;
/// An answer that is longer is not read to its end.
const MAX_BODY: usize = 16 << 20;
/// Harbor probes an upstream within POST and PUT of a registry, and a dead one takes its time.
const DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a Harbor is left alone that says 429 and not for how long; and how long at most.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// A user or a robot account of Harbor.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name, or `robot$name`.
    pub username: String,
    /// Password or secret.
    pub password: SecretString,
}

/// Where a Harbor is and how to talk to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://` or `https://`, host and port.
    pub url: String,
    /// PEM certificates to trust beside the system's.
    pub ca_bundle: Option<String>,
    /// Who we are; `None` is anonymous.
    pub credentials: Option<Credentials>,
    /// Requests under way at once, at least 1.
    pub max_concurrent_requests: u16,
}

/// A client of one Harbor. Clones share the connection pool and the bound on concurrent requests.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    leadership: Leadership,
}

#[derive(Debug)]
struct Inner {
    base: Url,
    http: reqwest::Client,
    credentials: Option<Credentials>,
    slots: Semaphore,
    /// Until when Harbor wants to be left alone.
    rest: Mutex<Option<Instant>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Client {
    /// A client for the endpoint. Nothing is sent.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for a URL or a CA bundle that cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::observed(endpoint, None)
    }

    /// The same, with somebody who is told of each request.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn observed(endpoint: &Endpoint, observer: Option<Arc<dyn Observer>>) -> Result<Self, Error> {
        let unusable = |detail: String| Error::Endpoint(detail);
        let mut base =
            Url::parse(&endpoint.url).map_err(|error| unusable(format!("url `{}`: {error}", endpoint.url)))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(unusable(format!("url `{}` must be http:// or https:// and a host", endpoint.url)));
        }
        base.set_path("/api/v2.0/");
        // Harbor answers Basic auth that comes with its own session cookie by 403, so none is ever kept: no cookie store.
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("harbor-pilot/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(DEADLINE);
        if let Some(pem) = &endpoint.ca_bundle {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|error| unusable(format!("caBundle is not PEM: {error}")))?;
            // Text without PEM in it is a bundle of nothing, and would be found out by a handshake that fails.
            if certificates.is_empty() {
                return Err(unusable("caBundle has no PEM certificate in it".to_owned()));
            }
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|error| unusable(error.to_string()))?;
        let slots = Semaphore::new(usize::from(endpoint.max_concurrent_requests.max(1)));
        Ok(Self {
            inner: Arc::new(Inner {
                base,
                http,
                credentials: endpoint.credentials.clone(),
                slots,
                rest: Mutex::default(),
                observer,
            }),
            leadership: Leadership::always(),
        })
    }

    /// The same client, which sends nothing, and waits for no answer, while `leadership` does not hold.
    #[must_use]
    pub fn under(self, leadership: &Leadership) -> Self {
        Self { leadership: leadership.clone(), ..self }
    }

    /// Whether the account is a user: each request of a user costs Harbor about 100 ms of CPU for the password hash.
    pub fn is_user_account(&self) -> bool {
        self.inner.credentials.as_ref().is_some_and(|credentials| !credentials.username.starts_with("robot$"))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Error> {
        let request = Request { method: Method::GET, path, query };
        decode(&request, &self.send(&request, None::<&()>).await?.body)
    }

    /// GET, with `None` for 404.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.get(path, &[]).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All pages of a list.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<T>, Error> {
        let page_size = PAGE_SIZE.to_string();
        let mut all = Vec::new();
        for page in 1..=MAX_PAGES {
            let page = page.to_string();
            let mut paged = query.to_vec();
            paged.extend([("page", page.as_str()), ("page_size", page_size.as_str())]);
            let request = Request { method: Method::GET, path, query: &paged };
            let answer = self.send(&request, None::<&()>).await?;
            // An empty list is `null` at some end points.
            let items = decode::<Option<Vec<T>>>(&request, &answer.body)?.unwrap_or_default();
            let last = items.len() < PAGE_SIZE;
            all.extend(items);
            if last || answer.total.is_some_and(|total| all.len() >= total) {
                break;
            }
        }
        Ok(all)
    }

    /// The first `limit` (1 to 100) of a list.
    pub(super) async fn first<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<T>, Error> {
        let page_size = limit.clamp(1, PAGE_SIZE).to_string();
        let mut paged = query.to_vec();
        paged.push(("page_size", page_size.as_str()));
        Ok(self.get::<Option<Vec<T>>>(path, &paged).await?.unwrap_or_default())
    }

    /// GET of plain text.
    pub(super) async fn text(&self, path: &str) -> Result<String, Error> {
        let request = Request { method: Method::GET, path, query: &[] };
        let body = self.send(&request, None::<&()>).await?.body;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// POST of a new object; returns the id at the end of `Location`.
    pub(super) async fn create(&self, path: &str, body: &impl Serialize) -> Result<i64, Error> {
        let request = Request { method: Method::POST, path, query: &[] };
        let answer = self.send(&request, Some(body)).await?;
        let id = answer.location.as_deref().and_then(|location| location.rsplit('/').next()?.parse().ok());
        id.ok_or_else(|| request.malformed("no id in Location"))
    }

    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(&Request { method: Method::POST, path, query: &[] }, Some(body)).await.map(drop)
    }

    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(&Request { method: Method::PUT, path, query: &[] }, Some(body)).await.map(drop)
    }

    /// DELETE; an object that is gone already is no error.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Error> {
        match self.send(&Request { method: Method::DELETE, path, query: &[] }, None::<&()>).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, request: &Request<'_>, body: Option<&impl Serialize>) -> Result<Answer, Error> {
        let work = async {
            // The semaphore is never closed, so the only way on is with a permit.
            let _slot = self.inner.slots.acquire().await.ok();
            if let Some(left) = self.rest() {
                return Err(Error::RateLimited { retry_after: Some(left.as_secs() + 1) });
            }
            let (begin, span) = (Instant::now(), request.span());
            let result = self.exchange(request, body).instrument(span.clone()).await;
            self.tell(request, &span, &result, begin.elapsed());
            if let Err(Error::RateLimited { retry_after }) = &result {
                let rest = retry_after.map_or(REST, Duration::from_secs).min(LONGEST_REST);
                *self.inner.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + rest);
            }
            result
        };
        // Waiting for a slot counts: a caller wants to know in time, whatever the reason.
        match tokio::time::timeout(DEADLINE * 2, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { operation: request.to_string(), seconds: DEADLINE.as_secs() * 2 }),
        }
    }

    fn tell<T>(&self, request: &Request<'_>, span: &tracing::Span, result: &Result<T, Error>, took: Duration) {
        let Some(answer) = observer::Answer::of(result) else { return };
        if let observer::Answer::Status(status) = answer {
            span.record("http.response.status_code", status);
        }
        if let Err(error) = result {
            span.record("otel.status_code", "ERROR").record("error.type", error.reason().to_string());
        }
        if let Some(observer) = &self.inner.observer {
            let reads = matches!(request.method, Method::GET | Method::HEAD);
            observer.answered(Api::Management, reads, answer, took);
        }
    }

    /// How long Harbor wants to be left alone: by all who share this client, for it counts them together.
    fn rest(&self) -> Option<Duration> {
        let until = (*self.inner.rest.lock().unwrap_or_else(PoisonError::into_inner))?;
        until.checked_duration_since(Instant::now())
    }

    async fn exchange(&self, request: &Request<'_>, body: Option<&impl Serialize>) -> Result<Answer, Error> {
        let mut url = self.inner.base.join(request.path).map_err(|error| Error::Endpoint(error.to_string()))?;
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(request.query);
        }
        let mut http = self.inner.http.request(request.method.clone(), url);
        if let Some(credentials) = &self.inner.credentials {
            http = http.basic_auth(&credentials.username, Some(credentials.password.expose_secret()));
        }
        if let Some(body) = body {
            http = http.json(body);
        }
        let response = self.leadership.guard(http.send()).await.map_err(|error| self.transport(request, &error))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let location = header(header::LOCATION).map(str::to_owned);
        let total = header(header::HeaderName::from_static("x-total-count")).and_then(|total| total.parse().ok());
        let retry_after = header(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let body = self.read(request, response).await?;
        if status.is_success() {
            return Ok(Answer { body, location, total });
        }
        Err(refusal(request, status, retry_after, &body))
    }

    async fn read(&self, request: &Request<'_>, mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(request, &error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(request.malformed(&format!("longer than {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn transport(&self, request: &Request<'_>, error: &reqwest::Error) -> Error {
        if error.is_timeout() && !error.is_connect() {
            return Error::Timeout { operation: request.to_string(), seconds: DEADLINE.as_secs() };
        }
        let mut detail = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            detail = cause.to_string();
            source = cause.source();
        }
        Error::Unreachable { url: self.inner.base.origin().ascii_serialization(), detail }
    }
}

struct Request<'a> {
    method: Method,
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
}

impl std::fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} /{}", self.method, self.path)
    }
}

impl Request<'_> {
    fn span(&self) -> tracing::Span {
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

    fn malformed(&self, detail: &str) -> Error {
        Error::Malformed { operation: self.to_string(), detail: detail.to_owned() }
    }
}

struct Answer {
    body: Vec<u8>,
    location: Option<String>,
    total: Option<usize>,
}

fn decode<T: DeserializeOwned>(request: &Request<'_>, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| request.malformed(&error.to_string()))
}

fn refusal(request: &Request<'_>, status: StatusCode, retry_after: Option<u64>, body: &[u8]) -> Error {
    let operation = request.to_string();
    let message = message_of(body);
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

/// Harbor's `{"errors":[{"code","message"}]}`, or the beginning of whatever it is.
fn message_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        message: String,
    }
    match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => envelope.errors.into_iter().map(|entry| entry.message).collect::<Vec<_>>().join("; "),
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}
