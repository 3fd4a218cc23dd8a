//! What stands before a Harbor: lets requests through, slowly if asked to, or refuses and counts them, as an ingress does whose
//! Harbor is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The answer while Harbor is away.
const AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They reach Harbor after this long.
    Through(Duration),
    /// They are answered by 503.
    Away,
}

/// A loopback port before a Harbor. Dropping it closes the port.
pub struct Front {
    url: String,
    mode: watch::Sender<Mode>,
    refused: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Front {
    /// Stands before the Harbor at `host` (`127.0.0.1:PORT`).
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(host: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a port")?;
        let url = format!("http://{}", listener.local_addr().context("a port has an address")?);
        let (mode, seen) = watch::channel(Mode::Through(Duration::ZERO));
        let refused = Arc::new(AtomicUsize::new(0));
        let (host, count) = (host.to_owned(), refused.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, host.clone(), seen.clone(), count.clone()));
            }
        });
        Ok(Self { url, mode, refused, task })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From the next request on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Requests that were refused so far.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection; an error is one that has ended.
async fn serve(client: TcpStream, host: String, mode: watch::Receiver<Mode>, refused: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let Ok(harbor) = TcpStream::connect(&host).await else { return };
    let (mut from_harbor, mut to_harbor) = harbor.into_split();
    let answers = tokio::spawn(async move {
        drop(copy(&mut from_harbor, &mut to_client).await);
        to_client
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from_client.read(&mut buffer).await {
        let Some(request) = buffer.get(..length).filter(|request| !request.is_empty()) else { break };
        let now = *mode.borrow();
        match now {
            Mode::Through(delay) => {
                tokio::time::sleep(delay).await;
                if to_harbor.write_all(request).await.is_err() {
                    break;
                }
            }
            Mode::Away => {
                refused.fetch_add(1, Ordering::SeqCst);
                drop(to_harbor);
                if let Ok(mut to_client) = answers.await {
                    drop(to_client.write_all(AWAY).await);
                }
                return;
            }
        }
    }
}
