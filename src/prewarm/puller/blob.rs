//! Fetches one blob into Harbor, by the strategy of the pull.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::{BlobFetches, concurrency::BlobLock, pull::RunningPull};
use crate::{
    api::proxy_project::PullStrategy,
    registry::{BlobResponse, Descriptor, Error},
};

/// Up to this size in bytes, reading a blob costs less than waiting for it: most of it arrives with the headers.
const SMALL: u64 = 64 << 10;

impl RunningPull<'_> {
    /// Fetches one blob into Harbor.
    pub(super) async fn blob(&self, blob: Descriptor) -> Result<BlobFetches, Error> {
        let lanes = &self.puller.lanes;
        let repository = format!("{}/v2/{}", self.puller.client.transport().address(), self.path);
        let mut flight = lanes.flight(repository, &blob.digest).await;
        let fetches = if self.is_stored(&blob).await? {
            flight.note_over();
            BlobFetches::default()
        } else if flight.settles() {
            BlobFetches { shared: 1, ..BlobFetches::default() }
        } else {
            let _passage = lanes.pass(&self.puller.lane, blob.size).await;
            self.fetch(&blob, &mut flight).await?
        };
        self.progress.done(&blob, fetches.is_over());
        Ok(fetches)
    }

    async fn fetch(&self, blob: &Descriptor, flight: &mut BlobLock) -> Result<BlobFetches, Error> {
        let touches = self.puller.strategy == PullStrategy::Touch && blob.size > SMALL && !self.pace.has_timed_out();
        if !touches && flight.asked().is_none() {
            return self.stream(blob, flight).await;
        }
        if let Some(fetches) = self.touch(blob, flight).await? {
            return Ok(fetches);
        }
        self.pace.record_timeout();
        let streamed = self.stream(blob, flight).await?;
        Ok(BlobFetches { fell_back: streamed.streamed, ..streamed })
    }

    /// Makes Harbor fetch the blob, and waits until Harbor has stored it; `None` if that takes too long. A pull that was
    /// interrupted continues the wait: Harbor does not stop its copy.
    async fn touch(&self, blob: &Descriptor, flight: &mut BlobLock) -> Result<Option<BlobFetches>, Error> {
        let client = &self.puller.client;
        let asked = match flight.asked() {
            Some(asked) => asked,
            None => {
                let touched = self.puller.repeated(|| client.touch_blob(&self.path, blob)).await?;
                if touched == BlobResponse::Stored {
                    return Ok(Some(BlobFetches::default()));
                }
                let now = Instant::now();
                flight.note_asked(now);
                now
            }
        };
        loop {
            tokio::time::sleep(self.pace.pause(blob.size, asked.elapsed())).await;
            let looked = Instant::now();
            if self.is_stored(blob).await? {
                flight.note_over();
                self.pace.record_stored(blob.size, asked.elapsed());
                self.progress.received(blob.size);
                return Ok(Some(BlobFetches { touched: 1, ..BlobFetches::default() }));
            }
            if looked.duration_since(asked) >= self.pace.timeout(blob.size) {
                flight.note_over();
                return Ok(None);
            }
        }
    }

    /// Reads the blob and discards its bytes.
    async fn stream(&self, blob: &Descriptor, flight: &mut BlobLock) -> Result<BlobFetches, Error> {
        let client = &self.puller.client;
        // A repeat starts at the blob's first byte; progress that was already reported is not reported again.
        let (reported, read) = (AtomicU64::new(0), AtomicU64::new(0));
        let fetch = || {
            let position = AtomicU64::new(0);
            let (reported, read) = (&reported, &read);
            let received = move |bytes: u64| {
                read.fetch_add(bytes, Ordering::Relaxed);
                let now = position.fetch_add(bytes, Ordering::Relaxed) + bytes;
                let before = reported.fetch_max(now, Ordering::Relaxed);
                self.progress.received(now.saturating_sub(before));
            };
            client.stream_blob(&self.path, blob, received)
        };
        if self.puller.repeated(fetch).await? == BlobResponse::Stored {
            return Ok(BlobFetches::default());
        }
        flight.note_read(Instant::now());
        Ok(BlobFetches { streamed: 1, read: read.into_inner(), ..BlobFetches::default() })
    }

    async fn is_stored(&self, blob: &Descriptor) -> Result<bool, Error> {
        self.puller.repeated(|| self.puller.client.has_blob(&self.path, &blob.digest)).await
    }
}
