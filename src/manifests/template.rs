//! Pod templates, and the images that their Pods run.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Object, kind_table::PullSecretsField, tree::NodeId};
use crate::rewrite::pod::ImageLocation;

const PULL_SECRETS: &str = "imagePullSecrets";

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
    /// Every image, in the order of `ImageLocation::ALL` of [`crate::rewrite`].
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
