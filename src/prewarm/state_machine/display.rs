//! Messages of conditions. Pure.

use crate::{
    api::{
        Reason,
        cached_image::{AttestationStatus, PlatformStatus},
    },
    prewarm::{
        puller::{Attestations, PulledImage},
        verify::ListedArtifact,
    },
    text::count,
};

/// Describes how the blobs came into the cache.
pub(super) fn how(warmed: &PulledImage) -> String {
    let fetches = warmed.fetches();
    let fetched = fetches.touched.saturating_add(fetches.streamed);
    let mut text = if fetches.left > 0 {
        format!("{} not requested; Harbor fetches them itself after some minutes", blobs(fetches.left))
    } else {
        format!("{} fetched, the others were cached; Harbor stores them asynchronously", blobs(fetched))
    };
    if fetches.fell_back > 0 {
        text = format!("{text}; {} not stored in time, so read completely", blobs(fetches.fell_back));
    }
    let refused = warmed.children.iter().filter(|child| child.refused.is_some()).count();
    if refused > 0 {
        text = format!("{text}; Harbor refuses to serve {}", count(refused, "manifest"));
    }
    let Attestations { found, fetched, .. } = warmed.attestations;
    if found > 0 {
        text = format!("{text}; also {fetched} of {} fetched", count(found as usize, "attestation"));
    }
    text
}

fn blobs(number: u32) -> String {
    count(number as usize, "blob")
}

pub(super) fn attestations(warmed: &PulledImage) -> Option<AttestationStatus> {
    let Attestations { found, fetched, failed, .. } = &warmed.attestations;
    let message = failed.as_ref().map(ToString::to_string);
    (*found > 0).then_some(AttestationStatus { found: *found, fetched: *fetched, message })
}

/// Names the platforms that Harbor never stores, with the consequence; `None` if there is none.
pub(super) fn foreign(platforms: &[PlatformStatus]) -> Option<String> {
    let foreign: Vec<&str> =
        platforms.iter().filter(|child| child.foreign_layers > 0).map(|child| child.platform.as_str()).collect();
    // An image without an index may not state its platform.
    let first = foreign.first().map(|platform| if *platform == "unknown" { "the image" } else { *platform })?;
    let more = if foreign.len() > 1 { format!(" and {} more", foreign.len() - 1) } else { String::new() };
    Some(format!(
        "{first}{more} has foreign layers, which the upstream does not have, so Harbor never stores the manifest: nodes pull it only \
         while the upstream and the layers' own addresses can be reached"
    ))
}

pub(super) fn mebibytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes / MIB) }
}

/// Explains a reason for an image at Harbor; `listed` is what Harbor lists for it.
pub(super) fn explain(image: &str, reason: Reason, listed: Option<&ListedArtifact>) -> String {
    // Remove tag and digest.
    let (image, _) = image.split_once('@').unwrap_or((image, ""));
    let name = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    };
    let pull = listed.map(|listed| format!("; while the upstream is down pull by digest: {name}@{}", listed.digest));
    let pull = pull.unwrap_or_default();
    match reason {
        Reason::Tagged => "Harbor serves the tag from its store".to_owned(),
        Reason::Untagged => "Harbor has no tag for the stored image".to_owned(),
        Reason::DigestStored => "Harbor stores the upstream's manifest byte for byte".to_owned(),
        Reason::IndexDigestChanged => format!(
            "Harbor stores the index under another digest: it serialized it again, or dropped children that are not stored{pull}"
        ),
        Reason::PullByDigest => {
            format!(
                "Harbor cached this index before this tag was requested, and does not add the tag for up to a week{pull}"
            )
        }
        Reason::NestedIndex => {
            "the index lists an index, which Harbor stores under another digest, so it does not store \
             the outer one; while the upstream is down pull each platform by its digest (status.platforms)"
                .to_owned()
        }
        _ => "Harbor has not stored it yet".to_owned(),
    }
}
