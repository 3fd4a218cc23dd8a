//! Asks Harbor's API which manifests it has stored.

use std::collections::HashSet;

use super::target::Target;
use crate::{harbor, registry::Digest};

/// Maximum number of digests in one request: its URL stays below 4 KiB.
const DIGESTS_AT_ONCE: usize = 40;

/// Returns which of these manifests Harbor has stored, children of an index included.
///
/// # Errors
/// See [`harbor::Error`].
pub async fn stored(
    harbor: &harbor::Client,
    target: &Target,
    wanted: &[&Digest],
) -> Result<HashSet<Digest>, harbor::Error> {
    let mut stored = HashSet::new();
    for asked in wanted.chunks(DIGESTS_AT_ONCE) {
        let digests: Vec<&str> = asked.iter().map(|digest| digest.as_str()).collect();
        let found = harbor.artifacts_of(target.project(), target.repository(), &digests).await?;
        let is_found = |digest: &&&Digest| found.iter().any(|artifact| artifact.digest == digest.as_str());
        stored.extend(asked.iter().filter(is_found).map(|digest| (*digest).clone()));
    }
    Ok(stored)
}
