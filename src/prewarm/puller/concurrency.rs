//! State that all pulls of the process share: bounds on what Harbor fetches at once, and the blobs in flight.
//!
//! A pull takes its shares in one order: the blob itself, its project, its upstream, bytes, and last a request of the client.
//! The holder of a later share waits for none before it, so there is no deadlock.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::resizable_semaphore::{ResizableSemaphore, SemaphorePermit};
use crate::registry::Digest;

/// Bytes of blobs in flight at once, in all pulls together.
pub const DEFAULT_BYTES: u64 = 1 << 30;
/// By this time Harbor has stored a blob that was read to its end; no pull requests it again before. Harbor's own copy runs in
/// parallel.
const SETTLES: Duration = Duration::from_secs(60);
/// Maximum number of remembered blobs, besides those in flight.
const REMEMBERED: usize = 4096;

/// Shared bounds, and the blobs in flight. Clones are the same.
#[derive(Debug, Clone)]
pub struct PullConcurrency {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: ResizableSemaphore,
    gates: Mutex<HashMap<String, ResizableSemaphore>>,
    flights: Mutex<HashMap<BlobKey, Arc<tokio::sync::Mutex<BlobState>>>>,
}

/// Repository with the address of its Harbor, and digest.
type BlobKey = (String, Digest);

/// The bounds for the images of one project. The default has none.
#[derive(Debug, Clone, Default)]
pub struct ProjectConcurrency {
    project: ResizableSemaphore,
    upstream: ResizableSemaphore,
}

/// Shares that are held while Harbor fetches a manifest or blob.
#[derive(Debug)]
pub(super) struct PullPermits {
    _project: SemaphorePermit,
    _upstream: SemaphorePermit,
    _bytes: SemaphorePermit,
}

/// State of a blob that was requested and is not stored yet.
#[derive(Debug, Default)]
pub(super) struct BlobState {
    /// Time since which Harbor copies it.
    pub(super) asked: Option<Instant>,
    /// Time at which it was read to its end.
    pub(super) read: Option<Instant>,
}

/// The exclusive right of this process to fetch a blob.
#[derive(Debug)]
pub(super) struct BlobLock {
    lanes: PullConcurrency,
    key: BlobKey,
    track: Option<OwnedMutexGuard<BlobState>>,
}

impl PullConcurrency {
    /// Creates lanes with at most `bytes` bytes in flight. A larger blob runs alone.
    pub fn new(bytes: u64) -> Self {
        let (gates, flights) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { bytes: ResizableSemaphore::new(Some(bytes)), gates, flights }) }
    }

    /// Returns the lane of a project: its own bound, and that of its upstream, which other projects may share. `None` is no
    /// bound. A changed bound takes effect at once, for all.
    pub fn lane(&self, project: (&str, Option<u16>), upstream: (&str, Option<u16>)) -> ProjectConcurrency {
        ProjectConcurrency {
            project: self.gate(format!("project {}", project.0), project.1),
            upstream: self.gate(format!("upstream {}", upstream.0), upstream.1),
        }
    }

    /// Returns the bytes in flight, as their manifests declare them.
    pub fn bytes_under_way(&self) -> u64 {
        self.inner.bytes.used()
    }

    /// Waits until Harbor may fetch a manifest or blob of `bytes` for `lane`.
    pub(super) async fn pass(&self, lane: &ProjectConcurrency, bytes: u64) -> PullPermits {
        let _project = lane.project.enter(1).await;
        let _upstream = lane.upstream.enter(1).await;
        let _bytes = self.inner.bytes.enter(bytes).await;
        PullPermits { _project, _upstream, _bytes }
    }

    /// Waits until no other pull of this process fetches the blob.
    pub(super) async fn flight(&self, repository: String, digest: &Digest) -> BlobLock {
        let key = (repository, digest.clone());
        let track = {
            let mut flights = self.inner.flights.lock();
            if flights.len() >= REMEMBERED {
                flights.retain(|_, track| Arc::strong_count(track) > 1);
            }
            Arc::clone(flights.entry(key.clone()).or_default())
        };
        BlobLock { lanes: self.clone(), key, track: Some(track.lock_owned().await) }
    }

    fn gate(&self, name: String, bound: Option<u16>) -> ResizableSemaphore {
        let mut gates = self.inner.gates.lock();
        if !gates.contains_key(&name) {
            gates.retain(|_, gate| gate.is_shared());
        }
        let gate = gates.entry(name).or_default().clone();
        drop(gates);
        gate.set_bound(bound.map(u64::from));
        gate
    }
}

impl Default for PullConcurrency {
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

impl BlobLock {
    /// Returns when Harbor was asked for the blob, if it may still be copying it.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.track.as_ref()?.asked
    }

    /// Returns whether the blob was read to its end recently, so that Harbor is about to store it.
    pub(super) fn settles(&self) -> bool {
        self.track.as_ref().is_some_and(|track| track.settles())
    }

    /// Records that Harbor copies the blob from now on.
    pub(super) fn note_asked(&mut self, now: Instant) {
        self.note(BlobState { asked: Some(now), read: None });
    }

    /// Records that the blob was read to its end.
    pub(super) fn note_read(&mut self, now: Instant) {
        self.note(BlobState { asked: None, read: Some(now) });
    }

    /// Forgets the blob: it is stored, or must be requested again.
    pub(super) fn note_over(&mut self) {
        self.note(BlobState::default());
    }

    fn note(&mut self, new: BlobState) {
        if let Some(track) = &mut self.track {
            **track = new;
        }
    }
}

impl Drop for BlobLock {
    fn drop(&mut self) {
        let Some(track) = self.track.take() else { return };
        let over = track.asked.is_none() && !track.settles();
        let mut flights = self.lanes.inner.flights.lock();
        drop(track);
        // The count cannot grow while the map is locked.
        if over && flights.get(&self.key).is_some_and(|track| Arc::strong_count(track) == 1) {
            flights.remove(&self.key);
        }
    }
}

impl BlobState {
    fn settles(&self) -> bool {
        self.read.is_some_and(|read| read.elapsed() < SETTLES)
    }
}
