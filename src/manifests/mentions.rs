//! Finds texts that name images outside of known image fields: arguments, variables, data, values.
//!
//! A name with an explicit host counts in every field, also within a longer text. A short name (`nginx:1.27`) counts only
//! where its name says so: a key or a variable whose name ends with `image`, or `image:` in an embedded text.

use super::{
    ManifestText, Object,
    field_path::{FieldPath, PathSegment},
    kind_table::KnownKind,
    refs::{self, TextReference},
    shape,
    value::{Value, ValueData},
};
use crate::{image::ImageRef, rewrite::ORIGINAL_IMAGES};

/// The most unsuccessful searches in a text with escapes.
const MAX_MISSED: usize = 16;

/// A text that names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The object of the text: the innermost one with `apiVersion` and `kind`; `None` in a document without an object.
    pub object: Option<Object>,
    /// The place in its document: `spec.containers[0].args[1]`.
    pub place: String,
    /// The image; several fields may form it (`repository` and `tag`).
    pub image: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

impl ManifestText<'_> {
    /// Returns the texts outside of [`ManifestText::templates`] that name images, in the order of the text. `is_meant` decides
    /// which images count; it is called for each candidate.
    pub fn mentions(&self, is_meant: &dyn Fn(&str) -> bool) -> Vec<Mention> {
        let mut reading =
            MentionFinder { of: self, is_meant, document: 0, path: Vec::new(), steps: Vec::new(), found: Vec::new() };
        for (index, value) in self.values.iter().enumerate() {
            reading.document = index + 1;
            reading.value(value, MentionContext::default());
        }
        reading.found
    }
}

struct MentionFinder<'m, 'p> {
    of: &'m ManifestText<'m>,
    is_meant: &'p dyn Fn(&str) -> bool,
    document: usize,
    path: Vec<usize>,
    steps: Vec<PathSegment<'m>>,
    found: Vec<Mention>,
}

/// The context of a value.
#[derive(Clone, Default)]
struct MentionContext<'m> {
    object: Option<&'m Object>,
    known: Option<&'m KnownKind<'m>>,
    /// Steps before the object.
    base: usize,
    /// The name of the value: its key, the name of its variable, the argument before it.
    called: &'m str,
}

impl<'m> MentionFinder<'m, '_> {
    fn value(&mut self, value: &'m Value, around: MentionContext<'_>) {
        let within = self.steps.get(around.base..).unwrap_or_default();
        let item = || Object::of_item(value, around.object?, within);
        let inner = Object::of(value).or_else(item);
        let known = inner.as_ref().map(|object| self.of.fields.of(object));
        let around = match &inner {
            Some(object) => {
                MentionContext { object: Some(object), known: known.as_ref(), base: self.steps.len(), called: "" }
            }
            None => around,
        };
        let steps = self.steps.get(around.base..).unwrap_or_default();
        if around.known.is_some_and(|known| known.is_ignored(steps)) {
            return;
        }
        match &value.data {
            ValueData::List(items) => {
                let mut before = around.called;
                for (index, item) in items.iter().enumerate() {
                    self.enter(index, PathSegment::Item(index));
                    let called = if before.starts_with('-') { before } else { around.called };
                    self.value(item, MentionContext { called, ..around.clone() });
                    self.leave();
                    before = item.text().unwrap_or_default();
                }
            }
            ValueData::Map(entries) => self.entries(value, entries, &around),
            ValueData::Text(text) => self.text(value, text, &around),
            ValueData::Other(_) => {}
        }
    }

    fn entries(&mut self, value: &'m Value, entries: &'m [(Value, Value)], around: &MentionContext<'_>) {
        let composed: Vec<ComposedImage<'_>> = self.composed(value, around);
        for ComposedImage { at, key, image, .. } in composed.iter().filter(|found| found.is_meant) {
            self.note(at, key, image.clone(), around);
        }
        let skipped: Vec<&str> = composed.iter().flat_map(|found| &found.parts).map(|part| &**part).collect();
        let text = |key: &str| value.get(key).and_then(Value::text).unwrap_or_default();
        let is_patch = value.get("op").is_some() && (text("path").ends_with("/image") || is_volume(text("path")));
        let variable = if is_patch { "image" } else { text("name") };
        for (index, (key, below)) in entries.iter().enumerate() {
            let name = key.scalar_text().unwrap_or_default();
            // An image of RBD is a block device.
            let is_device = name == "image" && around.called == "rbd";
            if name == ORIGINAL_IMAGES || is_device || skipped.contains(&name) {
                continue;
            }
            self.enter(index, PathSegment::Key(name));
            self.scan(key, name, around, false);
            let called = match name {
                "value" => variable,
                "newName" if refs::is_called_image(around.called) => "image",
                _ => name,
            };
            self.value(below, MentionContext { called, ..around.clone() });
            self.leave();
        }
    }

    /// Returns the images that adjacent fields form. In charts: `repository` with `registry`, `tag` and `digest`; the same
    /// with the prefix `image`. In kustomize: `name` instead, where the mapping is named an image or is an entry of `images`.
    /// In operators: `image` or `name` after `registry` and `repository`.
    fn composed(&self, value: &'m Value, around: &MentionContext<'_>) -> Vec<ComposedImage<'m>> {
        let is_image = refs::is_called_image(around.called);
        let text = |key: &str| value.get(key).and_then(Value::scalar_text).filter(|text| !text.is_empty());
        let operand = self.operand(value, around);
        let mut found = Vec::new();
        for (index, (key, below)) in value.entries().iter().enumerate() {
            let Some(key) = key.text() else { continue };
            let Some(repository) = below.scalar_text().filter(|text| !text.is_empty() && !text.contains("://")) else {
                continue;
            };
            let prefix = key.strip_suffix("epository").and_then(|rest| rest.strip_suffix(['r', 'R']));
            let is_name = prefix.is_none() && is_image && key == "name" && value.get("repository").is_none();
            let named = |name: &str| match prefix {
                Some(prefix) if !prefix.is_empty() => format!("{prefix}{}", capital(name)),
                _ => name.to_owned(),
            };
            let [registry, tag, digest] = ["registry", "tag", "digest"].map(named);
            let beside = [&*registry, &*tag, &*digest, "pullPolicy", "newTag", "newName"];
            let has_part = beside.iter().any(|name| value.get(name).is_some());
            let is_composed = prefix.is_some() && (has_part || is_image) || is_name && has_part;
            let is_operand = operand == Some(key);
            if !(is_composed && operand.is_none() || is_operand) || self.is_claimed(index) {
                continue;
            }
            let mut parts = vec![key.to_owned(), registry.clone()];
            let mut host = String::new();
            let mut before = |key: &str| {
                let part = text(key).map(|text| text.trim_end_matches('/'));
                part.into_iter().for_each(|part| host = format!("{host}{part}/"));
                parts.push(key.to_owned());
            };
            if !(is_operand && shape::has_host(repository)) {
                before(&registry);
                if is_operand {
                    ["hub", "repository"].into_iter().for_each(before);
                }
            }
            let version = || text("version").or_else(|| text("imageTag")).filter(|_| is_operand);
            let is_open = !(is_operand && shape::has_tag(repository));
            let last = text(&tag).or_else(version).filter(|_| is_open).filter(|tag| !tag.contains(['{', '$']));
            let (pin, last) = (last.filter(|last| last.contains(':')), last.filter(|last| !last.contains(':')));
            let pin = text(&digest).filter(|digest| is_open && digest.contains(':')).or(pin);
            let (tagged, pinned) = (last.map(|tag| format!(":{tag}")), pin.map(|digest| format!("@{digest}")));
            let image = format!("{host}{repository}{}{}", tagged.unwrap_or_default(), pinned.unwrap_or_default());
            if (self.is_meant)(&image) {
                found.push(ComposedImage { at: below, key, image, parts, is_meant: true });
            } else if is_operand && ImageRef::parse(&image).is_ok() {
                // Its last part alone is another image, which nothing pulls.
                found.push(ComposedImage { at: below, key, image, parts: vec![key.to_owned()], is_meant: false });
            }
        }
        found
    }

    /// The key of the last part of a name that `registry`, `hub` and `repository` beside it begin, or that a tag beside it ends:
    /// `image`, or `name` where a `repository` is an organisation and not a whole name.
    fn operand(&self, value: &Value, around: &MentionContext<'_>) -> Option<&'static str> {
        let text = |key: &str| value.get(key).and_then(Value::text).filter(|text| !text.is_empty());
        let is_last = |text: &str| !text.contains(['/', '{', '$']);
        if let Some(image) = text("image").filter(|image| !image.contains(['{', '$'])) {
            let any = |keys: &[&str]| {
                keys.iter().any(|key| value.get(key).and_then(Value::scalar_text).is_some_and(|text| !text.is_empty()))
            };
            let is_part = match shape::has_host(image) {
                true => !shape::has_tag(image) && any(&["version", "tag", "imageTag", "digest"]),
                false => any(&["registry", "hub", "repository"]),
            };
            return is_part.then_some("image");
        }
        let name = text("name").filter(|name| is_last(name))?;
        let of_k8ssandra = around.object.is_some_and(|object| object.group().ends_with("k8ssandra.io"));
        let is_organisation = |repository: &&str| is_last(repository) && *repository != name;
        text("repository").filter(is_organisation).filter(|_| of_k8ssandra || text("registry").is_some())?;
        Some("name")
    }

    /// Returns whether the entry with this index, in the current mapping, is a known image field.
    fn is_claimed(&self, index: usize) -> bool {
        let mut path = self.path.clone();
        path.push(index);
        self.of.claimed.contains(&(self.document, path))
    }

    fn text(&mut self, value: &'m Value, text: &'m str, around: &MentionContext<'_>) {
        if self.of.claimed.contains(&(self.document, self.path.clone())) {
            return;
        }
        self.scan(value, text, around, true);
    }

    fn scan(&mut self, value: &'m Value, text: &'m str, around: &MentionContext<'_>, may_be_short: bool) {
        let called = if may_be_short { around.called } else { "" };
        let mut found = refs::references(text, called, self.is_meant);
        found.sort_by_key(|reference| reference.at);
        let mut cursor = self.cursor(value);
        for TextReference { at, image } in found {
            let raw = text.get(at..).filter(|rest| rest.starts_with(&*image)).map_or("", |_| &*image);
            let (line, column) = cursor.find(raw);
            let place = FieldPath(&self.steps).to_string();
            self.found.push(Mention { object: around.object.cloned(), place, image, line, column });
        }
    }

    fn note(&mut self, value: &Value, key: &'m str, image: String, around: &MentionContext<'_>) {
        let (line, column) = self.cursor(value).find("");
        self.steps.push(PathSegment::Key(key));
        let place = FieldPath(&self.steps).to_string();
        self.steps.pop();
        self.found.push(Mention { object: around.object.cloned(), place, image, line, column });
    }

    /// Returns the start of a value's source. An alias has no source text: its anchor has it.
    fn cursor(&self, value: &Value) -> Cursor<'m> {
        let node = self.of.tree.node(value.target);
        let source = node.and_then(|node| self.of.text.get(node.span.clone())).unwrap_or_default();
        let start = node.map_or((1, 1), |node| (node.line, node.column));
        Cursor { source, start, at: start, missed: 0 }
    }

    fn enter(&mut self, index: usize, step: PathSegment<'m>) {
        self.path.push(index);
        self.steps.push(step);
    }

    fn leave(&mut self) {
        self.path.pop();
        self.steps.pop();
    }
}

/// An image that several fields form.
struct ComposedImage<'m> {
    at: &'m Value,
    key: &'m str,
    image: String,
    /// Fields that need no further check.
    parts: Vec<String>,
    is_meant: bool,
}

/// A position in the source of a value; it only moves forward.
struct Cursor<'s> {
    /// The source after the position.
    source: &'s str,
    /// Line and column of the start of the value.
    start: (usize, usize),
    /// Line and column of the position.
    at: (usize, usize),
    /// The number of searches that found nothing in the whole rest.
    missed: usize,
}

impl Cursor<'_> {
    /// Returns line and column of the next occurrence of this text, or of the value if there is none.
    fn find(&mut self, part: &str) -> (usize, usize) {
        if part.is_empty() || self.missed >= MAX_MISSED {
            return self.start;
        }
        let Some(at) = self.source.find(part) else {
            self.missed += 1;
            return self.start;
        };
        let found = self.advance(at);
        self.advance(part.len());
        found
    }

    fn advance(&mut self, bytes: usize) -> (usize, usize) {
        let (passed, rest) = self.source.split_at_checked(bytes).unwrap_or_default();
        let (line, column) = self.at;
        self.at = match passed.rsplit_once('\n') {
            Some((above, last)) => (line + above.matches('\n').count() + 1, last.chars().count() + 1),
            None => (line, column + passed.chars().count()),
        };
        self.source = rest;
        self.at
    }
}

/// Returns whether a JSON Patch path is that of an image volume.
fn is_volume(path: &str) -> bool {
    path.ends_with("/image/reference")
}

/// Capitalizes the first letter.
fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}
