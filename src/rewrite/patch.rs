//! The JSON Patch of a decision (RFC 6902): image fields, the pull secrets that they need, and our own annotation;
//! nothing else.

use std::fmt::Write;
use std::sync::Arc;

use super::decide::Wanted;
use super::json::push_string;
use super::pod::Slot;
use super::record::ORIGINAL_IMAGES;

/// [`ORIGINAL_IMAGES`] as a JSON Pointer (RFC 6901).
const ANNOTATION_POINTER: &str = "/metadata/annotations/harbor-pilot.dev~1original-images";

/// What changes in a Pod.
#[derive(Debug, Default)]
pub(super) struct Edits<'p> {
    pub(super) images: Vec<Change<'p>>,
    pub(super) pull_secrets: PullSecrets,
    pub(super) annotation: Annotation,
}

/// Another image in one place.
#[derive(Debug)]
pub(super) struct Change<'p> {
    pub(super) slot: Slot<'p>,
    pub(super) to: To<'p>,
}

#[derive(Debug)]
pub(super) enum To<'p> {
    /// The image at Harbor.
    Harbor(Wanted),
    /// The image that the old Pod has in this place.
    Earlier(&'p str),
}

/// Names to add to `spec.imagePullSecrets`.
#[derive(Debug, Default)]
pub(super) struct PullSecrets {
    pub(super) names: Vec<Arc<str>>,
    /// Whether the Pod has some already.
    pub(super) beside_others: bool,
}

/// What becomes of [`ORIGINAL_IMAGES`].
#[derive(Debug, Default)]
pub(super) enum Annotation {
    #[default]
    Keep,
    Remove,
    Set(String),
    /// There are no annotations yet.
    SetFirst(String),
    /// There is no metadata yet.
    SetMetadata(String),
}

impl Edits<'_> {
    /// Whether the Pod stays as it is.
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty() && self.pull_secrets.names.is_empty() && matches!(self.annotation, Annotation::Keep)
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

// Writing to a string has no way to fail: the results of `write!` say nothing here.

impl Change<'_> {
    fn write(&self, out: &mut String) {
        let Slot { kind, index, .. } = self.slot;
        let (list, field) = (kind.field(), kind.image_pointer());
        let _ = write!(out, r#"{{"op":"replace","path":"/spec/{list}/{index}{field}","value":"#);
        push_string(out, self.to.text());
        out.push('}');
    }
}

impl To<'_> {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Harbor(wanted) => wanted.image.as_str(),
            Self::Earlier(image) => image,
        }
    }
}

impl PullSecrets {
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

impl Annotation {
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

/// A comma, unless the array has just begun.
fn separate(out: &mut String, start: usize) {
    if out.len() > start {
        out.push(',');
    }
}
