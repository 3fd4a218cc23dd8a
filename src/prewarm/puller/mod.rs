//! Pulls an image through Harbor as containerd does, and discards its content.
//!
//! HEAD of the tag, GET of the index by digest, GET of each wanted child by digest, then its config and layers. The order
//! matters: Harbor tags a cached index only if the tag was requested by HEAD before. A [`PullStrategy`] defines how the layers
//! come into the cache; all pulls of the process share [`PullConcurrency`].

mod attestations;
mod blob;
mod concurrency;
mod pull;
mod resizable_semaphore;
mod store_timeout;

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures::{StreamExt, stream};

pub use self::attestations::{AttestationError, Attestations};
pub use self::concurrency::{DEFAULT_BYTES, ProjectConcurrency, PullConcurrency};
use self::pull::RunningPull;
use super::target::Target;
use crate::{
    api::{Platform, Reason, proxy_project::PullStrategy},
    harbor,
    registry::{Client, Descriptor, Digest, Error, Manifest},
    transport::RetryClass,
};

/// An index may contain an index, which must not contain another one.
const MAX_DEPTH: u8 = 2;
/// Maximum number of foreign layers that are requested from the upstream.
const MAX_FOREIGN: usize = 16;
/// Siblings whose tags are requested at once.
const SIBLINGS_AT_ONCE: usize = 4;

/// Receives the progress of a pull. Every method is optional.
pub trait PullProgress: Send + Sync {
    /// More blobs will be fetched, with this many bytes in total.
    fn planned(&self, blobs: u64, bytes: u64) {
        let _ = (blobs, bytes);
    }
    /// Bytes of a blob came into the cache: as they are read, or all at once if they are not read.
    fn received(&self, bytes: u64) {
        let _ = bytes;
    }
    /// A blob is done. `stored`: Harbor had it, and fetched nothing.
    fn done(&self, blob: &Descriptor, stored: bool) {
        let _ = (blob, stored);
    }
    /// The pull ended. `failed`: why it did not succeed.
    fn ended(&self, failed: Option<Reason>) {
        let _ = failed;
    }
}

/// Ignores all progress.
impl PullProgress for () {}

/// The result of a pull.
#[derive(Debug, Clone, PartialEq)]
pub struct PulledImage {
    /// Digest of the upstream's index or manifest.
    pub digest: Digest,
    /// Number of children of the index, wanted or not; `None` if the reference leads to a manifest.
    pub index_children: Option<u32>,
    /// Attestations of the wanted manifests.
    pub attestations: Attestations,
    /// Whether the index lists an index.
    pub nested: bool,
    /// The wanted manifests.
    pub children: Vec<PulledManifest>,
    /// Wanted platforms that the index has no child for.
    pub missing: Vec<Platform>,
}

/// One manifest that was pulled with all its blobs.
#[derive(Debug, Clone, PartialEq)]
pub struct PulledManifest {
    /// Its platform, if the index states one.
    pub platform: Option<Platform>,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Number of layers.
    pub layers: u32,
    /// Size of config and layers in bytes, as the manifest states it.
    pub bytes: u64,
    /// Number of blobs that were fetched now; Harbor had the others.
    pub fetched: u32,
    /// How they were fetched, and what was not.
    pub fetches: BlobFetches,
    /// Harbor's message if it refuses to serve this manifest (412). Only platform and digest are known then.
    pub refused: Option<String>,
    /// Foreign layers that the upstream does not hold: Harbor never stores a manifest with one.
    pub foreign: u32,
}

/// Counts how blobs came into the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobFetches {
    /// Requested, and stored by Harbor without being read here.
    pub touched: u32,
    /// Read to their end.
    pub streamed: u32,
    /// Streamed blobs that Harbor was asked for first, but did not store in time.
    pub fell_back: u32,
    /// Fetched by another pull at the same time.
    pub shared: u32,
    /// Left to Harbor, which fetches them in the background ([`PullStrategy::ManifestsOnly`]).
    pub left: u32,
    /// Bytes that were read here.
    pub read: u64,
}

impl BlobFetches {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            touched: self.touched.saturating_add(other.touched),
            streamed: self.streamed.saturating_add(other.streamed),
            fell_back: self.fell_back.saturating_add(other.fell_back),
            shared: self.shared.saturating_add(other.shared),
            left: self.left.saturating_add(other.left),
            read: self.read.saturating_add(other.read),
        }
    }

    /// Returns whether Harbor has stored everything already.
    pub fn is_over(&self) -> bool {
        *self == Self::default()
    }
}

impl PulledImage {
    /// Returns how the blobs of all manifests came into the cache.
    pub fn fetches(&self) -> BlobFetches {
        self.children.iter().fold(self.attestations.fetches, |sum, child| sum.plus(child.fetches))
    }
}

/// Why an image was not pulled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// A request failed.
    #[error(transparent)]
    Pull(#[from] Error),
    /// The index has children, but none for any wanted platform.
    #[error("the image has no child for {}: set platforms, or build the image for them", list(.0))]
    NoPlatform(Vec<Platform>),
    /// An index is nested too deeply (three levels).
    #[error("the image nests indexes deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The attempt exceeded its deadline. Blobs that are stored by now are not fetched again.
    #[error("the pull did not complete within {} s; the next attempt continues it", .0.as_secs())]
    Deadline(Duration),
}

impl PullError {
    /// Returns how to handle the error.
    pub fn class(&self) -> RetryClass {
        match self {
            Self::Pull(error) => error.class(),
            Self::NoPlatform(_) => RetryClass::Wait(None),
            Self::TooDeep => RetryClass::Stalled,
            Self::Deadline(_) => RetryClass::Retry,
        }
    }

    /// Returns whether Harbor itself may be the cause, and not the image or its upstream.
    pub fn may_be_harbor(&self) -> bool {
        match self {
            Self::Pull(error) => error.may_be_harbor(),
            Self::Deadline(_) => true,
            Self::NoPlatform(_) | Self::TooDeep => false,
        }
    }

    /// Returns the reason for a condition.
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
pub struct PullLimits {
    /// Manifests in flight at once.
    pub manifests_at_once: usize,
    /// Blobs of one manifest in flight at once.
    pub blobs_at_once: usize,
    /// Maximum number of retries of a request within one attempt, for transient failures.
    pub repeats: usize,
    /// Pause before the first retry; it doubles.
    pub pause: Duration,
    /// Time that Harbor gets to store a requested blob, in addition to the time for its size.
    pub grace: Duration,
}

impl Default for PullLimits {
    /// Two manifests, four blobs of each, two retries after 500 ms and 1 s, 20 s of grace.
    fn default() -> Self {
        Self {
            manifests_at_once: 2,
            blobs_at_once: 4,
            repeats: 2,
            pause: Duration::from_millis(500),
            grace: Duration::from_secs(20),
        }
    }
}

/// Pulls through one Harbor. Clones share the client.
#[derive(Clone)]
pub struct Puller {
    client: Client,
    limits: PullLimits,
    lanes: PullConcurrency,
    lane: ProjectConcurrency,
    strategy: PullStrategy,
    harbor: Option<harbor::Client>,
    /// Other wanted tags of the repository.
    siblings: Vec<String>,
}

impl Puller {
    /// Creates a puller over `client`, whose own bound on concurrent requests also applies. It shares lanes only with its
    /// clones, and has the default strategy.
    pub fn new(client: Client, limits: PullLimits) -> Self {
        let (lanes, lane) = (PullConcurrency::default(), ProjectConcurrency::default());
        Self { client, limits, lanes, lane, strategy: PullStrategy::default(), harbor: None, siblings: Vec::new() }
    }

    /// Returns the puller with lanes that it shares with others.
    #[must_use]
    pub fn within(self, lanes: PullConcurrency) -> Self {
        Self { lanes, ..self }
    }

    /// Returns the puller with the lane and the strategy of a project.
    #[must_use]
    pub fn on(self, lane: ProjectConcurrency, strategy: PullStrategy) -> Self {
        Self { lane, strategy, ..self }
    }

    /// Returns the puller with Harbor's API: it asks the API first which manifests Harbor has stored. These have their blobs,
    /// so no request is sent for each blob. Do not use it for an image with a missing blob.
    #[must_use]
    pub fn knowing(self, harbor: harbor::Client) -> Self {
        Self { harbor: Some(harbor), ..self }
    }

    /// Returns the puller with these tags of the repository, which it also requests before it fetches.
    #[must_use]
    pub fn with_siblings(self, siblings: Vec<String>) -> Self {
        Self { siblings, ..self }
    }

    /// Returns the client of the puller.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the strategy for blobs.
    pub fn strategy(&self) -> PullStrategy {
        self.strategy
    }

    /// Pulls the children of `target` for `platforms`; all of them if that is empty. An image without an index is pulled as it
    /// is. Blobs that Harbor has stored are skipped.
    ///
    /// # Errors
    /// [`PullError`]; what was pulled until then stays in Harbor.
    pub async fn warm(
        &self,
        target: &Target,
        platforms: &[Platform],
        progress: &dyn PullProgress,
    ) -> Result<PulledImage, PullError> {
        let pull = RunningPull::new(self, target, platforms, progress);
        let digest = self.resolve(target).await?;
        self.announce(target).await;
        match pull.manifest(digest.as_str()).await? {
            Manifest::Image(image) => {
                let stored = pull.stored([&digest]).await;
                let child = pull.image(None, digest.clone(), image, &stored).await?;
                let children = vec![child];
                let attestations = Attestations::default();
                Ok(PulledImage {
                    digest,
                    index_children: None,
                    attestations,
                    nested: false,
                    children,
                    missing: Vec::new(),
                })
            }
            Manifest::Index(index) => {
                let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
                let index_children = Some(count(index.children.len()));
                let pull::IndexContents { children, missing, attestations, nested } = pull.index(index, 1).await?;
                if children.is_empty() && !missing.is_empty() {
                    return Err(PullError::NoPlatform(missing));
                }
                if let Some(message) = all_refused(&children) {
                    return Err(Error::PolicyBlocked { message }.into());
                }
                let attestations = pull.attestations(attestations).await;
                Ok(PulledImage { digest, index_children, attestations, nested, children, missing })
            }
        }
    }

    /// Requests the wanted tags of the other images of the repository, as a runtime does before it pulls. Harbor tags an index
    /// only for a tag that was requested by HEAD before the index was first fetched; for a week it answers a later HEAD from
    /// its cache, and does not tag. The answers are ignored here.
    async fn announce(&self, target: &Target) {
        let path = target.path();
        let asking = self.siblings.iter().cloned().map(|tag| self.ask_for(&path, tag));
        let asked: Vec<_> = stream::iter(asking).buffer_unordered(SIBLINGS_AT_ONCE).collect().await;
        for error in asked.into_iter().filter_map(Result::err) {
            tracing::debug!(repository = %path, %error, "cannot request an additional tag");
        }
    }

    async fn ask_for(&self, path: &str, tag: String) -> Result<(), Error> {
        self.client.head(path, &tag).await.map(drop)
    }

    /// Returns the current digest of `target`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resolve(&self, target: &Target) -> Result<Digest, Error> {
        if let Some(digest) = target.digest() {
            return Ok(digest.clone());
        }
        let path = target.path();
        if let Some(digest) = self.repeated(|| self.client.head(&path, target.reference())).await? {
            return Ok(digest);
        }
        let _passage = self.lanes.pass(&self.lane, 0).await;
        Ok(self.repeated(|| self.client.manifest(&path, target.reference())).await?.digest)
    }

    async fn repeated<T, F>(&self, request: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let backoff =
            ExponentialBuilder::default().with_min_delay(self.limits.pause).with_max_times(self.limits.repeats);
        // A request without a status line has used its time: another attempt at the image comes later.
        let again = |error: &Error| error.class() == RetryClass::Retry && !error.is_timeout();
        let retried = request.retry(backoff.with_jitter()).when(again);
        retried.notify(|_, _| self.client.transport().record_retry()).await
    }
}

impl std::fmt::Debug for Puller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Puller").field("client", &self.client).field("strategy", &self.strategy).finish_non_exhaustive()
    }
}

/// Returns Harbor's message for the first child if it serves none of them.
fn all_refused(children: &[PulledManifest]) -> Option<String> {
    children.iter().map(|child| child.refused.clone()).reduce(|first, next| first.filter(|_| next.is_some())).flatten()
}

/// Joins platforms for a message.
pub(super) fn list(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
