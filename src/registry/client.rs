//! A client of the registry of one Harbor: bounded, with deadlines, and only for its configured address.
//!
//! It follows no redirect. Harbor streams a blob that it has not stored, and redirects only to its object storage. So a
//! redirect proves that a blob is stored, and nothing more is needed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, StatusCode, header};
use secrecy::SecretString;
use tokio::{sync::Mutex, time::timeout};

use super::{
    auth::{Challenge, TOKEN_PATH, TokenCache},
    digest::Digest,
    error::Error,
    manifest::{self, Descriptor, Manifest},
};
use crate::transport::{
    self, Api, Endpoint, Request, Response, Shared,
    timings::{DOCUMENT_DEADLINES, SLOWEST_BLOB},
};

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
    pub(super) transport: transport::Client,
    pub(super) auth: Arc<Auth>,
    pub(super) token_path: Arc<str>,
}

/// What is known of the registry's authentication.
#[derive(Debug, Default)]
pub(super) struct Auth {
    /// How the registry authenticates clients, once that is known.
    pub(super) challenge: Mutex<Option<Challenge>>,
    pub(super) tokens: TokenCache,
}

impl Client {
    /// Creates a client for the endpoint. Sends nothing.
    ///
    /// # Errors
    /// [`transport::Error::Endpoint`] for a URL or a CA bundle that cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::sharing(endpoint, Shared::default())
    }

    /// Like [`Client::new`], with what all clients of this Harbor share.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn sharing(endpoint: &Endpoint, shared: Shared) -> Result<Self, Error> {
        let transport = transport::Client::new(endpoint, Api::Registry, shared)?;
        Ok(Self { transport, auth: Arc::default(), token_path: TOKEN_PATH.into() })
    }

    /// Returns the client for a registry whose token service has another path than Harbor's.
    #[must_use]
    pub fn with_token_path(self, path: &str) -> Self {
        Self { token_path: path.into(), ..self }
    }

    /// Returns the HTTP transport.
    pub fn transport(&self) -> &transport::Client {
        &self.transport
    }

    /// Sends HEAD for a manifest by tag or digest, and returns its current digest. `None` if the answer names none.
    ///
    /// For a tag Harbor asks the upstream each time, and remembers that the tag was requested: without this an index is cached
    /// later, and untagged.
    pub async fn head(&self, repository: &str, reference: &str) -> Result<Option<Digest>, Error> {
        let what = format!("manifests/{reference}");
        let mut answer = self.ask(&Method::HEAD, repository, &what).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            // The reason is in a body, which HEAD does not have.
            drop(answer);
            answer = self.ask(&Method::GET, repository, &what).await?;
        }
        let answer = answer.success().await?;
        let digest = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(digest.and_then(|text| text.parse().ok()))
    }

    /// Fetches a manifest by tag or digest. One fetched by digest has that digest.
    ///
    /// # Errors
    /// [`transport::Error::TooLarge`] above 4 MiB.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<FetchedManifest, Error> {
        let answer = self.ask(&Method::GET, repository, &format!("manifests/{reference}")).await?.success().await?;
        let operation = answer.operation.clone();
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.map(str::to_owned);
        let body = self.document(answer, manifest::MAX_BYTES).await?;
        let digest = match reference.parse::<Digest>() {
            Ok(expected) if expected.matches(&body) => expected,
            Ok(expected) => return Err(Error::DigestMismatch { expected, actual: Digest::of(&body) }),
            Err(_) => Digest::of(&body),
        };
        let manifest = Manifest::parse(kind.as_deref(), &body).map_err(|detail| Error::Malformed {
            operation,
            detail: self.transport.shared().redactor.message(detail.as_bytes(), false, &[]),
        })?;
        Ok(FetchedManifest { digest, manifest })
    }

    /// Returns whether the registry has stored a blob: 2xx, or a redirect to its object storage.
    pub async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let answer = self.ask(&Method::HEAD, repository, &format!("blobs/{digest}")).await?;
        if is_redirect(&answer) {
            return Ok(true);
        }
        match answer.success().await.map_err(Error::from) {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a blob, discards its bytes, and checks its digest and size. `received` is called with the number of bytes of each
    /// piece.
    ///
    /// # Errors
    /// A blob that is longer than its manifest says is aborted at the first excess byte.
    pub async fn stream_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        received: impl Fn(u64),
    ) -> Result<BlobResponse, Error> {
        let answer = self.ask(&Method::GET, repository, &format!("blobs/{}", blob.digest)).await?;
        if is_redirect(&answer) {
            return Ok(BlobResponse::Stored);
        }
        let answer = announcing(answer.success().await?, blob)?;
        let slowest = Duration::from_secs(blob.size / SLOWEST_BLOB);
        let operation = answer.operation.clone();
        self.complete(operation, slowest, read_blob(answer, blob, received)).await
    }

    /// Requests a blob and closes the connection when the answer begins. Harbor continues to copy the blob into its store
    /// without a client; only [`Client::has_blob`] reports whether it was stored.
    pub async fn touch_blob(&self, repository: &str, blob: &Descriptor) -> Result<BlobResponse, Error> {
        let answer = self.ask(&Method::GET, repository, &format!("blobs/{}", blob.digest)).await?;
        if is_redirect(&answer) {
            return Ok(BlobResponse::Stored);
        }
        // Dropping an answer that is not read to its end closes its connection.
        announcing(answer.success().await?, blob)?;
        Ok(BlobResponse::Touched)
    }

    /// Sends a request with a token, and retries once with a fresh token if a cached one is refused.
    async fn ask(&self, method: &Method, repository: &str, what: &str) -> Result<Response<'_>, Error> {
        let path = format!("v2/{repository}/{what}");
        let kept = self.auth.tokens.get(repository, Instant::now());
        let fresh = kept.is_none();
        let token = match kept {
            Some(token) => Some(token),
            None => self.fetch_token(repository).await?,
        };
        let answer = self.send(method, &path, token.as_ref()).await?;
        // A registry that required no token may have been a page that answered in its place for a while.
        let is_settled = fresh && token.is_some();
        if answer.status() != StatusCode::UNAUTHORIZED || is_settled {
            return Ok(answer);
        }
        drop(answer);
        if token.is_none() {
            *self.auth.challenge.lock().await = None;
        }
        let token = self.fetch_token(repository).await?;
        self.send(method, &path, token.as_ref()).await
    }

    async fn send(&self, method: &Method, path: &str, token: Option<&SecretString>) -> Result<Response<'_>, Error> {
        let with_credentials = token.is_none() && *self.auth.challenge.lock().await == Some(Challenge::Basic);
        let prepare = |http: reqwest::RequestBuilder| {
            let http = http.header(header::ACCEPT, manifest::ACCEPT);
            if with_credentials { self.transport.basic_auth(http) } else { http }
        };
        Ok(self.transport.open(&Request::new(method.clone(), path), token, prepare).await?)
    }

    /// Reads a document of at most `limit` bytes.
    pub(super) async fn document(&self, mut answer: Response<'_>, limit: usize) -> Result<Vec<u8>, Error> {
        let operation = answer.operation.clone();
        self.complete(operation, Duration::ZERO, async { Ok(answer.body(limit).await?) }).await
    }

    /// Ends a slow body after the time for a document, and `more`.
    async fn complete<T>(
        &self,
        operation: String,
        more: Duration,
        read: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = (self.transport.deadlines().idle * DOCUMENT_DEADLINES).saturating_add(more);
        let detail = format!("not complete within {} s", deadline.as_secs_f32());
        let late = |_| Err(transport::Error::BrokenOff { operation, detail }.into());
        timeout(deadline, read).await.unwrap_or_else(late)
    }
}

async fn read_blob(mut answer: Response<'_>, blob: &Descriptor, received: impl Fn(u64)) -> Result<BlobResponse, Error> {
    let (mut hasher, mut length) = (blob.digest.hasher(), 0_u64);
    while let Some(piece) = answer.piece().await? {
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

/// 301 is not among these: Harbor corrects names with it (`nginx` to `library/nginx`).
fn is_redirect(answer: &Response<'_>) -> bool {
    matches!(
        answer.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::FOUND | StatusCode::SEE_OTHER | StatusCode::PERMANENT_REDIRECT
    )
}

/// Refuses a blob whose announced length differs from its manifest.
fn announcing<'c>(answer: Response<'c>, blob: &Descriptor) -> Result<Response<'c>, Error> {
    match answer.content_length().filter(|length| *length != blob.size) {
        Some(announced) => Err(size_mismatch(blob, announced)),
        None => Ok(answer),
    }
}

fn size_mismatch(blob: &Descriptor, actual: u64) -> Error {
    Error::SizeMismatch { digest: blob.digest.clone(), expected: blob.size, actual }
}
