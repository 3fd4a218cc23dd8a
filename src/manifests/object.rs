//! Objects of manifests.

use super::{field_path::PathSegment, value::Value};

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
    pub(super) fn kustomization(value: &Value) -> Option<Self> {
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
