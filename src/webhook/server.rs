//! The HTTPS server: limits of connections, memory and time, and an end that fails no request.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Order};
use super::hub::{Guest, Hub, Limits};
use super::silence::Watched;
use crate::telemetry::metrics::ConnectionMetrics;
use crate::telemetry::probes::Readiness;

/// Bounds and times of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections at one time that have brought a request; half as many more may be in their handshake or about to send
    /// one. When all places are taken, the idlest connection of the peer that has the most makes room. Default 512.
    pub connections: usize,
    /// The same for one peer: an address, or a /64 of IPv6. Default 256.
    pub connections_of_peer: usize,
    /// Whether HTTP/2 is served beside HTTP/1. Default yes.
    pub http2: bool,
    /// Requests at one time on one HTTP/2 connection. Default 100, which is what Go's client assumes at first; it opens
    /// another connection for more. Some frames cost work for each of them.
    pub streams: u32,
    /// From accepting to the end of the TLS handshake. Default 5 s.
    pub handshake: Duration,
    /// For the head of a request, and for an idle HTTP/1 connection. Default 30 s.
    pub head: Duration,
    /// How often a silent HTTP/2 connection is asked whether it is alive, and how long the answer may take. Default 20 s.
    pub ping: Duration,
    /// How long an answer may take to be written. A connection that holds one for longer, and at the most for twice as
    /// long, is closed. Default 5 s.
    pub write: Duration,
    /// When room is needed: how long an answer may wait to be written before its connection may be evicted. Default 250 ms.
    pub stuck: Duration,
    /// How long to serve on once the end is near, unready, until nobody sends requests here any more. Default 10 s.
    pub linger: Duration,
    /// After that: how long requests that run may take. Default 10 s.
    pub drain: Duration,
    /// Counts connections. Default: counters that nobody looks at.
    pub metrics: ConnectionMetrics,
}

impl ServeOptions {
    /// For the ops port: small, HTTP/1 only, and any connection makes room for a probe as soon as its request is answered.
    #[must_use]
    pub fn of_ops(self) -> Self {
        Self {
            connections: 64,
            connections_of_peer: 16,
            http2: false,
            stuck: Duration::ZERO,
            metrics: ConnectionMetrics::default(),
            ..self
        }
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_of_peer: 256,
            http2: true,
            streams: 100,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(30),
            ping: Duration::from_secs(20),
            write: Duration::from_secs(5),
            stuck: Duration::from_millis(250),
            linger: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            metrics: ConnectionMetrics::default(),
        }
    }
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used.
    #[error("cannot serve on the address: {0}; is it taken?")]
    Listener(#[from] io::Error),
}

const KIB: usize = 1024;
/// What is read ahead of a request of HTTP/1, and the most that its head may have.
const HTTP1_BUFFER: usize = 48 * KIB;
/// What a stream of HTTP/2 may send ahead. Nearly all reviews fit.
const STREAM_WINDOW: u32 = 64 * 1024;
/// What all streams of a connection may: requests that wait for memory must not stop the others. Bodies are taken out as
/// they come, but for those that wait, and `body` bounds these.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// The most that the headers of a request of HTTP/2 may have. An API server adds what its own clients send as `baggage`
/// (8,192 bytes) and `tracestate` (16,447), and takes the webhook for failed where that does not fit.
const HEADERS: u32 = 48 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How often it is looked whether connections take their answers.
const SWEEP: Duration = Duration::from_millis(500);
/// How long a connection that is evicted may take to end: for a request that is on its way.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long a connection that has brought nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(1);
/// After an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on a bound listener until `shutdown`, and then on until it may end: unready first, serving on for
/// [`ServeOptions::linger`], then no new connections, and the running requests within [`ServeOptions::drain`].
///
/// While it lingers, each answer of HTTP/1 says `Connection: close`. A connection of HTTP/1 that is idle is closed only at
/// the end: earlier, that would meet requests that are on their way. In the middle of the lingering connections of HTTP/2 get
/// a GOAWAY, which cannot lose a request; clients connect again, and so to another replica.
///
/// `tls` may be absent, for the ops port.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    readiness: Readiness,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    // It listens already, with the default of the standard library, which is 128.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let ServeOptions { connections, connections_of_peer: peer, write, stuck, .. } = options;
    let limits = Limits { connections, peer, write, stuck };
    let hub = Hub::new(limits, readiness.clone(), options.metrics.clone());
    let server = Arc::new(Server { http: builder(&options), tls: tls.map(TlsAcceptor::from), router, options });
    let mut serving = Serving { listener, hub: Arc::clone(&hub), server, tasks: JoinSet::new() };

    serving.until(shutdown).await;
    readiness.drain();
    let Server { options: ServeOptions { linger, drain, .. }, .. } = *serving.server;
    tracing::info!(?linger, "shutting down: unready, serving on");
    let ending = Instant::now() + linger;
    serving.until(sleep_until(ending - linger / 2)).await;
    hub.order(Order::Finish, |connection| connection.is_http2());
    serving.until(sleep_until(ending)).await;
    serving.take_backlog();
    let Serving { listener, mut tasks, .. } = serving;
    drop(listener);
    tracing::info!(connections = tasks.len(), "no new connections, finishing requests");
    hub.order(Order::Finish, |_| true);
    let patience = PATIENCE.min(drain);
    if !all_end(&mut tasks, patience).await {
        hub.order(Order::Close, Connection::is_mute);
        all_end(&mut tasks, drain - patience).await;
    }
    Ok(())
}

/// Waits for all tasks; whether they ended in time.
async fn all_end(tasks: &mut JoinSet<()>, time: Duration) -> bool {
    let all = async { while tasks.join_next().await.is_some() {} };
    timeout(time, all).await.is_ok()
}

/// What all connections have in common.
struct Server {
    http: Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    router: Router,
    options: ServeOptions,
}

struct Serving {
    listener: tokio::net::TcpListener,
    hub: Arc<Hub>,
    server: Arc<Server>,
    tasks: JoinSet<()>,
}

impl Serving {
    async fn until(&mut self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                _ = sweep.tick() => self.hub.close_stalled(),
                Some(_) = self.tasks.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => self.accept(stream, address),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Clients whose connection the kernel has accepted are served, too.
    fn take_backlog(&mut self) {
        while let Some(Ok((stream, address))) = self.listener.accept().now_or_never() {
            self.accept(stream, address);
        }
    }

    fn accept(&mut self, stream: TcpStream, address: SocketAddr) {
        if let Some(guest) = self.hub.welcome(address) {
            self.tasks.spawn(Arc::clone(&self.server).connection(stream, guest));
        }
    }
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, guest: Guest) {
        stream.set_nodelay(true).ok();
        let Some(tls) = &self.tls else { return self.http(stream, &guest).await };
        let accepted = tokio::select! {
            accepted = timeout(self.options.handshake, tls.accept(stream)) => accepted,
            () = guest.connection().ousted() => return,
        };
        let Ok(Ok(stream)) = accepted else {
            self.options.metrics.handshakes_failed.inc();
            return;
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            guest.connection().speaks_http2();
        }
        self.http(stream, &guest).await;
    }

    async fn http(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, guest: &Guest) {
        let connection = guest.connection();
        let service = service_fn(|request: hyper::Request<Incoming>| {
            Arc::clone(guest.hub()).answer(Arc::clone(connection), self.router.clone(), request)
        });
        // Longer than both, so that pings keep a connection that they find alive.
        let silence = self.options.head + self.options.ping;
        let io = TokioIo::new(Watched::new(stream, silence, guest));
        let mut http = pin!(self.http.serve_connection(io, service));
        let (mut finishing, mut farewell) = (false, None::<Pin<Box<Sleep>>>);
        poll_fn(|cx: &mut Context<'_>| {
            let order = connection.ordered(cx);
            if order == Order::Close {
                return Poll::Ready(());
            }
            if order > Order::Serve && !finishing {
                finishing = true;
                http.as_mut().graceful_shutdown();
            }
            // An error is that of a peer that is gone, or does not keep to HTTP.
            if http.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if order == Order::Leave {
                return farewell.get_or_insert_with(|| Box::pin(sleep(FAREWELL))).as_mut().poll(cx);
            }
            Poll::Pending
        })
        .await;
    }
}

fn builder(options: &ServeOptions) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(options.head).max_buf_size(HTTP1_BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.ping)
        .keep_alive_timeout(options.ping)
        .max_concurrent_streams(options.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS);
    if options.http2 { http } else { http.http1_only() }
}
