//! A connection that is silent too long is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream whose reads fail once nothing has come for too long. HTTP's own timeouts begin only when the version is
/// known, which takes the peer's first bytes.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    silence: Duration,
    last: Instant,
    /// Set anew only when it fires, not at each read.
    alarm: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, silence: Duration) -> Self {
        Self { stream, silence, last: Instant::now(), alarm: Box::pin(sleep(silence)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            this.last = Instant::now();
            return Poll::Ready(read);
        }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
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
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = duplex(8);
        let mut near = Watched::new(near, Duration::from_millis(300));
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
}
