//! What admission would do with the Pods of manifests, shared by all commands that use it.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1;

use super::sources::Sources;
use crate::{
    image::ImageRef,
    json_scan::{self, Unread},
    manifests::Template,
    rewrite::{PodChange, PodMutation, PodScope, RuleDecision, Rules, decide, pod::Pod},
};

/// Admission by rules, for Pods that do not exist yet.
#[derive(Debug)]
pub(super) struct TemplateAdmission<'a> {
    /// The active rules.
    pub(super) rules: &'a Rules,
    namespace: Option<&'a str>,
    /// Labels by namespace: those of the input take precedence over those of the sources.
    namespaces: BTreeMap<&'a str, &'a BTreeMap<String, String>>,
}

impl<'a> TemplateAdmission<'a> {
    /// Admission of Pods of the input, whose Namespaces have labels. `namespace` is the namespace of objects without one; its
    /// default is that of the sources.
    pub(super) fn new(
        rules: &'a Rules,
        sources: &'a Sources,
        namespace: Option<&'a str>,
        input: &'a BTreeMap<String, BTreeMap<String, String>>,
    ) -> Self {
        let known = sources.namespaces.iter().chain(input);
        Self {
            rules,
            namespace: namespace.or(sources.default_namespace.as_deref()),
            namespaces: known.map(|(name, labels)| (name.as_str(), labels)).collect(),
        }
    }

    /// Decides on a Pod of a template, and passes its scope and the result to a function.
    ///
    /// # Errors
    /// If the template of `file` is not a Pod.
    pub(super) fn admit<T>(
        &self,
        file: &str,
        template: &Template,
        take: impl FnOnce(&PodScope<'_>, &PodMutation<'_>) -> T,
    ) -> anyhow::Result<T> {
        let text = template.pod(self.namespace);
        let pod: Pod<'_> = json_scan::read(text.as_bytes())
            .map_err(|unread| reason(&text, unread))
            .with_context(|| file.to_owned())?;
        let namespace = template.object.namespace.as_deref().or(self.namespace).unwrap_or_default();
        let namespace_labels = self.namespaces.get(namespace).copied();
        let subject = PodScope { namespace, namespace_labels, labels: pod.labels() };
        Ok(take(&subject, &decide(PodChange::Create { pod: &pod }, self.rules, &subject)))
    }
}

/// Returns whether rules map the host of an image that is not at Harbor: it is, or would be, rewritten for some Pod.
pub(super) fn is_mapped(rules: &Rules, image: &str) -> bool {
    ImageRef::parse(image).is_ok_and(|image| {
        matches!(rules.find_for_anyone(&image), RuleDecision::Rewritten { .. } | RuleDecision::TooLong { .. })
    })
}

/// The error of a Pod that cannot be read, from a complete decode.
fn reason(text: &str, unread: Unread) -> anyhow::Error {
    serde_json::from_str::<v1::Pod>(text).map_or_else(Into::into, |_| unread.into())
}
