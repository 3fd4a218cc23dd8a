//! The wanted tags of each repository, so that Harbor is asked for all of them before it caches an index that they share.
//!
//! Harbor tags an index for each tag that was requested by HEAD before the first GET of the index, for ten minutes. Later it
//! answers HEAD from its cache, for a week, and does not tag.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Maximum number of remembered tags of one repository, and of tags requested before one of them is pulled.
pub const MOST_TAGS: usize = 16;
/// Maximum number of remembered repositories: above it all are forgotten, and recorded again when their images are reconciled.
const MOST_REPOSITORIES: usize = 8192;
/// Minimum time between two requests for a tag: Harbor tags for ten minutes, and waits seven for some children.
const ASKED: Duration = Duration::from_secs(60);

/// Tags of a repository, and when Harbor was last asked for each.
type Tags = HashMap<String, Option<Instant>>;

/// Wanted tags by repository. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct SiblingTags {
    known: Arc<Mutex<HashMap<String, Tags>>>,
}

impl SiblingTags {
    /// Records that a tag of a repository is wanted. `repository` begins with the host of its Harbor.
    pub fn record(&self, repository: &str, tag: &str) {
        let mut known = self.known.lock();
        if known.len() >= MOST_REPOSITORIES && !known.contains_key(repository) {
            known.clear();
        }
        let tags = known.entry(repository.to_owned()).or_default();
        if tags.len() < MOST_TAGS {
            tags.entry(tag.to_owned()).or_default();
        }
    }

    /// Returns the other tags to request before `tag` is pulled at `now`. They count as requested from then on, and so does
    /// `tag`.
    pub fn due_siblings(&self, repository: &str, tag: &str, now: Instant) -> Vec<String> {
        let mut known = self.known.lock();
        let Some(tags) = known.get_mut(repository) else { return Vec::new() };
        let mut due = Vec::new();
        for (known, asked) in tags.iter_mut() {
            let fresh = asked.is_some_and(|asked| now.saturating_duration_since(asked) < ASKED);
            if known == tag || !fresh {
                *asked = Some(now);
            }
            if known != tag && !fresh {
                due.push(known.clone());
            }
        }
        due.sort_unstable();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_asked_for_once_a_minute_and_never_with_their_own_pull() {
        let siblings = SiblingTags::default();
        ["v1", "v1.2", "latest"].iter().for_each(|tag| siblings.record("h/p/app", tag));
        siblings.record("h/p/other", "v1");
        let now = Instant::now();
        assert_eq!(siblings.due_siblings("h/p/app", "v1", now), ["latest", "v1.2"]);
        assert!(siblings.due_siblings("h/p/app", "v1.2", now + Duration::from_secs(1)).is_empty());
        assert_eq!(siblings.due_siblings("h/p/app", "latest", now + Duration::from_secs(61)), ["v1", "v1.2"]);
        assert!(siblings.due_siblings("h/p/none", "v1", now).is_empty());
    }

    #[test]
    fn siblings_are_bounded_in_tags_and_in_repositories() {
        let siblings = SiblingTags::default();
        (0..1000).for_each(|number| siblings.record("h/p/app", &number.to_string()));
        assert_eq!(siblings.due_siblings("h/p/app", "x", Instant::now()).len(), MOST_TAGS);
        (0..3 * MOST_REPOSITORIES).for_each(|number| siblings.record(&number.to_string(), "v1"));
        assert!(siblings.known.lock().len() <= MOST_REPOSITORIES);
    }
}
