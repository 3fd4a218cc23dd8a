//! One HTTP/1 server on a loopback port. In: connections. Out: answers of a [`Handler`]. It can be switched off (the
//! port is closed and every connection is cut) and on again (the same port), and stops when it is dropped.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Response};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// What answers the requests of a [`Server`].
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request. It never fails: an error is an answer, too.
    fn handle(self: Arc<Self>, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

/// A running server. Dropping it closes the port and every connection.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    wanted: watch::Sender<bool>,
    actual: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Wraps a bound listener.
    pub(crate) fn start<H: Handler>(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        handler: Arc<H>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (wanted, wanted_seen) = watch::channel(true);
        let (actual_set, actual) = watch::channel(true);
        let task = tokio::spawn(run(listener, address, tls, handler, wanted_seen, actual_set));
        Ok(Self { address, wanted, actual, task })
    }

    /// The port it listens on (or did, while it is down).
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes or reopens the port; returns once it is so, after five seconds at the latest.
    pub(crate) async fn set_down(&self, down: bool) {
        self.wanted.send_replace(!down);
        let mut actual = self.actual.clone();
        let reached = actual.wait_for(|up| *up != down);
        drop(tokio::time::timeout(Duration::from_secs(5), reached).await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run<H: Handler>(
    first: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    handler: Arc<H>,
    mut wanted: watch::Receiver<bool>,
    actual: watch::Sender<bool>,
) {
    let mut listener = Some(first);
    loop {
        if wanted.wait_for(|up| *up).await.is_err() {
            return;
        }
        let open = match listener.take() {
            Some(open) => open,
            None => match TcpListener::bind(address).await {
                Ok(open) => open,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        actual.send_replace(true);
        accept_until_down(open, tls.as_ref(), &handler, &mut wanted).await;
        actual.send_replace(false);
    }
}

/// Serves until the server shall be down. The connections die with the set.
async fn accept_until_down<H: Handler>(
    listener: TcpListener,
    tls: Option<&TlsAcceptor>,
    handler: &Arc<H>,
    wanted: &mut watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, tls.cloned(), handler.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
            _ = wanted.wait_for(|up| !*up) => return,
        }
    }
}

async fn serve<H: Handler>(stream: TcpStream, tls: Option<TlsAcceptor>, handler: Arc<H>) {
    drop(stream.set_nodelay(true));
    match tls {
        None => answer(stream, handler).await,
        Some(acceptor) => {
            let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
            if let Ok(Ok(stream)) = handshake {
                answer(stream, handler).await;
            }
        }
    }
}

async fn answer<H: Handler, S: AsyncRead + AsyncWrite + Unpin>(stream: S, handler: Arc<H>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request.map(Body::new)).await) }
    });
    // An error here is a client that went away.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}
