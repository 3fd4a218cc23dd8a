//! Which images of a project Harbor keeps.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Which images stay. Harbor removes the tags of all others when the schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Retention rules: an image stays if any rule keeps it. `[]` keeps everything: Harbor's default policy of a proxy project
    /// (keep images pulled in the last 7 days) is deleted.
    #[schemars(length(max = 15))]
    pub rules: Vec<RetentionRule>,
    /// Schedule of the removal in UTC: second, minute, hour, day, month and weekday; seconds are 0. `""` is never. Default `0 0 0
    /// * * *`, each midnight.
    #[serde(default = "midnight")]
    #[schemars(length(max = 128))]
    pub schedule: String,
}

fn midnight() -> String {
    "0 0 0 * * *".to_owned()
}

/// A rule for some repositories. Set exactly one of the first five fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.pulledWithinDays), has(self.pushedWithinDays), has(self.latestPulled), has(self.latestPushed), has(self.always) && self.always].filter(given, given).size() == 1")
    .message("set exactly one of pulledWithinDays, pushedWithinDays, latestPulled, latestPushed and always: true"))]
pub struct RetentionRule {
    /// Keeps images pulled in the last N days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub pulled_within_days: Option<i32>,
    /// Keeps images pushed, or cached, in the last N days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub pushed_within_days: Option<i32>,
    /// Keeps the N most recently pulled images of each repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub latest_pulled: Option<i32>,
    /// Keeps the N most recently pushed, or cached, images of each repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub latest_pushed: Option<i32>,
    /// Keeps all images.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
    /// The repositories, without the project's name. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Pattern>,
    /// The tags. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Pattern>,
    /// Whether images without a tag match `tags`. Absent: Harbor's default, which is yes with `matches`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untagged: Option<bool>,
    /// Whether the rule is disabled: Harbor stores it and does not use it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// Names by a glob: `*` matches characters except `/`, `**` matches any characters, `{a,b}` matches either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.matches) != has(self.excludes)").message("set exactly one of matches and excludes"))]
pub struct Pattern {
    /// Names that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub matches: Option<String>,
    /// All names except those that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub excludes: Option<String>,
}
