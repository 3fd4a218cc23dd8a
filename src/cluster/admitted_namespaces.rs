//! Selects the namespaces whose Pods the webhook configuration sends to admission. The controller warms images for these
//! only.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::rewrite::{
    NAMESPACE_NAME, PodScope,
    selector::{Selector, SelectorError},
};

/// The namespaces whose Pods reach admission.
#[derive(Debug, Clone)]
pub struct AdmittedNamespaces(Selector);

impl AdmittedNamespaces {
    /// Selects namespaces by the `namespaceSelector` of the webhook configuration.
    ///
    /// # Errors
    /// [`SelectorError`] when the API server would also refuse the selector.
    pub fn new(selector: &LabelSelector) -> Result<Self, SelectorError> {
        Selector::compile(Some(selector)).map(Self)
    }

    /// Selects all namespaces except `kube-system` and the operator's own, as `config/webhook` does. For a configuration
    /// without a selector.
    pub fn all_but_system(own: &str) -> Result<Self, SelectorError> {
        let values = vec!["kube-system".to_owned(), own.to_owned()];
        let (key, operator) = (NAMESPACE_NAME.to_owned(), "NotIn".to_owned());
        let requirement = LabelSelectorRequirement { key, operator, values: Some(values) };
        Self::new(&LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None })
    }

    /// Whether Pods of this namespace reach admission. `labels` are the namespace's labels, if known.
    pub(super) fn contains(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let subject = PodScope { namespace, namespace_labels: labels, labels: &[] };
        self.0.matches(|key| subject.namespace_label(key))
    }
}
