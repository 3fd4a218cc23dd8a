//! Attestations: manifests that describe an image and run nowhere. They are fetched because Harbor stores an index minutes
//! earlier when it has everything that the index lists.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, stream};

use super::{
    BlobFetches,
    pull::{MAX_ATTESTATIONS, RunningPull},
};
use crate::registry::{Error, IndexChild, Manifest};

/// Maximum bytes of attestations that are fetched for one index, by the sizes in their manifests: a bill of materials may have
/// megabytes.
const MAX_ATTESTATION_BYTES: u64 = 64 << 20;

/// Attestations of the wanted manifests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attestations {
    /// Attestations in the index.
    pub found: u32,
    /// Attestations of these that were fetched with all their blobs, or were already stored.
    pub fetched: u32,
    /// Manifests of attestations that were requested.
    pub asked: u32,
    /// How their blobs came into the cache.
    pub fetches: BlobFetches,
    /// Why the first missing attestation was not fetched.
    pub failed: Option<AttestationError>,
}

/// Why attestations were not fetched. This is no failure of the image: it runs without them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AttestationError {
    /// A request failed.
    #[error(transparent)]
    Pull(#[from] Error),
    /// There are more than are fetched for one index.
    #[error("more than {MAX_ATTESTATIONS} attestations are not fetched")]
    TooMany,
    /// They are larger than is fetched for one index.
    #[error("attestations with more than {} MiB are not fetched", MAX_ATTESTATION_BYTES >> 20)]
    TooLarge,
    /// The index lists an index as an attestation.
    #[error("the index has an index as an attestation")]
    NoManifest,
}

impl PartialEq for AttestationError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl RunningPull<'_> {
    /// Fetches attestations into Harbor. One that fails is no failure of the image; the others are fetched.
    pub(super) async fn attestations(&self, wanted: Vec<(bool, IndexChild)>) -> Attestations {
        let found = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let mut sum = Attestations { found, ..Attestations::default() };
        if wanted.len() > MAX_ATTESTATIONS {
            sum.failed = Some(AttestationError::TooMany);
            return sum;
        }
        let bytes = AtomicU64::new(0);
        let (stored, missing): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(stored, _)| *stored);
        sum.fetched = u32::try_from(stored.len()).unwrap_or(u32::MAX);
        let pulls = missing.into_iter().map(|(_, child)| self.attestation(child, &bytes));
        let mut pulls = stream::iter(pulls).buffer_unordered(self.puller.limits.manifests_at_once.max(1));
        while let Some(pulled) = pulls.next().await {
            sum.asked = sum.asked.saturating_add(1);
            match pulled {
                Ok(fetches) => {
                    sum.fetched = sum.fetched.saturating_add(1);
                    sum.fetches = sum.fetches.plus(fetches);
                }
                Err(error @ AttestationError::Pull(Error::RateLimited { .. })) => {
                    sum.failed = Some(error);
                    break;
                }
                Err(error) => sum.failed = sum.failed.or(Some(error)),
            }
        }
        sum
    }

    async fn attestation(&self, child: IndexChild, bytes: &AtomicU64) -> Result<BlobFetches, AttestationError> {
        let Manifest::Image(image) = self.manifest(child.digest.as_str()).await? else {
            return Err(AttestationError::NoManifest);
        };
        let own = image.bytes();
        if bytes.fetch_add(own, Ordering::Relaxed).saturating_add(own) > MAX_ATTESTATION_BYTES {
            return Err(AttestationError::TooLarge);
        }
        Ok(self.blobs(&image).await?)
    }
}
