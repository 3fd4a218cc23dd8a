//! Finds the Pod templates of a text.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    KindTable, ManifestError, Object, Template,
    tree::Tree,
    value::{Value, VisitCounts, values},
    walk::{Walk, WalkResult},
};

static NO_FIELDS: std::sync::LazyLock<KindTable> = std::sync::LazyLock::new(KindTable::default);

/// A parsed text.
#[derive(Debug)]
pub struct ManifestText<'t> {
    pub(super) text: &'t str,
    pub(super) fields: &'t KindTable,
    pub(super) tree: Tree,
    pub(super) values: Vec<Value>,
    pub(super) visits: VisitCounts,
    templates: Vec<Template>,
    strangers: Vec<usize>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The positions of the images of the templates: the document, counted from 1, and the indexes in it.
    pub(super) claimed: BTreeSet<(usize, Vec<usize>)>,
}

impl<'t> ManifestText<'t> {
    /// Parses a text with the built-in table of kinds.
    ///
    /// # Errors
    /// Those of [`ManifestText::read_with`].
    pub fn read(text: &'t str) -> Result<Self, ManifestError> {
        Self::read_with(text, &NO_FIELDS)
    }

    /// Parses a text as [`ManifestText::read_file`] does; the text has no file name of kustomize.
    ///
    /// # Errors
    /// Those of [`ManifestText::read_file`].
    pub fn read_with(text: &'t str, fields: &'t KindTable) -> Result<Self, ManifestError> {
        Self::read_file(text, fields, false)
    }

    /// Parses a text. In a kustomize file, a document without `apiVersion` and `kind` is a Kustomization.
    ///
    /// # Errors
    /// When the text is not YAML, or its aliases or values exceed the limits.
    pub fn read_file(text: &'t str, fields: &'t KindTable, is_kustomization: bool) -> Result<Self, ManifestError> {
        let tree = Tree::parse(text)?;
        let values = values(&tree)?;
        let visits = VisitCounts::of(&tree, &values);
        let (mut found, mut strangers) = (WalkResult::default(), Vec::new());
        for (index, value) in values.iter().enumerate() {
            let document = index + 1;
            let object = Object::of(value).or_else(|| is_kustomization.then(|| Object::kustomization(value)).flatten());
            if let Some(object) = object {
                Walk { text, tree: &tree, fields, document, found: &mut found }.document(value, &object);
            } else if !value.is_empty_document() {
                strangers.push(document);
            }
        }
        let WalkResult { templates, namespaces, mut claimed } = found;
        // A text with a placeholder is not an image yet, but may name one.
        for template in &templates {
            for image in template.images.iter().filter(|image| image.placeholder.is_some()) {
                claimed.remove(&(template.document, image.path.clone()));
            }
        }
        Ok(Self { text, fields, tree, values, visits, templates, strangers, namespaces, claimed })
    }

    /// Returns the Pod templates and other images, in the order of the text.
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// Returns the documents that are neither empty nor Kubernetes objects, counted from 1: they are not changed.
    pub fn foreign_documents(&self) -> &[usize] {
        &self.strangers
    }

    /// Returns the labels of the Namespaces in the text.
    pub fn namespaces(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }

    /// Returns the duplicate keys of mappings: the last one counts, as for kubectl.
    pub fn duplicates(&self) -> &[ManifestError] {
        &self.tree.duplicates
    }

    /// Returns the documents as JSON; an empty one is null.
    pub fn documents(&self) -> impl Iterator<Item = serde_json::Value> {
        self.values.iter().map(Value::json)
    }
}
