//! Retention policies: which images of a project are kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A retention policy. GET adds ids and priorities of rules and the next time of the schedule, which are left out here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPolicy {
    /// Harbor's id; not sent when there is none yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub id: i64,
    /// `or`, whatever else Harbor takes.
    #[serde(default)]
    pub algorithm: String,
    /// At most 15, no two alike.
    #[serde(default, deserialize_with = "super::null_is_empty")]
    pub rules: Vec<RetentionRule>,
    /// When it runs.
    #[serde(default)]
    pub trigger: RetentionTrigger,
    /// Whose policy it is.
    pub scope: RetentionScope,
}

fn is_zero(id: &i64) -> bool {
    *id == 0
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRule {
    /// Absent when false.
    #[serde(default)]
    pub disabled: bool,
    /// Always `retain`.
    #[serde(default)]
    pub action: String,
    /// `nDaysSinceLastPull`, `nDaysSinceLastPush`, `latestPulledN`, `latestPushedK` or `always`. Harbor takes any text.
    #[serde(default)]
    pub template: String,
    /// The number, by the name of the template. Harbor takes anything.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// The tags.
    #[serde(default, deserialize_with = "super::null_is_empty")]
    pub tag_selectors: Vec<RetentionSelector>,
    /// The repositories, by `repository`.
    #[serde(default)]
    pub scope_selectors: BTreeMap<String, Vec<RetentionSelector>>,
}

/// Names by a glob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionSelector {
    /// Always `doublestar`.
    #[serde(default)]
    pub kind: String,
    /// `matches` or `excludes` of tags, `repoMatches` or `repoExcludes` of repositories.
    #[serde(default)]
    pub decoration: String,
    /// The glob.
    #[serde(default)]
    pub pattern: String,
    /// JSON in a string: `{"untagged":true}`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub extras: String,
}

/// When a retention policy runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionTrigger {
    /// Always `Schedule`.
    #[serde(default)]
    pub kind: String,
    /// The schedule.
    #[serde(default)]
    pub settings: RetentionSchedule,
}

/// The schedule of a retention policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionSchedule {
    /// Six fields, or empty.
    #[serde(default)]
    pub cron: String,
}

/// Whose retention policy it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionScope {
    /// `project`: Harbor knows no other.
    pub level: String,
    /// Harbor's id of the project.
    #[serde(rename = "ref")]
    pub reference: i64,
}

impl RetentionPolicy {
    /// The same for a project, with the id of the policy that it has, or 0.
    #[must_use]
    pub fn of(&self, project_id: i64, id: i64) -> Self {
        let scope = RetentionScope { level: "project".to_owned(), reference: project_id };
        Self { id, scope, ..self.clone() }
    }
}
