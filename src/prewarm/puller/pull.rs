//! One running pull: from the manifest down to the blobs.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::{
    BlobFetches, MAX_DEPTH, MAX_FOREIGN, PullError, PullProgress, PulledManifest, Puller, store_timeout::StoreTimeout,
};
use crate::{
    api::{Platform, proxy_project::PullStrategy},
    prewarm::{manifest_presence::stored, platform_select::select, target::Target},
    registry::{Descriptor, Digest, Error, ImageManifest, Index, IndexChild, Manifest},
};

/// Maximum number of attestations that are fetched for one index; an index with more gets none.
pub(super) const MAX_ATTESTATIONS: usize = 128;

/// One running pull.
pub(super) struct RunningPull<'a> {
    pub(super) puller: &'a Puller,
    pub(super) path: String,
    pub(super) progress: &'a dyn PullProgress,
    pub(super) pace: StoreTimeout,
    target: &'a Target,
    platforms: &'a [Platform],
    /// Blobs that a child already fetches; children share layers.
    taken: Mutex<HashSet<Digest>>,
}

/// The manifests that a reference leads to.
#[derive(Default)]
pub(super) struct IndexContents {
    pub(super) children: Vec<PulledManifest>,
    pub(super) missing: Vec<Platform>,
    /// Attestations of the children, which are not fetched yet, and whether Harbor lists each.
    pub(super) attestations: Vec<(bool, IndexChild)>,
    /// Whether the index lists an index.
    pub(super) nested: bool,
}

impl<'a> RunningPull<'a> {
    pub(super) fn new(
        puller: &'a Puller,
        target: &'a Target,
        platforms: &'a [Platform],
        progress: &'a dyn PullProgress,
    ) -> Self {
        let pace = StoreTimeout::new(puller.limits.grace);
        Self { puller, path: target.path(), progress, pace, target, platforms, taken: Mutex::default() }
    }

    pub(super) async fn manifest(&self, reference: &str) -> Result<Manifest, Error> {
        let Puller { client, lanes, lane, .. } = self.puller;
        let _passage = lanes.pass(lane, 0).await;
        Ok(self.puller.repeated(|| client.manifest(&self.path, reference)).await?.manifest)
    }

    /// Returns which of these manifests Harbor has stored, in one request; none without an API client.
    pub(super) async fn stored<'d>(&self, wanted: impl IntoIterator<Item = &'d Digest>) -> HashSet<Digest> {
        let Some(harbor) = &self.puller.harbor else { return HashSet::new() };
        let wanted: Vec<&Digest> = wanted.into_iter().collect();
        if wanted.is_empty() {
            return HashSet::new();
        }
        // A failure costs one request for each blob, and nothing else.
        stored(harbor, self.target, &wanted).await.unwrap_or_else(|error| {
            tracing::debug!(repository = %self.path, %error, "cannot check the blobs that Harbor has stored");
            HashSet::new()
        })
    }

    pub(super) async fn index(&self, index: Index, depth: u8) -> Result<IndexContents, PullError> {
        let selection = select(&index, self.platforms);
        let listed = selection.chosen.iter().chain(selection.attestations.iter().take(MAX_ATTESTATIONS));
        let stored = self.stored(listed.map(|child| &child.digest)).await;
        let pulls = selection.chosen.into_iter().map(|child| self.child(child, depth, &stored));
        let families: Vec<IndexContents> =
            stream::iter(pulls).buffered(self.puller.limits.manifests_at_once.max(1)).try_collect().await?;
        let attestations = selection.attestations.into_iter();
        let attestations = attestations.map(|child| (stored.contains(&child.digest), child)).collect();
        let whole = IndexContents { attestations, ..IndexContents::default() };
        let whole = families.into_iter().fold(whole, IndexContents::with);
        Ok(IndexContents { missing: selection.missing, ..whole })
    }

    async fn child(&self, child: IndexChild, depth: u8, stored: &HashSet<Digest>) -> Result<IndexContents, PullError> {
        let manifest = match self.manifest(child.digest.as_str()).await {
            // One platform that Harbor refuses to serve does not affect the others.
            Err(Error::PolicyBlocked { message }) => return Ok(IndexContents::of(refused(child, message))),
            manifest => manifest?,
        };
        match manifest {
            Manifest::Image(image) => {
                Ok(IndexContents::of(self.image(child.platform, child.digest, image, stored).await?))
            }
            Manifest::Index(_) if depth >= MAX_DEPTH => Err(PullError::TooDeep),
            Manifest::Index(index) => {
                let inner = Box::pin(self.index(index, depth + 1)).await?;
                Ok(IndexContents { nested: true, missing: Vec::new(), ..inner })
            }
        }
    }

    /// Fetches the blobs of an image into Harbor. A manifest that is `stored` has them: Harbor stores it after them.
    pub(super) async fn image(
        &self,
        platform: Option<Platform>,
        digest: Digest,
        mut image: ImageManifest,
        stored: &HashSet<Digest>,
    ) -> Result<PulledManifest, PullError> {
        let mut foreign = std::mem::take(&mut image.foreign);
        let fetches = if stored.contains(&digest) {
            image.layers.append(&mut foreign);
            BlobFetches::default()
        } else {
            self.foreign(&mut image, &mut foreign).await?.plus(self.blobs(&image).await?)
        };
        let [layers, foreign] =
            [image.layers.len(), foreign.len()].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        let fetched = fetches.touched.saturating_add(fetches.streamed);
        Ok(PulledManifest { platform, digest, layers, bytes: image.bytes(), fetched, fetches, refused: None, foreign })
    }

    /// Fetches those `foreign` layers into Harbor that the upstream holds, and makes them layers of the image.
    async fn foreign(&self, image: &mut ImageManifest, foreign: &mut Vec<Descriptor>) -> Result<BlobFetches, Error> {
        let mut sum = BlobFetches::default();
        // Without layer requests it stays unknown which ones the upstream holds; above the bound none is tried.
        if self.puller.strategy == PullStrategy::ManifestsOnly || foreign.len() > MAX_FOREIGN {
            return Ok(sum);
        }
        for blob in std::mem::take(foreign) {
            match self.blob(blob.clone()).await {
                Ok(fetches) => {
                    if self.take(&blob) {
                        self.progress.planned(1, blob.size);
                    }
                    sum = sum.plus(fetches);
                    image.layers.push(blob);
                }
                Err(Error::NotFound { .. }) => foreign.push(blob),
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    pub(super) async fn blobs(&self, image: &ImageManifest) -> Result<BlobFetches, Error> {
        let blobs: Vec<Descriptor> = image.blobs().into_iter().filter(|blob| self.take(blob)).collect();
        if self.puller.strategy == PullStrategy::ManifestsOnly {
            return Ok(BlobFetches { left: u32::try_from(blobs.len()).unwrap_or(u32::MAX), ..BlobFetches::default() });
        }
        self.progress.planned(blobs.len() as u64, blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size)));
        stream::iter(blobs.into_iter().map(|blob| self.blob(blob)))
            .buffer_unordered(self.puller.limits.blobs_at_once.max(1))
            .try_fold(BlobFetches::default(), async |sum, one| Ok(sum.plus(one)))
            .await
    }

    fn take(&self, blob: &Descriptor) -> bool {
        self.taken.lock().insert(blob.digest.clone())
    }
}

fn refused(child: IndexChild, message: String) -> PulledManifest {
    let IndexChild { platform, digest, .. } = child;
    let (layers, bytes, fetched, fetches) = (0, 0, 0, BlobFetches::default());
    PulledManifest { platform, digest, layers, bytes, fetched, fetches, refused: Some(message), foreign: 0 }
}

impl IndexContents {
    fn of(child: PulledManifest) -> Self {
        Self { children: vec![child], ..Self::default() }
    }

    fn with(mut self, mut other: Self) -> Self {
        self.children.append(&mut other.children);
        self.attestations.append(&mut other.attestations);
        Self { nested: self.nested || other.nested, ..self }
    }
}
