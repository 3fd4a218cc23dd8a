//! Reading a request body within bounds of size, time and memory.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, poll};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::api::Interval;

/// Bodies up to this size, which are nearly all, do not count against the budget: connections bound them.
const SMALL: usize = 64 * 1024;
const KIB: usize = 1024;

/// How much may be read.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body, in bytes. A review holds an object twice, and the API server takes requests of 3 MiB; default
    /// 8 MiB. More is answered 413, which the API server takes for a failed webhook: the `failurePolicy` decides.
    pub body: usize,
    /// Memory of all bodies above 64 KiB that are being read or answered, in bytes. Default 32 MiB.
    pub memory: usize,
    /// How long a body may take to arrive, and to get its share of the memory. Default 5 s.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 8 * KIB * KIB, memory: 32 * KIB * KIB, time: Duration::from_secs(5) }
    }
}

/// Reads bodies within [`Limits`].
#[derive(Debug, Clone)]
pub(super) struct BodyReader {
    limits: Limits,
    budget: Arc<Semaphore>,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("no room for another large body; try again")]
    NoRoom,
}

impl BodyReader {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, budget: Arc::new(Semaphore::new(limits.memory.max(limits.body).div_ceil(KIB))) }
    }

    /// Hands the whole body to `answer`. Its share of the memory is given back after that. Gives up before the caller
    /// does, if the caller says when that is.
    pub(super) async fn read<T>(
        &self,
        head: &Parts,
        body: Body,
        answer: impl FnOnce(Bytes) -> T,
    ) -> Result<T, BodyError> {
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let Some(size) = announced else {
            let patience = self.patience(head);
            let reading = self.read_unannounced(body, patience);
            let (bytes, _share) = timeout(patience, reading).await.map_err(|_| BodyError::TooSlow)??;
            return Ok(answer(bytes));
        };
        if size > self.limits.body {
            return Err(BodyError::TooLarge);
        }
        let _share = if size > SMALL { Some(self.share(size, self.patience(head)).await?) } else { None };
        let mut reading = pin!(to_bytes(body, size));
        let bytes = match poll!(&mut reading) {
            // Nearly always: a body comes with its head, and then needs no clock.
            Poll::Ready(bytes) => bytes,
            Poll::Pending => timeout(self.patience(head), reading).await.map_err(|_| BodyError::TooSlow)?,
        };
        Ok(answer(bytes.map_err(|_| BodyError::TooLarge)?))
    }

    /// Once it is no small one, as much as could come is set aside: a share is never asked for twice, so none waits for
    /// another.
    async fn read_unannounced(
        &self,
        body: Body,
        patience: Duration,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), BodyError> {
        let mut chunks = body.into_data_stream();
        let (mut bytes, mut share) = (BytesMut::new(), None);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| BodyError::TooSlow)?;
            let size = bytes.len() + chunk.len();
            if size > self.limits.body {
                return Err(BodyError::TooLarge);
            }
            if size > SMALL && share.is_none() {
                share = Some(self.share(self.limits.body, patience).await?);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes.freeze(), share))
    }

    /// How long to wait: the API server says in the query for how long it will (`?timeout=10s`).
    fn patience(&self, head: &Parts) -> Duration {
        let mut parameters = head.uri.query().unwrap_or_default().split('&');
        let asked = parameters.find_map(|parameter| parameter.strip_prefix("timeout=")?.parse::<Interval>().ok());
        // An eighth is for the way there and back.
        asked.map_or(self.limits.time, |asked| self.limits.time.min(asked.duration() * 7 / 8))
    }

    /// A share of the memory for large bodies.
    async fn share(&self, size: usize, patience: Duration) -> Result<SemaphorePermit<'_>, BodyError> {
        let kib = u32::try_from(size.div_ceil(KIB)).map_err(|_| BodyError::TooLarge)?;
        let share = timeout(patience, self.budget.acquire_many(kib)).await;
        share.map_err(|_| BodyError::NoRoom)?.map_err(|_| BodyError::NoRoom)
    }
}

impl BodyError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
