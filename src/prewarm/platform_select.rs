//! Selects the wanted children of an index.

use crate::{
    api::Platform,
    registry::{Index, IndexChild},
};

/// The wanted children, and the platforms without a child.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Selected children in the order of the index, each digest once.
    pub chosen: Vec<IndexChild>,
    /// Attestations of these children, each digest once.
    pub attestations: Vec<IndexChild>,
    /// Wanted platforms without a child.
    pub missing: Vec<Platform>,
}

/// Selects the children for `wanted`; all of them if it is empty.
///
/// As in container runtimes, a child without a platform is selected, and an attestation of another child is not. An attestation
/// is returned separately if it describes a selected child, or names none: Harbor stores an index minutes earlier when it has
/// them all.
pub fn select(index: &Index, wanted: &[Platform]) -> Selection {
    let mut seen = std::collections::HashSet::new();
    let chosen: Vec<IndexChild> = index
        .children
        .iter()
        .filter(|child| !child.attestation && takes(wanted, child.platform.as_ref()) && seen.insert(&child.digest))
        .cloned()
        .collect();
    let has =
        |platform: &Platform| chosen.iter().any(|child| takes(std::slice::from_ref(platform), child.platform.as_ref()));
    let missing = wanted.iter().filter(|platform| !has(platform)).cloned().collect();
    let is_chosen = |digest: &str| chosen.iter().any(|child| child.digest.as_str() == digest);
    let attestations = index
        .children
        .iter()
        .filter(|child| child.attestation && child.describes.as_deref().is_none_or(is_chosen))
        .filter(|child| seen.insert(&child.digest))
        .cloned()
        .collect();
    Selection { chosen, attestations, missing }
}

/// Returns whether `wanted` includes a manifest of the platform `offered`.
pub fn takes(wanted: &[Platform], offered: Option<&Platform>) -> bool {
    wanted.is_empty() || offered.is_none_or(|offered| wanted.iter().any(|platform| platform.accepts(offered)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Digest;

    fn index(children: &[(&str, Option<&str>, bool)]) -> Index {
        let child = |&(name, platform, attestation): &(&str, Option<&str>, bool)| IndexChild {
            digest: Digest::of(name.as_bytes()),
            platform: platform.map(|text| text.parse().unwrap()),
            attestation,
            describes: None,
            index: false,
        };
        Index { children: children.iter().map(child).collect() }
    }

    fn platforms(texts: &[&str]) -> Vec<Platform> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn platform_select_returns_children_and_missing_platforms() {
        let multi = index(&[
            ("amd64", Some("linux/amd64"), false),
            ("arm64", Some("linux/arm64/v8"), false),
            ("v6", Some("linux/arm/v6"), false),
            ("v7", Some("linux/arm/v7"), false),
            ("windows", Some("windows/amd64"), false),
            ("provenance", Some("unknown/unknown"), true),
        ]);
        let table: [(&[&str], &[&str], &[&str]); 7] = [
            (&["linux/amd64"], &["amd64"], &[]),
            (&["linux/arm64"], &["arm64"], &[]),
            (&["linux/arm"], &["v6", "v7"], &[]),
            (&["linux/arm/v7", "linux/amd64"], &["amd64", "v7"], &[]),
            (&["linux/s390x", "linux/amd64"], &["amd64"], &["linux/s390x"]),
            (&["linux/riscv64"], &[], &["linux/riscv64"]),
            (&[], &["amd64", "arm64", "v6", "v7", "windows"], &[]),
        ];
        for (wanted, chosen, missing) in table {
            let selection = select(&multi, &platforms(wanted));
            let digests: Vec<_> = selection.chosen.iter().map(|child| child.digest.clone()).collect();
            let expected: Vec<_> = chosen.iter().map(|name| Digest::of(name.as_bytes())).collect();
            assert_eq!((digests, selection.missing), (expected, platforms(missing)), "{wanted:?}");
        }
    }

    #[test]
    fn a_child_without_a_platform_suits_everyone_and_one_digest_is_fetched_once() {
        let artifact = index(&[("a", None, false), ("a", Some("linux/amd64"), false), ("proof", None, true)]);
        let selection = select(&artifact, &platforms(&["linux/s390x"]));
        assert_eq!((selection.chosen.len(), selection.missing.len()), (1, 0));
    }

    #[test]
    fn attestations_of_chosen_children_are_listed_apart_and_those_of_others_are_not() {
        let mut attested = index(&[
            ("amd64", Some("linux/amd64"), false),
            ("arm64", Some("linux/arm64"), false),
            ("of amd64", Some("unknown/unknown"), true),
            ("of arm64", Some("unknown/unknown"), true),
            ("without a subject", Some("unknown/unknown"), true),
        ]);
        for (described, attestation) in [(0, 2), (1, 3)] {
            attested.children[attestation].describes = Some(attested.children[described].digest.to_string());
        }
        let table: [(&[&str], &[&str]); 2] = [
            (&["linux/amd64"], &["of amd64", "without a subject"]),
            (&[], &["of amd64", "of arm64", "without a subject"]),
        ];
        for (wanted, expected) in table {
            let selection = select(&attested, &platforms(wanted));
            let digests: Vec<_> = selection.attestations.iter().map(|child| child.digest.clone()).collect();
            assert_eq!(digests, expected.iter().map(|name| Digest::of(name.as_bytes())).collect::<Vec<_>>());
        }
    }
}
