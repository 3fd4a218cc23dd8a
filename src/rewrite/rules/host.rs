//! The entry of a host: Harbor, or images to rewrite.

use std::borrow::Cow;

use super::RuleMap;
use crate::image::{DOCKER_HUB, ImageRef, LEGACY_DOCKER_HUB, canonical_host, is_host, is_path, reads_as_host};

/// The entry of a host.
#[derive(Debug)]
pub(super) enum HostRules {
    /// Harbor: its managed projects.
    Harbor(RuleMap<usize>),
    /// Images to rewrite.
    Source(HostMatches),
}

/// The matches at one host, each with its rules, oldest first.
#[derive(Debug, Default)]
pub(super) struct HostMatches {
    whole_host: Vec<usize>,
    paths: RuleMap<Vec<usize>>,
    /// Components of the longest path; a lookup tries no longer one.
    depth: usize,
}

impl HostMatches {
    /// Adds a rule to the rules of a path, and returns them.
    pub(super) fn claim(&mut self, path: &str, index: usize) -> &[usize] {
        let holders = if path.is_empty() {
            &mut self.whole_host
        } else {
            self.depth = self.depth.max(path.split('/').count());
            self.paths.entry(path.into()).or_default()
        };
        if !holders.contains(&index) {
            holders.push(index);
        }
        holders
    }

    /// Returns the first usable rule, from the longest path to the whole host.
    pub(super) fn longest<T>(&self, repository: &str, usable: impl Fn(&usize) -> Option<T>) -> Option<T> {
        if self.depth > 0 {
            let end = repository.match_indices('/').nth(self.depth - 1).map_or(repository.len(), |(at, _)| at);
            let mut prefix = repository.get(..end);
            while let Some(path) = prefix {
                if let Some(target) = self.paths.get(path).and_then(|holders| holders.iter().find_map(&usable)) {
                    return Some(target);
                }
                prefix = path.rsplit_once('/').map(|(shorter, _)| shorter);
            }
        }
        self.whole_host.iter().find_map(usable)
    }
}

/// Returns an image of another name of Docker Hub as an image of `docker.io`.
pub(super) fn docker_hub_image(host: &str, image: &ImageRef) -> Option<ImageRef> {
    if !is_docker_hub_alias(host) {
        return None;
    }
    let rest = image.as_str().get(host.len() + 1..)?;
    ImageRef::parse(&format!("{DOCKER_HUB}/{rest}")).ok()
}

/// Splits a match into host in lower case and path; `None` when no image can match.
pub(super) fn read_match(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.trim_end_matches('/');
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    if !is_host(host) || !reads_as_host(host) || !(path.is_empty() || is_path(path)) {
        return None;
    }
    let host = canonical_host(host);
    let is_hub = &*host == LEGACY_DOCKER_HUB || is_docker_hub_alias(&host);
    Some((if is_hub { Cow::Borrowed(DOCKER_HUB) } else { host }, path))
}

/// Returns whether the host is an alias of Docker Hub, except [`LEGACY_DOCKER_HUB`], which the image parser handles.
fn is_docker_hub_alias(host: &str) -> bool {
    matches!(host, "registry-1.docker.io" | "registry.hub.docker.com")
}
