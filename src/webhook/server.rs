//! The HTTPS server: limits of connections, memory and time, and a shutdown that fails no request.

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

use super::connection::{Connection, ConnectionOrder};
use super::hub::{AcceptedConnection, ConnectionLimits, Hub};
use super::read_timeout::ReadTimeout;
use crate::telemetry::metrics::ConnectionMetrics;
use crate::telemetry::probes::Readiness;

/// Limits and timeouts of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The most connections that have sent a request; half as many more may be in their handshake or about to send one. When
    /// all slots are taken, the idlest connection of the peer that has the most is evicted. Default 512.
    pub connections: usize,
    /// The same for one peer: an IPv4 address, or a /64 of IPv6. Default 256.
    pub connections_of_peer: usize,
    /// Whether to serve HTTP/2 beside HTTP/1. Default true.
    pub http2: bool,
    /// The most concurrent requests on one HTTP/2 connection. Default 100, which Go's client assumes at first; it opens
    /// another connection for more. Some frames cost work for each stream.
    pub streams: u32,
    /// The timeout from the accept to the end of the TLS handshake. Default 5 s.
    pub handshake: Duration,
    /// The timeout for the head of a request, and for an idle HTTP/1 connection. Default 30 s.
    pub head: Duration,
    /// The interval of pings on a silent HTTP/2 connection, and the timeout of each ping. Default 20 s.
    pub ping: Duration,
    /// The longest time to write an answer. A connection that holds an answer longer is closed, at the latest after twice
    /// this time. Default 5 s.
    pub write: Duration,
    /// When slots are short: how long an answer may wait for a write before its connection may be evicted. Default 250 ms.
    pub stuck: Duration,
    /// The longest time to serve, unready, after the shutdown signal, until no client sends requests. Default 10 s.
    pub shutdown_delay: Duration,
    /// After that: the longest time for running requests. Default 10 s.
    pub drain: Duration,
    /// Counters of connections. Default: counters that are not exported.
    pub metrics: ConnectionMetrics,
}

impl ServeOptions {
    /// Returns options for the ops port: small, HTTP/1 only; any connection may be evicted for a probe as soon as its request
    /// is answered.
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
            shutdown_delay: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            metrics: ConnectionMetrics::default(),
        }
    }
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server cannot listen on the address.
    #[error("cannot listen on the address: {0}; is it in use?")]
    Listener(#[from] io::Error),
}

const KIB: usize = 1024;
/// The most bytes that are read ahead of an HTTP/1 request, and the most that its head may have.
const HTTP1_BUFFER: usize = 48 * KIB;
/// The most bytes that an HTTP/2 stream may send ahead. Nearly all reviews fit.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection: requests that wait for memory must not block the others. Bodies are read as they
/// arrive, except those that wait, and `body` limits these.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// The most bytes of the headers of an HTTP/2 request. An API server adds `baggage` (8,192 bytes) and `tracestate` (16,447)
/// of its own clients, and takes the webhook for failed when they do not fit.
const HEADERS: u32 = 48 * 1024;
/// The most connections that wait for the accept.
const BACKLOG: i32 = 1024;
/// How often the server checks whether connections read their answers.
const SWEEP: Duration = Duration::from_millis(500);
/// How long an evicted connection may take to end, for a request that is on its way.
const FAREWELL: Duration = Duration::from_millis(250);
/// How long the shutdown waits for a connection that has sent nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause after an error of the listener, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on a bound listener until `shutdown`, then ends gracefully: it becomes unready and serves for
/// [`ServeOptions::shutdown_delay`], then accepts no new connections and finishes the running requests within
/// [`ServeOptions::drain`].
///
/// While it lingers, each HTTP/1 answer says `Connection: close`. An idle HTTP/1 connection is closed only at the end,
/// because an earlier close would meet requests that are on their way. In the middle of the linger time, HTTP/2 connections
/// get a GOAWAY, which loses no request; clients connect again, and reach another replica.
///
/// The ops port has no `tls`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    readiness: Readiness,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    // The listener already has the backlog of the standard library, which is 128.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let ServeOptions { connections, connections_of_peer: peer, write, stuck, .. } = options;
    let limits = ConnectionLimits { connections, peer, write, stuck };
    let hub = Hub::new(limits, readiness.clone(), options.metrics.clone());
    let server = Arc::new(Server { http: builder(&options), tls: tls.map(TlsAcceptor::from), router, options });
    let mut serving = ServingConnection { listener, hub: Arc::clone(&hub), server, tasks: JoinSet::new() };

    serving.until(shutdown).await;
    readiness.drain();
    let Server { options: ServeOptions { shutdown_delay: linger, drain, .. }, .. } = *serving.server;
    tracing::info!(?linger, "shutting down: unready, still serving");
    let ending = Instant::now() + linger;
    serving.until(sleep_until(ending - linger / 2)).await;
    hub.order(ConnectionOrder::Finish, |connection| connection.is_http2());
    serving.until(sleep_until(ending)).await;
    serving.drain_backlog();
    let ServingConnection { listener, mut tasks, .. } = serving;
    drop(listener);
    tracing::info!(connections = tasks.len(), "no new connections, finishing requests");
    hub.order(ConnectionOrder::Finish, |_| true);
    let patience = PATIENCE.min(drain);
    if !all_end(&mut tasks, patience).await {
        hub.order(ConnectionOrder::Close, Connection::is_mute);
        all_end(&mut tasks, drain - patience).await;
    }
    Ok(())
}

/// Waits for all tasks. Returns whether they ended in time.
async fn all_end(tasks: &mut JoinSet<()>, time: Duration) -> bool {
    let all = async { while tasks.join_next().await.is_some() {} };
    timeout(time, all).await.is_ok()
}

/// The state that all connections share.
struct Server {
    http: Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    router: Router,
    options: ServeOptions,
}

struct ServingConnection {
    listener: tokio::net::TcpListener,
    hub: Arc<Hub>,
    server: Arc<Server>,
    tasks: JoinSet<()>,
}

impl ServingConnection {
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

    /// Accepts the connections that the kernel has already accepted.
    fn drain_backlog(&mut self) {
        while let Some(Ok((stream, address))) = self.listener.accept().now_or_never() {
            self.accept(stream, address);
        }
    }

    fn accept(&mut self, stream: TcpStream, address: SocketAddr) {
        if let Some(guest) = self.hub.accept(address) {
            self.tasks.spawn(Arc::clone(&self.server).connection(stream, guest));
        }
    }
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, guest: AcceptedConnection) {
        stream.set_nodelay(true).ok();
        let Some(tls) = &self.tls else { return self.http(stream, &guest).await };
        let accepted = tokio::select! {
            accepted = timeout(self.options.handshake, tls.accept(stream)) => accepted,
            () = guest.connection().closed() => return,
        };
        let Ok(Ok(stream)) = accepted else {
            self.options.metrics.tls_handshake_errors.inc();
            return;
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            guest.connection().speaks_http2();
        }
        self.http(stream, &guest).await;
    }

    async fn http(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, guest: &AcceptedConnection) {
        let connection = guest.connection();
        let service = service_fn(|request: hyper::Request<Incoming>| {
            Arc::clone(guest.hub()).answer(Arc::clone(connection), self.router.clone(), request)
        });
        // Longer than both, so that pings keep a live connection.
        let silence = self.options.head + self.options.ping;
        let io = TokioIo::new(ReadTimeout::new(stream, silence, guest));
        let mut http = pin!(self.http.serve_connection(io, service));
        let (mut finishing, mut farewell) = (false, None::<Pin<Box<Sleep>>>);
        poll_fn(|cx: &mut Context<'_>| {
            let order = connection.ordered(cx);
            if order == ConnectionOrder::Close {
                return Poll::Ready(());
            }
            if order > ConnectionOrder::Serve && !finishing {
                finishing = true;
                http.as_mut().graceful_shutdown();
            }
            // An error means that the peer is gone or violates HTTP.
            if http.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if order == ConnectionOrder::Leave {
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
