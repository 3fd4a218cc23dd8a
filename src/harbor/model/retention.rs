//! Retention policies: which images of a project Harbor keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A retention policy. GET also returns ids and priorities of rules and the next run; this type omits them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    /// Harbor's id; not sent if the policy has none yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub id: i64,
    /// Always `or`, although Harbor accepts other values.
    #[serde(default)]
    pub algorithm: String,
    /// At most 15, without duplicates.
    #[serde(default, deserialize_with = "super::null_is_empty")]
    pub rules: Vec<RetentionRule>,
    #[serde(default)]
    pub trigger: RetentionTrigger,
    pub scope: RetentionScope,
}

fn is_zero(id: &i64) -> bool {
    *id == 0
}

/// A rule: the images to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionRule {
    /// Absent when false.
    pub disabled: bool,
    /// Always `retain`.
    pub action: String,
    /// `nDaysSinceLastPull`, `nDaysSinceLastPush`, `latestPulledN`, `latestPushedK` or `always`. Harbor accepts any text.
    pub template: String,
    /// The number, under the name of the template. Harbor accepts any value.
    pub params: BTreeMap<String, Value>,
    #[serde(deserialize_with = "super::null_is_empty")]
    pub tag_selectors: Vec<RetentionSelector>,
    /// Selectors of repositories, under the key `repository`.
    pub scope_selectors: BTreeMap<String, Vec<RetentionSelector>>,
}

/// Selects names by a glob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionSelector {
    /// Always `doublestar`.
    pub kind: String,
    /// `matches` or `excludes` of tags, `repoMatches` or `repoExcludes` of repositories.
    pub decoration: String,
    pub pattern: String,
    /// JSON in a string: `{"untagged":true}`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub extras: String,
}

/// The trigger of a retention policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionTrigger {
    /// Always `Schedule`.
    pub kind: String,
    pub settings: RetentionSchedule,
}

/// The schedule of a retention policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetentionSchedule {
    /// Six fields, or empty.
    pub cron: String,
}

/// The project of a retention policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionScope {
    /// `project`: Harbor has no other.
    pub level: String,
    #[serde(rename = "ref")]
    pub reference: i64,
}

impl RetentionPolicy {
    /// Returns the policy for a project, with the id of its existing policy, or 0.
    #[must_use]
    pub fn of(&self, project_id: i64, id: i64) -> Self {
        let scope = RetentionScope { level: "project".to_owned(), reference: project_id };
        Self { id, scope, ..self.clone() }
    }
}
