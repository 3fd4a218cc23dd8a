//! The namespaces that the webhook configuration selects, so that the controller warms nothing for the others.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::rewrite::{
    NAMESPACE_NAME, Subject,
    selector::{Selector, SelectorError},
};

/// The namespaces whose Pods reach admission.
#[derive(Debug, Clone)]
pub struct AdmittedNamespaces(Selector);

impl AdmittedNamespaces {
    /// Those that the `namespaceSelector` of the webhook configuration selects.
    ///
    /// # Errors
    /// [`SelectorError`] when the API server would refuse the selector as well.
    pub fn new(selector: &LabelSelector) -> Result<Self, SelectorError> {
        Selector::compile(Some(selector)).map(Self)
    }

    /// Without a selector: all but `kube-system` and the operator's own namespace, as `config/webhook` has it.
    pub fn all_but_system(own: &str) -> Result<Self, SelectorError> {
        let values = vec!["kube-system".to_owned(), own.to_owned()];
        let (key, operator) = (NAMESPACE_NAME.to_owned(), "NotIn".to_owned());
        let requirement = LabelSelectorRequirement { key, operator, values: Some(values) };
        Self::new(&LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None })
    }

    /// Whether Pods of this namespace reach admission. `labels` are those of the namespace, if they are known.
    pub(super) fn contains(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let subject = Subject { namespace, namespace_labels: labels, labels: &[] };
        self.0.matches(|key| subject.namespace_label(key))
    }
}
