//! The subject of selectors: the Pod of an image and its namespace.

use std::collections::{BTreeMap, HashMap};

use super::pod::JsonStr;

/// The label with the name of a namespace. Kubernetes sets it on every namespace.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The Pod and its namespace. The default is a Pod without labels in no namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodScope<'s> {
    /// Name of the namespace.
    pub namespace: &'s str,
    /// Labels of the namespace; `None` while they are not known, as for a new namespace.
    pub namespace_labels: Option<&'s BTreeMap<String, String>>,
    /// `metadata.labels` of the Pod, sorted by key.
    pub labels: &'s [(JsonStr<'s>, JsonStr<'s>)],
}

impl<'s> PodScope<'s> {
    /// Returns a label of the Pod.
    pub fn label(&self, key: &str) -> Option<&'s str> {
        let at = self.labels.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, value)| &**value)
    }

    /// Returns a label of the namespace. The label with its name comes from the name.
    pub fn namespace_label(&self, key: &str) -> Option<&'s str> {
        if key == NAMESPACE_NAME && !self.namespace.is_empty() {
            return Some(self.namespace);
        }
        self.namespace_labels?.get(key).map(String::as_str)
    }
}

/// Labels of namespaces, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces(HashMap<String, BTreeMap<String, String>>);

impl Namespaces {
    /// Returns the labels of a namespace, if it is known.
    pub fn labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.0.get(name)
    }

    /// Returns whether the watch has seen a namespace of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl FromIterator<(String, BTreeMap<String, String>)> for Namespaces {
    fn from_iter<I: IntoIterator<Item = (String, BTreeMap<String, String>)>>(namespaces: I) -> Self {
        Self(namespaces.into_iter().collect())
    }
}
