//! Label selectors (meta/v1 LabelSelector), compiled.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::limits::steps;
use super::pod_scope::PodScope;

/// Selects Pods by the labels of their namespaces and their own labels. The default selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selectors {
    /// Selects the namespaces.
    pub namespaces: Selector,
    /// Selects the Pods.
    pub objects: Selector,
}

/// The problem of one of the two selectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {error}")]
pub struct SelectorsError {
    /// `namespaceSelector` or `objectSelector`.
    pub field: &'static str,
    /// The problem.
    pub error: SelectorError,
}

/// Selects objects by labels. The default selects all objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// The problem of a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Kubernetes has no such operator.
    #[error("operator {operator:?} of key {key:?} is unknown: use In, NotIn, Exists or DoesNotExist")]
    Operator {
        /// `key` of the requirement.
        key: String,
        /// `operator` of the requirement.
        operator: String,
    },
    /// `In` and `NotIn` need values, the other operators must have none.
    #[error("operator {operator} of key {key:?} {}", if *.missing { "needs values" } else { "takes no values" })]
    Values {
        /// `key` of the requirement.
        key: String,
        /// `operator` of the requirement.
        operator: String,
        /// True when values are missing; false when there are values that are not allowed.
        missing: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Selectors {
    /// Compiles the fields `namespaceSelector` and `objectSelector`; see [`Selector::compile`].
    pub fn compile(
        namespaces: Option<&LabelSelector>,
        objects: Option<&LabelSelector>,
    ) -> Result<Self, SelectorsError> {
        let compile = |field, selector| Selector::compile(selector).map_err(|error| SelectorsError { field, error });
        Ok(Self { namespaces: compile("namespaceSelector", namespaces)?, objects: compile("objectSelector", objects)? })
    }

    /// Returns whether they select all Pods.
    pub fn is_everything(&self) -> bool {
        self.namespaces.is_everything() && self.objects.is_everything()
    }

    /// Returns the steps to match them with a Pod; see [`super::limits::StepBudget`].
    pub fn steps(&self, globs: usize) -> u64 {
        let ((namespace_keys, namespace_values), (keys, values)) = (self.namespaces.size(), self.objects.size());
        // A binary search finds a label: at most 12 comparisons.
        steps((namespace_keys + keys).saturating_mul(2), namespace_values.saturating_add(values), globs)
    }

    /// Returns whether they select this Pod.
    pub fn matches(&self, subject: &PodScope<'_>) -> bool {
        self.namespaces.matches(|key| subject.namespace_label(key)) && self.objects.matches(|key| subject.label(key))
    }
}

impl Selector {
    /// Compiles a selector. An absent or empty selector selects all objects.
    pub fn compile(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else { return Ok(Self::default()) };
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<_> =
            labels.map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()])).collect();
        for expression in selector.match_expressions.iter().flatten() {
            requirements.push(Requirement::read(expression)?);
        }
        Ok(Self(requirements))
    }

    /// Returns whether it selects all objects.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of requirements, and the number of their values.
    pub(super) fn size(&self) -> (usize, usize) {
        let values = self.0.iter().map(|requirement| match requirement {
            Requirement::In(_, values) | Requirement::NotIn(_, values) => values.len(),
            Requirement::Exists(_) | Requirement::DoesNotExist(_) => 0,
        });
        (self.0.len(), values.sum())
    }

    /// Returns whether it uses no other label than this one.
    pub fn asks_only_for(&self, key: &str) -> bool {
        self.0.iter().all(|requirement| requirement.key() == key)
    }

    /// Returns whether it selects an object; `label` returns the object's label of a key. As in Kubernetes, `NotIn` also
    /// selects objects without the label.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        let is_one_of =
            |key: &str, values: &[String]| label(key).map(|label| values.iter().any(|value| value == label));
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => is_one_of(key, values) == Some(true),
            Requirement::NotIn(key, values) => is_one_of(key, values) != Some(true),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::DoesNotExist(key) => label(key).is_none(),
        })
    }
}

impl Requirement {
    fn read(expression: &LabelSelectorRequirement) -> Result<Self, SelectorError> {
        let LabelSelectorRequirement { key, operator, values } = expression;
        let values = values.clone().unwrap_or_default();
        let problem = |missing| SelectorError::Values { key: key.clone(), operator: operator.clone(), missing };
        match (operator.as_str(), values.is_empty()) {
            ("In", false) => Ok(Self::In(key.clone(), values)),
            ("NotIn", false) => Ok(Self::NotIn(key.clone(), values)),
            ("Exists", true) => Ok(Self::Exists(key.clone())),
            ("DoesNotExist", true) => Ok(Self::DoesNotExist(key.clone())),
            ("In" | "NotIn", true) => Err(problem(true)),
            ("Exists" | "DoesNotExist", false) => Err(problem(false)),
            _ => Err(SelectorError::Operator { key: key.clone(), operator: operator.clone() }),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::DoesNotExist(key) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selector(value: serde_json::Value) -> Result<Selector, SelectorError> {
        Selector::compile(Some(&serde_json::from_value(value).unwrap()))
    }

    #[test]
    fn labels_are_selected_as_kubernetes_does() {
        let table = [
            (json!({}), true),
            (json!({"matchLabels": {"team": "shop"}}), true),
            (json!({"matchLabels": {"team": "bank"}}), false),
            (json!({"matchLabels": {"team": "shop", "tier": "web"}}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["bank", "shop"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["shop"]}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist", "values": []}]}), true),
            (
                json!({"matchLabels": {"team": "shop"}, "matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}),
                false,
            ),
        ];
        for (value, expected) in table {
            let found = selector(value.clone()).unwrap().matches(|key| (key == "team").then_some("shop"));
            assert_eq!(found, expected, "{value}");
        }
        assert!(Selector::compile(None).unwrap().is_everything());
    }

    #[test]
    fn what_no_api_server_would_take_is_refused_with_the_key() {
        for (operator, values, reported) in [
            ("Gt", json!(["1"]), "operator \"Gt\" of key \"a\" is unknown"),
            ("In", json!([]), "operator In of key \"a\" needs values"),
            ("Exists", json!(["x"]), "operator Exists of key \"a\" takes no values"),
        ] {
            let value = json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
            let error = selector(value).unwrap_err().to_string();
            assert!(error.starts_with(reported), "{error}");
        }
    }
}
