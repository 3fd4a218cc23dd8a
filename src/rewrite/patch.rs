//! The JSON Patch of a decision (RFC 6902): only image fields, the pull secrets that they need, and our own annotation.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use super::json::push_string;
use super::pod::{ImageField, ORIGINAL_IMAGES, PullSecret};
use super::prewarm_target::PrewarmTarget;

/// [`ORIGINAL_IMAGES`] as a JSON Pointer (RFC 6901).
const ANNOTATION_POINTER: &str = "/metadata/annotations/harbor-pilot.dev~1original-images";

/// The changes of a Pod.
#[derive(Debug, Default)]
pub(super) struct PodEdits<'p> {
    pub(super) images: Vec<ImageChange<'p>>,
    pub(super) pull_secrets: PullSecrets,
    pub(super) annotation: RecordEdit,
}

/// A new image in one position.
#[derive(Debug)]
pub(super) struct ImageChange<'p> {
    pub(super) slot: ImageField<'p>,
    pub(super) to: NewImage<'p>,
}

#[derive(Debug)]
pub(super) enum NewImage<'p> {
    /// The image at Harbor.
    Harbor(PrewarmTarget),
    /// The image that the old Pod has in this position.
    Earlier(&'p str),
}

/// Names to add to `spec.imagePullSecrets`.
#[derive(Debug, Default)]
pub(super) struct PullSecrets {
    pub(super) names: Vec<Arc<str>>,
    /// The same names as `names`, once there are many.
    known: HashSet<Arc<str>>,
    /// Whether the Pod already has pull secrets.
    pub(super) beside_others: bool,
}

/// The most names that are compared one by one; a larger list uses a hash set.
const FEW: usize = 16;

/// The change of [`ORIGINAL_IMAGES`].
#[derive(Debug, Default)]
pub(super) enum RecordEdit {
    #[default]
    Keep,
    Remove,
    Set(String),
    /// The Pod has no annotations yet.
    SetFirst(String),
    /// The Pod has no metadata yet.
    SetMetadata(String),
}

impl PodEdits<'_> {
    /// Returns whether the Pod does not change.
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty() && self.pull_secrets.names.is_empty() && matches!(self.annotation, RecordEdit::Keep)
    }

    /// Appends the patch: an array of operations.
    pub(super) fn write(&self, out: &mut String) {
        out.push('[');
        let start = out.len();
        for change in &self.images {
            separate(out, start);
            change.write(out);
        }
        self.pull_secrets.write(out, start);
        self.annotation.write(out, start);
        out.push(']');
    }
}

// A write to a `String` cannot fail, so the results of `write!` are ignored.

impl ImageChange<'_> {
    fn write(&self, out: &mut String) {
        let ImageField { kind, index, .. } = self.slot;
        let (list, field) = (kind.field(), kind.image_pointer());
        let _ = write!(out, r#"{{"op":"replace","path":"/spec/{list}/{index}{field}","value":"#);
        push_string(out, self.to.text());
        out.push('}');
    }
}

impl NewImage<'_> {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Harbor(wanted) => wanted.image.as_str(),
            Self::Earlier(image) => image,
        }
    }
}

/// Returns each name once, in the order of first occurrence.
pub(super) fn distinct<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let (mut distinct, mut known) = (Vec::with_capacity(1), HashSet::new());
    for name in names {
        let is_new = if distinct.len() < FEW {
            !distinct.contains(&name)
        } else {
            if known.is_empty() {
                known.extend(distinct.iter().copied());
            }
            known.insert(name)
        };
        if is_new {
            distinct.push(name);
        }
    }
    distinct
}

impl PullSecrets {
    /// Adds a name, unless the list has it.
    pub(super) fn add(&mut self, name: &Arc<str>) {
        let is_new = if self.names.len() < FEW {
            !self.names.contains(name)
        } else {
            if self.known.is_empty() {
                self.known.extend(self.names.iter().cloned());
            }
            self.known.insert(Arc::clone(name))
        };
        if is_new {
            self.names.push(Arc::clone(name));
        }
    }

    /// Removes the names that the Pod already has.
    pub(super) fn remove(&mut self, has: &[PullSecret<'_>]) {
        self.beside_others = !has.is_empty();
        let mut has = has.iter().filter_map(|secret| secret.name.as_deref());
        match &mut *self.names {
            [] => {}
            [name] => {
                if has.any(|secret| secret == &**name) {
                    self.names.clear();
                }
            }
            _ => {
                let has: HashSet<&str> = has.collect();
                self.names.retain(|name| !has.contains(&**name));
            }
        }
    }

    fn write(&self, out: &mut String, start: usize) {
        let mut first = !self.beside_others;
        for name in &self.names {
            separate(out, start);
            let (end, open, close) = if std::mem::take(&mut first) { ("", "[", "]") } else { ("/-", "", "") };
            let _ = write!(out, r#"{{"op":"add","path":"/spec/imagePullSecrets{end}","value":{open}{{"name":"#);
            push_string(out, name);
            let _ = write!(out, "}}{close}}}");
        }
    }
}

impl RecordEdit {
    fn write(&self, out: &mut String, start: usize) {
        let (path, open, text, close) = match self {
            Self::Keep => return,
            Self::Remove => {
                separate(out, start);
                let _ = write!(out, r#"{{"op":"remove","path":"{ANNOTATION_POINTER}"}}"#);
                return;
            }
            Self::Set(text) => (ANNOTATION_POINTER, String::new(), text, ""),
            Self::SetFirst(text) => ("/metadata/annotations", format!(r#"{{"{ORIGINAL_IMAGES}":"#), text, "}"),
            Self::SetMetadata(text) => ("/metadata", format!(r#"{{"annotations":{{"{ORIGINAL_IMAGES}":"#), text, "}}"),
        };
        separate(out, start);
        let _ = write!(out, r#"{{"op":"add","path":"{path}","value":{open}"#);
        push_string(out, text);
        out.push_str(close);
        out.push('}');
    }
}

/// Appends a comma, unless the array is still empty.
fn separate(out: &mut String, start: usize) {
    if out.len() > start {
        out.push(',');
    }
}
