//! The annotation with the images as users wrote them: `{"containers/app":"nginx"}`.

use std::collections::HashMap;

use super::json::{push_escaped, push_string};
use super::pod::Slot;

/// Key of the annotation that admission writes: original images by `containers/NAME`, `initContainers/NAME`,
/// `ephemeralContainers/NAME` and `volumes/NAME`, of the changed ones alone.
pub const ORIGINAL_IMAGES: &str = "harbor-pilot.dev/original-images";

/// A record as it was read from a Pod. What is no record at all reads as an empty one.
#[derive(Debug, Default)]
pub(super) struct Record(HashMap<String, String>);

impl Record {
    pub(super) fn read(annotation: Option<&str>) -> Self {
        Self(annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    }

    /// The original image recorded for a container or volume.
    pub(super) fn original(&self, slot: &Slot<'_>) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        let key = format!("{}/{}", slot.kind.field(), slot.name);
        self.0.get(&key).map(String::as_str)
    }
}

/// The record that a Pod ought to have, in the order of its lists, so that the same Pod always has the same text.
#[derive(Debug, Default)]
pub(super) struct Entries<'p>(Vec<(Slot<'p>, &'p str)>);

impl<'p> Entries<'p> {
    pub(super) fn add(&mut self, slot: Slot<'p>, original: &'p str) {
        self.0.push((slot, original));
    }

    /// The value of the annotation; `None` when there is nothing to record.
    pub(super) fn text(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(self.0.len() * 64);
        let mut before = '{';
        for (slot, original) in &self.0 {
            text.push(std::mem::replace(&mut before, ','));
            text.push('"');
            text.push_str(slot.kind.field());
            text.push('/');
            push_escaped(&mut text, slot.name);
            text.push_str("\":");
            push_string(&mut text, original);
        }
        text.push('}');
        Some(text)
    }
}
