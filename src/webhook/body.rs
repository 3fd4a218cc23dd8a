//! Reads request bodies within limits of size, time and memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{StatusCode, Version};
use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use futures::{FutureExt, future};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::peer_slots::{Peer, PeerSlot, PeerSlots, SlotCapacity, SlotHolder};
use crate::api::Interval;

/// The largest small body. Nearly all bodies are small; the connection's own task answers them at once.
pub(super) const SMALL: usize = 16 * KIB;
/// Memory that a request takes beside its body while the body arrives: headers and a task.
const OVERHEAD: usize = 16 * KIB;
/// Memory for all small bodies that do not arrive at once.
const SLOW: usize = 16 * KIB * KIB;
/// The largest medium body. Medium bodies have their own memory, so that large bodies cannot block them.
const MEDIUM: usize = 128 * KIB;
/// The most medium bodies that wait for memory: of all peers, and of one peer, which may be the API server of all tenants.
/// Each may have sent as much as the window of its stream allows: 64 KiB.
const MEDIUM_WAITING: SlotCapacity = SlotCapacity { total: 96, peer: 80 };
const LARGE_WAITING: SlotCapacity = SlotCapacity { total: 192, peer: 160 };
/// Bytes that are read of a body that is not read to its end: enough for the uid of the review and the object that it is
/// about.
const BEGINNING: usize = 4 * KIB;
/// The most bytes of such a body that are discarded over HTTP/1. Otherwise the connection would be reset and the answer lost.
const DRAIN: usize = 64 * KIB * KIB;
/// The first reservation for a large body of unknown length. It doubles as bytes arrive.
const FIRST: usize = 64 * KIB;
/// The age from which a large body that still arrives may be evicted. For a peer that holds less, it may be evicted at once.
const PATIENCE: Duration = Duration::from_millis(500);
const KIB: usize = 1024;

/// Limits of request bodies, and of the time for an answer.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The largest body, in bytes. Default 8 MiB: the API server takes requests of 3 MiB, a review holds an object twice, and
    /// a tenant may choose characters that take six bytes in a review. Larger reviews are answered as malformed.
    pub body: usize,
    /// Memory for all bodies above 16 KiB that are read or answered, in bytes. A quarter of it is reserved for bodies up to
    /// 128 KiB. Default 32 MiB.
    pub memory: usize,
    /// The longest time for a body to arrive and to get its memory. Default 5 s.
    pub time: Duration,
    /// The longest time for the review of a body above 16 KiB; after that it is answered as malformed. At most half of the
    /// API server's timeout. Default 1 s.
    pub review: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            body: 8 * KIB * KIB,
            memory: 32 * KIB * KIB,
            time: Duration::from_secs(5),
            review: Duration::from_secs(1),
        }
    }
}

/// Reads bodies within [`Limits`].
#[derive(Debug)]
pub(super) struct BodyReader {
    limits: BodyLimits,
    slow: Arc<PeerSlots<ArrivingBody>>,
    medium: Arc<PeerSlots<ArrivingBody>>,
    large: Arc<PeerSlots<ArrivingBody>>,
}

/// A body that was read. A large one counts against the memory until it is dropped.
#[derive(Debug)]
pub(super) struct RequestBody {
    bytes: Bytes,
    _place: Option<PeerSlot<ArrivingBody>>,
}

/// A body that was not read to its end.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) error: BodyError,
    /// The first bytes of the body, if they arrived.
    pub(super) beginning: Vec<u8>,
    body: Body,
}

/// The reason why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the body ended early")]
    Broken,
    #[error("too many bodies are in memory; try again")]
    NoRoom,
}

impl RequestBody {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyReader {
    pub(super) fn new(limits: BodyLimits) -> Self {
        let medium = limits.memory / 4;
        let large = (limits.memory - medium).max(limits.body);
        // One peer may be the only one. A part is kept for others nevertheless.
        let of_peer = (large - large / 6).max(limits.body);
        Self {
            limits,
            slow: PeerSlots::new(SlotCapacity { total: SLOW, peer: SLOW }),
            medium: PeerSlots::new(SlotCapacity { total: medium, peer: medium - medium / 6 }),
            large: PeerSlots::new(SlotCapacity { total: large, peer: of_peer }),
        }
    }

    /// Reads the whole body. Gives up before the caller's timeout, if the caller sends one.
    pub(super) async fn read(&self, head: &Parts, body: Body) -> Result<RequestBody, Unread> {
        let since = Instant::now();
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let mut reading = RunningRead { body, announced, bytes: Bytes::new(), more: BytesMut::new() };
        match self.read_all(head, &mut reading).await {
            Ok(place) => Ok(reading.read(place)),
            Err(error) => {
                if error != BodyError::Broken && reading.len() < BEGINNING {
                    let left = self.read_timeout(head).saturating_sub(since.elapsed());
                    self.read_beginning(head, &mut reading, left).await;
                }
                Err(reading.unread(error))
            }
        }
    }

    /// Reads the whole body, and returns its reservation if it needs one.
    async fn read_all(
        &self,
        head: &Parts,
        reading: &mut RunningRead,
    ) -> Result<Option<PeerSlot<ArrivingBody>>, BodyError> {
        if reading.announced.is_some_and(|size| size > self.limits.body) {
            return Err(BodyError::TooLarge);
        }
        if reading.announced.is_none_or(|size| size <= SMALL) {
            // The usual case: the body arrives with its head, and needs no timer and no reservation.
            match reading.up_to(SMALL).now_or_never() {
                Some(Ok(ReadProgress::Complete)) => return Ok(None),
                Some(Ok(ReadProgress::Exceeds)) => {}
                Some(Err(error)) => return Err(error),
                None => return self.read_slow(head, reading).await,
            }
        }
        self.read_large(head, reading).await.map(Some)
    }

    /// Reads at least the beginning, if it arrives in time.
    async fn read_beginning(&self, head: &Parts, reading: &mut RunningRead, patience: Duration) {
        if reading.up_to(BEGINNING).now_or_never().is_some() {
            return;
        }
        let arrival = ArrivingBody::begin(head, Duration::ZERO);
        if let Ok(_place) = self.slow.admit(Arc::clone(&arrival), BEGINNING + OVERHEAD) {
            arrival.within(patience, reading.up_to(BEGINNING)).await.ok();
        }
    }

    async fn read_slow(
        &self,
        head: &Parts,
        reading: &mut RunningRead,
    ) -> Result<Option<PeerSlot<ArrivingBody>>, BodyError> {
        let patience = self.read_timeout(head);
        let (arrival, size) =
            (ArrivingBody::begin(head, Duration::ZERO), reading.announced.unwrap_or(SMALL) + OVERHEAD);
        let (place, _) = self.slow.admit(Arc::clone(&arrival), size).map_err(|_| BodyError::NoRoom)?;
        match arrival.within(patience, reading.up_to(SMALL)).await? {
            ReadProgress::Complete => Ok(None),
            ReadProgress::Exceeds => {
                drop(place);
                self.read_large(head, reading).await.map(Some)
            }
        }
    }

    /// Reserves an announced length at once, and an unknown length as bytes arrive. A body that cannot grow is refused: a
    /// body that holds memory never waits for more.
    async fn read_large(&self, head: &Parts, reading: &mut RunningRead) -> Result<PeerSlot<ArrivingBody>, BodyError> {
        let patience = self.read_timeout(head);
        let (arrival, most) = (ArrivingBody::begin(head, PATIENCE), reading.announced.unwrap_or(self.limits.body));
        let mut reserved = reading.announced.unwrap_or(FIRST.max(reading.len())).min(most);
        let is_medium = reading.announced.is_some_and(|size| size <= MEDIUM);
        let (places, waiting) = if is_medium { (&self.medium, MEDIUM_WAITING) } else { (&self.large, LARGE_WAITING) };
        let place = places.admit_within(Arc::clone(&arrival), reserved, waiting, patience);
        let place = place.await.map_err(|_| BodyError::NoRoom)?;
        let left = patience.saturating_sub(arrival.since.elapsed());
        let growing = async {
            while let ReadProgress::Exceeds = reading.up_to(reserved).await? {
                if reading.len() > most {
                    return Err(BodyError::TooLarge);
                }
                let larger = (reserved * 2).max(reading.len()).min(most);
                place.grow(larger - reserved).map_err(|_| BodyError::NoRoom)?;
                reserved = larger;
            }
            Ok(())
        };
        arrival.within(left, growing).await?;
        arrival.complete.store(true, Ordering::Relaxed);
        Ok(place)
    }

    /// Returns the time left for the review of a large body that began to arrive at `since`: an answer after the API server's
    /// own deadline is useless.
    pub(super) fn review_budget(&self, head: &Parts, since: Instant) -> Duration {
        let Some(asked) = asked(head) else { return self.limits.review };
        // An eighth is for the network in both directions.
        let left = (asked * 7 / 8).saturating_sub(since.elapsed());
        self.limits.review.min(asked * 3 / 4).min(left)
    }

    /// Returns how long to wait for a body.
    pub(super) fn read_timeout(&self, head: &Parts) -> Duration {
        // The rest is for the review and the network.
        asked(head).map_or(self.limits.time, |asked| self.limits.time.min(asked * 3 / 4))
    }
}

/// Returns the beginning of a body.
pub(super) fn first(bytes: &[u8]) -> &[u8] {
    bytes.get(..BEGINNING).unwrap_or(bytes)
}

/// Returns the client that sent a request.
pub(super) fn peer(head: &Parts) -> Peer {
    let address = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    Peer::of(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// Returns the time that the API server certainly waits, from the timeout in the query: `?timeout=10s`.
///
/// The API server rounds what is left of its deadline up to whole seconds, so up to a second of it may be over. An answer after
/// the deadline is none, and `failurePolicy: Ignore` then admits the Pod.
fn asked(head: &Parts) -> Option<Duration> {
    let mut parameters = head.uri.query().unwrap_or_default().split('&');
    let asked = parameters.find_map(|parameter| parameter.strip_prefix("timeout=")?.parse::<Interval>().ok());
    asked.map(|asked| asked.duration()).map(|asked| asked.saturating_sub(Duration::from_secs(1)).max(asked / 4))
}

/// A body while it is read.
struct RunningRead {
    body: Body,
    announced: Option<usize>,
    /// The first part, usually the whole body.
    bytes: Bytes,
    /// The whole body, if it has more than one part. Parts are copied: each may be a piece of a much larger buffer.
    more: BytesMut,
}

enum ReadProgress {
    Complete,
    Exceeds,
}

impl RunningRead {
    fn len(&self) -> usize {
        self.bytes.len() + self.more.len()
    }

    /// Reads to the end, unless the body is longer than `most`. The bytes that arrived stay when this future is dropped.
    async fn up_to(&mut self, most: usize) -> Result<ReadProgress, BodyError> {
        loop {
            if self.len() > most {
                return Ok(ReadProgress::Exceeds);
            }
            let frame = poll_fn(|cx| std::pin::Pin::new(&mut self.body).poll_frame(cx)).await;
            let Some(frame) = frame else { return Ok(ReadProgress::Complete) };
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            if self.bytes.is_empty() && self.more.is_empty() {
                self.bytes = data;
                continue;
            }
            if self.more.is_empty() {
                let expected = self.announced.unwrap_or_default().min(most);
                self.more.reserve(expected.max(self.bytes.len() + data.len()));
                self.more.extend_from_slice(&std::mem::take(&mut self.bytes));
            }
            self.more.extend_from_slice(&data);
        }
    }

    fn read(self, place: Option<PeerSlot<ArrivingBody>>) -> RequestBody {
        let bytes = if self.more.is_empty() { self.bytes } else { self.more.freeze() };
        RequestBody { bytes, _place: place }
    }

    fn unread(self, error: BodyError) -> Unread {
        let all = if self.more.is_empty() { &self.bytes[..] } else { &self.more[..] };
        Unread { error, beginning: first(all).to_vec(), body: self.body }
    }
}

impl Unread {
    /// Discards the rest of the body where the connection cannot end cleanly otherwise. HTTP/2 does not need this: the stream
    /// ends separately.
    pub(super) fn drain(self, version: Version, time: Duration) {
        if version > Version::HTTP_11 || self.error == BodyError::Broken {
            return;
        }
        let mut body = self.body;
        let all = async move {
            let mut bytes = 0;
            while let Some(Ok(frame)) = poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > DRAIN {
                    break;
                }
            }
        };
        tokio::spawn(timeout(time, all));
    }
}

/// A body that has a reservation.
#[derive(Debug)]
pub(super) struct ArrivingBody {
    peer: Peer,
    since: Instant,
    /// The age from which the body may be evicted.
    settled: Duration,
    complete: AtomicBool,
    evicted: Notify,
}

impl ArrivingBody {
    fn begin(head: &Parts, settled: Duration) -> Arc<Self> {
        let peer = peer(head);
        let (complete, evicted) = (AtomicBool::new(false), Notify::new());
        Arc::new(Self { peer, since: Instant::now(), settled, complete, evicted })
    }

    /// Waits for a part of the body: at most `patience`, and until the body is evicted.
    async fn within<T>(
        &self,
        patience: Duration,
        reading: impl Future<Output = Result<T, BodyError>>,
    ) -> Result<T, BodyError> {
        let (reading, evicted) = (std::pin::pin!(timeout(patience, reading)), std::pin::pin!(self.evicted.notified()));
        match future::select(reading, evicted).await {
            future::Either::Left((read, _)) => read.map_err(|_| BodyError::TooSlow)?,
            future::Either::Right(_) => Err(BodyError::NoRoom),
        }
    }
}

impl SlotHolder for ArrivingBody {
    fn peer(&self) -> Peer {
        self.peer
    }

    fn idle_since(&self) -> Option<Instant> {
        let settled = self.since.elapsed() >= self.settled;
        (settled && !self.complete.load(Ordering::Relaxed)).then_some(self.since)
    }

    fn yields_since(&self) -> Option<Instant> {
        (!self.complete.load(Ordering::Relaxed)).then_some(self.since)
    }

    fn evict(&self) {
        self.evicted.notify_one();
    }
}

impl BodyError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
