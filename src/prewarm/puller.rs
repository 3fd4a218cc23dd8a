//! Pulls an image through Harbor as containerd does, and keeps nothing of it.
//!
//! HEAD of the tag, GET of the index by digest, GET of each wanted child by digest, then its config and layers. The order
//! matters: Harbor tags a cached index only when it saw the tag asked for by HEAD.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use futures::{StreamExt, TryStreamExt, stream};

use super::{select::select, target::Target};
use crate::{
    api::{Platform, Reason},
    registry::{Blob, Child, Class, Client, Descriptor, Digest, Error, Image, Index, Manifest},
};

/// An index may hold an index, and that one none.
const MAX_DEPTH: u8 = 2;

/// Told how a pull comes along; every method may be left out.
pub trait Progress: Send + Sync {
    /// Further blobs are to be fetched, with this many bytes in all.
    fn planned(&self, blobs: u64, bytes: u64) {
        let _ = (blobs, bytes);
    }
    /// Bytes of a blob arrived.
    fn received(&self, bytes: u64) {
        let _ = bytes;
    }
    /// A blob is done. `stored`: Harbor had it, and nothing of it was fetched.
    fn done(&self, blob: &Descriptor, stored: bool) {
        let _ = (blob, stored);
    }
}

/// Nobody watches.
impl Progress for () {}

/// What was pulled.
#[derive(Debug, Clone, PartialEq)]
pub struct Warmed {
    /// Digest of the upstream's index or manifest.
    pub digest: Digest,
    /// Number of children of the index, wanted or not; `None` when the reference leads to a manifest.
    pub index_children: Option<u32>,
    /// The manifests that were wanted.
    pub children: Vec<WarmedChild>,
    /// Wanted platforms that the index has no child for.
    pub missing: Vec<Platform>,
}

/// One manifest that was pulled with all its blobs.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmedChild {
    /// Its platform, where the index tells one.
    pub platform: Option<Platform>,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Number of layers.
    pub layers: u32,
    /// Size of config and layers in bytes, as the manifest states it.
    pub bytes: u64,
    /// Number of blobs that were fetched now; the others Harbor had.
    pub fetched: u32,
}

/// Why an image was not pulled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WarmError {
    /// A request failed.
    #[error(transparent)]
    Pull(#[from] Error),
    /// The index has children, and none for any wanted platform.
    #[error("the image has no child for {}: set platforms, or build the image for them", list(.0))]
    NoPlatform(Vec<Platform>),
    /// An index in an index in an index.
    #[error("the image nests indexes deeper than {MAX_DEPTH}")]
    TooDeep,
    /// It took longer than one attempt may. What is stored by now is not fetched again.
    #[error("the pull was not done within {} s and goes on with the next attempt", .0.as_secs())]
    Deadline(Duration),
}

impl WarmError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Pull(error) => error.class(),
            Self::NoPlatform(_) => Class::Wait(None),
            Self::TooDeep => Class::Stalled,
            Self::Deadline(_) => Class::Retry,
        }
    }

    /// The reason to put into a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Pull(error) => error.reason(),
            Self::NoPlatform(_) => Reason::PlatformMissing,
            Self::TooDeep | Self::Deadline(_) => Reason::PullFailed,
        }
    }
}

/// Bounds of one pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Manifests under way at once.
    pub manifests_at_once: usize,
    /// Blobs of one manifest under way at once.
    pub blobs_at_once: usize,
    /// How often a request that failed for a passing reason is made again within one attempt.
    pub repeats: usize,
    /// The pause before the first repeat; it doubles.
    pub pause: Duration,
}

impl Default for Limits {
    /// Two manifests, four blobs of each, two repeats after 500 ms and 1 s.
    fn default() -> Self {
        Self { manifests_at_once: 2, blobs_at_once: 4, repeats: 2, pause: Duration::from_millis(500) }
    }
}

/// Pulls through one Harbor. Clones share the client.
#[derive(Debug, Clone)]
pub struct Puller {
    client: Client,
    limits: Limits,
}

impl Puller {
    /// A puller over `client`, whose own bound on concurrent requests holds besides.
    pub fn new(client: Client, limits: Limits) -> Self {
        Self { client, limits }
    }

    /// The client that it pulls with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Pulls the children of `target` for `platforms` (all of them when that is empty; an image without an index as it is),
    /// leaving out the blobs that Harbor has stored.
    ///
    /// # Errors
    /// [`WarmError`]; what was pulled until then stays in Harbor.
    pub async fn warm(
        &self,
        target: &Target,
        platforms: &[Platform],
        progress: &dyn Progress,
    ) -> Result<Warmed, WarmError> {
        let path = target.path();
        let pull = Pull { puller: self, path: &path, platforms, progress, taken: Mutex::default() };
        let digest = self.resolve(target).await?;
        let fetched = pull.manifest(digest.as_str()).await?;
        match fetched {
            Manifest::Image(image) => {
                let child = pull.image(None, digest.clone(), image).await?;
                Ok(Warmed { digest, index_children: None, children: vec![child], missing: Vec::new() })
            }
            Manifest::Index(index) => {
                let total = u32::try_from(index.children.len()).unwrap_or(u32::MAX);
                let (children, missing) = pull.index(index, 1).await?;
                if children.is_empty() && !missing.is_empty() {
                    return Err(WarmError::NoPlatform(missing));
                }
                Ok(Warmed { digest, index_children: Some(total), children, missing })
            }
        }
    }

    /// The digest that `target` has at this moment.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resolve(&self, target: &Target) -> Result<Digest, Error> {
        if let Some(digest) = target.digest() {
            return Ok(digest.clone());
        }
        let path = target.path();
        match self.repeated(|| self.client.head(&path, target.reference())).await? {
            Some(digest) => Ok(digest),
            None => Ok(self.repeated(|| self.client.manifest(&path, target.reference())).await?.digest),
        }
    }

    async fn repeated<T, F>(&self, request: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let backoff =
            ExponentialBuilder::default().with_min_delay(self.limits.pause).with_max_times(self.limits.repeats);
        request.retry(backoff.with_jitter()).when(|error: &Error| error.class() == Class::Retry).await
    }
}

/// One pull under way.
struct Pull<'a> {
    puller: &'a Puller,
    path: &'a str,
    platforms: &'a [Platform],
    progress: &'a dyn Progress,
    /// Blobs that a child has taken on; children share layers.
    taken: Mutex<HashSet<Digest>>,
}

impl Pull<'_> {
    async fn manifest(&self, reference: &str) -> Result<Manifest, Error> {
        let client = &self.puller.client;
        Ok(self.puller.repeated(|| client.manifest(self.path, reference)).await?.manifest)
    }

    async fn index(&self, index: Index, depth: u8) -> Result<(Vec<WarmedChild>, Vec<Platform>), WarmError> {
        let selection = select(&index, self.platforms);
        let pulls = selection.chosen.into_iter().map(|child| self.child(child, depth));
        let children: Vec<Vec<WarmedChild>> =
            stream::iter(pulls).buffered(self.puller.limits.manifests_at_once.max(1)).try_collect().await?;
        Ok((children.into_iter().flatten().collect(), selection.missing))
    }

    async fn child(&self, child: Child, depth: u8) -> Result<Vec<WarmedChild>, WarmError> {
        match self.manifest(child.digest.as_str()).await? {
            Manifest::Image(image) => Ok(vec![self.image(child.platform, child.digest, image).await?]),
            Manifest::Index(_) if depth >= MAX_DEPTH => Err(WarmError::TooDeep),
            Manifest::Index(index) => Ok(Box::pin(self.index(index, depth + 1)).await?.0),
        }
    }

    async fn image(&self, platform: Option<Platform>, digest: Digest, image: Image) -> Result<WarmedChild, WarmError> {
        let blobs: Vec<Descriptor> = image.blobs().into_iter().filter(|blob| self.take(blob)).collect();
        self.progress.planned(blobs.len() as u64, blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size)));
        let fetches = blobs.into_iter().map(|blob| self.blob(blob));
        let fetched = stream::iter(fetches)
            .buffer_unordered(self.puller.limits.blobs_at_once.max(1))
            .try_fold(0_u32, async |sum, stored| Ok(sum + u32::from(!stored)))
            .await?;
        let layers = u32::try_from(image.layers.len()).unwrap_or(u32::MAX);
        Ok(WarmedChild { platform, digest, layers, bytes: image.bytes(), fetched })
    }

    /// Brings one blob into Harbor; `true` when it was there.
    async fn blob(&self, blob: Descriptor) -> Result<bool, Error> {
        let client = &self.puller.client;
        let known = self.puller.repeated(|| client.has_blob(self.path, &blob.digest)).await?;
        let stored = known || {
            // A repeat starts at the blob's first byte; what was told before is not told again.
            let told = AtomicU64::new(0);
            let fetch = || {
                let position = AtomicU64::new(0);
                let told = &told;
                let received = move |bytes: u64| {
                    let now = position.fetch_add(bytes, Ordering::Relaxed) + bytes;
                    let before = told.fetch_max(now, Ordering::Relaxed);
                    self.progress.received(now.saturating_sub(before));
                };
                client.stream_blob(self.path, &blob, received)
            };
            self.puller.repeated(fetch).await? == Blob::Stored
        };
        self.progress.done(&blob, stored);
        Ok(stored)
    }

    fn take(&self, blob: &Descriptor) -> bool {
        self.taken.lock().is_ok_and(|mut taken| taken.insert(blob.digest.clone()))
    }
}

/// Platforms for a sentence.
pub(super) fn list(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
