//! An HTTP client for the registry of one Harbor: bounded, with deadlines, without cookies, and only for its configured
//! address.
//!
//! It follows no redirect. Harbor streams a blob that it has not stored, and redirects only to its object storage. So a
//! redirect proves that a blob is stored, and nothing more is needed.

mod token;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tracing::Instrument;
use url::Url;

use super::{
    auth::{Challenge, TOKEN_PATH, TokenCache},
    digest::Digest,
    error::{Error, is_gateway},
    manifest::{self, Descriptor, Manifest},
    refusal,
};
use crate::{
    harbor::{self, Credentials, Redactor, RequestObserver, transport},
    leadership::Leadership,
};

/// Deadline of a request that asks no upstream; without an answer by then Harbor counts as unreachable.
const ALIVE_DEADLINE: Duration = Duration::from_secs(10);

/// A request that waits this long for its status line returns its slot: Harbor waits for an upstream meanwhile, and requests
/// for other upstreams must not wait with it.
const HELD_UP: Duration = Duration::from_secs(5);

/// Minimum rate of a blob in bytes a second, in addition to the time for a document.
const SLOWEST_BLOB: u64 = 32 << 10;

/// Deadline of a document, as a multiple of the idle deadline.
const DOCUMENT_DEADLINES: u32 = 2;

/// Address, trust and limits of a registry.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://` or `https://`, host and port.
    pub url: String,
    /// PEM certificates to trust in addition to the system's.
    pub ca_bundle: Option<String>,
    /// Credentials; `None` is anonymous.
    pub credentials: Option<Credentials>,
    /// Maximum number of requests in flight, at least 1; a streamed blob counts until its end.
    pub max_concurrent_requests: u16,
    /// Deadline to connect. Default 5 s.
    pub connect_deadline: Duration,
    /// Deadline for the answer to begin, and then for each further piece of it. Default 60 s.
    pub idle_deadline: Duration,
}

impl Endpoint {
    /// Creates an endpoint with the default bounds: four requests at once, 5 s and 60 s.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca_bundle: None,
            credentials: None,
            max_concurrent_requests: 4,
            connect_deadline: Duration::from_secs(5),
            idle_deadline: Duration::from_secs(60),
        }
    }
}

/// A fetched manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchedManifest {
    /// Digest computed from its bytes.
    pub digest: Digest,
    /// Parsed content.
    pub manifest: Manifest,
}

/// The result of a request for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobResponse {
    /// The blob was read to its end, and has the expected digest and size.
    Streamed,
    /// The registry began to answer, and the connection was closed.
    Touched,
    /// The registry redirected to its storage: the blob is stored, and nothing was read.
    Stored,
}

/// A client of one registry. Clones share connections, tokens and the bound on concurrent requests.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    leadership: Leadership,
    secrets: Redactor,
    token_path: Arc<str>,
}

#[derive(Debug)]
struct Inner {
    base: Url,
    http: reqwest::Client,
    credentials: Option<Credentials>,
    idle_deadline: Duration,
    /// How the registry authenticates clients, once that is known.
    challenge: Mutex<Option<Challenge>>,
    tokens: TokenCache,
    slots: Semaphore,
    observer: Option<Arc<dyn RequestObserver>>,
}

/// An answer, and the slot that it occupies until it is read.
struct RegistryResponse<'a> {
    response: Response,
    operation: String,
    /// The token that was sent.
    token: Option<SecretString>,
    secrets: &'a Redactor,
    _slot: Option<SemaphorePermit<'a>>,
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
        let base = transport::base(&endpoint.url).map_err(Error::Endpoint)?;
        // HTTP/1.1 only: closing the connection ends the transfer of one blob and disturbs no other.
        let http = transport::builder(endpoint.ca_bundle.as_deref()).map_err(Error::Endpoint)?;
        let http = http.http1_only().connect_timeout(endpoint.connect_deadline).read_timeout(endpoint.idle_deadline);
        let http = http.build().map_err(|error| Error::Endpoint(error.to_string()))?;
        let secrets = Redactor::default();
        if let Some(own) = &endpoint.credentials {
            secrets.learn(&own.username, &own.password);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                base,
                http,
                credentials: endpoint.credentials.clone(),
                idle_deadline: endpoint.idle_deadline,
                challenge: Mutex::default(),
                tokens: TokenCache::default(),
                slots: Semaphore::new(usize::from(endpoint.max_concurrent_requests.max(1))),
                observer,
            }),
            leadership: Leadership::always(),
            secrets,
            token_path: TOKEN_PATH.into(),
        })
    }

    /// Returns the client with `secrets` that its errors must not contain either.
    #[must_use]
    pub fn concealing(self, secrets: &Redactor) -> Self {
        if let Some(own) = &self.inner.credentials {
            secrets.learn(&own.username, &own.password);
        }
        Self { secrets: secrets.clone(), ..self }
    }

    /// Returns the client for a registry whose token service has another path than Harbor's.
    #[must_use]
    pub fn with_token_path(self, path: &str) -> Self {
        Self { token_path: path.into(), ..self }
    }

    /// Returns the client, which sends and reads nothing while `leadership` is not held.
    #[must_use]
    pub fn under(self, leadership: &Leadership) -> Self {
        Self { leadership: leadership.clone(), ..self }
    }

    /// Returns the address of all requests, with a `/` at its end.
    pub fn address(&self) -> &str {
        self.inner.base.as_str()
    }

    /// Sends HEAD for a manifest by tag or digest, and returns its current digest. `None` if the answer names none.
    ///
    /// For a tag Harbor asks the upstream each time, and remembers that the tag was requested: without this an index is cached
    /// later, and untagged.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head(&self, repository: &str, reference: &str) -> Result<Option<Digest>, Error> {
        let what = format!("manifests/{reference}");
        let mut answer = self.ask(&Method::HEAD, repository, &what).await?;
        if answer.response.status() == StatusCode::NOT_FOUND {
            // The reason is in a body, which HEAD does not have.
            drop(answer);
            answer = self.ask(&Method::GET, repository, &what).await?;
        }
        let answer = answer.successful().await?;
        let digest = answer.response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(digest.and_then(|text| text.parse().ok()))
    }

    /// Fetches a manifest by tag or digest. One fetched by digest has that digest.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::TooLarge`] above 4 MiB.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<FetchedManifest, Error> {
        let answer = self.ask(&Method::GET, repository, &format!("manifests/{reference}")).await?.successful().await?;
        let operation = answer.operation.clone();
        let kind = answer.response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.map(str::to_owned);
        let body = self.body(answer, manifest::MAX_BYTES).await?;
        let digest = match reference.parse::<Digest>() {
            Ok(expected) if expected.matches(&body) => expected,
            Ok(expected) => return Err(Error::DigestMismatch { expected, actual: Digest::of(&body) }),
            Err(_) => Digest::of(&body),
        };
        let manifest = Manifest::parse(kind.as_deref(), &body).map_err(|detail| Error::Malformed {
            operation,
            detail: self.secrets.message(detail.as_bytes(), false, &[]),
        })?;
        Ok(FetchedManifest { digest, manifest })
    }

    /// Returns whether the registry has stored a blob: 2xx, or a redirect to its object storage.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let answer = self.ask(&Method::HEAD, repository, &format!("blobs/{digest}")).await?;
        if answer.is_redirect() {
            return Ok(true);
        }
        match answer.successful().await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a blob, discards its bytes, and checks its digest and size. `received` is called with the number of bytes of each
    /// piece.
    ///
    /// # Errors
    /// See [`Error`]. A blob that is longer than its manifest says is aborted at the first excess byte.
    pub async fn stream_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        received: impl Fn(u64),
    ) -> Result<BlobResponse, Error> {
        let answer = self.ask(&Method::GET, repository, &format!("blobs/{}", blob.digest)).await?;
        if answer.is_redirect() {
            return Ok(BlobResponse::Stored);
        }
        let answer = answer.successful().await?.announcing(blob)?;
        let slowest = Duration::from_secs(blob.size / SLOWEST_BLOB);
        let deadline = (self.inner.idle_deadline * DOCUMENT_DEADLINES).saturating_add(slowest);
        let operation = answer.operation.clone();
        let read = tokio::time::timeout(deadline, self.read_blob(answer, blob, received)).await;
        let detail = format!("not complete within {} s", deadline.as_secs_f32());
        read.unwrap_or(Err(Error::BrokenOff { operation, detail }))
    }

    async fn read_blob(
        &self,
        mut answer: RegistryResponse<'_>,
        blob: &Descriptor,
        received: impl Fn(u64),
    ) -> Result<BlobResponse, Error> {
        let (mut hasher, mut length) = (blob.digest.hasher(), 0_u64);
        while let Some(piece) = self.piece(&mut answer).await? {
            length = length.saturating_add(piece.len() as u64);
            if length > blob.size {
                return Err(size_mismatch(blob, length));
            }
            hasher.update(&piece);
            received(piece.len() as u64);
        }
        if length != blob.size {
            return Err(size_mismatch(blob, length));
        }
        let actual = hasher.finish();
        if actual != blob.digest {
            return Err(Error::DigestMismatch { expected: blob.digest.clone(), actual });
        }
        Ok(BlobResponse::Streamed)
    }

    /// Requests a blob and closes the connection when the answer begins. Harbor continues to copy the blob into its store
    /// without a client; only [`Client::has_blob`] reports whether it was stored.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn touch_blob(&self, repository: &str, blob: &Descriptor) -> Result<BlobResponse, Error> {
        let answer = self.ask(&Method::GET, repository, &format!("blobs/{}", blob.digest)).await?;
        if answer.is_redirect() {
            return Ok(BlobResponse::Stored);
        }
        // Dropping an answer that is not read to its end closes its connection.
        answer.successful().await?.announcing(blob)?;
        Ok(BlobResponse::Touched)
    }

    /// Returns whether Harbor itself answers, whatever its upstreams do: `GET /v2/` asks no upstream. Any status counts, except
    /// that of a gateway without a backend. It takes no slot: requests that an upstream delays may hold all of them.
    pub async fn answers(&self) -> bool {
        let request = self.inner.http.get(self.url("/v2/")).timeout(ALIVE_DEADLINE);
        let begin = Instant::now();
        let sent = self.leadership.guard(request.send()).await;
        self.observe(&sent, begin);
        sent.is_ok_and(|response| !is_gateway(response.status().as_u16()))
    }

    /// Sends a request with a token, and retries once with a fresh token if a cached one is refused.
    async fn ask(&self, method: &Method, repository: &str, what: &str) -> Result<RegistryResponse<'_>, Error> {
        let path = format!("/v2/{repository}/{what}");
        let kept = self.inner.tokens.get(repository, Instant::now());
        let fresh = kept.is_none();
        let token = match kept {
            Some(token) => Some(token),
            None => self.fetch_token(repository).await?,
        };
        let answer = self.send(method, &path, token.as_ref()).await?;
        // A registry that required no token may have been a page that answered in its place for a while.
        let is_settled = fresh && token.is_some();
        if answer.response.status() != StatusCode::UNAUTHORIZED || is_settled {
            return Ok(answer);
        }
        drop(answer);
        if token.is_none() {
            *self.inner.challenge.lock().await = None;
        }
        let token = self.fetch_token(repository).await?;
        self.send(method, &path, token.as_ref()).await
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        token: Option<&SecretString>,
    ) -> Result<RegistryResponse<'_>, Error> {
        let mut request = self.inner.http.request(method.clone(), self.url(path));
        request = request.header(header::ACCEPT, manifest::ACCEPT);
        let challenge = self.inner.challenge.lock().await.clone();
        request = match (token, &self.inner.credentials, challenge) {
            (Some(token), ..) => request.bearer_auth(token.expose_secret()),
            (None, Some(own), Some(Challenge::Basic)) => {
                request.basic_auth(&own.username, Some(own.password.expose_secret()))
            }
            _ => request,
        };
        let answer = self.execute(request, format!("{method} {path}")).await?;
        Ok(RegistryResponse { token: token.cloned(), ..answer })
    }

    async fn execute(
        &self,
        request: reqwest::RequestBuilder,
        operation: String,
    ) -> Result<RegistryResponse<'_>, Error> {
        let closed = |_| Error::Endpoint("the client is closed".to_owned());
        let mut slot = Some(self.inner.slots.acquire().await.map_err(closed)?);
        let begin = Instant::now();
        let span = tracing::debug_span!(
            "registry request",
            otel.kind = "client",
            operation,
            http.response.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
        );
        let mut sending = std::pin::pin!(self.leadership.guard(request.send()).instrument(span.clone()));
        let sent = match tokio::time::timeout(HELD_UP, &mut sending).await {
            Ok(sent) => sent,
            Err(_) => {
                slot.take();
                sending.await
            }
        };
        match self.observe(&sent, begin) {
            harbor::RequestResult::Status(status) => span.record("http.response.status_code", status),
            _ => span.record("otel.status_code", "ERROR"),
        };
        match sent {
            Ok(response) => {
                Ok(RegistryResponse { response, operation, token: None, secrets: &self.secrets, _slot: slot })
            }
            Err(error) => Err(refusal::unanswered(&operation, error, self.inner.idle_deadline, &self.secrets)),
        }
    }

    fn observe(&self, sent: &Result<Response, reqwest::Error>, begin: Instant) -> harbor::RequestResult {
        let answer = match sent {
            Ok(response) => harbor::RequestResult::Status(response.status().as_u16()),
            Err(error) if error.is_timeout() => harbor::RequestResult::Timeout,
            Err(_) => harbor::RequestResult::Unreachable,
        };
        if let Some(observer) = &self.inner.observer {
            observer.answered(harbor::Api::Registry, true, answer, begin.elapsed());
        }
        answer
    }

    /// Reports the retry of a failed request.
    pub(crate) fn record_retry(&self) {
        if let Some(observer) = &self.inner.observer {
            observer.repeated();
        }
    }

    /// Reads a document of at most `limit` bytes. A slow body is aborted after [`DOCUMENT_DEADLINES`] times the idle deadline.
    async fn body(&self, answer: RegistryResponse<'_>, limit: usize) -> Result<Vec<u8>, Error> {
        let (deadline, operation) = (self.inner.idle_deadline * DOCUMENT_DEADLINES, answer.operation.clone());
        let read = tokio::time::timeout(deadline, self.read(answer, limit)).await;
        let detail = format!("not complete within {} s", deadline.as_secs_f32());
        read.unwrap_or(Err(Error::BrokenOff { operation, detail }))
    }

    async fn read(&self, mut answer: RegistryResponse<'_>, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(&mut answer).await? {
            if body.len() + piece.len() > limit {
                let what = format!("the answer to {}", answer.operation);
                return Err(Error::TooLarge { what, limit: format!("{} KiB", limit >> 10) });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn piece(&self, answer: &mut RegistryResponse<'_>) -> Result<Option<bytes::Bytes>, Error> {
        let broken_off = |error| refusal::broken_off(&answer.operation, error, self.inner.idle_deadline, &self.secrets);
        self.leadership.guard(answer.response.chunk()).await.map_err(broken_off)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.inner.base.clone();
        url.set_path(path);
        url.set_query(None);
        url
    }
}

impl<'a> RegistryResponse<'a> {
    /// 301 is not among these: Harbor corrects names with it (`nginx` to `library/nginx`).
    fn is_redirect(&self) -> bool {
        matches!(
            self.response.status(),
            StatusCode::TEMPORARY_REDIRECT | StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::PERMANENT_REDIRECT
        )
    }

    /// Refuses a blob whose announced length differs from its manifest.
    fn announcing(self, blob: &Descriptor) -> Result<RegistryResponse<'a>, Error> {
        match self.response.content_length().filter(|length| *length != blob.size) {
            Some(announced) => Err(size_mismatch(blob, announced)),
            None => Ok(self),
        }
    }

    async fn successful(self) -> Result<RegistryResponse<'a>, Error> {
        if self.response.status().is_success() {
            return Ok(self);
        }
        let token = self.token.as_ref().map(ExposeSecret::expose_secret);
        Err(refusal::read(&self.operation, self.response, self.secrets, token).await)
    }
}

fn size_mismatch(blob: &Descriptor, actual: u64) -> Error {
    Error::SizeMismatch { digest: blob.digest.clone(), expected: blob.size, actual }
}

#[cfg(test)]
mod tests;
