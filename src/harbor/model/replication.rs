//! Replication policies, their executions, and the tasks of executions.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::null_is_empty;

/// A replication policy as GET returns it: Harbor's fields, and the content that this client writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ReplicationPolicy {
    pub id: i64,
    #[serde(default, deserialize_with = "zero_is_none")]
    pub creation_time: Option<Timestamp>,
    /// The fields of POST and PUT. Read back, they equal the sent ones, except for a negative `speed` (0 then).
    #[serde(flatten)]
    pub content: ReplicationPolicyContent,
}

/// The body of POST and PUT /replication/policies. PUT replaces the whole policy, so every field is always sent. A field that
/// GET omits is false, empty or `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationPolicyContent {
    /// Unique; 1 to 256 characters (longer: 500).
    pub name: String,
    /// Free text; contains the marker.
    #[serde(default)]
    pub description: String,
    /// Source registry; id 0 is Harbor itself. Exactly one of the two registries is not Harbor.
    #[serde(default)]
    pub src_registry: RegistryReference,
    /// Destination registry; id 0 is Harbor itself.
    #[serde(default)]
    pub dest_registry: RegistryReference,
    /// Project, or project and path; empty: the source's own.
    #[serde(default)]
    pub dest_namespace: String,
    /// Levels of the source's path that `dest_namespace` replaces. -1: all but the last, as in a Harbor without this field.
    #[serde(default = "replace_all")]
    pub dest_namespace_replace_count: i8,
    /// Filters; all must match.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub filters: Vec<ReplicationFilter>,
    /// The trigger; absent in Harbor: manual.
    #[serde(default)]
    pub trigger: ReplicationTrigger,
    /// Whether the policy is enabled. A disabled policy does not run, not even manually (412).
    #[serde(default)]
    pub enabled: bool,
    /// Whether a tag that already exists at the destination is moved.
    #[serde(rename = "override", default)]
    pub override_: bool,
    /// Whether deletions are replicated, with an event-based trigger. (Harbor ignores `replicate_deletion`.)
    #[serde(default)]
    pub deletion: bool,
    /// KiB/s for each worker; 0: no limit.
    #[serde(default)]
    pub speed: i32,
    /// Whether blobs are copied in chunks.
    #[serde(default)]
    pub copy_by_chunk: bool,
    /// Whether a run that begins during another one fails at once, without any work. Harbor answers 500 to this option with an
    /// event-based trigger.
    #[serde(default)]
    pub single_active_replication: bool,
}

impl Default for ReplicationPolicyContent {
    /// A policy without name and filters, disabled and manual: Harbor's defaults for omitted fields.
    fn default() -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            src_registry: RegistryReference::default(),
            dest_registry: RegistryReference::default(),
            dest_namespace: String::new(),
            dest_namespace_replace_count: replace_all(),
            filters: Vec::new(),
            trigger: ReplicationTrigger::default(),
            enabled: false,
            override_: false,
            deletion: false,
            speed: 0,
            copy_by_chunk: false,
            single_active_replication: false,
        }
    }
}

/// One end of a policy. GET returns the whole registry; only its id is written and compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryReference {
    /// Id of a registry; 0 is Harbor itself.
    pub id: i64,
}

impl RegistryReference {
    /// Harbor itself.
    pub const LOCAL: Self = Self { id: 0 };
}

/// One filter of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationFilter {
    /// [`NAME`](Self::NAME), [`TAG`](Self::TAG), [`LABEL`](Self::LABEL) or [`RESOURCE`](Self::RESOURCE).
    #[serde(rename = "type")]
    pub type_: String,
    /// A pattern, or the names of labels.
    pub value: FilterValue,
    /// `matches` or `excludes`, only for tags and labels; empty (absent in Harbor) means `matches`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub decoration: String,
}

impl ReplicationFilter {
    /// The repository's full name, with `*`, `**`, `?` and `{a,b}`.
    pub const NAME: &str = "name";
    /// The tag, with the same wildcards.
    pub const TAG: &str = "tag";
    /// Labels; the artifact needs all of them.
    pub const LABEL: &str = "label";
    /// `image` or `artifact`.
    pub const RESOURCE: &str = "resource";
}

/// The value of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FilterValue {
    /// Value of a name, tag or resource filter.
    Text(String),
    /// Value of a label filter.
    List(Vec<String>),
    /// Value that another client wrote; never sent by this one.
    Other(serde_json::Value),
}

/// The trigger of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationTrigger {
    /// [`MANUAL`](Self::MANUAL), [`SCHEDULED`](Self::SCHEDULED) or [`EVENT_BASED`](Self::EVENT_BASED).
    #[serde(rename = "type")]
    pub type_: String,
    /// Only for `scheduled`, although Harbor stores any value.
    #[serde(default, skip_serializing_if = "TriggerSettings::is_empty")]
    pub trigger_settings: TriggerSettings,
}

impl ReplicationTrigger {
    /// Runs manually.
    pub const MANUAL: &str = "manual";
    /// Runs by a cron schedule.
    pub const SCHEDULED: &str = "scheduled";
    /// Runs at each push, and with `deletion` at each deletion.
    pub const EVENT_BASED: &str = "event_based";
}

impl Default for ReplicationTrigger {
    fn default() -> Self {
        Self { type_: Self::MANUAL.to_owned(), trigger_settings: TriggerSettings::default() }
    }
}

/// The settings of a trigger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TriggerSettings {
    /// Six fields, seconds `0`, minutes not `*`, in UTC. A schedule that never fires hangs Harbor's job service: validate it
    /// first.
    pub cron: String,
}

impl TriggerSettings {
    fn is_empty(&self) -> bool {
        self.cron.is_empty()
    }
}

/// One run of a policy. Its status lags its tasks by up to 30 s.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ReplicationExecution {
    /// Harbor's id; a later run has a higher one.
    pub id: i64,
    /// Id of the policy.
    pub policy_id: i64,
    /// [`IN_PROGRESS`](Self::IN_PROGRESS), [`SUCCEED`](Self::SUCCEED), [`FAILED`](Self::FAILED) or
    /// [`STOPPED`](Self::STOPPED).
    #[serde(default)]
    pub status: String,
    /// Why it failed before it had tasks, or that there was nothing to do; otherwise empty.
    #[serde(default)]
    pub status_text: String,
    /// The type of trigger that started it.
    #[serde(default)]
    pub trigger: String,
    #[serde(default, deserialize_with = "zero_is_none")]
    pub start_time: Option<Timestamp>,
    /// End time; `None` while it runs.
    #[serde(default, deserialize_with = "zero_is_none")]
    pub end_time: Option<Timestamp>,
    /// Number of tasks, one for each repository.
    #[serde(default)]
    pub total: i64,
    /// Tasks that succeeded.
    #[serde(default)]
    pub succeed: i64,
    /// Tasks that failed.
    #[serde(default)]
    pub failed: i64,
    /// Tasks that wait or run.
    #[serde(default)]
    pub in_progress: i64,
    /// Tasks that were stopped.
    #[serde(default)]
    pub stopped: i64,
}

impl ReplicationExecution {
    /// The execution has not ended, or its end is not recorded.
    pub const IN_PROGRESS: &str = "InProgress";
    /// All tasks succeeded, or there were none.
    pub const SUCCEED: &str = "Succeed";
    /// At least one task failed, or no task could be created.
    pub const FAILED: &str = "Failed";
    /// A user stopped the execution.
    pub const STOPPED: &str = "Stopped";

    /// Returns whether it has ended. Harbor writes the status first, and the end time a moment later.
    pub fn is_final(&self) -> bool {
        self.end_time.is_some() && [Self::SUCCEED, Self::FAILED, Self::STOPPED].contains(&self.status.as_str())
    }

    /// Returns whether Harbor no longer changes it. A run that fails before it has tasks is [`STOPPED`](Self::STOPPED) for a
    /// moment, and only then [`FAILED`](Self::FAILED) with its reason.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        let may_yet_fail = self.status == Self::STOPPED && self.total == 0;
        let ended = self.end_time.unwrap_or(now).as_second();
        self.is_final() && (!may_yet_fail || ended + PASSING_SECONDS < now.as_second())
    }
}

/// The copy of one repository within an execution. Harbor reports the cause of a failure only in the task's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ReplicationTask {
    pub id: i64,
    pub execution_id: i64,
    /// `Pending`, `InProgress`, `Succeed`, `Failed` or `Stopped`.
    #[serde(default)]
    pub status: String,
    /// `copy` or `deletion`.
    #[serde(default)]
    pub operation: String,
    /// `image` when pulled from a plain registry, `artifact` when pushed from Harbor.
    #[serde(default)]
    pub resource_type: String,
    /// `project/repository [2 item(s) in total]`.
    #[serde(default)]
    pub src_resource: String,
    /// As `src_resource`, at the destination.
    #[serde(default)]
    pub dst_resource: String,
    #[serde(default, deserialize_with = "zero_is_none")]
    pub start_time: Option<Timestamp>,
    /// End time; `None` while it runs.
    #[serde(default, deserialize_with = "zero_is_none")]
    pub end_time: Option<Timestamp>,
}

impl ReplicationTask {
    /// Returns the repository at the source, without the count of items.
    pub fn source_repository(&self) -> &str {
        self.src_resource.split_once(" [").map_or(self.src_resource.as_str(), |(name, _)| name)
    }
}

/// POST /replication/executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StartReplication {
    pub policy_id: i64,
}

/// Returns why a task failed, from its log: the last `[ERROR]` that names a cause, without time and source location, and with a
/// registry's message instead of its JSON. `None` for a log without an error.
pub fn replication_failure(log: &str) -> Option<String> {
    let errors = log.lines().filter_map(|line| line.split_once("[ERROR] ").map(|(_, rest)| rest));
    // `[/src/…/transfer.go:140]: message`
    let mut messages = errors.map(|rest| rest.split_once("]: ").map_or(rest, |(_, message)| message).trim());
    let message = messages.rfind(|message| !message.is_empty() && !message.contains(FAILED_AS_A_WHOLE))?;
    let Some((head, body)) = message.split_once(", body: ") else {
        return Some(message.to_owned());
    };
    let answer: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let detail = answer.pointer("/errors/0/message").and_then(serde_json::Value::as_str);
    Some(detail.map_or_else(|| message.to_owned(), |detail| format!("{head}: {detail}")))
}

/// How long a failing run may show as stopped: about 0.2 s, and the clocks may differ.
const PASSING_SECONDS: i64 = 10;

/// The last line in the log of each failed task.
const FAILED_AS_A_WHOLE: &str = "got error during the whole transfer period";

fn replace_all() -> i8 {
    -1
}

/// Harbor writes an unset time as year 1.
fn zero_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let time = Option::<Timestamp>::deserialize(deserializer)?;
    Ok(time.filter(|time| *time > Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_minimal_policy_of_harbor_reads_as_its_defaults() {
        let read: ReplicationPolicy = serde_json::from_value(json!({
            "copy_by_chunk": false, "creation_time": "2026-11-21T08:18:02.197Z", "dest_namespace_replace_count": -1,
            "dest_registry": {"creation_time": "0001-01-01T00:00:00.000Z",
                "credential": {"access_secret": "*****", "type": "secret"}, "id": 0, "insecure": true, "name": "Local"},
            "filters": null, "id": 1, "name": "pull-min", "single_active_replication": false, "speed": 0,
            "src_registry": {"credential": {}, "description": "no auth", "id": 1, "name": "up1"},
            "update_time": "2026-11-21T08:18:02.197Z"
        }))
        .unwrap();
        let expected = ReplicationPolicyContent {
            name: "pull-min".to_owned(),
            src_registry: RegistryReference { id: 1 },
            ..Default::default()
        };
        assert_eq!(read.content, expected);
        assert_eq!(read.id, 1);
        assert!(read.creation_time.is_some());
    }

    #[test]
    fn everything_is_sent_because_put_replaces_everything() {
        let sent = serde_json::to_value(ReplicationPolicyContent::default()).unwrap();
        let names: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
        for name in ["enabled", "override", "deletion", "speed", "filters", "trigger", "dest_namespace", "description"]
        {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert_eq!(sent["trigger"], json!({"type": "manual"}));
        assert_eq!(sent["dest_registry"], json!({"id": 0}));
    }

    #[test]
    fn a_filter_keeps_the_shape_of_its_value() {
        for filter in [
            json!({"type": "name", "value": "app/{single,multi}"}),
            json!({"type": "tag", "value": "v*", "decoration": "matches"}),
            json!({"type": "label", "value": ["l1"], "decoration": "excludes"}),
            json!({"type": "name", "value": 5}),
        ] {
            let read: ReplicationFilter = serde_json::from_value(filter.clone()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), filter);
        }
    }

    #[test]
    fn the_reason_of_a_failed_task_is_read_from_its_log() {
        let log = "2026-11-21T16:39:32Z [INFO] [/src/transfer.go:290]: copying the blob sha256:7ccb(the 5th running)...\n\
            2026-11-21T16:39:32Z [ERROR] [/src/transfer.go:195]: http status code: 403, body: \
            {\"errors\":[{\"code\":\"DENIED\",\"message\":\"adding 295.2 KiB will exceed the upper limit of 300 B.\"}]}\n\
            2026-11-21T16:39:32Z [ERROR] [/src/transfer.go:201]: got error during the whole transfer period, mark the job failure\n";
        let expected = "http status code: 403: adding 295.2 KiB will exceed the upper limit of 300 B.";
        assert_eq!(replication_failure(log).as_deref(), Some(expected));
        let plain = "2026-11-21T16:39:32Z [ERROR] [/src/transfer.go:195]: dial tcp 127.0.0.1:9: connection refused\n";
        assert_eq!(replication_failure(plain).as_deref(), Some("dial tcp 127.0.0.1:9: connection refused"));
        assert_eq!(replication_failure("2026-11-21T16:39:32Z [INFO] [/src/x.go:1]: copied\n"), None);
    }

    #[test]
    fn a_running_execution_has_no_end() {
        let read: ReplicationExecution = serde_json::from_value(json!({
            "end_time": "0001-01-01T00:00:00.000Z", "failed": 0, "id": 60, "in_progress": 0, "policy_id": 15,
            "start_time": "2026-11-21T08:25:24.481Z", "status": "InProgress", "status_text": "", "stopped": 0,
            "succeed": 1, "total": 1, "trigger": "event_based"
        }))
        .unwrap();
        assert!(!read.is_final() && read.end_time.is_none() && read.start_time.is_some());
    }

    #[test]
    fn a_run_that_was_stopped_without_a_task_may_yet_fail_for_a_while() {
        let ended = Timestamp::from_second(1_800_000_000).unwrap();
        let after = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let stopped = ReplicationExecution {
            status: ReplicationExecution::STOPPED.to_owned(),
            end_time: Some(ended),
            ..Default::default()
        };
        assert!(stopped.is_final() && !stopped.is_settled(after(1)) && stopped.is_settled(after(11)));
        let with_task = ReplicationExecution { total: 1, stopped: 1, ..stopped };
        assert!(with_task.is_settled(after(0)));
        let half_written = ReplicationExecution { end_time: None, ..with_task };
        assert!(!half_written.is_settled(after(60)), "the end follows the status");
    }
}
