//! What stands before a Harbor and attacks: it answers some requests by itself, and passes the others on to a double.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET /path?query`.
    pub line: String,
    /// Head and body.
    pub whole: Vec<u8>,
}

impl Asked {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.whole).into_owned()
    }
}

/// How an attack answers a request.
pub type Answer = Arc<dyn Fn(TcpStream, Asked) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// What is attacked, and how.
type Attacks = Arc<Mutex<Option<(&'static str, Answer)>>>;

pub struct Front {
    pub url: String,
    attacks: Attacks,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Front {
    /// Passes everything on.
    pub async fn start(harbor: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (attacks, seen) = (Attacks::default(), Arc::<Mutex<Vec<Asked>>>::default());
        let (active, log) = (Arc::clone(&attacks), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (harbor, active, log) = (harbor.clone(), Arc::clone(&active), Arc::clone(&log));
                tokio::spawn(async move {
                    let Some(asked) = read(&mut stream).await else { return };
                    log.lock().unwrap().push(asked.clone());
                    let attack = active.lock().unwrap().clone();
                    match attack.filter(|(on, _)| asked.line.contains(on)) {
                        Some((_, answer)) => answer(stream, asked).await,
                        None => pass(stream, &asked, &harbor).await,
                    }
                });
            }
        });
        Self { url, attacks, seen }
    }

    /// Attacks requests whose line holds `on`.
    pub fn attack(&self, on: &'static str, answer: &Answer) {
        self.seen.lock().unwrap().clear();
        *self.attacks.lock().unwrap() = Some((on, Arc::clone(answer)));
    }

    /// From now on everything is passed on.
    pub fn relent(&self) {
        *self.attacks.lock().unwrap() = None;
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request, head and body.
async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut whole = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        whole.extend_from_slice(&buffer[..count]);
        let Some(end) = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&whole[..end]).into_owned();
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if whole.len() >= end + 4 + length.unwrap_or(0_usize) {
            let line = head.lines().next()?.to_owned();
            return Some(Asked { line, whole });
        }
    }
}

/// To the double and back, once.
async fn pass(mut stream: TcpStream, asked: &Asked, harbor: &str) {
    let Ok(mut upstream) = TcpStream::connect(harbor.trim_start_matches("http://")).await else { return };
    let end = asked.whole.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
    upstream.write_all(&asked.whole[..end]).await.ok();
    upstream.write_all(b"\r\nconnection: close").await.ok();
    upstream.write_all(&asked.whole[end..]).await.ok();
    tokio::io::copy_bidirectional(&mut stream, &mut upstream).await.ok();
}

/// An attack that sends these bytes and closes.
pub fn sends(bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    Arc::new(move |mut stream, _| {
        let bytes = bytes.clone();
        Box::pin(async move {
            stream.write_all(&bytes).await.ok();
            stream.shutdown().await.ok();
        })
    })
}

/// An attack that answers with this status and what it makes of the request.
pub fn answers(status: &'static str, body: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Answer {
    Arc::new(move |mut stream, asked| {
        let body = body(&asked);
        Box::pin(async move {
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.ok();
            stream.write_all(&body).await.ok();
            stream.shutdown().await.ok();
        })
    })
}

/// An attack that sends a beginning, and then a piece again and again, so many at once, with a pause between them.
pub fn repeats(first: &'static str, piece: &'static [u8], times: usize, pause: std::time::Duration) -> Answer {
    Arc::new(move |mut stream, _| {
        Box::pin(async move {
            if stream.write_all(first.as_bytes()).await.is_err() {
                return;
            }
            for _ in 0..times {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            stream.shutdown().await.ok();
        })
    })
}

/// An attack that breaks the connection off after these bytes.
pub fn resets(bytes: &'static [u8]) -> Answer {
    Arc::new(move |mut stream, _| {
        Box::pin(async move {
            stream.write_all(bytes).await.ok();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            stream.set_zero_linger().ok();
        })
    })
}
