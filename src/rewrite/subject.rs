//! Whose image it is: the Pod and its namespace, as far as selectors ask.

use std::collections::{BTreeMap, HashMap};

use super::pod::Text;

/// The label that every namespace has, with its name: Kubernetes sets it.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The Pod and its namespace. The default is a Pod without labels in no namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject<'s> {
    /// Name of the namespace.
    pub namespace: &'s str,
    /// Its labels; `None` while they are not known, as for a namespace that was just made.
    pub namespace_labels: Option<&'s BTreeMap<String, String>>,
    /// `metadata.labels` of the Pod, in the order of their keys.
    pub labels: &'s [(Text<'s>, Text<'s>)],
}

impl<'s> Subject<'s> {
    /// A label of the Pod.
    pub fn label(&self, key: &str) -> Option<&'s str> {
        let at = self.labels.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, value)| &**value)
    }

    /// A label of the namespace. The one with its name is known from the name.
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
    /// The labels of a namespace, if it is known.
    pub fn labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.0.get(name)
    }

    /// Whether a namespace of this name exists, as far as the watch has shown.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl FromIterator<(String, BTreeMap<String, String>)> for Namespaces {
    fn from_iter<I: IntoIterator<Item = (String, BTreeMap<String, String>)>>(namespaces: I) -> Self {
        Self(namespaces.into_iter().collect())
    }
}
