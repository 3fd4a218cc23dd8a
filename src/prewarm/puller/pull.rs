//! One running pull: from the manifest down to the blobs.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Fetches, MAX_DEPTH, MAX_FOREIGN, Progress, Puller, WarmError, WarmedChild, attestations::MAX_ATTESTATIONS,
    pace::Pace,
};
use crate::{
    api::{Platform, proxy_project::PullStrategy},
    prewarm::{select::select, stored::stored, target::Target},
    registry::{Child, Descriptor, Digest, Error, Image, Index, Manifest},
};

/// One running pull.
pub(super) struct Pull<'a> {
    pub(super) puller: &'a Puller,
    pub(super) path: String,
    pub(super) progress: &'a dyn Progress,
    pub(super) pace: Pace,
    target: &'a Target,
    platforms: &'a [Platform],
    /// Blobs that a child already fetches; children share layers.
    taken: Mutex<HashSet<Digest>>,
}

/// The manifests that a reference leads to.
#[derive(Default)]
pub(super) struct Family {
    pub(super) children: Vec<WarmedChild>,
    pub(super) missing: Vec<Platform>,
    /// Attestations of the children, which are not fetched yet, and whether Harbor lists each.
    pub(super) attestations: Vec<(bool, Child)>,
    /// Whether the index lists an index.
    pub(super) nested: bool,
}

impl<'a> Pull<'a> {
    pub(super) fn new(
        puller: &'a Puller,
        target: &'a Target,
        platforms: &'a [Platform],
        progress: &'a dyn Progress,
    ) -> Self {
        let pace = Pace::new(puller.limits.grace);
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
            tracing::debug!(repository = %self.path, %error, "Harbor does not tell what it has stored");
            HashSet::new()
        })
    }

    pub(super) async fn index(&self, index: Index, depth: u8) -> Result<Family, WarmError> {
        let selection = select(&index, self.platforms);
        let listed = selection.chosen.iter().chain(selection.attestations.iter().take(MAX_ATTESTATIONS));
        let stored = self.stored(listed.map(|child| &child.digest)).await;
        let pulls = selection.chosen.into_iter().map(|child| self.child(child, depth, &stored));
        let families: Vec<Family> =
            stream::iter(pulls).buffered(self.puller.limits.manifests_at_once.max(1)).try_collect().await?;
        let attestations = selection.attestations.into_iter();
        let attestations = attestations.map(|child| (stored.contains(&child.digest), child)).collect();
        let whole = Family { attestations, ..Family::default() };
        let whole = families.into_iter().fold(whole, Family::with);
        Ok(Family { missing: selection.missing, ..whole })
    }

    async fn child(&self, child: Child, depth: u8, stored: &HashSet<Digest>) -> Result<Family, WarmError> {
        let manifest = match self.manifest(child.digest.as_str()).await {
            // One platform that Harbor refuses to serve does not affect the others.
            Err(Error::PolicyBlocked { message }) => return Ok(Family::of(refused(child, message))),
            manifest => manifest?,
        };
        match manifest {
            Manifest::Image(image) => Ok(Family::of(self.image(child.platform, child.digest, image, stored).await?)),
            Manifest::Index(_) if depth >= MAX_DEPTH => Err(WarmError::TooDeep),
            Manifest::Index(index) => {
                let inner = Box::pin(self.index(index, depth + 1)).await?;
                Ok(Family { nested: true, missing: Vec::new(), ..inner })
            }
        }
    }

    /// Fetches the blobs of an image into Harbor. A manifest that is `stored` has them: Harbor stores it after them.
    pub(super) async fn image(
        &self,
        platform: Option<Platform>,
        digest: Digest,
        mut image: Image,
        stored: &HashSet<Digest>,
    ) -> Result<WarmedChild, WarmError> {
        let mut foreign = std::mem::take(&mut image.foreign);
        let fetches = if stored.contains(&digest) {
            image.layers.append(&mut foreign);
            Fetches::default()
        } else {
            self.foreign(&mut image, &mut foreign).await?.plus(self.blobs(&image).await?)
        };
        let [layers, foreign] =
            [image.layers.len(), foreign.len()].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        let fetched = fetches.touched.saturating_add(fetches.streamed);
        Ok(WarmedChild { platform, digest, layers, bytes: image.bytes(), fetched, fetches, refused: None, foreign })
    }

    /// Fetches those `foreign` layers into Harbor that the upstream holds, and makes them layers of the image.
    async fn foreign(&self, image: &mut Image, foreign: &mut Vec<Descriptor>) -> Result<Fetches, Error> {
        let mut sum = Fetches::default();
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

    pub(super) async fn blobs(&self, image: &Image) -> Result<Fetches, Error> {
        let blobs: Vec<Descriptor> = image.blobs().into_iter().filter(|blob| self.take(blob)).collect();
        if self.puller.strategy == PullStrategy::ManifestsOnly {
            return Ok(Fetches { left: u32::try_from(blobs.len()).unwrap_or(u32::MAX), ..Fetches::default() });
        }
        self.progress.planned(blobs.len() as u64, blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size)));
        stream::iter(blobs.into_iter().map(|blob| self.blob(blob)))
            .buffer_unordered(self.puller.limits.blobs_at_once.max(1))
            .try_fold(Fetches::default(), async |sum, one| Ok(sum.plus(one)))
            .await
    }

    fn take(&self, blob: &Descriptor) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest.clone())
    }
}

fn refused(child: Child, message: String) -> WarmedChild {
    let Child { platform, digest, .. } = child;
    let (layers, bytes, fetched, fetches) = (0, 0, 0, Fetches::default());
    WarmedChild { platform, digest, layers, bytes, fetched, fetches, refused: Some(message), foreign: 0 }
}

impl Family {
    fn of(child: WarmedChild) -> Self {
        Self { children: vec![child], ..Self::default() }
    }

    fn with(mut self, mut other: Self) -> Self {
        self.children.append(&mut other.children);
        self.attestations.append(&mut other.attestations);
        Self { nested: self.nested || other.nested, ..self }
    }
}
