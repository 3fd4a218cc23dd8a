//! Where in objects of any kind Pod templates stand, and what of them matters.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    Error,
    tree::{NodeId, Tree},
    value::{Data, Value, Visits, values},
};
use crate::rewrite::pod::Kind;

/// Groups whose objects hold patterns, schemas and rules: what looks like a container there is none.
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

/// A text, read.
#[derive(Debug)]
pub struct Manifests<'t> {
    pub(super) text: &'t str,
    pub(super) tree: Tree,
    pub(super) values: Vec<Value>,
    pub(super) visits: Visits,
    templates: Vec<Template>,
    strangers: Vec<usize>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// The object that a template belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, where the object says one.
    pub namespace: Option<String>,
    /// `metadata.name`, or `metadata.generateName`; empty where there is neither.
    pub name: String,
}

/// A Pod, or what Pods are made from.
#[derive(Debug, Clone)]
pub struct Template {
    /// The document it stands in, counted from 1.
    pub document: usize,
    /// The line in which its specification begins, counted from 1.
    pub line: usize,
    /// The object it belongs to: the innermost one that has `apiVersion` and `kind`.
    pub object: Object,
    /// The labels that its Pods have; `None` where only the controller of a custom kind knows.
    pub labels: Option<BTreeMap<String, String>>,
    /// The annotations that its Pods have; `None` as with the labels.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Every image, in the order of [`Kind::ALL`].
    pub images: Vec<Image>,
    /// The names in `imagePullSecrets`.
    pub pull_secrets: Vec<String>,
    /// Indexes from the document to the specification.
    pub(super) path: Vec<usize>,
    /// The node that holds the specification.
    pub(super) spec: NodeId,
}

/// One image of a template.
#[derive(Debug, Clone)]
pub struct Image {
    /// The list it stands in.
    pub list: Kind,
    /// Index in that list.
    pub index: usize,
    /// Name of the container or volume.
    pub name: String,
    /// The image as written.
    pub image: String,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// Indexes from the document to the image.
    pub(super) path: Vec<usize>,
    pub(super) token: NodeId,
    pub(super) target: NodeId,
}

impl<'t> Manifests<'t> {
    /// Reads a text.
    ///
    /// # Errors
    /// What is no YAML, keys that stand twice in one mapping, and aliases without bounds.
    pub fn read(text: &'t str) -> Result<Self, Error> {
        let tree = Tree::parse(text)?;
        let values = values(&tree)?;
        let mut visits = Visits::default();
        values.iter().for_each(|value| value.count(&mut visits));
        let (mut templates, mut strangers, mut namespaces) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (index, value) in values.iter().enumerate() {
            let mut finding = Finding { tree: &tree, document: index + 1, templates: &mut templates };
            match Object::of(value) {
                Some(object) => finding.object(value, &object, &mut Vec::new(), &mut namespaces),
                None if matches!(&value.data, Data::Other(_)) => {}
                None => strangers.push(index + 1),
            }
        }
        Ok(Self { text, tree, values, visits, templates, strangers, namespaces })
    }

    /// The Pod templates, in the order of the text.
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// Documents that are neither empty nor objects of Kubernetes, counted from 1: nothing is looked for in them.
    pub fn strangers(&self) -> &[usize] {
        &self.strangers
    }

    /// The labels of the Namespaces that the text itself has.
    pub fn namespaces(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.namespaces
    }
}

impl Object {
    /// What a mapping says of itself, if it is an object.
    fn of(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value.get(key)?.text()?.to_owned());
        let metadata = |key: &str| Some(value.get("metadata")?.get(key)?.text()?.to_owned());
        let (api_version, kind) = (text("apiVersion")?, text("kind")?);
        let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
        Some(Self { api_version, kind, namespace: metadata("namespace"), name })
    }

    /// Whether this is a Pod of Kubernetes.
    pub fn is_pod(&self) -> bool {
        self.api_version == "v1" && self.kind == "Pod"
    }

    fn has_patterns(&self) -> bool {
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group);
        PATTERN_GROUPS.contains(&group)
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
    /// The Pod that comes of this template, as far as rewriting looks at it, as JSON. Each image keeps its list and index.
    ///
    /// `namespace` is where the object says none.
    pub fn pod(&self, namespace: Option<&str>) -> String {
        let mut spec = serde_json::Map::new();
        for list in Kind::ALL {
            let images = || self.images.iter().filter(|image| image.list == list);
            let Some(last) = images().map(|image| image.index).max() else { continue };
            let mut items = vec![json!({}); last + 1];
            for image in images() {
                if let Some(item) = items.get_mut(image.index) {
                    *item = match list {
                        Kind::Volumes => json!({"name": image.name, "image": {"reference": image.image}}),
                        _ => json!({"name": image.name, "image": image.image}),
                    };
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

struct Finding<'f> {
    tree: &'f Tree,
    document: usize,
    templates: &'f mut Vec<Template>,
}

impl Finding<'_> {
    fn object(
        &mut self,
        value: &Value,
        object: &Object,
        path: &mut Vec<usize>,
        namespaces: &mut BTreeMap<String, BTreeMap<String, String>>,
    ) {
        if object.has_patterns() {
            return;
        }
        if object.api_version == "v1" && object.kind == "Namespace" {
            let labels = value.get("metadata").and_then(|metadata| texts(metadata.get("labels")));
            namespaces.insert(object.name.clone(), labels.unwrap_or_default());
        }
        let Data::Map(entries) = &value.data else { return };
        for (index, (key, below)) in entries.iter().enumerate() {
            if !matches!(key.text(), Some("metadata" | "status")) {
                path.push(index);
                let metadata = object.is_pod().then(|| value.get("metadata")).flatten();
                let known = object.is_pod() && key.text() == Some("spec");
                self.within(below, object, Parent { metadata, known }, path, namespaces);
                path.pop();
            }
        }
    }

    fn within(
        &mut self,
        value: &Value,
        object: &Object,
        parent: Parent<'_>,
        path: &mut Vec<usize>,
        namespaces: &mut BTreeMap<String, BTreeMap<String, String>>,
    ) {
        if let Some(inner) = Object::of(value) {
            return self.object(value, &inner, path, namespaces);
        }
        if is_pod_spec(value) {
            let template = self.template(value, object, &parent, path);
            self.templates.push(template);
        }
        let below = |key: Option<&str>| {
            let known = key == Some("spec");
            Parent { metadata: if known { value.get("metadata") } else { None }, known }
        };
        match &value.data {
            Data::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index);
                    self.within(item, object, below(None), path, namespaces);
                    path.pop();
                }
            }
            Data::Map(entries) => {
                for (index, (key, item)) in entries.iter().enumerate() {
                    path.push(index);
                    self.within(item, object, below(key.text()), path, namespaces);
                    path.pop();
                }
            }
            Data::Text(_) | Data::Other(_) => {}
        }
    }

    fn template(&self, spec: &Value, object: &Object, parent: &Parent<'_>, path: &[usize]) -> Template {
        let place = |value: &Value| self.tree.node(value.token).map_or((1, 1), |node| (node.line, node.column));
        let metadata = |field: &str| parent.metadata.and_then(|metadata| texts(metadata.get(field)));
        let known = |field: &str| metadata(field).or(parent.known.then(BTreeMap::new));
        let names = spec.get(PULL_SECRETS).and_then(Value::items).unwrap_or_default();
        let mut images = Vec::new();
        for list in Kind::ALL {
            let Some((at, entries)) = spec.entry(list.field()) else { continue };
            for (index, entry) in entries.items().unwrap_or_default().iter().enumerate() {
                let Some((steps, image)) = image_of(list, entry) else { continue };
                let Some(text) = image.text().filter(|text| !text.is_empty()) else { continue };
                let (line, column) = place(image);
                images.push(Image {
                    list,
                    index,
                    name: entry.get("name").and_then(Value::text).unwrap_or_default().to_owned(),
                    image: text.to_owned(),
                    line,
                    column,
                    path: [path, &[at, index], &*steps].concat(),
                    token: image.token,
                    target: image.target,
                });
            }
        }
        Template {
            document: self.document,
            line: place(spec).0,
            object: object.clone(),
            labels: known("labels"),
            annotations: known("annotations"),
            images,
            pull_secrets: names.iter().filter_map(|secret| Some(secret.get("name")?.text()?.to_owned())).collect(),
            path: path.to_owned(),
            spec: spec.target,
        }
    }
}

/// What stands around a value that may be a Pod's specification.
struct Parent<'v> {
    /// `metadata` beside it.
    metadata: Option<&'v Value>,
    /// Whether it is the `spec` of a Pod or of a template, so that labels that are not written are not there.
    known: bool,
}

fn is_pod_spec(value: &Value) -> bool {
    let lists = [Kind::Containers, Kind::InitContainers, Kind::EphemeralContainers];
    lists.iter().any(|list| {
        let items = value.get(list.field()).and_then(Value::items).unwrap_or_default();
        !items.is_empty() && items.iter().all(|item| item.get("name").and_then(Value::text).is_some())
    })
}

/// The image of an entry of a list, with the indexes that lead to it.
fn image_of(list: Kind, entry: &Value) -> Option<(Vec<usize>, &Value)> {
    let (first, image) = entry.entry("image")?;
    if list != Kind::Volumes {
        return Some((vec![first], image));
    }
    let (second, reference) = image.entry("reference")?;
    Some((vec![first, second], reference))
}

fn texts(value: Option<&Value>) -> Option<BTreeMap<String, String>> {
    let Data::Map(entries) = &value?.data else { return None };
    Some(entries.iter().filter_map(|(key, value)| Some((key.text()?.to_owned(), value.text()?.to_owned()))).collect())
}
