//! Peers that do not keep to HTTP, or keep to it in the worst way. Each attack ends by itself within seconds.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::client::{Target, head, read_answer};
use super::reviews::small;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
/// An attack of one client.
pub type Attack = Box<dyn Fn(Target) -> Running + Send + Sync>;

/// Errors are what an attacker has to expect.
fn attack<F: Future<Output = io::Result<()>> + Send + 'static>(run: fn(Target) -> F) -> Attack {
    Box::new(move |target| Box::pin(async move { run(target).await.unwrap_or_default() }))
}

pub fn attacks() -> Vec<(&'static str, Attack)> {
    vec![
        (
            "another content type",
            attack(|target| raw(target, b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}".to_vec())),
        ),
        (
            "a compressed body",
            attack(|target| {
                raw(target, b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00".to_vec())
            }),
        ),
        ("two lengths", attack(|target| raw(target, b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec()))),
        (
            "a length and chunks",
            attack(|target| raw(target, b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec())),
        ),
        ("a negative length", attack(|target| raw(target, b"Content-Length: -1\r\n\r\n".to_vec()))),
        ("a length of 16 EiB", attack(|target| raw(target, b"Content-Length: 18446744073709551615\r\n\r\n".to_vec()))),
        (
            "a chunk of 16 EiB",
            attack(|target| raw(target, b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx".to_vec())),
        ),
        ("100,000 headers", attack(|target| raw(target, b"a: b\r\n".repeat(100_000)))),
        ("a header of 4 MiB", attack(|target| raw(target, [b"a: ".to_vec(), vec![b'b'; 4 << 20]].concat()))),
        (
            "a chunk extension of 4 MiB",
            attack(|target| {
                raw(target, [b"Transfer-Encoding: chunked\r\n\r\n1;".to_vec(), vec![b'e'; 4 << 20]].concat())
            }),
        ),
        (
            "trailers of 4 MiB",
            attack(|target| {
                raw(target, [b"Transfer-Encoding: chunked\r\n\r\n0\r\n".to_vec(), b"a: b\r\n".repeat(700_000)].concat())
            }),
        ),
        ("a path of 4 MiB", attack(long_path)),
        ("timeouts that are odd", attack(unusual_timeouts)),
        ("requests without waiting for answers", attack(pipelined)),
        ("bodies that break off", attack(broken)),
        ("a body in chunks of a byte", attack(dripping)),
        ("100 slow small bodies", attack(|target| slow(target, 100, 60_000))),
        ("16 slow bodies of 8 MiB", attack(|target| slow(target, 16, 8 << 20))),
        ("handshakes that are not ended", attack(mute)),
        ("bytes that are no TLS", attack(no_tls)),
        ("HTTP/2: answers that are not read", attack(zero_window)),
        ("HTTP/2: slow bodies in 100 streams", attack(many_streams)),
        ("HTTP/2: 40 KiB of headers in each of 2,000 streams", attack(large_heads)),
        ("HTTP/2: 200 blocks of headers without end", attack(open_heads)),
        ("HTTP/2: resets", attack(resets)),
        (
            "HTTP/2: headers without end",
            attack(|target| frames(target, vec![frame(1, 0, 1, &[0x82; 1000])], frame(9, 0, 1, &[0x82; 16_000]), 400)),
        ),
        ("HTTP/2: pings", attack(|target| frames(target, vec![], frame(6, 0, 0, &[0; 8]), 50_000))),
        ("HTTP/2: settings", attack(|target| frames(target, vec![], frame(4, 0, 0, &[]), 50_000))),
        ("HTTP/2: window updates", attack(|target| frames(target, vec![], frame(8, 0, 0, &[0, 0, 0, 1]), 50_000))),
        ("HTTP/2: empty data", attack(|target| frames(target, vec![open_stream()], frame(0, 0, 1, &[]), 50_000))),
        ("HTTP/2: data of a byte", attack(|target| frames(target, vec![open_stream()], frame(0, 0, 1, b"x"), 60_000))),
        (
            "HTTP/2: frames of no known type",
            attack(|target| frames(target, vec![], frame(77, 0, 0, &[0; 16_000]), 500)),
        ),
    ]
}

/// Sends a head and what follows, and reads until the server closes or three seconds are over.
async fn raw(target: Target, rest: Vec<u8>) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(target.tls("http/1.1").await?);
    let sending = async {
        write.write_all(b"POST /mutate HTTP/1.1\r\nHost: localhost\r\n").await?;
        write.write_all(&rest).await?;
        write.flush().await?;
        sleep(Duration::from_secs(1)).await;
        io::Result::Ok(())
    };
    let mut sink = Vec::new();
    let reading = async { (&mut read).take(1 << 20).read_to_end(&mut sink).await };
    tokio::select! {
        sent = sending => sent,
        _ = reading => Ok(()),
        () = sleep(Duration::from_secs(3)) => Ok(()),
    }
}

async fn long_path(target: Target) -> io::Result<()> {
    let mut stream = target.tls("http/1.1").await?;
    stream.write_all(b"POST /mutate?").await?;
    stream.write_all(&vec![b'a'; 4 << 20]).await
}

async fn unusual_timeouts(target: Target) -> io::Result<()> {
    for timeout in ["0s", "-1s", "99999999999999999999h", "1ns", "%00", "", "10s&timeout=1s", "🦀"] {
        target.post(&format!("/mutate?timeout={timeout}"), &small("odd")).await.ok();
    }
    Ok(())
}

async fn pipelined(target: Target) -> io::Result<()> {
    let body = small("pipelined");
    let one = [head("/mutate", body.len()).as_bytes(), &body].concat();
    let mut stream = target.tls("http/1.1").await?;
    stream.write_all(&one.repeat(1000)).await?;
    read_answer(&mut stream).await.map(drop)
}

async fn broken(target: Target) -> io::Result<()> {
    for _ in 0..20 {
        let mut stream = target.tls("http/1.1").await?;
        stream.write_all(head("/mutate", 8 << 20).as_bytes()).await?;
        stream.write_all(&vec![b' '; 1 << 20]).await?;
        stream.get_ref().0.set_zero_linger()?;
    }
    Ok(())
}

async fn dripping(target: Target) -> io::Result<()> {
    let mut stream = target.tls("http/1.1").await?;
    stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for _ in 0..2_000 {
        stream.write_all(b"1\r\nx\r\n").await?;
    }
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn slow(target: Target, count: usize, length: usize) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = target.tls("http/1.1").await?;
        stream.write_all(head("/validate?timeout=10s", length).as_bytes()).await?;
        stream.write_all(&vec![b' '; length * 9 / 10]).await.ok();
        held.push(stream);
    }
    sleep(Duration::from_secs(2)).await;
    Ok(())
}

async fn mute(target: Target) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..400 {
        held.push(target.tcp().await?);
    }
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn no_tls(target: Target) -> io::Result<()> {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 20_000], &[22, 3, 1, 255, 255]] {
        target.tcp().await?.write_all(bytes).await?;
    }
    Ok(())
}

/// A client of HTTP/2 that lets so many bytes of each answer come, and the connection's task.
pub async fn http2(target: &Target, window: u32) -> io::Result<(SendRequest<Bytes>, tokio::task::JoinHandle<()>)> {
    let stream = target.tls("h2").await?;
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.initial_window_size(window).handshake(stream).await.map_err(io::Error::other)?;
    Ok((sender, tokio::spawn(async move { connection.await.unwrap_or_default() })))
}

/// Sends a request, and waits for the head of the answer.
pub async fn send(sender: SendRequest<Bytes>, path: &str, body: &[u8]) -> Result<u16, h2::Error> {
    let mut sender = sender.ready().await?;
    let request = Request::post(format!("https://localhost{path}")).body(()).unwrap();
    let (answer, mut stream) = sender.send_request(request, false)?;
    stream.send_data(Bytes::copy_from_slice(body), true)?;
    Ok(answer.await?.status().as_u16())
}

/// Small reviews with large answers, of which nothing is read.
async fn zero_window(target: Target) -> io::Result<()> {
    let containers = vec![r#"{"image":"a"}"#; 4_000].join(",");
    let object = format!(r#"{{"spec":{{"containers":[{containers}]}}}}"#);
    let review = String::from_utf8(small("window")).unwrap();
    let (before, _) = review.split_once(r#"{"metadata""#).unwrap();
    let review = format!("{before}{object}}}}}");
    let mut held = Vec::new();
    for _ in 0..4 {
        let (sender, _) = http2(&target, 0).await?;
        for _ in 0..50 {
            let one = send(sender.clone(), "/mutate", review.as_bytes());
            tokio::time::timeout(Duration::from_millis(500), one).await.ok();
        }
        held.push(sender);
    }
    Ok(())
}

async fn many_streams(target: Target) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..8 {
        let (mut sender, _) = http2(&target, 65_535).await?;
        for _ in 0..100 {
            let request = Request::post("https://localhost/mutate").header("content-length", "60000");
            sender = sender.ready().await.map_err(io::Error::other)?;
            let (_, mut body) = sender.send_request(request.body(()).unwrap(), false).map_err(io::Error::other)?;
            body.send_data(Bytes::from_static(&[b' '; 200]), false).map_err(io::Error::other)?;
            held.push(body);
        }
    }
    sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// Headers as an API server passes them on, and a body that does not come.
async fn large_heads(target: Target) -> io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..20 {
        let (mut sender, _) = http2(&target, 65_535).await?;
        for _ in 0..100 {
            let mut request = Request::post("https://localhost/mutate").header("content-length", "60000");
            for _ in 0..38 {
                // HPACK sends it once.
                request = request.header("baggage", "b".repeat(1_024));
            }
            sender = sender.ready().await.map_err(io::Error::other)?;
            held.push(sender.send_request(request.body(()).unwrap(), false).map_err(io::Error::other)?);
        }
    }
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// As many short headers as are taken, and no end of them.
async fn open_heads(target: Target) -> io::Result<()> {
    let first = [&post_to("/mutate")[..], &[0, 1, b'a', 0].repeat(1_300)].concat();
    let begun = [PREFACE.to_vec(), frame(4, 0, 0, &[]), frame(1, 0, 1, &first)].concat();
    let mut held = Vec::new();
    for _ in 0..200 {
        let Ok(mut stream) = target.tls("h2").await else { continue };
        stream.write_all(&begun).await.ok();
        held.push(stream);
    }
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

async fn resets(target: Target) -> io::Result<()> {
    let (mut sender, _) = http2(&target, 65_535).await?;
    for _ in 0..5_000 {
        sender = sender.ready().await.map_err(io::Error::other)?;
        let request = Request::post("https://localhost/mutate").body(()).unwrap();
        let (_, mut body) = sender.send_request(request, false).map_err(io::Error::other)?;
        body.send_reset(h2::Reason::CANCEL);
    }
    Ok(())
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client of HTTP/2 begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The headers of a POST.
pub fn post_to(path: &str) -> Vec<u8> {
    // `:method POST` and `:scheme https` of the static table of HPACK, and a literal `:path`.
    [&[0x83, 0x87, 0x04, path.len() as u8][..], path.as_bytes(), &[0x01, 9], b"localhost"].concat()
}

/// The head of a POST, with a body to come.
fn open_stream() -> Vec<u8> {
    frame(1, 4, 1, &post_to("/mutate"))
}

/// Begins HTTP/2, and then sends a frame again and again, reading nothing of what comes back.
async fn frames(target: Target, first: Vec<Vec<u8>>, again: Vec<u8>, times: usize) -> io::Result<()> {
    let mut stream = target.tls("h2").await?;
    let preface = [PREFACE.to_vec(), frame(4, 0, 0, &[]), first.concat()].concat();
    stream.write_all(&preface).await?;
    let batch = again.repeat(times.min(500));
    let sending = async {
        for _ in 0..times.div_ceil(500) {
            stream.write_all(&batch).await?;
        }
        stream.flush().await
    };
    tokio::time::timeout(Duration::from_secs(4), sending).await.unwrap_or(Ok(()))
}
