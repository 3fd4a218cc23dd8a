//! Texts that name images at places where nothing says for certain that they are: arguments, variables, data, values.
//!
//! A name with an explicit host counts wherever it stands, also within a longer text. A short name (`nginx:1.27`) counts only
//! where something calls it an image: a key or a variable whose name ends with `image`, or `image:` in an embedded text.

use super::{
    Manifests, Object,
    fields::Known,
    place::{Place, Step},
    refs::{self, Reference},
    value::{Data, Value},
};
use crate::rewrite::ORIGINAL_IMAGES;

/// A text that names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The object it stands in: the innermost one that has `apiVersion` and `kind`; `None` in a document that is none.
    pub object: Option<Object>,
    /// Where in its document: `spec.containers[0].args[1]`.
    pub place: String,
    /// The image, of several texts where these make one (`repository` and `tag`).
    pub image: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
}

impl Manifests<'_> {
    /// Texts outside of [`Manifests::templates`] that name images, in the order of the text. `is_meant` says which images
    /// matter; it is asked for each candidate.
    pub fn mentions(&self, is_meant: &dyn Fn(&str) -> bool) -> Vec<Mention> {
        let mut reading =
            Reading { of: self, is_meant, document: 0, path: Vec::new(), steps: Vec::new(), found: Vec::new() };
        for (index, value) in self.values.iter().enumerate() {
            reading.document = index + 1;
            reading.value(value, Around::default());
        }
        reading.found
    }
}

struct Reading<'m, 'p> {
    of: &'m Manifests<'m>,
    is_meant: &'p dyn Fn(&str) -> bool,
    document: usize,
    path: Vec<usize>,
    steps: Vec<Step<'m>>,
    found: Vec<Mention>,
}

/// What stands around a value.
#[derive(Clone, Default)]
struct Around<'m> {
    object: Option<&'m Object>,
    known: Option<&'m Known<'m>>,
    /// Steps before the object.
    base: usize,
    /// What the value is called: its key, the name of its variable, the argument before it.
    called: &'m str,
}

impl<'m> Reading<'m, '_> {
    fn value(&mut self, value: &'m Value, around: Around<'_>) {
        let inner = Object::of(value);
        let known = inner.as_ref().map(|object| self.of.fields.of(object));
        let around = match &inner {
            Some(object) => Around { object: Some(object), known: known.as_ref(), base: self.steps.len(), called: "" },
            None => around,
        };
        let steps = self.steps.get(around.base..).unwrap_or_default();
        if around.known.is_some_and(|known| known.is_ignored(steps)) {
            return;
        }
        match &value.data {
            Data::List(items) => {
                let mut before = around.called;
                for (index, item) in items.iter().enumerate() {
                    self.enter(index, Step::Item(index));
                    let called = if before.starts_with('-') { before } else { around.called };
                    self.value(item, Around { called, ..around.clone() });
                    self.leave();
                    before = item.text().unwrap_or_default();
                }
            }
            Data::Map(entries) => self.entries(value, entries, &around),
            Data::Text(text) => self.text(value, text, &around),
            Data::Other(_) => {}
        }
    }

    fn entries(&mut self, value: &'m Value, entries: &'m [(Value, Value)], around: &Around<'_>) {
        let composed = self.composed(value);
        if let Some((place, image)) = &composed
            && (self.is_meant)(image)
        {
            self.note(place, "repository", image.clone(), around);
        }
        let skipped: &[&str] = if composed.is_some() { &["registry", "repository"] } else { &[] };
        let variable = value.get("name").and_then(Value::text).unwrap_or_default();
        for (index, (key, below)) in entries.iter().enumerate() {
            let name = key.text().unwrap_or_default();
            if name == ORIGINAL_IMAGES || skipped.contains(&name) {
                continue;
            }
            self.enter(index, Step::Key(name));
            self.scan(key, name, around, false);
            let called = if name == "value" { variable } else { name };
            self.value(below, Around { called, ..around.clone() });
            self.leave();
        }
    }

    /// The image that `repository` makes with `registry`, `tag` and `digest` beside it, as most charts have it.
    fn composed(&self, value: &'m Value) -> Option<(&'m Value, String)> {
        let text = |key: &str| value.get(key).and_then(Value::scalar_text).filter(|text| !text.is_empty());
        let (place, repository) = (value.get("repository")?, text("repository")?);
        let (tag, digest) = (text("tag"), text("digest"));
        if (tag.is_none() && digest.is_none() && text("registry").is_none()) || repository.contains("://") {
            return None;
        }
        let registry =
            text("registry").map(|registry| format!("{}/", registry.trim_end_matches('/'))).unwrap_or_default();
        let tag = tag.filter(|tag| !tag.contains(['{', '$'])).map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest =
            digest.filter(|digest| digest.contains(':')).map(|digest| format!("@{digest}")).unwrap_or_default();
        Some((place, format!("{registry}{repository}{tag}{digest}"))).filter(|(_, image)| (self.is_meant)(image))
    }

    fn text(&mut self, value: &'m Value, text: &'m str, around: &Around<'_>) {
        if self.of.claimed.contains(&(self.document, self.path.clone())) {
            return;
        }
        self.scan(value, text, around, true);
    }

    fn scan(&mut self, value: &'m Value, text: &'m str, around: &Around<'_>, may_be_short: bool) {
        let called = if may_be_short { around.called } else { "" };
        let mut found = refs::references(text, called, self.is_meant);
        found.sort_by_key(|reference| reference.at);
        let mut from = 0;
        for Reference { at, image } in found {
            let raw = text.get(at..).filter(|rest| rest.starts_with(&*image)).map_or("", |_| &*image);
            let (line, column, next) = self.position(value, raw, from);
            from = next;
            let place = Place(&self.steps).to_string();
            self.found.push(Mention { object: around.object.cloned(), place, image, line, column });
        }
    }

    fn note(&mut self, value: &Value, key: &'m str, image: String, around: &Around<'_>) {
        let (line, column, _) = self.position(value, "", 0);
        self.steps.push(Step::Key(key));
        let place = Place(&self.steps).to_string();
        self.steps.pop();
        self.found.push(Mention { object: around.object.cloned(), place, image, line, column });
    }

    /// Where a part of a text stands in its source, searched from a byte of that on, and where to search the next one.
    fn position(&self, value: &Value, part: &str, from: usize) -> (usize, usize, usize) {
        // An alias has nothing of the text: its anchor has.
        let Some(node) = self.of.tree.node(value.target) else { return (1, 1, 0) };
        let source = self.of.text.get(node.span.clone()).unwrap_or_default();
        let found = source.get(from..).filter(|_| !part.is_empty()).and_then(|rest| rest.find(part));
        let Some(at) = found.map(|at| at + from) else { return (node.line, node.column, from) };
        let before = source.get(..at).unwrap_or_default();
        let lines = before.matches('\n').count();
        let column = match before.rsplit_once('\n') {
            Some((_, rest)) => rest.chars().count() + 1,
            None => node.column + before.chars().count(),
        };
        (node.line + lines, column, at + part.len())
    }

    fn enter(&mut self, index: usize, step: Step<'m>) {
        self.path.push(index);
        self.steps.push(step);
    }

    fn leave(&mut self) {
        self.path.pop();
        self.steps.pop();
    }
}
