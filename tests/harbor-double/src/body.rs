//! Bodies that say how much of them was sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

/// Pieces of a streamed body.
const PIECE: usize = 64 * 1024;

/// The bytes as a body in pieces, at most `rate` bytes a second, counted as they are handed over.
pub(crate) fn counted(bytes: Bytes, rate: Option<u64>, sent: Arc<AtomicU64>) -> Body {
    // A slow body comes in small pieces, so that a client sees it trickle.
    let piece = rate.map_or(PIECE, |rate| usize::try_from(rate / 20).unwrap_or(PIECE).clamp(1, PIECE));
    let pieces = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(piece.min(rest.len()));
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64)).await;
        }
        Some((piece, rest))
    });
    tallied(pieces.map(Ok::<_, std::io::Error>), sent)
}

/// A stream as a body, counted as it is handed over.
pub(crate) fn tallied<E>(pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static, sent: Arc<AtomicU64>) -> Body
where
    E: std::error::Error + Send + Sync + 'static,
{
    Body::from_stream(pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    }))
}
