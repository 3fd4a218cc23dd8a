//! Objects, and the images that their Pods run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    KindTable, ManifestError,
    field_path::PathSegment,
    kind_table::PullSecretsField,
    tree::{NodeId, Tree},
    value::{Value, VisitCounts, values},
    walk::{Walk, WalkResult},
};
use crate::rewrite::pod::ImageLocation;

/// Groups whose objects hold patterns, schemas and rules: a mapping that looks like a container is not one there.
pub const PATTERN_GROUPS: [&str; 8] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "constraints.gatekeeper.sh",
    "harbor-pilot.dev",
    "kyverno.io",
    "mutations.gatekeeper.sh",
    "policies.kyverno.io",
    "templates.gatekeeper.sh",
];

const PULL_SECRETS: &str = "imagePullSecrets";

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

/// The object of a template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, if the object has one.
    pub namespace: Option<String>,
    /// `metadata.name`, or `metadata.generateName`; empty if there is neither.
    pub name: String,
}

/// A Pod, a Pod template, or the images that an object of another kind names.
#[derive(Debug, Clone)]
pub struct Template {
    /// The document, counted from 1.
    pub document: usize,
    /// The first line of the spec, counted from 1.
    pub line: usize,
    /// The object of the template: the innermost one with `apiVersion` and `kind`.
    pub object: Object,
    /// The labels of its Pods; `None` where only the controller of a custom kind knows them.
    pub labels: Option<BTreeMap<String, String>>,
    /// The annotations of its Pods; `None` as for the labels.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Every image, in the order of [`Kind::ALL`].
    pub images: Vec<TemplateImage>,
    /// The names of the existing pull secrets.
    pub pull_secrets: Vec<String>,
    /// The mappings that take pull secrets for these images, by the schema of the kind.
    pub(super) secrets: Vec<SecretsPlace>,
}

/// A mapping that takes pull secrets.
#[derive(Debug, Clone)]
pub(super) struct SecretsPlace {
    /// Indexes from the document to the mapping.
    pub(super) path: Vec<usize>,
    /// The node of the mapping.
    pub(super) node: NodeId,
    pub(super) taking: PullSecretsField,
    /// The existing names.
    pub(super) present: Vec<String>,
}

/// One image of a template.
#[derive(Debug, Clone)]
pub struct TemplateImage {
    /// The list of the image; an image outside of a Pod spec counts as a container.
    pub list: ImageLocation,
    /// Index in that list.
    pub index: usize,
    /// Name of the container or volume; the place, if it has no name.
    pub name: String,
    /// The image as written.
    pub image: String,
    /// Which part of an image the text is.
    pub role: ImageRole,
    /// `imagePullPolicy` beside it.
    pub pull_policy: Option<String>,
    /// Whether a part of the image is filled in later.
    pub placeholder: Option<Placeholder>,
    /// The place in its document: `spec.containers[0].image`.
    pub place: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Indexes from the document to the image.
    pub(super) path: Vec<usize>,
    pub(super) token: NodeId,
    pub(super) target: NodeId,
}

/// Which part of an image a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageRole {
    /// The whole image.
    Image,
    /// `name` of an entry of `images` of a Kustomization: the image that the entry matches.
    KustomizeName,
    /// `newName` of such an entry: the new image without tag and digest.
    KustomizeNewName,
}

/// How a part of an image is filled in later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// `{{ … }}`: a template that is not rendered yet.
    Template,
    /// `${…}` or `$(…)`: a variable that is not substituted yet.
    Variable,
    /// Either, in a kind whose controller fills it in.
    RunTime,
}

impl<'t> ManifestText<'t> {
    /// Parses a text with the built-in table of kinds.
    ///
    /// # Errors
    /// Those of [`Manifests::read_with`].
    pub fn read(text: &'t str) -> Result<Self, ManifestError> {
        Self::read_with(text, &NO_FIELDS)
    }

    /// Parses a text as [`Manifests::read_file`] does; the text has no file name of kustomize.
    ///
    /// # Errors
    /// Those of [`Manifests::read_file`].
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

impl Object {
    /// Returns the object of a mapping, if it is one.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value.get(key)?.text()?.to_owned());
        let metadata = |key: &str| Some(value.get("metadata")?.get(key)?.text()?.to_owned());
        let (api_version, kind) = (text("apiVersion")?, text("kind")?);
        let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
        Some(Self { api_version, kind, namespace: metadata("namespace"), name })
    }

    /// Returns the object of an item of a typed list, such as a PodList, whose items lack `apiVersion` and `kind`: the API
    /// server omits them.
    pub(super) fn of_item(value: &Value, list: &Self, steps: &[PathSegment<'_>]) -> Option<Self> {
        let kind = list.kind.strip_suffix("List").filter(|kind| !kind.is_empty())?;
        let is_item = matches!(steps, [PathSegment::Key("items"), PathSegment::Item(_)]) && !value.entries().is_empty();
        let says = |key: &str| value.get(key).is_some();
        if !is_item || says("kind") || says("apiVersion") {
            return None;
        }
        let metadata = |key: &str| Some(value.get("metadata")?.get(key)?.text()?.to_owned());
        let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
        let (api_version, namespace) = (list.api_version.clone(), metadata("namespace"));
        Some(Self { api_version, kind: kind.to_owned(), namespace, name })
    }

    /// Returns the object of a mapping in a kustomize file, where `apiVersion` and `kind` are optional.
    fn kustomization(value: &Value) -> Option<Self> {
        let (api_version, kind) = ("kustomize.config.k8s.io/v1beta1".to_owned(), "Kustomization".to_owned());
        (!value.entries().is_empty()).then_some(Self { api_version, kind, ..Self::default() })
    }

    /// Returns whether this is a core/v1 Pod.
    pub fn is_pod(&self) -> bool {
        self.api_version == "v1" && self.kind == "Pod"
    }

    /// Returns whether this is a Kustomization or a Component.
    pub fn is_kustomization(&self) -> bool {
        self.group() == "kustomize.config.k8s.io"
    }

    /// Returns the part of `apiVersion` before the slash; empty for `v1`.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    pub(super) fn has_patterns(&self) -> bool {
        PATTERN_GROUPS.contains(&self.group())
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(if self.name.is_empty() { "(without a name)" } else { &self.name })
    }
}

impl Template {
    /// Returns whether the schema of the kind has a field for the pull secrets of these images.
    pub fn takes_pull_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Returns the Pod of this template as JSON, with the fields that rewriting reads. Each image keeps its list and index;
    /// an image with a placeholder is absent.
    ///
    /// `namespace` is the namespace if the object has none.
    pub fn pod(&self, namespace: Option<&str>) -> String {
        let mut spec = serde_json::Map::new();
        for list in ImageLocation::ALL {
            let images = || self.images.iter().filter(|image| image.list == list && image.placeholder.is_none());
            let Some(last) = images().map(|image| image.index).max() else { continue };
            let mut items = vec![json!({}); last + 1];
            for image in images() {
                if let Some(item) = items.get_mut(image.index) {
                    *item = image.item();
                }
            }
            spec.insert(list.field().to_owned(), items.into());
        }
        let secrets: Vec<_> = self.pull_secrets.iter().map(|name| json!({"name": name})).collect();
        spec.insert(PULL_SECRETS.to_owned(), secrets.into());
        json!({
            "metadata": {
                "name": self.object.name,
                "namespace": self.object.namespace.as_deref().or(namespace),
                "labels": self.labels.clone().unwrap_or_default(),
                "annotations": self.annotations.clone().unwrap_or_default(),
            },
            "spec": spec,
        })
        .to_string()
    }
}

impl TemplateImage {
    fn item(&self) -> serde_json::Value {
        let Self { name, image, pull_policy, .. } = self;
        match (self.list, pull_policy) {
            (ImageLocation::Volumes, None) => json!({"name": name, "image": {"reference": image}}),
            (ImageLocation::Volumes, Some(policy)) => {
                json!({"name": name, "image": {"reference": image, "pullPolicy": policy}})
            }
            (_, None) => json!({"name": name, "image": image}),
            (_, Some(policy)) => json!({"name": name, "image": image, "imagePullPolicy": policy}),
        }
    }
}

impl Placeholder {
    /// Returns the placeholder of a text; `run_time` says whether the kind fills in its texts at run time.
    pub(super) fn of(text: &str, run_time: bool) -> Option<Self> {
        let variable = text.contains("${") || text.contains("$(") || text.starts_with('$');
        match (text.contains("{{"), variable) {
            (false, false) => None,
            _ if run_time => Some(Self::RunTime),
            (true, _) => Some(Self::Template),
            _ => Some(Self::Variable),
        }
    }

    /// Returns the meaning of the placeholder, and the fix.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Template => "this is a chart template: render it first (`helm template`), and rewrite the output",
            Self::Variable => {
                "this is a variable: substitute it first (`envsubst`, `flux envsubst`; a Template \
                 of OpenShift: `oc process`)"
            }
            Self::RunTime => "the controller of this kind sets it at run time; admission rewrites the image of the Pod",
        }
    }
}
