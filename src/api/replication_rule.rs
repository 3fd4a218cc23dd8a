//! ReplicationRule: which images Harbor copies to or from a registry, and when.

mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use status::{BlockedImage, BlockedImageState, ExecutionStatus, PendingRun, ReplicationRuleStatus, TaskFailure};

use super::common::{AdoptionPolicy, DeletionPolicy, HarborRef, Interval, LocalRef, ManagementPolicy};

/// Annotation whose value names one run: a new value starts one execution of the rule.
pub const RUN_NOW: &str = "harbor-pilot.dev/run-now";

/// Copies images between Harbor and a registry (Harbor: Administration, Replications).
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "harbor-pilot.dev",
    version = "v1alpha1",
    kind = "ReplicationRule",
    shortname = "hrr",
    category = "harbor",
    status = "ReplicationRuleStatus",
    derive = "PartialEq",
    cel,
    doc = "Copies images between Harbor and a registry.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "From", type_ = "string", json_path = ".spec.source.registryRef.name"),
    printcolumn(name = "To", type_ = "string", json_path = ".spec.destination.registryRef.name"),
    printcolumn(name = "Trigger", type_ = "string", json_path = ".spec.trigger.type"),
    printcolumn(name = "Last run", type_ = "string", json_path = ".status.lastExecution.status"),
    printcolumn(name = "Ended", type_ = "date", json_path = ".status.lastExecution.endTime"),
    printcolumn(name = "Next run", type_ = "string", json_path = ".status.nextScheduledTime", priority = 1),
    printcolumn(name = "Harbor", type_ = "string", json_path = ".spec.harborRef.name", priority = 1),
    printcolumn(name = "ID", type_ = "integer", json_path = ".status.id", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.harborRef.name == oldSelf.harborRef.name").message("harborRef is immutable"))]
#[x_kube(validation = Rule::new("has(self.source) != (has(self.destination) && has(self.destination.registryRef))")
    .message("set exactly one of source (Harbor pulls) and destination.registryRef (Harbor pushes)"))]
#[x_kube(validation = Rule::new("!has(self.source) || !has(self.trigger) || self.trigger.type != 'EventBased'")
    .message("trigger EventBased needs destination.registryRef: Harbor receives no events of other registries; use Scheduled"))]
#[x_kube(validation = Rule::new("!has(self.singleActive) || !self.singleActive || !has(self.trigger) || self.trigger.type != 'EventBased'")
    .message("singleActive cannot be used with trigger EventBased (Harbor answers 500 to it)"))]
#[x_kube(validation = Rule::new("!has(self.replicateDeletions) || !self.replicateDeletions || !has(self.trigger) || self.trigger.type == 'EventBased'")
    .message("replicateDeletions needs trigger EventBased: Harbor sees deletions only as events"))]
#[x_kube(validation = Rule::new("!has(self.afterScan) || !self.afterScan || (!has(self.source) && has(self.trigger) && self.trigger.type == 'EventBased')")
    .message("afterScan needs destination.registryRef and trigger EventBased: it repeats executions that a push started before its image was scanned"))]
pub struct ReplicationRuleSpec {
    /// The HarborInstance of this policy. Immutable.
    #[serde(default)]
    pub harbor_ref: HarborRef,
    /// Name in Harbor, 1 to 256 characters. Default: `metadata.name`. A change renames the policy in Harbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
    /// Description in Harbor, before our marker. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub description: Option<String>,
    /// Where Harbor pulls images from. Absent: Harbor pushes its own images to `destination.registryRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where images are copied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// When Harbor copies. Absent: not managed (a new policy is started manually).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Which images are copied: those that pass all filters. Absent: not managed (a new policy copies everything). `{}` is no
    /// filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filters>,
    /// Whether to overwrite an image with the same tag at the destination. Absent: not managed (Harbor does not).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "override")]
    pub override_: Option<bool>,
    /// Whether an image that is deleted in Harbor is also deleted at the destination. Needs `EventBased`. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicate_deletions: Option<bool>,
    /// Bandwidth of each task in KiB/s; -1 is unlimited. Absent: not managed (Harbor: unlimited).
    #[serde(default, rename = "speedKB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    #[x_kube(validation = Rule::new("self != 0").message("speedKB must be -1 (unlimited) or at least 1"))]
    pub speed_kb: Option<i32>,
    /// Whether blobs are copied in chunks, for destinations that limit the size of a request. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_by_chunk: Option<bool>,
    /// Whether a run fails immediately while another one is running. Not with `EventBased`. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub single_active: Option<bool>,
    /// Whether Harbor runs the policy. Absent: not managed (a new policy is enabled).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether to repeat, after the scan, executions that vulnerability prevention blocked because a pushed image was not scanned
    /// yet. Images that stay blocked are listed in `status.blockedImages`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_scan: bool,
    /// Whether the controller may write to Harbor.
    #[serde(default)]
    pub management_policy: ManagementPolicy,
    /// What to do when Harbor has a replication policy of this name without our marker.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
    /// What happens to the policy in Harbor when this resource is deleted. By default it is deleted, too: it contains no data, so
    /// there is nothing to purge.
    #[serde(default = "default_deletion_policy")]
    #[x_kube(validation = Rule::new("self != 'Purge'")
        .message("Purge deletes images, and a replication policy has none: use Delete"))]
    pub deletion_policy: DeletionPolicy,
    /// Stops reconciling this resource. Harbor still runs the policy: to stop that, set `enabled: false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// How often Harbor is compared with the spec. Default `5m`.
    #[serde(default = "default_interval")]
    pub interval: Interval,
}

fn default_interval() -> Interval {
    Interval::from_secs(300)
}

fn default_deletion_policy() -> DeletionPolicy {
    DeletionPolicy::Delete
}

/// Where images are pulled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The Registry that Harbor pulls from.
    pub registry_ref: LocalRef,
}

/// Where images are copied to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The Registry that Harbor pushes to. Absent: images are copied into Harbor itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_ref: Option<LocalRef>,
    /// Namespace at the destination, such as `mirror` or `mirror/hub`. If the destination is a Harbor, its first part is the
    /// project, which is created if it does not exist. `""` keeps the names of the source. Absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 255),
        regex(pattern = r"^([a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*)?$")
    )]
    pub namespace: Option<String>,
    /// How many leading components of an image's name `namespace` replaces. With `mirror`, `a/b/app` becomes `mirror/a/b/app` at
    /// 0, `mirror/b/app` at 1, and `mirror/app` at -1, which replaces all but the last. The execution fails if a name has fewer
    /// components. Absent: not managed (Harbor: -1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 64))]
    pub flatten_levels: Option<i32>,
}

/// When Harbor copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Scheduled') == has(self.cron)")
    .message("cron and type Scheduled require each other"))]
pub struct Trigger {
    /// What starts a run.
    #[serde(rename = "type")]
    pub type_: TriggerType,
    /// Schedule in UTC: second, minute, hour, day, month and weekday, such as `0 30 2 * * *`. For `Scheduled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 11, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[^ @]+( [^ ]+){5}$')")
        .message("cron must have 6 fields with one space between: second minute hour day month weekday, such as '0 30 2 * * *'"))]
    #[x_kube(validation = Rule::new("self.matches('^0 ')").message("the first field of cron, seconds, must be 0 (Harbor allows no other)"))]
    #[x_kube(validation = Rule::new("!self.matches('^[^ ]+ [*] ')").message("the second field of cron, minutes, must not be * (Harbor refuses to run every minute)"))]
    #[x_kube(validation = Rule::new("!self.matches('[ ,-]7[^ ]*$')").message("weekdays of cron are 0 (Sunday) to 6: Harbor has no 7"))]
    pub cron: Option<String>,
}

/// What starts a run. `harbor-pilot.dev/run-now` starts one at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TriggerType {
    /// Only a user, or the annotation `harbor-pilot.dev/run-now`.
    Manual,
    /// The schedule in `cron`.
    Scheduled,
    /// A push, retag or deletion of an image in Harbor.
    EventBased,
}

/// Which images are copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filters {
    /// Repositories, as a glob for the whole name without the host: `production/**`, `library/{nginx,redis}`. `*` matches
    /// characters of one component, `**` matches whole components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub name: Option<String>,
    /// Tags, as a glob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<TagFilter>,
    /// Labels of images in Harbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelFilter>,
    /// Type of content to copy. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceType>,
}

/// Which tags are copied or excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.matches) != has(self.excludes)").message("set exactly one of matches and excludes"))]
pub struct TagFilter {
    /// Tags that are copied, such as `v*` or `{latest,stable}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub matches: Option<String>,
    /// Tags that are excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub excludes: Option<String>,
}

/// Which labelled images are copied or excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.matches) != has(self.excludes)").message("set exactly one of matches and excludes"))]
pub struct LabelFilter {
    /// Images that have all of these labels are copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 128)))]
    pub matches: Option<Vec<String>>,
    /// Images that have one of these labels are excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 128)))]
    pub excludes: Option<Vec<String>>,
}

/// Type of content to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResourceType {
    /// Container images.
    Image,
    /// All other content of a registry: charts, signatures, bundles.
    Artifact,
}

impl ReplicationRule {
    /// Returns the name in Harbor.
    pub fn harbor_name(&self) -> &str {
        self.spec.name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// Returns the name of the Registry at the other end.
    pub fn registry_name(&self) -> &str {
        let (source, destination) = (self.spec.source.as_ref(), self.spec.destination.as_ref());
        let reference = source.map(|source| &source.registry_ref);
        let reference = reference.or_else(|| destination?.registry_ref.as_ref());
        reference.map_or("", |reference| reference.name.as_str())
    }

    /// Returns the value of the annotation that requests a run.
    pub fn run_token(&self) -> Option<&str> {
        super::common::token(&self.metadata, RUN_NOW)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(spec: Value) -> Result<ReplicationRule, serde_json::Error> {
        serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ReplicationRule", "metadata": {"name": "r"}, "spec": spec,
        }))
    }

    fn verdict(spec: Value) -> Result<(), String> {
        rule(spec).unwrap().validate_cel().map_err(|errors| errors.to_string())
    }

    fn pull(trigger: Value) -> Value {
        json!({"source": {"registryRef": {"name": "hub"}}, "trigger": trigger})
    }

    fn push(field: &str, value: Value) -> Value {
        let mut spec = json!({"destination": {"registryRef": {"name": "dr"}}, "trigger": {"type": "EventBased"}});
        spec[field] = value;
        spec
    }

    #[test]
    fn what_harbor_takes_is_taken() {
        for spec in [
            json!({"source": {"registryRef": {"name": "hub"}}}),
            json!({"source": {"registryRef": {"name": "hub"}}, "destination": {"namespace": "mirror", "flattenLevels": 0}}),
            pull(json!({"type": "Scheduled", "cron": "0 30 2 * * *"})),
            pull(json!({"type": "Scheduled", "cron": "0 */15 0-23/2 1,15 JAN-mar MON-FRI"})),
            pull(json!({"type": "Scheduled", "cron": "0 7 7 7 7 */7"})),
            push("afterScan", json!(true)),
            push("replicateDeletions", json!(true)),
            push(
                "filters",
                json!({"tag": {"excludes": "*-rc"}, "labels": {"matches": ["signed"]}, "resource": "Image"}),
            ),
        ] {
            assert_eq!(verdict(spec.clone()), Ok(()), "{spec}");
        }
    }

    #[test]
    fn what_harbor_refuses_or_misunderstands_is_refused_with_the_reason() {
        let cron = |cron: &str| pull(json!({"type": "Scheduled", "cron": cron}));
        for (spec, about) in [
            (json!({}), "exactly one of source"),
            (json!({"destination": {"namespace": "a"}}), "exactly one of source"),
            (
                json!({"source": {"registryRef": {"name": "a"}}, "destination": {"registryRef": {"name": "b"}}}),
                "exactly one of source",
            ),
            (pull(json!({"type": "EventBased"})), "EventBased needs destination"),
            (push("singleActive", json!(true)), "singleActive"),
            (
                json!({"destination": {"registryRef": {"name": "b"}}, "trigger": {"type": "Manual"}, "replicateDeletions": true}),
                "replicateDeletions",
            ),
            (json!({"destination": {"registryRef": {"name": "b"}}, "afterScan": true}), "afterScan"),
            (pull(json!({"type": "Scheduled"})), "cron and type Scheduled require"),
            (pull(json!({"type": "Manual", "cron": "0 0 2 * * *"})), "cron and type Scheduled require"),
            (cron("@daily"), "6 fields"),
            (cron("0 2 * * *"), "6 fields"),
            (cron("0 0  2 * * *"), "6 fields"),
            (cron("10 0 2 * * *"), "seconds"),
            (cron("0 * 2 * * *"), "minutes"),
            (cron("0 0 2 * * 7"), "weekdays"),
            (cron("0 0 2 * * 5-7"), "weekdays"),
            (push("speedKB", json!(0)), "speedKB"),
            (push("filters", json!({"tag": {}})), "exactly one of matches"),
            (push("filters", json!({"tag": {"matches": "a", "excludes": "b"}})), "exactly one of matches"),
            (push("filters", json!({"labels": {}})), "exactly one of matches"),
        ] {
            let error = verdict(spec.clone()).expect_err(&spec.to_string());
            assert!(error.contains(about), "{spec}: {error}");
        }
    }

    #[test]
    fn a_policy_is_deleted_with_its_rule_by_default_for_it_holds_no_data() {
        let spec = rule(json!({"source": {"registryRef": {"name": "hub"}}})).unwrap().spec;
        assert_eq!(spec.deletion_policy, DeletionPolicy::Delete);
    }

    #[test]
    fn a_run_is_asked_for_by_any_text_of_reasonable_length() {
        let mut rule = rule(json!({"source": {"registryRef": {"name": "hub"}}})).unwrap();
        assert_eq!(rule.run_token(), None);
        for (text, expected) in
            [("", None), ("2026-11-21", Some("2026-11-21".to_owned())), (&"ü".repeat(200), Some("ü".repeat(126)))]
        {
            rule.metadata.annotations = Some([(RUN_NOW.to_owned(), text.to_owned())].into());
            assert_eq!(rule.run_token().map(str::to_owned), expected);
        }
    }
}
