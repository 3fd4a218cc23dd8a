use std::fmt::Debug;

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::summary::SummaryBuilder;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn object<K: DeserializeOwned + Debug>(kind: &str, name: &str, spec: Value, status: Value) -> K {
    let metadata = json!({"name": name, "generation": 1, "creationTimestamp": "2026-03-01T09:00:00Z"});
    serde_json::from_value(json!({
        "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, "status": status,
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, since: &str) -> Value {
    let since = format!("2026-03-01T{since}:00Z");
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
}

fn ready(reason: &str) -> Value {
    json!({"observedGeneration": 1, "conditions": [condition("Ready", "True", reason, "", "09:01")]})
}

fn merged(mut status: Value, more: &Value) -> Value {
    json_patch::merge(&mut status, more);
    status
}

fn cached(survey: &mut SummaryBuilder, name: &str, status: Value) {
    survey.image(&object("CachedImage", name, json!({"image": format!("docker.io/library/{name}:1")}), status));
}

fn failed(reason: &str, since: &str) -> Value {
    let message = format!("{reason} is why");
    json!({"observedGeneration": 1, "conditions": [condition("Ready", "False", reason, &message, since)]})
}

fn busy() -> SummaryBuilder {
    let mut survey = SummaryBuilder::new(3);
    let spec = json!({"url": "https://harbor.corp", "credentialsSecretRef": {"name": "harbor"}});
    let more = json!({"version": "v2.15.2", "unhealthyComponents": ["trivy", "redis"]});
    survey.instance(&object("HarborInstance", "default", spec, merged(ready("Degraded"), &more)));
    survey.registry(&object("Registry", "hub", json!({"type": "docker-hub"}), ready("Reconciled")));
    let rule = json!({"matches": ["docker.io"], "host": "harbor.corp", "project": "hub", "target": "harbor.corp/hub", "generation": 1});
    let conflict = condition("RewriteConflict", "True", "MatchConflict", "ghcr.io belongs to older", "10:00");
    let mut status = merged(ready("Reconciled"), &json!({"rewrite": rule}));
    status["conditions"].as_array_mut().unwrap().push(conflict);
    survey.project(&object("ProxyProject", "hub", json!({"registryRef": {"name": "hub"}}), status));
    survey.project(&object(
        "ProxyProject",
        "new",
        json!({"registryRef": {"name": "hub"}}),
        json!({"observedGeneration": -1}),
    ));
    let last = json!({"id": 7, "status": "Failed", "trigger": "scheduled", "startTime": "2026-03-01T02:30:00Z", "total": 9,
        "succeeded": 8, "failed": 1, "stopped": 0, "inProgress": 0});
    let spec =
        json!({"source": {"registryRef": {"name": "hub"}}, "trigger": {"type": "Scheduled", "cron": "0 30 2 * * *"}});
    survey.replication(&object(
        "ReplicationRule",
        "nightly",
        spec,
        merged(ready("Reconciled"), &json!({"lastExecution": last})),
    ));
    let spec = json!({"action": "Enforce", "allowed": [{"host": "harbor.corp"}], "forbidLatest": true});
    survey.policy(&object("ImagePolicy", "only-harbor", spec, Value::Null));
    let platform =
        json!({"platform": "linux/amd64", "digest": "sha256:1", "layers": 1, "bytes": 3 << 20, "stored": true});
    cached(&mut survey, "nginx", merged(ready("Warm"), &json!({"platforms": [platform]})));
    cached(&mut survey, "redis", failed("Pulling", "11:59"));
    cached(&mut survey, "gone", failed("ImageNotFound", "11:00"));
    cached(&mut survey, "gone-too", failed("ImageNotFound", "10:59"));
    cached(&mut survey, "late", failed("RateLimited", "08:00"));
    cached(&mut survey, "fresh", Value::Null);
    survey
}

#[test]
fn everything_is_shown_by_kind_and_what_is_not_ready_newest_first() {
    let text = busy().report().text(now());
    let expected = "\
INSTANCE   READY   REASON     VERSION   URL                   UNHEALTHY
default    True    Degraded   v2.15.2   https://harbor.corp   trivy,redis

REGISTRY   READY   REASON       TYPE         UPSTREAM
hub        True    Reconciled   docker-hub   https://hub.docker.com

PROXY PROJECT   READY     REASON        REWRITES       TO                MODE      PREWARM
hub             True      Reconciled    docker.io      harbor.corp/hub   Enabled   OnAdmission
new             Unknown   NotObserved   (not active)   -                 -         OnAdmission

REPLICATION   READY   REASON       DIRECTION   REGISTRY   TRIGGER     LAST RUN             BLOCKED
nightly       True    Reconciled   pull        hub        Scheduled   Failed 9h ago, 8/9   -

POLICY        ACTION    ALLOWS        DEMANDS
only-harbor   Enforce   harbor.corp   not latest

IMAGES: 1 of 6 warm, 1 pending, 1 warming, 3 failed (ImageNotFound 2, RateLimited 1); 3.0 MiB in Harbor

NOT READY: 6, the newest 3 of them here (--limit)
  CachedImage redis, docker.io/library/redis:1: Pulling for 60 s
    Pulling is why
  CachedImage gone, docker.io/library/gone:1: ImageNotFound for 60m
    ImageNotFound is why
  CachedImage gone-too, docker.io/library/gone-too:1: ImageNotFound for 61m
    ImageNotFound is why
";
    assert_eq!(text, expected);
}

#[test]
fn json_has_stable_names() {
    let read: Value = serde_json::from_str(&busy().report().json().unwrap()).unwrap();
    assert_eq!(read["ready"], false);
    assert_eq!(
        (&read["instances"]["items"][0]["unhealthyComponents"][0], &read["instances"]["total"]),
        (&json!("trivy"), &json!(1))
    );
    let project = &read["proxyProjects"]["items"][0];
    assert_eq!(
        (&project["inForce"], &project["target"], &project["prewarm"]),
        (&json!(true), &json!("harbor.corp/hub"), &json!("OnAdmission"))
    );
    assert_eq!(read["replicationRules"]["items"][0]["lastExecution"]["succeeded"], 8);
    let images = json!({
        "total": 6, "ready": 1, "pending": 1, "warming": 1, "verifying": 0, "failed": 3,
        "failedByReason": {"ImageNotFound": 2, "RateLimited": 1}, "bytes": 3 << 20,
    });
    assert_eq!(read["images"], images);
    let trouble = json!({
        "kind": "CachedImage", "name": "redis", "image": "docker.io/library/redis:1", "condition": "Ready", "reason": "Pulling",
        "message": "Pulling is why", "since": "2026-03-01T11:59:00Z", "stalled": false,
    });
    assert_eq!((&read["notReady"]["total"], &read["notReady"]["items"][0]), (&json!(6), &trouble));
}

#[test]
fn a_conflict_and_a_blocked_deletion_are_listed_and_are_no_lack_of_readiness() {
    let mut survey = SummaryBuilder::new(10);
    let mut status = ready("Reconciled");
    status["conditions"].as_array_mut().unwrap().push(condition(
        "DeletionBlocked",
        "True",
        "NotEmpty",
        "3 repositories",
        "11:00",
    ));
    survey.project(&object("ProxyProject", "hub", json!({"registryRef": {"name": "hub"}}), status));
    let report = survey.report();
    assert!(report.ready);
    let text = report.text(now());
    assert!(text.contains("  ProxyProject hub: DeletionBlocked: NotEmpty for 60m\n    3 repositories\n"), "{text}");
    assert!(text.ends_with("Everything is Ready.\n"), "{text}");
}

#[test]
fn what_was_changed_since_the_controller_looked_is_not_taken_for_ready() {
    let mut survey = SummaryBuilder::new(10);
    let status = merged(ready("Reconciled"), &json!({"observedGeneration": 0}));
    survey.registry(&object("Registry", "hub", json!({"type": "docker-hub"}), status));
    let report = survey.report();
    assert!(!report.ready);
    assert!(report.text(now()).contains("hub        Unknown   NotObserved"), "{}", report.text(now()));
}

#[test]
fn what_others_wrote_does_nothing_to_the_terminal_and_what_may_not_be_read_is_said() {
    let mut survey = SummaryBuilder::new(10);
    let mut status = failed("ImageNotFound", "11:00");
    status["conditions"][0]["message"] = json!("\u{1b}[2J\u{1b}]0;owned\u{7}\r\nEverything is Ready.");
    cached(&mut survey, "evil", status);
    survey.unreadable("Registries", "registries is forbidden: User \"dev\" cannot list resource\n\u{1b}[1m".to_owned());
    let report = survey.report();
    let text = report.text(now());
    assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("Everything")), "{text}");
    assert!(text.contains("Registries cannot be read: registries is forbidden"), "{text}");
    assert!(!report.ready);
}

#[test]
fn ten_thousand_failures_are_counted_and_the_newest_are_kept() {
    let mut survey = SummaryBuilder::new(5);
    for number in 0..10_000 {
        cached(
            &mut survey,
            &format!("i{number}"),
            failed("PullFailed", &format!("{:02}:{:02}", number / 60 % 12, number % 60)),
        );
    }
    let report = survey.report();
    assert_eq!((report.not_ready.total, report.not_ready.items.len(), report.images.failed), (10_000, 5, 10_000));
    assert!(
        report.not_ready.items.iter().all(|trouble| trouble.since.unwrap().to_string().starts_with("2026-03-01T11:59"))
    );
}

#[test]
fn each_field_of_the_json_is_documented() {
    let read: Value = serde_json::from_str(&busy().report().json().unwrap()).unwrap();
    let documentation = include_str!("../../../docs/commands.md").split("## status").nth(1).unwrap();
    let mut missing = Vec::new();
    for (list, value) in read.as_object().unwrap() {
        let first = value.get("items").map_or(value, |items| &items[0]);
        let names = first.as_object().into_iter().flatten().map(|(name, _)| name).chain([list]);
        missing.extend(names.filter(|name| !documentation.contains(&format!("`{name}`"))).cloned());
    }
    assert!(missing.is_empty(), "{missing:?}");
}
