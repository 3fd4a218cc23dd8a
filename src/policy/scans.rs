//! Results of scans in memory, from CachedImages: lookup by tag or by digest.

use std::{collections::HashMap, fmt, sync::Arc};

use k8s_openapi::jiff::Timestamp;

use crate::api::{CachedImage, FoundSeverity, ScanState, ScanStatus};
use crate::image::{ImageRef, canonical_host};

/// The known results of all images: immutable, swapped as a whole. With its records, an image of three platforms takes about
/// a kilobyte.
#[derive(Debug, Default)]
pub struct ScanIndex {
    tags: HashMap<Box<str>, Arc<[ScannedManifest]>>,
    indexes: HashMap<DigestKey, Arc<[ScannedManifest]>>,
    manifests: HashMap<DigestKey, ScannedManifest>,
}

/// The kept fields of one CachedImage.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanRecord {
    /// The image at Harbor with its tag, see [`tagged`], unless a digest pins it.
    tag: Option<Box<str>>,
    /// The digest of the upstream's index or manifest; `None` while the tag is known to have moved.
    digest: Option<DigestKey>,
    manifests: Arc<[ScannedManifest]>,
    digests: Box<[DigestKey]>,
}

/// The result of a scan of a manifest, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanVerdict {
    /// The worst severity.
    pub severity: FoundSeverity,
    /// The number of vulnerabilities of any severity.
    pub total: u32,
    /// The number of vulnerabilities that a newer version of a package fixes.
    pub fixable: u32,
    /// The time of the scan.
    pub scanned_at: Timestamp,
}

/// One manifest of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScannedManifest {
    verdict: Option<ScanVerdict>,
    state: ScanState,
}

/// The reason why an image has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoVerdict {
    /// No CachedImage has the image.
    NoRecord,
    /// The image is being warmed, or its tag has moved since.
    NotWarm,
    /// The scan has not finished; its state.
    Open(ScanState),
    /// The verdict of this time is too old.
    Stale(Timestamp),
}

/// The bytes of a SHA-256 digest.
type DigestKey = [u8; 32];

impl ScanRecord {
    /// Returns the record of an image; `None` while nothing is known.
    pub fn of(image: &CachedImage) -> Option<Self> {
        let status = image.status.as_ref().filter(|_| image.metadata.deletion_timestamp.is_none())?;
        let reference = ImageRef::parse(status.image.as_deref()?).ok()?;
        let known: Vec<(DigestKey, ScannedManifest)> = status
            .platforms
            .iter()
            .filter_map(|child| Some((key(&child.digest)?, ScannedManifest::of(child.scan.as_ref()))))
            .collect();
        Some(Self {
            tag: reference.digest().is_none().then(|| tagged(&reference).into()),
            digest: status.digest.as_deref().and_then(key),
            manifests: known.iter().map(|(_, manifest)| *manifest).collect(),
            digests: known.iter().map(|(digest, _)| *digest).collect(),
        })
    }
}

impl ScanIndex {
    /// Compiles all records for lookups.
    pub fn compile<'r>(records: impl IntoIterator<Item = &'r ScanRecord>) -> Self {
        let mut scans = Self::default();
        for record in records {
            if let Some(tag) = &record.tag {
                let of_tag = if record.digest.is_some() { Arc::clone(&record.manifests) } else { Arc::default() };
                // Two records may have the same image, and one of them may know less.
                let known = scans.tags.entry(tag.clone()).or_default();
                *known = if known.is_empty() { of_tag } else { known.iter().chain(of_tag.iter()).copied().collect() };
            }
            if let Some(digest) = record.digest.filter(|digest| !record.digests.contains(digest)) {
                let known = scans.indexes.entry(digest).or_default();
                // Another record may need fewer platforms of it, or have an older scan of it.
                if oldest(&record.manifests) >= oldest(known) {
                    *known = Arc::clone(&record.manifests);
                }
            }
            for (digest, manifest) in record.digests.iter().zip(record.manifests.iter()) {
                let known = scans.manifests.entry(*digest).or_insert(*manifest);
                if manifest.scanned() > known.scanned() {
                    *known = *manifest;
                }
            }
        }
        scans
    }

    /// Returns the worst known verdict of an image: of the manifest or index that its digest pins, or else of the manifest
    /// that its tag pointed to at the last resync. A verdict older than `oldest` does not count.
    ///
    /// # Errors
    /// Why there is no verdict. An old verdict of another manifest that exceeds `ceiling` still counts.
    pub fn worst(&self, image: &ImageRef, oldest: Timestamp, ceiling: FoundSeverity) -> Result<ScanVerdict, NoVerdict> {
        let own;
        let manifests: &[ScannedManifest] = match image.digest() {
            Some(digest) => {
                let key = key(digest).ok_or(NoVerdict::NoRecord)?;
                match (self.manifests.get(&key), self.indexes.get(&key)) {
                    (Some(manifest), _) => {
                        own = [*manifest];
                        &own
                    }
                    (None, Some(manifests)) => manifests,
                    (None, None) => return Err(NoVerdict::NoRecord),
                }
            }
            None => self.tags.get(tagged(image).as_str()).ok_or(NoVerdict::NoRecord)?,
        };
        let fresh = || manifests.iter().filter_map(|one| one.verdict).filter(|verdict| verdict.scanned_at >= oldest);
        let worst = fresh().max_by_key(|verdict| verdict.severity);
        if let Some(worst) = worst.filter(|worst| worst.severity > ceiling) {
            return Ok(worst);
        }
        if let Some(open) = manifests.iter().find(|manifest| manifest.verdict.is_none()) {
            return Err(NoVerdict::Open(open.state));
        }
        match manifests.iter().filter_map(|one| one.verdict).map(|verdict| verdict.scanned_at).min() {
            None => Err(NoVerdict::NotWarm),
            Some(scanned) if scanned < oldest => Err(NoVerdict::Stale(scanned)),
            Some(_) => worst.ok_or(NoVerdict::NotWarm),
        }
    }

    /// Returns the number of known tags and digests.
    pub fn len(&self) -> usize {
        self.tags.len() + self.indexes.len() + self.manifests.len()
    }

    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ScannedManifest {
    fn of(scan: Option<&ScanStatus>) -> Self {
        let Some(scan) = scan else { return Self { verdict: None, state: ScanState::Unscanned } };
        let verdict = scan.severity.as_deref().zip(scan.scanned_at.as_ref()).map(|(severity, time)| ScanVerdict {
            severity: FoundSeverity::of(severity),
            total: scan.total.unwrap_or(0),
            fixable: scan.fixable.unwrap_or(0),
            scanned_at: time.0,
        });
        Self { verdict, state: scan.state }
    }

    fn scanned(&self) -> Option<Timestamp> {
        self.verdict.map(|verdict| verdict.scanned_at)
    }
}

impl fmt::Display for NoVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecord => f.write_str("the image is not known yet"),
            Self::NotWarm => f.write_str("it is being fetched, or its tag has moved"),
            Self::Open(ScanState::Failed) => f.write_str("its scan failed"),
            Self::Open(ScanState::NoScanner) => f.write_str("Harbor has no scanner"),
            Self::Open(ScanState::Scanning) => f.write_str("its scan is running"),
            Self::Open(ScanState::Scanned | ScanState::Unscanned) => f.write_str("it has not been scanned"),
            Self::Stale(scanned) => write!(f, "its last scan was at {scanned}"),
        }
    }
}

fn oldest(manifests: &[ScannedManifest]) -> Option<Timestamp> {
    manifests.iter().map(ScannedManifest::scanned).min().flatten()
}

/// Returns the image with its tag, as runtimes read it: one text for all spellings of its host.
fn tagged(image: &ImageRef) -> String {
    format!("{}/{}:{}", canonical_host(image.host()), image.repository(), image.tag().unwrap_or("latest"))
}

fn key(digest: &str) -> Option<DigestKey> {
    let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64)?;
    let mut key = DigestKey::default();
    for (byte, pair) in key.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests;
