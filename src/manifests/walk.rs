//! Walks through an object and finds every image that is certain, at the known places of its kind and by shape.
//!
//! By shape: the items of a list whose name ends with `containers`; items of other lists, and mappings, with an `image` and
//! other fields of a container; and Pod templates (`template.spec` with containers).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ImageRole, KindTable, Object, Placeholder, Template, TemplateImage,
    field_path::{FieldPath, PathSegment},
    kind_table::{KnownKind, PullSecretsField},
    shape,
    template::SecretsPlace,
    tree::Tree,
    value::{Value, ValueData},
};
use crate::rewrite::pod::ImageLocation;

const PULL_SECRETS: &str = "imagePullSecrets";

/// The results of all documents.
#[derive(Debug, Default)]
pub(super) struct WalkResult {
    pub(super) templates: Vec<Template>,
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) claimed: BTreeSet<(usize, Vec<usize>)>,
}

/// The walk through one document.
pub(super) struct Walk<'w> {
    pub(super) text: &'w str,
    pub(super) tree: &'w Tree,
    pub(super) fields: &'w KindTable,
    pub(super) document: usize,
    pub(super) found: &'w mut WalkResult,
}

/// The current object.
struct WalkScope<'s> {
    object: &'s Object,
    known: KnownKind<'s>,
    /// The number of steps before the object.
    base: usize,
    /// Images outside of Pod specs.
    loose: Vec<TemplateImage>,
    secrets: Vec<SecretsPlace>,
}

/// The current position.
#[derive(Default)]
struct WalkPosition<'v> {
    /// Indexes from the document.
    path: Vec<usize>,
    steps: Vec<PathSegment<'v>>,
}

impl<'v> WalkPosition<'v> {
    fn enter(&mut self, index: usize, step: PathSegment<'v>) {
        self.path.push(index);
        self.steps.push(step);
    }

    fn leave(&mut self) {
        self.path.pop();
        self.steps.pop();
    }

    fn within(&self, scope: &WalkScope<'_>) -> &[PathSegment<'v>] {
        self.steps.get(scope.base..).unwrap_or_default()
    }
}

impl Walk<'_> {
    /// Walks through a document that is an object.
    pub(super) fn document(&mut self, value: &Value, object: &Object) {
        self.object(value, object, &mut WalkPosition::default());
    }

    fn object<'v>(&mut self, value: &'v Value, object: &Object, at: &mut WalkPosition<'v>) {
        if object.has_patterns() {
            return;
        }
        if object.api_version == "v1" && object.kind == "Namespace" {
            let labels = value.get("metadata").and_then(|metadata| texts(metadata.get("labels")));
            self.found.namespaces.insert(object.name.clone(), labels.unwrap_or_default());
        }
        let known = self.fields.of(object);
        let mut scope = WalkScope { object, known, base: at.steps.len(), loose: Vec::new(), secrets: Vec::new() };
        if object.is_kustomization() {
            self.kustomization(value, &mut scope, at);
        } else {
            for (index, (key, below)) in value.entries().iter().enumerate() {
                if let Some(name) = key.scalar_text().filter(|name| !matches!(*name, "metadata" | "status")) {
                    at.enter(index, PathSegment::Key(name));
                    self.within(below, value, &mut scope, at);
                    at.leave();
                }
            }
        }
        let WalkScope { loose, secrets, .. } = scope;
        let Some(first) = loose.first() else { return };
        self.found.templates.push(Template {
            document: self.document,
            line: first.line,
            object: object.clone(),
            labels: None,
            annotations: None,
            pull_secrets: secrets.iter().flat_map(|place| place.present.iter().cloned()).collect(),
            images: loose,
            secrets,
        });
    }

    fn within<'v>(
        &mut self,
        value: &'v Value,
        parent: &'v Value,
        scope: &mut WalkScope<'_>,
        at: &mut WalkPosition<'v>,
    ) {
        let item = || Object::of_item(value, scope.object, at.within(scope));
        if let Some(inner) = Object::of(value).or_else(item) {
            return self.object(value, &inner, at);
        }
        let steps = at.within(scope);
        if scope.known.is_listed(steps) || scope.known.is_ignored(steps) {
            return;
        }
        if scope.known.is_image(steps) {
            let own =
                parent.get("name").and_then(Value::text).filter(|_| steps.last() == Some(&PathSegment::Key("image")));
            let name = own.unwrap_or_else(|| shape::name_before(steps)).to_owned();
            self.take(value, parent, &name, scope, at);
        }
        let is_spec =
            shape::has_containers(value) && (shape::is_template_spec(steps) || scope.known.is_pod_spec(steps));
        if is_spec {
            let template = self.template(value, parent, scope, at);
            self.found.templates.push(template);
        } else if let Some(taking) = scope.known.taking(at.within(scope))
            && matches!(value.data, ValueData::Map(_))
        {
            scope.secrets.push(secrets_place(value, &at.path, taking));
        }
        if shape::is_docker_image(value, scope.object, at.within(scope))
            && let Some((index, name)) = value.entry("name")
        {
            at.enter(index, PathSegment::Key("name"));
            self.take(name, value, "from", scope, at);
            at.leave();
        }
        if !is_spec && shape::is_container(value, at.within(scope)) {
            self.take_of(value, scope, at);
        }
        match &value.data {
            ValueData::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    at.enter(index, PathSegment::Item(index));
                    self.within(item, value, scope, at);
                    at.leave();
                }
            }
            ValueData::Map(entries) => {
                for (index, (key, item)) in entries.iter().enumerate() {
                    let Some(name) = key.scalar_text() else { continue };
                    if is_spec && shape::POD_LISTS.contains(&name) {
                        continue;
                    }
                    at.enter(index, PathSegment::Key(name));
                    self.within(item, value, scope, at);
                    at.leave();
                }
            }
            ValueData::Text(_) | ValueData::Other(_) => {}
        }
    }

    /// Records the `image` of a mapping that is a container.
    fn take_of<'v>(&mut self, container: &'v Value, scope: &mut WalkScope<'_>, at: &mut WalkPosition<'v>) {
        let Some((index, image)) = container.entry("image") else { return };
        let name = container.get("name").and_then(Value::text).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| shape::name_before(&at.steps)).to_owned();
        at.enter(index, PathSegment::Key("image"));
        self.take(image, container, &name, scope, at);
        at.leave();
    }

    fn take(&mut self, value: &Value, parent: &Value, name: &str, scope: &mut WalkScope<'_>, at: &WalkPosition<'_>) {
        let index = scope.loose.len();
        let run_time = scope.known.has_runtime_text();
        if let Some(image) = self.image(value, parent, ImageLocation::Containers, index, run_time, at) {
            scope.loose.push(TemplateImage { name: name.to_owned(), ..image });
        }
    }

    /// Returns an image that was not recorded before.
    fn image(
        &mut self,
        value: &Value,
        parent: &Value,
        list: ImageLocation,
        index: usize,
        run_time: bool,
        at: &WalkPosition<'_>,
    ) -> Option<TemplateImage> {
        let node = self.tree.node(value.token)?;
        let unquoted = || {
            let source = self.text.get(node.span.start..).unwrap_or_default();
            let braces = matches!(value.data, ValueData::Map(_)) && source.starts_with("{{");
            braces.then(|| source.lines().next().unwrap_or_default())
        };
        let (text, placeholder) = match value.text() {
            // OpenShift: a trigger fills in an empty one.
            Some(text) if text.trim().is_empty() => return None,
            Some(text) => (text, Placeholder::of(text, run_time)),
            None => (unquoted()?, Some(Placeholder::Template)),
        };
        let (line, column) = (node.line, node.column);
        if !self.found.claimed.insert((self.document, at.path.clone())) {
            return None;
        }
        let policy = if list == ImageLocation::Volumes { "pullPolicy" } else { "imagePullPolicy" };
        Some(TemplateImage {
            list,
            index,
            name: String::new(),
            image: text.to_owned(),
            role: ImageRole::Image,
            pull_policy: parent.get(policy).and_then(Value::text).map(str::to_owned),
            placeholder,
            place: FieldPath(&at.steps).to_string(),
            line,
            column,
            path: at.path.clone(),
            token: value.token,
            target: value.target,
        })
    }

    fn template<'v>(
        &mut self,
        spec: &'v Value,
        parent: &'v Value,
        scope: &WalkScope<'_>,
        at: &mut WalkPosition<'v>,
    ) -> Template {
        let is_spec = at.steps.last() == Some(&PathSegment::Key("spec"));
        let metadata = parent.get("metadata").filter(|_| is_spec);
        let known =
            |field: &str| metadata.and_then(|metadata| texts(metadata.get(field))).or(is_spec.then(BTreeMap::new));
        let (labels, annotations) = (known("labels"), known("annotations"));
        let run_time = scope.known.has_runtime_text();
        let mut images = Vec::new();
        for list in ImageLocation::ALL {
            let Some((outer, entries)) = spec.entry(list.field()) else { continue };
            at.enter(outer, PathSegment::Key(list.field()));
            for (index, entry) in entries.items().unwrap_or_default().iter().enumerate() {
                at.enter(index, PathSegment::Item(index));
                if let Some(image) = self.image_of(list, index, entry, run_time, at) {
                    let name = entry.get("name").and_then(Value::text).unwrap_or_default();
                    images.push(TemplateImage { name: name.to_owned(), ..image });
                }
                at.leave();
            }
            at.leave();
        }
        let place = secrets_place(spec, &at.path, PullSecretsField { field: PULL_SECRETS.to_owned(), names: false });
        Template {
            document: self.document,
            line: self.tree.node(spec.token).map_or(1, |node| node.line),
            object: scope.object.clone(),
            labels,
            annotations,
            images,
            pull_secrets: place.present.clone(),
            secrets: vec![place],
        }
    }

    /// Returns the image of an entry of a list of a Pod spec.
    fn image_of<'v>(
        &mut self,
        list: ImageLocation,
        index: usize,
        entry: &'v Value,
        run_time: bool,
        at: &mut WalkPosition<'v>,
    ) -> Option<TemplateImage> {
        let (outer, image) = entry.entry("image")?;
        at.enter(outer, PathSegment::Key("image"));
        let found = if list == ImageLocation::Volumes {
            image.entry("reference").and_then(|(inner, reference)| {
                at.enter(inner, PathSegment::Key("reference"));
                let found = self.image(reference, image, list, index, run_time, at);
                at.leave();
                found
            })
        } else {
            self.image(image, entry, list, index, run_time, at)
        };
        at.leave();
        found
    }

    /// Records the entries of `images` of a Kustomization.
    fn kustomization<'v>(&mut self, value: &'v Value, scope: &mut WalkScope<'_>, at: &mut WalkPosition<'v>) {
        let Some((outer, images)) = value.entry("images") else { return };
        at.enter(outer, PathSegment::Key("images"));
        for (index, entry) in images.items().unwrap_or_default().iter().enumerate() {
            at.enter(index, PathSegment::Item(index));
            for (field, role) in [("name", ImageRole::KustomizeName), ("newName", ImageRole::KustomizeNewName)] {
                let Some((inner, text)) = entry.entry(field) else { continue };
                at.enter(inner, PathSegment::Key(field));
                let number = scope.loose.len();
                if let Some(image) = self.image(text, entry, ImageLocation::Containers, number, false, at) {
                    scope.loose.push(TemplateImage { name: format!("images[{index}].{field}"), role, ..image });
                }
                at.leave();
            }
            at.leave();
        }
        at.leave();
    }
}

fn secrets_place(value: &Value, path: &[usize], taking: PullSecretsField) -> SecretsPlace {
    let names = value.get(&taking.field).and_then(Value::items).unwrap_or_default();
    let name = |item: &Value| if taking.names { item.text() } else { item.get("name")?.text() }.map(str::to_owned);
    SecretsPlace { path: path.to_owned(), node: value.target, present: names.iter().filter_map(name).collect(), taking }
}

fn texts(value: Option<&Value>) -> Option<BTreeMap<String, String>> {
    let ValueData::Map(entries) = &value?.data else { return None };
    Some(entries.iter().filter_map(|(key, value)| Some((key.text()?.to_owned(), value.text()?.to_owned()))).collect())
}
