//! A loopback port before a server that can be shut as a network is cut, and that sees which process sends what when.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A port before a server. Dropping it closes the port.
pub struct Gate {
    port: u16,
    shut: watch::Sender<bool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    task: JoinHandle<()>,
}

/// Something that a process sent to the server.
#[derive(Debug, Clone)]
pub struct Sent {
    /// When it came by.
    pub at: Instant,
    /// The process.
    pub process: u32,
    /// Its first line, if it is text.
    pub line: String,
}

impl Gate {
    /// Stands before the server at `127.0.0.1:PORT`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a port")?;
        let port = listener.local_addr().context("a port has an address")?.port();
        let (shut, seen) = watch::channel(false);
        let sent = Arc::new(Mutex::default());
        let log = Arc::clone(&sent);
        let task = tokio::spawn(async move {
            while let Ok((client, peer)) = listener.accept().await {
                let process = owner(peer.port()).unwrap_or_default();
                tokio::spawn(pass(client, server, seen.clone(), process, Arc::clone(&log)));
            }
        });
        Ok(Self { port, shut, sent, task })
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts it: connections stay, new ones are taken, and nothing gets through either way. Or lets all go on.
    pub fn shut(&self, shut: bool) {
        self.shut.send_replace(shut);
    }

    /// What was sent so far, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection; an error is one that has ended.
async fn pass(client: TcpStream, server: u16, shut: watch::Receiver<bool>, process: u32, sent: Arc<Mutex<Vec<Sent>>>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let note = |bytes: &[u8]| {
        let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
        sent.lock().unwrap_or_else(PoisonError::into_inner).push(Sent { at: Instant::now(), process, line });
    };
    tokio::join!(one_way(from_client, to_server, shut.clone(), note), one_way(from_server, to_client, shut, |_| {}));
}

async fn one_way(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut shut: watch::Receiver<bool>,
    note: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if shut.wait_for(|shut| !shut).await.is_err() {
            return;
        }
        let Some(bytes) = buffer.get(..length) else { return };
        note(bytes);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// The process that has this port of 127.0.0.1 on its side of a connection.
fn owner(port: u16) -> Option<u32> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let row = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&local))?;
    let socket = format!("socket:[{}]", row.split_whitespace().nth(9)?);
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        files
            .any(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))
            .then_some(process)
    })
}
