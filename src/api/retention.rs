//! Which images of a project Harbor keeps.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Which images stay. Harbor removes the tags of all others when the schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// What is kept: an image stays if any rule keeps it. `[]` keeps everything: Harbor's own policy, with which each proxy
    /// project is born (what was pulled in the last 7 days), is deleted.
    #[schemars(length(max = 15))]
    pub rules: Vec<RetentionRule>,
    /// When the others are removed: second, minute, hour, day, month and weekday in UTC; seconds are 0. `""` is never. Default
    /// `0 0 0 * * *`, each midnight.
    #[serde(default = "midnight")]
    #[schemars(length(max = 128))]
    pub schedule: String,
}

fn midnight() -> String {
    "0 0 0 * * *".to_owned()
}

/// What is kept of some repositories. Exactly one of the first five.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.pulledWithinDays), has(self.pushedWithinDays), has(self.latestPulled), has(self.latestPushed), has(self.always) && self.always].filter(given, given).size() == 1")
    .message("a rule has exactly one of pulledWithinDays, pushedWithinDays, latestPulled, latestPushed and always: true"))]
pub struct RetentionRule {
    /// What was pulled in so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub pulled_within_days: Option<i32>,
    /// What was pushed, or cached, in so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub pushed_within_days: Option<i32>,
    /// The so many of a repository that were pulled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub latest_pulled: Option<i32>,
    /// The so many of a repository that were pushed, or cached, last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub latest_pushed: Option<i32>,
    /// Whatever it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
    /// The repositories, without the project's name. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Pattern>,
    /// The tags. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Pattern>,
    /// Whether images without a tag count as matched by `tags`. Absent: as Harbor has it, yes with `matches`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untagged: Option<bool>,
    /// The rule is kept in Harbor, and not looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// Names by a glob: `*` stands for characters but `/`, `**` for any, `{a,b}` for either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.matches) != has(self.excludes)").message("exactly one of matches and excludes"))]
pub struct Pattern {
    /// Names that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub matches: Option<String>,
    /// All names but those that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub excludes: Option<String>,
}
