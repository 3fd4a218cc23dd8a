//! The HTTPS server: limits of connections and time, and an end that fails no request.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use futures::future::BoxFuture;
use hyper_util::rt::TokioTimer;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;

use super::accept::Bounded;
use crate::telemetry::probes::Readiness;

/// Bounds and times of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections at one time, those in their handshake included; one more is closed at once. Default 1024.
    pub connections: usize,
    /// Requests at one time on one HTTP/2 connection. Default 250.
    pub streams: u32,
    /// From accepting to the end of the TLS handshake. Default 5 s.
    pub handshake: Duration,
    /// For the head of a request, and for an idle HTTP/1 connection. Default 30 s.
    pub head: Duration,
    /// How often a silent HTTP/2 connection is asked whether it is alive, and how long the answer may take. Default 20 s.
    pub ping: Duration,
    /// How long to serve on once the end is near, unready, until nobody sends requests here any more. Default 10 s.
    pub linger: Duration,
    /// After that: how long requests that run may take. Default 10 s.
    pub drain: Duration,
    /// Counts connections that came to no TLS. Default: one that nobody looks at.
    pub handshakes_failed: Counter,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections: 1024,
            streams: 250,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(30),
            ping: Duration::from_secs(20),
            linger: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            handshakes_failed: Counter::default(),
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

/// Serves `router` on a bound listener until `shutdown`, and then on until it may end: unready first, serving on for
/// [`ServeOptions::linger`], then no new connections, and the running requests within [`ServeOptions::drain`].
///
/// In the middle of the lingering, when nobody is sent here any more who asks where to go, all connections are asked to end:
/// HTTP/2 by GOAWAY, after which clients connect anew, and so elsewhere. HTTP/1 is for the router: `Connection: close`.
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
    // Whoever still comes after the others were asked to end is served on the same port, without a moment between.
    let last_listener = listener.try_clone()?;
    let room = Arc::new(Semaphore::new(options.connections));
    let (mut first, first_handle) = running(listener, tls.clone(), router.clone(), &room, &options)?;
    tokio::select! {
        ended = &mut first => return Ok(ended?),
        () = shutdown => {}
    }
    readiness.drain();
    tracing::info!(linger = ?options.linger, "shutting down: unready, serving on");
    let ending = tokio::time::Instant::now() + options.linger;
    tokio::select! {
        ended = &mut first => return Ok(ended?),
        () = tokio::time::sleep(options.linger / 2) => {}
    }
    let (last, last_handle) = running(last_listener, tls, router, &room, &options)?;
    first_handle.graceful_shutdown(Some(options.linger / 2 + options.drain));
    let drain = async {
        tokio::time::sleep_until(ending).await;
        let connections = first_handle.connection_count() + last_handle.connection_count();
        tracing::info!(connections, "no new connections, finishing requests");
        last_handle.graceful_shutdown(Some(options.drain));
    };
    let (first, last, ()) = tokio::join!(first, last, drain);
    first.and(last)?;
    Ok(())
}

type Running = BoxFuture<'static, io::Result<()>>;

fn running(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    room: &Arc<Semaphore>,
    options: &ServeOptions,
) -> io::Result<(Running, Handle<SocketAddr>)> {
    listener.set_nonblocking(true)?;
    let handle = Handle::<SocketAddr>::new();
    let mut server = axum_server::from_tcp(listener)?.handle(handle.clone());
    let http = server.http_builder();
    http.http1().timer(TokioTimer::new()).header_read_timeout(options.head);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.ping)
        .keep_alive_timeout(options.ping)
        .max_concurrent_streams(options.streams);

    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    // Longer than both, so that pings keep a connection that they find alive.
    let silence = options.head + options.ping;
    let room = Arc::clone(room);
    Ok(match tls {
        Some(tls) => {
            let tls = RustlsAcceptor::new(RustlsConfig::from_config(tls))
                .handshake_timeout(options.handshake)
                .acceptor(NoDelayAcceptor::new());
            let bounded = Bounded::new(tls, room, silence).counting(options.handshakes_failed.clone());
            (Box::pin(server.acceptor(bounded).serve(service)), handle)
        }
        None => {
            let plain = Bounded::new(NoDelayAcceptor::new(), room, silence);
            (Box::pin(server.acceptor(plain).serve(service)), handle)
        }
    })
}
