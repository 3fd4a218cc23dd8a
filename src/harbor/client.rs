//! Requests, deadlines, paging and errors, the same for every operation.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Method, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;
use tracing::Instrument;
use url::Url;

use super::{
    Error, Redactor,
    request_observer::{self, Api, RequestObserver},
    response::{ApiRequest, ApiResponse, ErrorBody, decode, refusal},
    transport,
};
use crate::leadership::Leadership;

/// Maximum bytes of an answer.
const MAX_BODY: usize = 8 << 20;
/// Growth step in bytes of the buffer for a long body.
const GROWTH: usize = 512 << 10;
/// Maximum bytes that are read of an error's body.
const MAX_ERROR_BODY: usize = 16 << 10;
/// Backoff after a 429 without `Retry-After`, and the maximum backoff.
const REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// The credentials of a user or a robot account of Harbor.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name, or `robot$name`.
    pub username: String,
    /// Password or secret.
    pub password: SecretString,
}

/// Address, trust and limits of a Harbor.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://` or `https://`, host and port.
    pub url: String,
    /// PEM certificates to trust in addition to the system's.
    pub ca_bundle: Option<String>,
    /// Credentials; `None` is anonymous.
    pub credentials: Option<Credentials>,
    /// Maximum number of requests in flight, at least 1.
    pub max_concurrent_requests: u16,
}

/// Deadlines for one Harbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// To connect.
    pub connect: Duration,
    /// For a request, from its first byte to the last of its answer. Harbor probes an upstream within POST and PUT of a
    /// registry, and a dead one takes long.
    pub request: Duration,
    /// For all pages of a list.
    pub list: Duration,
    /// For an answer of `/v2` to begin, and then for each further piece of it.
    pub idle: Duration,
}

impl Default for Deadlines {
    /// 5 s, 30 s, 5 min and 60 s.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), request: seconds(30), list: seconds(300), idle: seconds(60) }
    }
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
    secrets: Redactor,
    deadlines: Deadlines,
    slots: Semaphore,
    /// Time until which Harbor is backed off.
    rest: Mutex<Option<Instant>>,
    observer: Option<Arc<dyn RequestObserver>>,
}

impl Client {
    /// Creates a client for the endpoint. Sends nothing.
    ///
    /// # Errors
    /// [`Error::Endpoint`] for a URL or a CA bundle that cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::observed(endpoint, None)
    }

    /// Like [`Client::new`], with an observer that is notified of each request.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn observed(endpoint: &Endpoint, observer: Option<Arc<dyn RequestObserver>>) -> Result<Self, Error> {
        Self::within(endpoint, Deadlines::default(), observer)
    }

    /// Like [`Client::observed`], with other deadlines.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn within(
        endpoint: &Endpoint,
        deadlines: Deadlines,
        observer: Option<Arc<dyn RequestObserver>>,
    ) -> Result<Self, Error> {
        let mut base = transport::base(&endpoint.url).map_err(Error::Endpoint)?;
        base.set_path("/api/v2.0/");
        let http = transport::builder(endpoint.ca_bundle.as_deref()).map_err(Error::Endpoint)?;
        let http = http.connect_timeout(deadlines.connect).timeout(deadlines.request).build();
        let http = http.map_err(|error| Error::Endpoint(error.to_string()))?;
        let secrets = Redactor::default();
        if let Some(own) = &endpoint.credentials {
            secrets.learn(&own.username, &own.password);
        }
        let slots = Semaphore::new(usize::from(endpoint.max_concurrent_requests.max(1)));
        Ok(Self {
            inner: Arc::new(Inner {
                base,
                http,
                credentials: endpoint.credentials.clone(),
                secrets,
                deadlines,
                slots,
                rest: Mutex::default(),
                observer,
            }),
            leadership: Leadership::always(),
        })
    }

    /// Returns the client, which sends nothing and waits for no answer while `leadership` is not held.
    #[must_use]
    pub fn under(self, leadership: &Leadership) -> Self {
        Self { leadership: leadership.clone(), ..self }
    }

    /// Returns whether the account is a user: each request of a user costs Harbor about 100 ms of CPU for the password hash.
    pub fn is_user_account(&self) -> bool {
        self.inner.credentials.as_ref().is_some_and(|credentials| !credentials.username.starts_with("robot$"))
    }

    /// Returns the secrets that no text about this Harbor may contain.
    pub fn secrets(&self) -> &Redactor {
        &self.inner.secrets
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        self.inner.deadlines
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Error> {
        let request = ApiRequest { method: Method::GET, path, query };
        self.decode(&request, &self.send(&request, None::<&()>).await?.body)
    }

    /// Sends GET; `None` for 404.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.get(path, &[]).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends GET for plain text.
    pub(super) async fn text(&self, path: &str) -> Result<String, Error> {
        let request = ApiRequest { method: Method::GET, path, query: &[] };
        let body = self.send(&request, None::<&()>).await?.body;
        Ok(self.inner.secrets.redact(&String::from_utf8_lossy(&body)))
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, request: &ApiRequest<'_>, body: &[u8]) -> Result<T, Error> {
        decode(request, body, &self.inner.secrets)
    }

    /// Sends POST for a new object; returns the id at the end of `Location`.
    pub(super) async fn create(&self, path: &str, body: &impl Serialize) -> Result<i64, Error> {
        let request = ApiRequest { method: Method::POST, path, query: &[] };
        let answer = self.send(&request, Some(body)).await?;
        let id = answer.location.as_deref().and_then(|location| location.rsplit('/').next()?.parse().ok());
        id.ok_or_else(|| request.malformed("no id in Location"))
    }

    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(&ApiRequest { method: Method::POST, path, query: &[] }, Some(body)).await.map(drop)
    }

    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(&ApiRequest { method: Method::PUT, path, query: &[] }, Some(body)).await.map(drop)
    }

    /// Sends DELETE; an object that is already gone is no error.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Error> {
        match self.send(&ApiRequest { method: Method::DELETE, path, query: &[] }, None::<&()>).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn send(
        &self,
        request: &ApiRequest<'_>,
        body: Option<&impl Serialize>,
    ) -> Result<ApiResponse, Error> {
        let deadline = self.inner.deadlines.request * 2;
        let work = async {
            // The semaphore is never closed, so this always continues with a permit.
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
        // The wait for a slot counts: a caller needs its result in time, whatever the reason.
        match tokio::time::timeout(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { operation: request.to_string(), seconds: deadline.as_secs() }),
        }
    }

    fn tell<T>(&self, request: &ApiRequest<'_>, span: &tracing::Span, result: &Result<T, Error>, took: Duration) {
        let Some(answer) = request_observer::RequestResult::of(result) else { return };
        if let request_observer::RequestResult::Status(status) = answer {
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

    /// Returns how long Harbor is backed off: for all clones of this client, because Harbor counts their requests together.
    fn rest(&self) -> Option<Duration> {
        let until = (*self.inner.rest.lock().unwrap_or_else(PoisonError::into_inner))?;
        until.checked_duration_since(Instant::now())
    }

    async fn exchange(&self, request: &ApiRequest<'_>, body: Option<&impl Serialize>) -> Result<ApiResponse, Error> {
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
        let response = self.leadership.guard(http.send()).await.map_err(|error| self.transport(request, error))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let location = header(header::LOCATION).map(str::to_owned);
        let total = header(header::HeaderName::from_static("x-total-count")).and_then(|total| total.parse().ok());
        let retry_after = header(header::RETRY_AFTER).and_then(|seconds| seconds.parse::<u64>().ok());
        let retry_after = retry_after.map(|seconds| seconds.min(LONGEST_REST.as_secs()));
        if status.is_success() {
            let body = self.read(request, response).await?;
            return Ok(ApiResponse { body, location, total });
        }
        let body = self.read_error(response).await;
        Err(refusal(request, status, retry_after, &body, &self.inner.secrets))
    }

    async fn read(&self, request: &ApiRequest<'_>, mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
        let too_large = || request.too_large(format!("longer than {} MiB", MAX_BODY >> 20));
        if response.content_length().is_some_and(|length| length > MAX_BODY as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(request, error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(too_large());
            }
            if body.capacity() - body.len() < chunk.len() {
                // No doubling: a body may be as large as its limit.
                body.reserve_exact(chunk.len().max(body.len().min(GROWTH)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads the beginning of an error's body; its end does not change the error.
    async fn read_error(&self, mut response: reqwest::Response) -> ErrorBody {
        let mut body = ErrorBody::default();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = MAX_ERROR_BODY - body.bytes.len();
                    body.bytes.extend(chunk.iter().take(room));
                    if chunk.len() > room {
                        return ErrorBody { cut: true, ..body };
                    }
                }
                Ok(None) => return body,
                Err(_) => return ErrorBody { cut: true, ..body },
            }
        }
    }

    fn transport(&self, request: &ApiRequest<'_>, error: reqwest::Error) -> Error {
        if error.is_timeout() && !error.is_connect() {
            return Error::Timeout { operation: request.to_string(), seconds: self.inner.deadlines.request.as_secs() };
        }
        let broke_off = error.is_body() || error.is_decode();
        let error = error.without_url();
        let mut detail = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            detail = cause.to_string();
            source = cause.source();
        }
        let detail = self.inner.secrets.message(detail.as_bytes(), false, &[]);
        if broke_off {
            return request.malformed(&format!("it ended early: {detail}"));
        }
        Error::Unreachable { url: self.inner.base.origin().ascii_serialization(), detail }
    }
}
