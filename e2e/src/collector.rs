//! A collector of OpenTelemetry that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// More is not kept.
const MOST: usize = 64 << 20;

/// Takes spans by OTLP over HTTP. Ends when dropped.
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let received = Arc::new(Mutex::new(Vec::new()));
        let take = post(async |State(kept): State<Arc<Mutex<Vec<u8>>>>, body: Bytes| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < MOST {
                kept.extend_from_slice(&body);
            }
        });
        let limit = DefaultBodyLimit::max(MOST);
        let router = Router::new().route("/v1/traces", take).layer(limit).with_state(Arc::clone(&received));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for spans")?;
        let address = listener.local_addr().context("read the port")?;
        let serving = tokio::spawn(async move {
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { address, received, serving })
    }

    /// What a process is to be told.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bodies of all requests so far, one after the other.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
