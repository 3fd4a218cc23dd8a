//! Guards the reads of a connection: closes a connection that is silent too long or sends too many frames without requests,
//! and limits how long one connection keeps a thread.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::frames::Frames;
use super::hub::{AcceptedConnection, OpenHeaders};

/// Bytes that one connection may read before other connections are served.
const TURN: usize = 32 * 1024;

/// A stream whose reads fail after a period of silence. HTTP's own timeouts start only when the version is known, which takes
/// the peer's first bytes. After [`TURN`] bytes the stream lets other tasks run: HTTP handles all the bytes that it can read
/// before it does anything else.
#[derive(Debug)]
pub(super) struct ReadTimeout<S> {
    stream: S,
    silence: Duration,
    last: Instant,
    /// Reset only when it fires, not at each read.
    alarm: Pin<Box<Sleep>>,
    frames: Frames,
    headers: OpenHeaders,
    /// Bytes that were read since other tasks could run.
    turn: usize,
}

impl<S> ReadTimeout<S> {
    pub(super) fn new(stream: S, silence: Duration, guest: &AcceptedConnection) -> Self {
        let (last, alarm) = (Instant::now(), Box::pin(sleep(silence)));
        let (frames, headers) = (Frames::new(last), guest.headers());
        Self { stream, silence, last, alarm, frames, headers, turn: 0 }
    }

    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.last = Instant::now();
        self.turn += bytes.len();
        let counted = self.frames.read(bytes, self.last);
        self.headers.set(self.frames.in_headers(), self.last);
        counted.map_err(|too_many| {
            self.headers.flooded();
            io::Error::other(too_many)
        })
    }
}

impl<S> ReadTimeout<S> {
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.frames.wrote(*bytes);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadTimeout<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.turn >= TURN {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            let counted = read.and_then(|()| this.count(buf.filled().get(before..).unwrap_or_default()));
            if counted.is_err() {
                // A failed read has read nothing.
                buf.set_filled(before);
            }
            return Poll::Ready(counted);
        }
        this.turn = 0;
        loop {
            ready!(this.alarm.as_mut().poll(cx));
            let end = this.last + this.silence;
            if Instant::now() >= end {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.alarm.as_mut().reset(end);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadTimeout<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::super::hub::{ConnectionLimits, Hub};
    use super::*;
    use crate::telemetry::metrics::ConnectionMetrics;
    use crate::telemetry::probes::Readiness;

    fn watched<S>(stream: S, silence: Duration) -> (ReadTimeout<S>, ConnectionMetrics, AcceptedConnection) {
        let (limits, metrics) = (
            ConnectionLimits { connections: 9, peer: 9, write: silence, stuck: silence },
            ConnectionMetrics::default(),
        );
        let guest = Hub::new(limits, Readiness::new(), metrics.clone()).accept(([127, 0, 0, 1], 1).into()).unwrap();
        (ReadTimeout::new(stream, silence, &guest), metrics, guest)
    }

    #[tokio::test]
    async fn a_silent_peer_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = duplex(8);
        let (mut near, _, _guest) = watched(near, Duration::from_millis(300));
        let writing = async {
            for _ in 0..4 {
                sleep(Duration::from_millis(150)).await;
                far.write_all(b"x").await.unwrap();
            }
            far
        };
        let mut four = [0; 4];
        let (read, _far) = tokio::join!(near.read_exact(&mut four), writing);
        read.unwrap();
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_has_sent_much_does_not_keep_others_from_being_served() {
        let (near, mut far) = duplex(64 * TURN);
        let (mut near, _, _guest) = watched(near, Duration::from_secs(60));
        far.write_all(&vec![b'x'; 32 * TURN]).await.unwrap();
        let (mut buffer, mut turns, mut sum) = (vec![0; 4096], Vec::new(), 0);
        while sum < 32 * TURN {
            let read = poll_fn(|cx| {
                // Reads as HTTP does: as much as possible without a wait.
                let mut of_turn = 0;
                loop {
                    let mut read = ReadBuf::new(&mut buffer);
                    match Pin::new(&mut near).poll_read(cx, &mut read) {
                        Poll::Ready(Ok(())) if of_turn < 64 * TURN && !read.filled().is_empty() => {
                            of_turn += read.filled().len();
                        }
                        _ => return Poll::Ready(of_turn),
                    }
                }
            });
            let read = read.await;
            // Otherwise tokio's own task budget stops the reads of this task.
            tokio::task::yield_now().await;
            sum += read;
            turns.push(read);
        }
        assert!(turns.iter().all(|read| *read < 2 * TURN), "{turns:?}");
    }

    #[tokio::test]
    async fn a_peer_that_sends_frames_without_requests_is_closed_and_counted() {
        let (near, mut far) = duplex(1 << 20);
        let (mut near, metrics, _guest) = watched(near, Duration::from_secs(60));
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0].repeat(10_000)).await.unwrap();
        drop(far);
        let read = near.read_to_end(&mut Vec::new()).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(metrics.flooding.get(), 1);
    }
}
