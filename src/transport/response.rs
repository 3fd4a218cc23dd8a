//! A response, and the bounds within which its body is read.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use k8s_openapi::jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{Client, Error, Refusal, timings::ERROR_BODY};

/// Growth step in bytes of the buffer for a long body.
const GROWTH: usize = 512 << 10;
/// Maximum bytes that are read of an error's body.
const MAX_ERROR_BODY: usize = 16 << 10;

/// A response whose body is not read yet. Dropping it closes its connection.
pub struct Response<'c> {
    pub(super) client: &'c Client,
    pub(super) http: reqwest::Response,
    /// Method and path of the request.
    pub operation: String,
    /// The token that was sent.
    pub(super) token: Option<SecretString>,
    pub(super) _slot: Option<SemaphorePermit<'c>>,
}

impl Response<'_> {
    /// Returns the HTTP status.
    pub fn status(&self) -> StatusCode {
        self.http.status()
    }

    /// Returns the headers.
    pub fn headers(&self) -> &HeaderMap {
        self.http.headers()
    }

    /// Returns the announced length of the body.
    pub fn content_length(&self) -> Option<u64> {
        self.http.content_length()
    }

    /// Returns the response if its status is 2xx.
    ///
    /// # Errors
    /// [`Error::Refused`] with the beginning of the body: its end does not change the error.
    pub async fn success(mut self) -> Result<Self, Error> {
        if self.status().is_success() {
            return Ok(self);
        }
        let (mut body, mut cut) = (Vec::new(), true);
        let read = async {
            while let Ok(piece) = self.http.chunk().await {
                let Some(piece) = piece else {
                    cut = false;
                    return;
                };
                let room = MAX_ERROR_BODY - body.len();
                body.extend(piece.iter().take(room));
                if piece.len() > room {
                    return;
                }
            }
        };
        timeout(ERROR_BODY, self.client.0.shared.leadership.guard(read)).await.ok();
        let token = self.token.as_ref().map(ExposeSecret::expose_secret);
        let secrets = (&self.client.0.shared.redactor, token.as_slice());
        let head = (self.http.status(), self.http.headers());
        Err(Error::Refused(Box::new(Refusal::read(self.operation, head, (&body, cut), secrets, Timestamp::now()))))
    }

    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.client.0.shared.leadership.guard(self.http.chunk()).await;
        piece.map_err(|error| self.client.error(self.operation.clone(), error, true))
    }

    /// Reads the body.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for one of more than `limit` bytes; see [`Error`].
    pub async fn body(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let too_large = |operation: &str| Error::TooLarge {
            operation: operation.to_owned(),
            detail: format!("larger than the limit of {} KiB", limit >> 10),
        };
        if self.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large(&self.operation));
        }
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > limit {
                return Err(too_large(&self.operation));
            }
            if body.capacity() - body.len() < piece.len() {
                // No doubling: a body may be as large as its limit.
                body.reserve_exact(piece.len().max(body.len().min(GROWTH)));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}
