//! Verifies what Harbor has stored of an image, and what it serves while the upstream is down.
//!
//! [`evaluate`] is pure; [`observe`] asks Harbor for its inputs. Harbor stores an image 20 s after its blobs and an index 40 s after
//! its children, or 400 s with those that it has: the caller repeats the check.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::jiff::Timestamp;

use super::{scan::ScanFindings, target::Target};
use crate::{
    api::{
        Reason,
        cached_image::{IndexState, PlatformStatus},
    },
    harbor::{self, model::Artifact},
    registry::{self, Client, Digest, Error, ImageManifest, Manifest},
    transport::RetryClass,
};

/// Blobs that are checked at once.
const BLOBS_AT_ONCE: usize = 4;

/// A check of Harbor failed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Harbor's API failed.
    #[error(transparent)]
    Inventory(#[from] harbor::Error),
    /// Harbor's registry failed.
    #[error(transparent)]
    Registry(#[from] Error),
}

impl VerifyError {
    /// Returns how to handle the error.
    pub fn class(&self) -> RetryClass {
        match self {
            Self::Inventory(error) => error.class(),
            Self::Registry(error) => error.class(),
        }
    }

    /// Returns whether Harbor itself may be the cause. Its API asks no upstream.
    pub fn may_be_harbor(&self) -> bool {
        match self {
            Self::Inventory(error) => error.may_be_harbor(),
            Self::Registry(error) => error.may_be_harbor(),
        }
    }

    /// Returns the reason for a condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Inventory(error) => error.reason(),
            Self::Registry(error) => error.reason(),
        }
    }
}

/// The warmed image to verify.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VerifyRequest<'a> {
    /// Digest of the upstream's index or manifest.
    pub digest: &'a str,
    /// The requested tag; `None` for an image that is pinned to a digest.
    pub tag: Option<&'a str>,
    /// Number of children of the upstream's index; `None` for an image without an index.
    pub index_children: Option<u32>,
    /// Whether the upstream's index lists an index.
    pub nested: bool,
    /// The wanted manifests.
    pub wanted: &'a [PlatformStatus],
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It holds.
    Yes(Reason),
    /// It does not hold, and is unlikely to change.
    No(Reason),
    /// It does not hold yet.
    NotYet(Reason),
}

/// What Harbor's API lists for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedArtifact {
    /// Its digest in Harbor, which may differ from the upstream's.
    pub digest: String,
    /// When Harbor stored it, by Harbor's clock.
    pub since: Option<Timestamp>,
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// For each wanted manifest, in their order: whether it and all its blobs are stored.
    pub stored: Vec<bool>,
    /// State of the index; `None` for an image without one.
    pub index: Option<IndexState>,
    /// The index or manifest as Harbor stores it, if it is stored.
    pub artifact: Option<ListedArtifact>,
    /// Whether the tag is served while the upstream is down; `None` for an image that is pinned to a digest.
    pub by_tag: Option<Presence>,
    /// Whether the upstream's digest is served while the upstream is down.
    pub by_digest: Presence,
    /// For each wanted manifest, in their order: Harbor's message if it refuses a pull (412). Empty if no manifest was
    /// requested.
    pub refused: Vec<Option<String>>,
    /// The known scans.
    pub scans: ScanFindings,
}

impl Verification {
    /// Returns whether every wanted manifest and blob is stored.
    pub fn complete(&self) -> bool {
        !self.stored.is_empty() && self.stored.iter().all(|stored| *stored)
    }
}

/// Verifies an image from Harbor's list of the repository, and from the known blobs of each wanted manifest.
pub fn evaluate(question: &VerifyRequest<'_>, artifacts: &[Artifact], blobs: &HashMap<String, bool>) -> Verification {
    let listed = listed(artifacts);
    let stored: Vec<bool> = question
        .wanted
        .iter()
        .map(|child| listed.contains(child.digest.as_str()) && blobs.get(&child.digest).copied().unwrap_or(false))
        .collect();
    let complete = !stored.is_empty() && stored.iter().all(|stored| *stored);
    let same = artifacts.iter().find(|artifact| artifact.digest == question.digest);
    let tagged = question.tag.and_then(|tag| artifacts.iter().find(|artifact| has_tag(artifact, tag)));
    let (refused, scans) = (Vec::new(), ScanFindings::default());
    if question.index_children.is_none() {
        let tag_is_ours = tagged.is_some_and(|artifact| artifact.digest == question.digest);
        let by_digest =
            if complete { Presence::Yes(Reason::DigestStored) } else { Presence::NotYet(Reason::Verifying) };
        let by_tag = question.tag.map(|_| tag_finding(complete && tag_is_ours, Presence::NotYet(Reason::Untagged)));
        return Verification { stored, index: None, artifact: same.map(listing), by_tag, by_digest, refused, scans };
    }
    let serves = |artifact: &&Artifact| serves(question, artifact, artifacts);
    let tagged = tagged.filter(serves);
    // An inner index has all children too, but is not the requested one.
    let other = if question.nested { None } else { artifacts.iter().find(serves) };
    let index = same.or(tagged).or(other);
    let state = match index {
        None if question.nested => IndexState::Nested,
        None => IndexState::Absent,
        Some(index) if index.digest == question.digest => IndexState::Complete,
        Some(index) if Some(index.references.len()) >= question.index_children.map(|all| all as usize) => {
            IndexState::Complete
        }
        Some(_) => IndexState::Trimmed,
    };
    let nested = Presence::No(Reason::NestedIndex);
    let by_digest = match (same, index) {
        (Some(_), _) if complete => Presence::Yes(Reason::DigestStored),
        (None, Some(_)) => Presence::No(Reason::IndexDigestChanged),
        (None, None) if question.nested => nested,
        _ => Presence::NotYet(Reason::Verifying),
    };
    let untagged = if question.nested && index.is_none() { nested } else { Presence::NotYet(Reason::Untagged) };
    let by_tag = question.tag.map(|_| tag_finding(complete && tagged.is_some(), untagged));
    Verification { stored, index: Some(state), artifact: index.map(listing), by_tag, by_digest, refused, scans }
}

fn listing(artifact: &Artifact) -> ListedArtifact {
    let since = artifact.push_time.as_deref().and_then(|text| text.parse().ok());
    ListedArtifact { digest: artifact.digest.clone(), since }
}

/// Returns whether the digest that a tag answers now is still the image of `question`: the upstream's digest, or, while the
/// upstream is down, that of Harbor's own rewritten index.
pub fn still_is(question: &VerifyRequest<'_>, answered: &Digest, artifacts: &[Artifact]) -> bool {
    let ours = |artifact: &Artifact| {
        artifact.digest == answered.as_str()
            && question.index_children.is_some()
            && serves(question, artifact, artifacts)
    };
    answered.as_str() == question.digest || artifacts.iter().any(ours)
}

/// How thoroughly Harbor is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyDepth {
    /// Skips what is known to be stored.
    New,
    /// Of what is known to be stored, requests the manifests only: whether Harbor allows the pull.
    Permitted,
    /// Checks everything.
    All,
}

/// Asks Harbor for the inputs of [`evaluate`], as a runtime does: each wanted manifest by digest once it is listed, then its
/// blobs; `depth` says what to skip. Harbor serves a listed manifest itself, so the upstream gets no request.
///
/// # Errors
/// [`VerifyError`]: the state is unknown then.
pub async fn observe(
    question: &VerifyRequest<'_>,
    target: &Target,
    client: &Client,
    artifacts: &[Artifact],
    depth: VerifyDepth,
) -> Result<Verification, VerifyError> {
    let path = target.path();
    let listed = listed(artifacts);
    let mut blobs = HashMap::new();
    let mut refused = Vec::with_capacity(question.wanted.len());
    for child in question.wanted {
        let known = child.stored && depth != VerifyDepth::All;
        let mut refusal = None;
        if known && depth == VerifyDepth::New {
            blobs.insert(child.digest.clone(), true);
        } else if listed.contains(child.digest.as_str()) {
            let stored = match client.manifest(&path, &child.digest).await {
                Ok(_) if known => true,
                Ok(registry::FetchedManifest { manifest: Manifest::Image(image), .. }) => {
                    blobs_stored(client, &path, &image).await?
                }
                Ok(_) | Err(Error::NotFound { .. } | Error::UpstreamUnavailable { .. }) => false,
                Err(Error::PolicyBlocked { message }) => {
                    refusal = Some(message);
                    child.stored
                }
                Err(error) => return Err(error.into()),
            };
            blobs.insert(child.digest.clone(), stored);
        }
        refused.push(refusal);
    }
    Ok(Verification { refused, ..evaluate(question, artifacts, &blobs) })
}

async fn blobs_stored(client: &Client, path: &str, image: &ImageManifest) -> Result<bool, Error> {
    let checks = ImageManifest::blobs(image).into_iter().map(async |blob| client.has_blob(path, &blob.digest).await);
    stream::iter(checks).buffer_unordered(BLOBS_AT_ONCE).try_fold(true, async |all, one| Ok(all && one)).await
}

/// Returns the stored digests: Harbor lists the children of an index only with the index.
fn listed(artifacts: &[Artifact]) -> HashSet<&str> {
    let children = artifacts.iter().flat_map(|artifact| &artifact.references).map(|child| child.child_digest.as_str());
    artifacts.iter().map(|artifact| artifact.digest.as_str()).chain(children).collect()
}

fn has_tag(artifact: &Artifact, tag: &str) -> bool {
    artifact.tags.iter().any(|found| found.name == tag)
}

/// Whether an artifact is an index with every wanted child, its own or that of an index that it lists.
fn serves(question: &VerifyRequest<'_>, artifact: &Artifact, artifacts: &[Artifact]) -> bool {
    let lists =
        |artifact: &Artifact, digest: &str| artifact.references.iter().any(|child| child.child_digest == digest);
    let inner = || artifacts.iter().filter(|inner| lists(artifact, &inner.digest));
    let has = |digest: &str| lists(artifact, digest) || inner().any(|inner| lists(inner, digest));
    !question.wanted.is_empty() && question.wanted.iter().all(|child| has(&child.digest))
}

fn tag_finding(served: bool, otherwise: Presence) -> Presence {
    if served { Presence::Yes(Reason::Tagged) } else { otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harbor::model::{Reference, Tag};

    fn artifact(digest: &str, tags: &[&str], children: &[&str]) -> Artifact {
        Artifact {
            digest: digest.to_owned(),
            tags: tags.iter().map(|name| Tag { name: (*name).to_owned() }).collect(),
            references: children.iter().map(|child| Reference { child_digest: (*child).to_owned() }).collect(),
            ..Artifact::default()
        }
    }

    fn wanted(digests: &[&str]) -> Vec<PlatformStatus> {
        let child = |digest: &&str| PlatformStatus {
            platform: "linux/amd64".to_owned(),
            digest: (*digest).to_owned(),
            layers: 1,
            bytes: 1,
            ..PlatformStatus::default()
        };
        digests.iter().map(child).collect()
    }

    fn all_blobs(digests: &[&str]) -> HashMap<String, bool> {
        digests.iter().map(|digest| ((*digest).to_owned(), true)).collect()
    }

    const YES_TAG: Presence = Presence::Yes(Reason::Tagged);
    const NO_TAG: Presence = Presence::NotYet(Reason::Untagged);
    const YES_DIGEST: Presence = Presence::Yes(Reason::DigestStored);
    const REWRITTEN: Presence = Presence::No(Reason::IndexDigestChanged);
    const NOT_YET: Presence = Presence::NotYet(Reason::Verifying);

    #[test]
    fn an_index_is_judged_by_what_harbor_made_of_it() {
        use IndexState::{Absent, Complete, Trimmed};
        let wanted = wanted(&["a", "b"]);
        let question =
            VerifyRequest { digest: "up", tag: Some("v1"), index_children: Some(3), nested: false, wanted: &wanted };
        let table = [
            ("nothing yet", vec![], false, Absent, NO_TAG, NOT_YET),
            ("one child", vec![artifact("a", &[], &[])], false, Absent, NO_TAG, NOT_YET),
            ("the children", vec![artifact("a", &[], &[]), artifact("b", &[], &[])], true, Absent, NO_TAG, NOT_YET),
            ("canonical", vec![artifact("up", &["v1"], &["a", "b", "c"])], true, Complete, YES_TAG, YES_DIGEST),
            ("canonical, untagged", vec![artifact("up", &[], &["a", "b", "c"])], true, Complete, NO_TAG, YES_DIGEST),
            ("serialized again", vec![artifact("own", &["v1"], &["a", "b", "c"])], true, Complete, YES_TAG, REWRITTEN),
            ("trimmed", vec![artifact("own", &["v1"], &["a", "b"])], true, Trimmed, YES_TAG, REWRITTEN),
            ("trimmed, untagged", vec![artifact("own", &[], &["b", "a"])], true, Trimmed, NO_TAG, REWRITTEN),
            (
                "the tag is at an older image",
                vec![artifact("old", &["v1"], &["x"]), artifact("a", &[], &[]), artifact("b", &[], &[])],
                true,
                Absent,
                NO_TAG,
                NOT_YET,
            ),
            ("another tag", vec![artifact("up", &["v2"], &["a", "b", "c"])], true, Complete, NO_TAG, YES_DIGEST),
        ];
        for (name, artifacts, complete, index, by_tag, by_digest) in table {
            let verdict = evaluate(&question, &artifacts, &all_blobs(&["a", "b"]));
            assert_eq!(
                (verdict.complete(), verdict.index, verdict.by_tag, verdict.by_digest),
                (complete, Some(index), Some(by_tag), by_digest),
                "{name}"
            );
        }
    }

    #[test]
    fn a_single_image_is_served_by_digest_once_stored_and_by_tag_once_tagged() {
        let wanted = wanted(&["up"]);
        let question =
            VerifyRequest { digest: "up", tag: Some("v1"), index_children: None, nested: false, wanted: &wanted };
        let table = [
            ("nothing yet", vec![], false, NO_TAG, NOT_YET),
            ("untagged", vec![artifact("up", &[], &[])], true, NO_TAG, YES_DIGEST),
            ("tagged", vec![artifact("up", &["v1"], &[])], true, YES_TAG, YES_DIGEST),
            ("moved", vec![artifact("old", &["v1"], &[]), artifact("up", &[], &[])], true, NO_TAG, YES_DIGEST),
        ];
        for (name, artifacts, complete, by_tag, by_digest) in table {
            let verdict = evaluate(&question, &artifacts, &all_blobs(&["up"]));
            let found = (verdict.complete(), verdict.by_tag, verdict.by_digest);
            assert_eq!(found, (complete, Some(by_tag), by_digest), "{name}");
        }
        let pinned =
            evaluate(&VerifyRequest { tag: None, ..question }, &[artifact("up", &["v1"], &[])], &all_blobs(&["up"]));
        assert_eq!((pinned.by_tag, pinned.by_digest), (None, YES_DIGEST));
    }

    #[test]
    fn a_manifest_without_its_blobs_is_not_stored_and_nothing_of_it_is_offline() {
        let wanted = wanted(&["a", "b"]);
        let question =
            VerifyRequest { digest: "up", tag: Some("v1"), index_children: Some(2), nested: false, wanted: &wanted };
        let artifacts = [artifact("up", &["v1"], &["a", "b"])];
        let verdict = evaluate(&question, &artifacts, &all_blobs(&["a"]));
        assert_eq!(verdict.stored, [true, false]);
        assert_eq!((verdict.by_tag, verdict.by_digest), (Some(NO_TAG), NOT_YET));
        assert!(!evaluate(&VerifyRequest { wanted: &[], ..question }, &artifacts, &HashMap::new()).complete());
    }

    #[test]
    fn harbors_own_digest_of_an_index_is_no_moved_tag() {
        let [up, own, other] = ["up", "own", "other"].map(|text| Digest::of(text.as_bytes()));
        let wanted = wanted(&["a"]);
        let question = VerifyRequest {
            digest: up.as_str(),
            tag: Some("v1"),
            index_children: Some(2),
            nested: false,
            wanted: &wanted,
        };
        let artifacts = [artifact(own.as_str(), &["v1"], &["a"]), artifact(other.as_str(), &[], &["x"])];
        assert!(still_is(&question, &up, &artifacts) && still_is(&question, &own, &artifacts));
        assert!(!still_is(&question, &other, &artifacts));
        assert!(!still_is(&VerifyRequest { index_children: None, ..question }, &own, &artifacts));
    }

    #[test]
    fn an_index_in_an_index_is_offline_only_where_harbor_stored_the_inner_one_as_it_was() {
        let wanted = wanted(&["a", "b"]);
        let question =
            VerifyRequest { digest: "up", tag: Some("v1"), index_children: Some(1), nested: true, wanted: &wanted };
        let children = || [artifact("a", &[], &[]), artifact("b", &[], &[])];
        let rewritten = [&children()[..], &[artifact("other inner", &[], &["a", "b"])]].concat();
        let kept =
            [&children()[..], &[artifact("inner", &[], &["a", "b"]), artifact("own", &["v1"], &["inner"])]].concat();
        let never = Presence::No(Reason::NestedIndex);
        let table = [
            ("nothing yet", vec![], IndexState::Nested, never, never),
            ("the inner index under another digest", rewritten, IndexState::Nested, never, never),
            ("the inner index as it was", kept, IndexState::Complete, YES_TAG, REWRITTEN),
        ];
        for (name, artifacts, index, by_tag, by_digest) in table {
            let verdict = evaluate(&question, &artifacts, &all_blobs(&["a", "b"]));
            assert_eq!(
                (verdict.index, verdict.by_tag, verdict.by_digest),
                (Some(index), Some(by_tag), by_digest),
                "{name}"
            );
        }
    }

    #[test]
    fn what_harbor_lists_for_an_image_is_named_with_its_own_digest_and_time() {
        let wanted = wanted(&["a"]);
        let question =
            VerifyRequest { digest: "up", tag: Some("v2"), index_children: Some(2), nested: false, wanted: &wanted };
        let mut index = artifact("own", &["v1"], &["a"]);
        index.push_time = Some("2026-01-02T03:04:05.678Z".to_owned());
        let listed = evaluate(&question, &[index], &all_blobs(&["a"])).artifact.unwrap();
        assert_eq!((listed.digest.as_str(), listed.since.unwrap().as_second()), ("own", 1_767_323_045));
        assert_eq!(evaluate(&question, &[], &HashMap::new()).artifact, None);
    }
}
