//! A Service in small: new connections go to replicas that said to be ready, as of some time ago, one after the other.
//!
//! A cluster looks at `/readyz`, tells the API server, which tells each node: what connections go by is always old.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often replicas are asked.
const PROBE: Duration = Duration::from_millis(100);

/// A replica of the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// Where it serves admission.
    pub port: u16,
    /// Where it says whether it is ready.
    pub ops_port: u16,
}

/// A loopback port before some replicas. Dropping it closes the port.
pub struct Balancer {
    port: u16,
    ready: watch::Receiver<Vec<u16>>,
    tasks: [JoinHandle<()>; 2],
}

impl Balancer {
    /// Stands before these replicas. What they say of themselves is acted on after `lag`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(replicas: Vec<Replica>, lag: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a port")?;
        let port = listener.local_addr().context("a port has an address")?.port();
        let (publish, ready) = watch::channel(Vec::new());
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build()?;
        let probing = tokio::spawn(async move {
            loop {
                let mut found = Vec::new();
                for replica in &replicas {
                    let url = format!("http://127.0.0.1:{}/readyz", replica.ops_port);
                    if http.get(url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                        found.push(replica.port);
                    }
                }
                let publish = publish.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(lag).await;
                    publish.send_if_modified(|ready| {
                        let changed = *ready != found;
                        *ready = found;
                        changed
                    });
                });
                tokio::time::sleep(PROBE).await;
            }
        });
        let (seen, next) = (ready.clone(), Arc::new(AtomicUsize::new(0)));
        let serving = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let chosen = {
                    let ready = seen.borrow();
                    let turn = next.fetch_add(1, Ordering::Relaxed).checked_rem(ready.len());
                    turn.and_then(|turn| ready.get(turn).copied())
                };
                // With nobody ready the connection is closed.
                let Some(chosen) = chosen else { continue };
                tokio::spawn(async move {
                    if let Ok(mut replica) = TcpStream::connect(("127.0.0.1", chosen)).await {
                        drop(replica.set_nodelay(true));
                        drop(client.set_nodelay(true));
                        drop(copy_bidirectional(&mut client, &mut replica).await);
                    }
                });
            }
        });
        Ok(Self { port, ready, tasks: [probing, serving] })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until connections go to just so many replicas.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn until_ready(&self, replicas: usize, deadline: Duration) -> Result<()> {
        let mut ready = self.ready.clone();
        let enough = ready.wait_for(|ready| ready.len() == replicas);
        tokio::time::timeout(deadline, enough).await.with_context(|| format!("not {replicas} ready"))??;
        Ok(())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
