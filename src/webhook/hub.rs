//! All connections of a server: their admission and eviction, and the memory of unwritten answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response, Version};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::Instant;
use tower::ServiceExt;

use super::connection::{Connection, ConnectionOrder, UnwrittenPart};
use super::head;
use super::peer_slots::{NoSlot, PeerSlots, SlotCapacity};
use crate::telemetry::metrics::ConnectionMetrics;
use crate::telemetry::probes::Readiness;

/// The most bytes of unwritten answers. Above that, the connection that holds the most is closed.
const ANSWERS: usize = 24 * 1024 * 1024;
/// The most connections with incomplete request headers. Above that, the connection that began first is closed. The headers
/// of one connection take up to 200 KiB.
const OPEN_HEADERS: usize = 128;
/// The longest time from the first to the last part of the headers of an HTTP/2 request.
const HEADERS_WITHIN: Duration = Duration::from_secs(2);

/// Limits of all connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// The most connections that have sent a request; half as many more may be about to.
    pub(super) connections: usize,
    /// The same for one peer.
    pub(super) peer: usize,
    /// The longest time to write an answer.
    pub(super) write: Duration,
    /// How long an answer may wait to be written before its connection may be evicted.
    pub(super) stuck: Duration,
}

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Hub {
    /// Connections in their handshake, and others that have not sent a request yet. Their limit is separate, so that a flood
    /// of them evicts no connection that is served.
    new: Arc<PeerSlots<Connection>>,
    served: Arc<PeerSlots<Connection>>,
    unwritten: AtomicUsize,
    open_headers: AtomicUsize,
    limits: ConnectionLimits,
    readiness: Readiness,
    metrics: ConnectionMetrics,
}

impl Hub {
    pub(super) fn new(limits: ConnectionLimits, readiness: Readiness, metrics: ConnectionMetrics) -> Arc<Self> {
        let ConnectionLimits { connections, peer, .. } = limits;
        Arc::new(Self {
            new: PeerSlots::new(SlotCapacity { total: connections.div_ceil(2), peer: peer.div_ceil(2) }),
            served: PeerSlots::new(SlotCapacity { total: connections, peer }),
            unwritten: AtomicUsize::new(0),
            open_headers: AtomicUsize::new(0),
            limits,
            readiness,
            metrics,
        })
    }

    /// Admits a connection; `None` when all slots are taken and none may be evicted.
    pub(super) fn accept(self: &Arc<Self>, address: SocketAddr) -> Option<AcceptedConnection> {
        let connection = Arc::new(Connection::new(address, self.limits.stuck));
        let (place, evicted) = match self.new.admit(Arc::clone(&connection), 1) {
            Ok(admitted) => admitted,
            Err(full) => {
                self.metrics.refused.inc();
                // A peer above its own limit does not mean that other peers find no room.
                if full == NoSlot::All {
                    self.readiness.refuse();
                }
                return None;
            }
        };
        self.metrics.evicted.inc_by(evicted as u64);
        self.metrics.open.inc();
        connection.take(place);
        Some(AcceptedConnection { hub: Arc::clone(self), connection })
    }

    /// Gives an order to all connections that match.
    pub(super) fn order(&self, order: ConnectionOrder, which: impl Fn(&Connection) -> bool) {
        for places in [&self.new, &self.served] {
            places.each(|connection| {
                if which(connection) {
                    connection.order(order);
                }
            });
        }
    }

    /// Closes connections that do not read their answers, or do not complete the headers of a request.
    pub(super) fn close_stalled(&self) {
        let (write, now) = (self.limits.write, Instant::now());
        for places in [&self.new, &self.served] {
            places.each(|connection| {
                let headers = connection.headers_since();
                let late = headers.is_some_and(|since| now.saturating_duration_since(since) > HEADERS_WITHIN);
                if connection.current() < ConnectionOrder::Close && (late || connection.is_stalled(write, now)) {
                    self.metrics.stalled.inc();
                    connection.order(ConnectionOrder::Close);
                }
            });
        }
    }

    /// Answers a request of a connection. Drops the unneeded parts of its head at once, not when the future is first polled.
    pub(super) fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        router: Router,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<CountedBody>, Infallible>> + use<> {
        let request = head::reduce(request);
        async move {
            match request {
                Ok(request) => self.route(connection, router, request).await,
                Err(status) => {
                    let mut response = Response::new(CountedBody { body: Body::empty(), hub: self, connection });
                    *response.status_mut() = status;
                    Ok(response)
                }
            }
        }
    }

    async fn route(
        self: Arc<Self>,
        connection: Arc<Connection>,
        router: Router,
        mut request: Request<Incoming>,
    ) -> Result<Response<CountedBody>, Infallible> {
        let version = request.version();
        request.extensions_mut().insert(ConnectInfo(connection.address()));
        request.extensions_mut().insert(Arc::clone(&connection));
        let was_new = connection.is_new();
        let _begun = connection.begin();
        let mut response = router.oneshot(request.map(Body::new)).await?;
        drop(connection.work(Instant::now()));
        if was_new {
            self.promote(&connection);
        }
        let ends = self.readiness.is_draining() || connection.current() > ConnectionOrder::Serve;
        if ends && version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| CountedBody { body, hub: self, connection }))
    }

    fn promote(&self, connection: &Arc<Connection>) {
        // Otherwise the connection keeps its slot.
        if let Ok((place, evicted)) = self.served.admit(Arc::clone(connection), 1) {
            self.metrics.evicted.inc_by(evicted as u64);
            connection.take(place);
        }
    }

    /// Closes the connection whose incomplete headers are the oldest.
    fn close_oldest_headers(&self) {
        let mut oldest = None::<(Instant, Arc<Connection>)>;
        for places in [&self.new, &self.served] {
            places.each(|connection| {
                let Some(since) = connection.headers_since() else { return };
                let older = oldest.as_ref().is_none_or(|(first, _)| since < *first);
                if older && connection.current() < ConnectionOrder::Close {
                    oldest = Some((since, Arc::clone(connection)));
                }
            });
        }
        if let Some((_, connection)) = oldest {
            self.metrics.stalled.inc();
            connection.order(ConnectionOrder::Close);
        }
    }

    /// Closes the connection with the most unwritten bytes.
    fn close_heaviest(&self) {
        let (mut heaviest, now) = (None::<(u128, Arc<Connection>)>, Instant::now());
        for places in [&self.new, &self.served] {
            places.each(|connection| {
                let burden = connection.unwritten_cost(now);
                let heavier = heaviest.as_ref().is_none_or(|(most, _)| burden > *most);
                if heavier && burden > 0 && connection.current() < ConnectionOrder::Close {
                    heaviest = Some((burden, Arc::clone(connection)));
                }
            });
        }
        if let Some((_, connection)) = heaviest {
            self.metrics.stalled.inc();
            connection.order(ConnectionOrder::Close);
        }
    }
}

/// An admitted connection.
#[derive(Debug)]
pub(super) struct AcceptedConnection {
    hub: Arc<Hub>,
    connection: Arc<Connection>,
}

impl AcceptedConnection {
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Counts the incomplete headers of the connection.
    pub(super) fn headers(&self) -> OpenHeaders {
        OpenHeaders { hub: Arc::clone(&self.hub), connection: Arc::clone(&self.connection), open: false }
    }
}

/// Whether the client of a connection has sent a part of a request's headers.
#[derive(Debug)]
pub(super) struct OpenHeaders {
    hub: Arc<Hub>,
    connection: Arc<Connection>,
    open: bool,
}

impl OpenHeaders {
    pub(super) fn set(&mut self, open: bool, now: Instant) {
        if self.open == open {
            return;
        }
        self.open = open;
        self.connection.begin_headers(open.then_some(now));
        if !open {
            self.hub.open_headers.fetch_sub(1, Ordering::Relaxed);
        } else if self.hub.open_headers.fetch_add(1, Ordering::Relaxed) >= OPEN_HEADERS {
            self.hub.close_oldest_headers();
        }
    }

    /// Records that the connection is closed because of frames without requests.
    pub(super) fn flooded(&self) {
        self.hub.metrics.flooding.inc();
    }
}

impl Drop for OpenHeaders {
    fn drop(&mut self) {
        self.set(false, Instant::now());
    }
}

impl Drop for AcceptedConnection {
    fn drop(&mut self) {
        self.hub.metrics.open.dec();
        self.connection.end();
    }
}

/// The body of an answer, counted until it is written.
#[derive(Debug)]
pub(super) struct CountedBody {
    body: Body,
    hub: Arc<Hub>,
    connection: Arc<Connection>,
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(frame.map(|frame| {
            frame.map_data(|bytes| {
                let hub = Arc::clone(&this.hub);
                if hub.unwritten.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > ANSWERS {
                    hub.close_heaviest();
                }
                let unwritten = this.connection.hold(bytes.len(), hub.limits.write, Instant::now());
                Bytes::from_owner(CountedBytes { bytes, hub, _unwritten: unwritten })
            })
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes on their way to the socket: dropped when they are written or discarded.
struct CountedBytes {
    bytes: Bytes,
    hub: Arc<Hub>,
    _unwritten: UnwrittenPart,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.hub.unwritten.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hyper::body::Body as _;

    use super::*;

    #[test]
    fn answers_beyond_their_memory_close_the_connection_that_holds_the_most() {
        let (write, stuck) = (Duration::from_secs(5), Duration::from_millis(250));
        let limits = ConnectionLimits { connections: 8, peer: 8, write, stuck };
        let hub = Hub::new(limits, Readiness::new(), ConnectionMetrics::default());
        let [heavy, light] = [1, 2].map(|port| hub.accept(([127, 0, 0, 1], port).into()).unwrap());
        let answer = |guest: &AcceptedConnection, bytes: usize| {
            let (hub, connection) = (Arc::clone(&hub), Arc::clone(guest.connection()));
            let mut answer = CountedBody { body: Body::from(vec![0; bytes]), hub, connection };
            Pin::new(&mut answer).poll_frame(&mut Context::from_waker(Waker::noop()))
        };
        let _unwritten = [answer(&heavy, ANSWERS - 1024), answer(&light, 1024)];
        assert_eq!(heavy.connection().current(), ConnectionOrder::Serve);
        let _beyond = answer(&light, 1);
        let orders = [heavy, light].map(|guest| guest.connection().current());
        assert_eq!(orders, [ConnectionOrder::Close, ConnectionOrder::Serve]);
    }
}
