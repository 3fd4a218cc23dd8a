//! The annotation with the original images: `{"containers/app":"nginx"}`.

use std::collections::{HashMap, HashSet};

use super::image_decision::parse;
use super::json::{push_escaped, push_string};
use super::pod::{ImageField, ImageLocation};

/// A record from a Pod. An invalid record is read as empty.
#[derive(Debug, Default)]
pub(super) struct OriginalImages(HashMap<String, String>);

impl OriginalImages {
    pub(super) fn read(annotation: Option<&str>) -> Self {
        Self(annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    }

    /// Returns the original image of a container or volume.
    pub(super) fn original(&self, slot: &ImageField<'_>) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let key = format!("{}/{}", slot.kind.field(), slot.name);
        self.0.get(&key).map(String::as_str)
    }
}

/// The record for a Pod, in the order of its lists, so that the same Pod always gets the same text.
#[derive(Debug, Default)]
pub(super) struct OriginalEntries<'p> {
    entries: Vec<(ImageField<'p>, &'p str)>,
    /// The positions of all entries, once there are many.
    known: HashSet<(ImageLocation, &'p str)>,
}

/// The most entries that are compared one by one; a larger record uses a hash set.
const FEW: usize = 16;

impl<'p> OriginalEntries<'p> {
    /// Adds the original of a position. Of positions with the same name, which Kubernetes refuses, the first has the entry.
    pub(super) fn add(&mut self, slot: ImageField<'p>, original: &'p str) {
        let place = |slot: &ImageField<'p>| (slot.kind, slot.name);
        let is_new = if self.entries.len() < FEW {
            !self.entries.iter().any(|(other, _)| place(other) == place(&slot))
        } else {
            if self.known.is_empty() {
                self.known.extend(self.entries.iter().map(|(other, _)| place(other)));
            }
            self.known.insert(place(&slot))
        };
        if is_new {
            self.entries.push((slot, original));
        }
    }

    /// Returns whether the record is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the value of the annotation; `None` when it is longer than `room` bytes.
    pub(super) fn text(&self, room: usize) -> Option<String> {
        let mut text = String::with_capacity((self.entries.len() * 64).min(room));
        let mut before = '{';
        for (slot, original) in &self.entries {
            text.push(std::mem::replace(&mut before, ','));
            text.push('"');
            text.push_str(slot.kind.field());
            text.push('/');
            push_escaped(&mut text, slot.name);
            text.push_str("\":");
            push_string(&mut text, original);
            if text.len() >= room {
                return None;
            }
        }
        text.push('}');
        Some(text)
    }
}

/// Returns whether a rule may have computed an image from an original: the image ends with the repository, tag and digest of
/// the original. The rule may be deleted, and its Harbor may have another name now. So a match is not a proof, but an entry
/// for an image of another name is a forgery.
pub(super) fn may_be_made_from(image: &str, original: &str) -> bool {
    let (Ok(image), Ok(original)) = (parse(image), parse(original)) else { return false };
    let above = image.repository().strip_suffix(original.repository());
    (image.tag(), image.digest()) == (original.tag(), original.digest())
        && above.is_some_and(|above| above.is_empty() || above.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_may_be_made_from_an_original_whose_name_it_ends_with() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (image, original, expected) in [
            ("harbor.corp/hub/library/nginx", "nginx", true),
            ("harbor.corp/hub/library/nginx:1", "docker.io/nginx:1", true),
            ("harbor.corp/a/b/acme/x:1", "ghcr.io/acme/x:1", true),
            ("new.corp/hub/library/nginx", "old.corp/hub/library/nginx", true),
            (&*format!("harbor.corp/hub/library/nginx:1{digest}"), &*format!("nginx:1{digest}"), true),
            ("harbor.corp/hub/library/nginx:1", "nginx:2", false),
            ("harbor.corp/hub/library/nginx", "nginx:latest", false),
            ("harbor.corp/hub/library/nginx", &*format!("nginx{digest}"), false),
            ("harbor.corp/hub/xlibrary/nginx", "nginx", false),
            ("harbor.corp/hub/library/nginx", "evil.example/x", false),
            ("harbor.corp/hub/library/nginx", "", false),
            ("Bad", "Bad", false),
        ] {
            assert_eq!(may_be_made_from(image, original), expected, "{image} {original}");
        }
    }
}
