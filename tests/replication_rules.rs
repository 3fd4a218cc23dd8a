//! Replication policies become what ReplicationRules say, run when asked, and tell what came of it: against the double, or a
//! real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use harbor_double::{Harbor, Image, Severity, Upstream};
use harbor_pilot::{
    api::{
        ConditionType, Reason, Registry, ReplicationRule, ReplicationRuleStatus,
        replication_rule::{BlockedImageState, RUN_NOW},
    },
    controller::FinalizeResult,
    harbor::model::{ReplicationPolicy, ReplicationPolicyContent, ReplicationTrigger},
};
use serde_json::{Value, json};
use support::{Seen, Site};

/// A registry with one image, known to Harbor.
async fn upstream(site: &Site, name: &str) -> Upstream {
    let upstream = Upstream::builder().start().await;
    upstream.push_image("team/app", "v1", &Image::single("linux", "amd64").layers([512]));
    site.apply::<Registry>(name, json!({"type": "docker-registry", "url": upstream.url(), "deletionPolicy": "Delete"}));
    assert_eq!(site.reconcile::<Registry>(name).await.ready(), "True Reconciled");
    upstream
}

fn pull(name: &str, change: Value) -> Value {
    let mut spec = json!({
        "source": {"registryRef": {"name": name}}, "destination": {"namespace": name},
        "filters": {"name": "team/app", "tag": {"matches": "v*"}}, "override": true,
    });
    json_patch::merge(&mut spec, &change);
    spec
}

async fn look(site: &Site, name: &str) -> Seen<ReplicationRule> {
    site.reconcile::<ReplicationRule>(name).await
}

fn status(site: &Site, name: &str) -> ReplicationRuleStatus {
    site.world.get::<ReplicationRule>(name).unwrap().status.clone().unwrap_or_default()
}

async fn policy(site: &Site, name: &str) -> ReplicationPolicy {
    site.client().replication_policy_named(name).await.unwrap().expect("a replication policy")
}

/// Looks as often as each look asks for, until the status is as wanted; returns the last look with the notes of all. Harbor's
/// own status of an execution takes 30 s.
async fn until(site: &Site, name: &str, wanted: impl Fn(&ReplicationRuleStatus) -> bool) -> Seen<ReplicationRule> {
    let (begun, mut notes) = (Instant::now(), Vec::new());
    loop {
        let mut seen = look(site, name).await;
        notes.append(&mut seen.0.notes);
        if wanted(&seen.0.status) {
            seen.0.notes = notes;
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(180), "{:#?}", seen.0);
        let pause = if site.double.is_some() { Duration::from_millis(50) } else { seen.0.requeue };
        tokio::time::sleep(pause.min(Duration::from_secs(5))).await;
    }
}

fn ended(status: &ReplicationRuleStatus) -> bool {
    status.last_execution.as_ref().is_some_and(|last| {
        // What fails before it has tasks is stopped for a moment.
        let is_over =
            last.status == "Succeed" || last.status == "Failed" || (last.status == "Stopped" && last.total > 0);
        is_over && last.end_time.is_some()
    })
}

/// Harbor refuses to delete a policy while it runs.
async fn end(site: &Site, names: &[&str]) {
    for name in names {
        let client = site.client();
        while let Ok(Some(policy)) = client.replication_policy_named(name).await {
            if client.delete_replication_policy(policy.id).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        if let Ok(Some(project)) = client.project_named(name).await {
            for repository in ["app", "crit", "clean"] {
                let url = format!("{}/api/v2.0/projects/{name}/repositories/{repository}", site.url);
                let http = reqwest::Client::new();
                http.delete(url).basic_auth(&site.username, Some(&site.password)).send().await.ok();
            }
            client.delete_project(project.project_id).await.ok();
        }
    }
    site.clean(names).await;
}

#[tokio::test]
async fn replication_policy_is_created_once_and_its_drift_is_repaired_and_reported() {
    let site = Site::start().await;
    let name = site.name("nightly");
    let _upstream = upstream(&site, &name).await;
    let spec = pull(&name, json!({"trigger": {"type": "Scheduled", "cron": "0 30 2 * * *"}, "speedKB": -1}));
    site.apply::<ReplicationRule>(&name, spec);
    let seen = look(&site, &name).await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    let next = seen.0.status.next_scheduled_time.clone().unwrap().0;
    assert!(next.to_string().ends_with("T02:30:00Z"), "{next}");
    let made = policy(&site, &name).await;
    assert!(made.content.enabled && made.content.trigger.trigger_settings.cron == "0 30 2 * * *");

    site.writes();
    let again = look(&site, &name).await;
    assert_eq!(again.0.status, seen.0.status, "a look that finds nothing changes nothing");
    assert!(site.writes().is_none_or(|writes| writes == 0), "a second reconcile wrote to Harbor");

    let meddled =
        ReplicationPolicyContent { override_: false, filters: Vec::new(), copy_by_chunk: true, ..made.content };
    site.client().update_replication_policy(made.id, &meddled).await.unwrap();
    let seen = look(&site, &name).await;
    let reported = &seen.0.notes[0].message;
    assert!(
        reported.contains("override: false instead of true") && reported.contains("filters: nothing instead of"),
        "{reported}"
    );
    let repaired = policy(&site, &name).await.content;
    assert!(repaired.override_ && repaired.filters.len() == 2 && repaired.copy_by_chunk, "{repaired:?}");
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn replication_policy_is_renamed_found_without_status_and_recreated() {
    let site = Site::start().await;
    let (name, other) = (site.name("old"), site.name("new"));
    let _upstream = upstream(&site, &name).await;
    site.apply::<ReplicationRule>(&name, pull(&name, json!({})));
    look(&site, &name).await;
    let id = policy(&site, &name).await.id;

    site.apply::<ReplicationRule>(&name, pull(&name, json!({"name": other})));
    assert_eq!(look(&site, &name).await.ready(), "True Reconciled");
    assert_eq!(policy(&site, &other).await.id, id);

    site.world.set_status::<ReplicationRule>(&name, ReplicationRuleStatus::default()).unwrap();
    site.writes();
    assert_eq!(look(&site, &name).await.0.status.id, Some(id));
    assert!(site.writes().is_none_or(|writes| writes == 0));

    site.client().delete_replication_policy(id).await.unwrap();
    let seen = look(&site, &name).await;
    assert_eq!(seen.ready(), "True Reconciled");
    assert_ne!(seen.0.status.id, Some(id));
    end(&site, &[&other, &name]).await;
}

#[tokio::test]
async fn a_schedule_that_would_hang_harbor_is_never_sent() {
    let site = Site::start().await;
    let name = site.name("never");
    let _upstream = upstream(&site, &name).await;
    site.writes();
    let spec = pull(&name, json!({"trigger": {"type": "Scheduled", "cron": "0 0 2 30 2 *"}}));
    site.apply::<ReplicationRule>(&name, spec);
    let seen = look(&site, &name).await;
    assert_eq!(seen.ready(), "False InvalidSpec");
    assert!(seen.condition(ConditionType::Stalled).is_some() && seen.message().contains("never fires"));
    assert!(site.writes().is_none_or(|writes| writes == 0));
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn a_strangers_policy_is_left_alone_and_observing_writes_nothing() {
    let site = Site::start().await;
    let name = site.name("stranger");
    let _upstream = upstream(&site, &name).await;
    let registry = site.client().registry_named(&name).await.unwrap().unwrap().id;
    let manual_request = ReplicationPolicyContent {
        name: name.clone(),
        description: "by hand".to_owned(),
        src_registry: harbor_pilot::harbor::model::RegistryReference { id: registry },
        dest_namespace: "elsewhere".to_owned(),
        ..ReplicationPolicyContent::default()
    };
    site.client().create_replication_policy(&manual_request).await.unwrap();
    site.writes();
    site.apply::<ReplicationRule>(&name, pull(&name, json!({})));
    assert_eq!(look(&site, &name).await.ready(), "False AdoptionRequired");
    assert_eq!(status(&site, &name).id, None);
    let observed = json!({"managementPolicy": "ObserveOnly", "adoptionPolicy": "IfExists"});
    site.apply::<ReplicationRule>(&name, pull(&name, observed));
    site.annotate::<ReplicationRule>(&name, RUN_NOW, "now");
    let seen = look(&site, &name).await;
    assert_eq!(seen.ready(), "False Drifted");
    assert!(seen.message().contains("dest_namespace: elsewhere instead of"), "{}", seen.message());
    assert!(site.writes().is_none_or(|writes| writes == 0));

    site.apply::<ReplicationRule>(&name, pull(&name, json!({"adoptionPolicy": "IfExists"})));
    assert_eq!(look(&site, &name).await.ready(), "True Reconciled");
    let adopted = policy(&site, &name).await.content;
    assert!(adopted.description.starts_with("by hand [harbor-pilot ") && adopted.dest_namespace == name);
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn a_token_starts_one_execution_and_a_crash_at_any_step_starts_no_second() {
    let site = Site::start().await;
    let name = site.name("run");
    let _upstream = upstream(&site, &name).await;
    site.apply::<ReplicationRule>(&name, pull(&name, json!({})));
    look(&site, &name).await;
    let id = policy(&site, &name).await.id;
    let executions = async || site.client().replication_executions(id, 100).await.unwrap().len();

    site.annotate::<ReplicationRule>(&name, RUN_NOW, "first");
    let before = status(&site, &name);
    let prepared = look(&site, &name).await;
    assert_eq!(prepared.0.status.pending_run.as_ref().unwrap().token.as_deref(), Some("first"));
    assert_eq!(executions().await, 0, "nothing is started that is not written down");
    // Stopped before that was stored.
    site.world.set_status::<ReplicationRule>(&name, before).unwrap();
    look(&site, &name).await;
    let written = status(&site, &name);
    let started = look(&site, &name).await;
    assert!(started.0.notes.iter().any(|note| note.reason == Reason::ExecutionStarted), "{:?}", started.0.notes);
    // Stopped after Harbor was asked, and before that was stored.
    site.world.set_status::<ReplicationRule>(&name, written).unwrap();
    let resumed = look(&site, &name).await;
    assert_eq!(resumed.0.status.last_run_token.as_deref(), Some("first"));
    assert_eq!(executions().await, 1);

    let seen = until(&site, &name, ended).await;
    let last = seen.0.status.last_execution.clone().unwrap();
    assert_eq!((last.status.as_str(), last.trigger.as_str()), ("Succeed", "manual"), "{last:?}");
    assert_eq!((last.total, last.succeeded, last.failed), (1, 1, 0));
    assert!(last.end_time.is_some() && seen.0.status.pending_run.is_none());
    assert!(site.client().artifact(&name, "app", "v1").await.unwrap().is_some(), "it has been copied");
    assert_eq!(executions().await, 1);

    site.annotate::<ReplicationRule>(&name, RUN_NOW, "second");
    until(&site, &name, |status| status.last_run_token.as_deref() == Some("second")).await;
    assert_eq!(executions().await, 2);
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn a_disabled_policy_is_not_run_and_not_later_by_surprise() {
    let site = Site::start().await;
    let name = site.name("disabled");
    let _upstream = upstream(&site, &name).await;
    site.apply::<ReplicationRule>(&name, pull(&name, json!({"enabled": false})));
    site.annotate::<ReplicationRule>(&name, RUN_NOW, "first");
    let seen = look(&site, &name).await;
    assert!(seen.0.notes.iter().any(|note| note.warning && note.message.contains("disabled")), "{:?}", seen.0.notes);
    site.apply::<ReplicationRule>(&name, pull(&name, json!({"enabled": true})));
    site.annotate::<ReplicationRule>(&name, RUN_NOW, "first");
    look(&site, &name).await;
    assert_eq!(look(&site, &name).await.0.status.last_execution, None);
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn failed_execution_is_reported_once() {
    let site = Site::start().await;
    let name = site.name("failing");
    let upstream = upstream(&site, &name).await;
    site.apply::<ReplicationRule>(&name, pull(&name, json!({"filters": {"name": "no/such"}})));
    site.annotate::<ReplicationRule>(&name, RUN_NOW, "first");
    let seen = until(&site, &name, ended).await;
    let last = seen.0.status.last_execution.clone().unwrap();
    assert_eq!(last.status, "Failed");
    assert!(last.message.as_deref().unwrap_or_default().contains("no/such"), "{last:?}");
    let told = seen.0.notes.iter().filter(|note| note.reason == Reason::ExecutionFailed).count();
    assert_eq!(told, 1, "{:?}", seen.0.notes);
    assert!(look(&site, &name).await.0.notes.is_empty(), "it is told once");
    assert_eq!(seen.ready(), "True Reconciled", "the policy is as specified, whatever its runs come to");

    // What a task fails of stands in its log alone.
    site.apply::<ReplicationRule>(&name, pull(&name, json!({})));
    site.annotate::<ReplicationRule>(&name, RUN_NOW, "second");
    upstream.fail_next("/manifests/", 50, &harbor_double::Failure::Status(500));
    let first = last.id;
    let again = |status: &ReplicationRuleStatus| status.last_execution.as_ref().is_some_and(|last| last.id > first);
    let seen = until(&site, &name, |status| again(status) && ended(status)).await;
    let last = seen.0.status.last_execution.clone().unwrap();
    assert_eq!((last.status.as_str(), last.failed), ("Failed", 1), "{last:?}");
    let [failure] = last.failures.as_slice() else { panic!("{last:?}") };
    assert!(failure.resource == "team/app" && failure.reason.contains("500"), "{failure:?}");
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn a_rule_is_deleted_with_its_policy_and_stands_in_the_way_of_its_registry() {
    let site = Site::start().await;
    let name = site.name("gone");
    let _upstream = upstream(&site, &name).await;
    site.apply::<ReplicationRule>(&name, pull(&name, json!({})));
    look(&site, &name).await;
    let made = policy(&site, &name).await;
    assert_eq!(made.content.trigger.type_, ReplicationTrigger::MANUAL);

    site.delete::<Registry>(&name);
    let FinalizeResult::Blocked(outcome) = site.finalize::<Registry>(&name).await else { panic!("it was deleted") };
    let (_, reason, message) = Seen::<Registry>(outcome).condition(ConditionType::DeletionBlocked).unwrap();
    assert_eq!(reason, "InUse");
    assert!(message.contains(&format!("replication policy {name} in Harbor (ReplicationRule {name})")), "{message}");

    site.client().start_replication(made.id).await.unwrap();
    site.delete::<ReplicationRule>(&name);
    let begun = Instant::now();
    loop {
        match site.finalize::<ReplicationRule>(&name).await {
            FinalizeResult::Done(notes) => break assert!(notes[0].message.contains("deleted"), "{notes:?}"),
            FinalizeResult::Blocked(outcome) => {
                let (_, _, message) =
                    Seen::<ReplicationRule>(outcome).condition(ConditionType::DeletionBlocked).unwrap();
                assert!(message.contains("to stop") && begun.elapsed() < Duration::from_secs(120), "{message}");
            }
        }
        tokio::time::sleep(Duration::from_millis(if site.double.is_some() { 20 } else { 2000 })).await;
    }
    assert!(site.client().replication_policy_named(&name).await.unwrap().is_none());
    assert!(matches!(site.finalize::<Registry>(&name).await, FinalizeResult::Done(_)));
    end(&site, &[&name]).await;
}

#[tokio::test]
async fn what_is_not_there_yet_is_waited_for() {
    let site = Site::start().await;
    let name = site.name("waiting");
    site.apply::<ReplicationRule>(&name, pull(&name, json!({})));
    let seen = look(&site, &name).await;
    assert_eq!(seen.ready(), "False RegistryNotFound");
    assert!(seen.0.requeue <= Duration::from_secs(30));
    let _upstream = upstream(&site, &name).await;
    assert_eq!(look(&site, &name).await.ready(), "True Reconciled");
    end(&site, &[&name]).await;
}

/// A Harbor that scans what is pushed into its project `gate`, and lets nothing bad or unscanned be pulled from it; a rule that
/// replicates each push; and where that goes.
async fn gate() -> (Site, Upstream, String) {
    let site = Site::doubled(Harbor::builder().speed(100.0).scanner()).await;
    let metadata = json!({"public": "false", "prevent_vul": "true", "severity": "high", "auto_scan": "true"});
    let project = json!({"project_name": "gate", "metadata": metadata});
    assert_eq!(site.double.as_ref().unwrap().manual_request("POST", "/projects", Some(project)).await.0, 201);
    let (upstream, name) = (Upstream::builder().start().await, site.name("gated"));
    site.apply::<Registry>(&name, json!({"type": "docker-registry", "url": upstream.url()}));
    site.reconcile::<Registry>(&name).await;
    let spec = json!({
        "destination": {"registryRef": {"name": name}, "namespace": "out"}, "filters": {"name": "gate/**"},
        "trigger": {"type": "EventBased"}, "afterScan": true,
    });
    site.apply::<ReplicationRule>(&name, spec);
    assert_eq!(look(&site, &name).await.ready(), "True Reconciled");
    (site, upstream, name)
}

/// Pushes `gate/NAME:v1` to Harbor, whose scanner will find so much in it. Returns the digest.
async fn push(site: &Site, name: &str, seed: &str, (severity, vulnerabilities): (Severity, usize)) -> String {
    let double = site.double.as_ref().unwrap();
    let (builder, repository) = (Upstream::builder().start().await, format!("gate/{name}"));
    let image = Image::single("linux", "amd64").layers([256]).seed(seed);
    let pushed = builder.push_image(&repository, "v1", &image);
    double.set_report(&pushed.digest, severity, vulnerabilities);
    let http = reqwest::Client::new();
    let authorised = |request: reqwest::RequestBuilder| request.basic_auth(&site.username, Some(&site.password));
    for blob in pushed.children.iter().flat_map(|child| child.blobs()) {
        let start = http.post(format!("{}/v2/{repository}/blobs/uploads/", site.url));
        let started = authorised(start).send().await.unwrap();
        let location = started.headers()["location"].to_str().unwrap();
        let location = url::Url::parse(&site.url).unwrap().join(location).unwrap();
        let bytes = builder.blob(&repository, &blob.digest).unwrap();
        let put = http.put(location).query(&[("digest", &blob.digest)]).body(bytes);
        assert_eq!(authorised(put).send().await.unwrap().status(), 201);
    }
    let manifest = builder.manifest(&repository, "v1").unwrap();
    let put = http.put(format!("{}/v2/{repository}/manifests/v1", site.url)).body(manifest);
    let put = put.header("content-type", &pushed.media_type);
    assert_eq!(authorised(put).send().await.unwrap().status(), 201);
    pushed.digest
}

async fn executions(site: &Site, name: &str) -> usize {
    let id = policy(site, name).await.id;
    site.client().replication_executions(id, 100).await.unwrap().len()
}

#[tokio::test]
async fn after_scan_copies_clean_images_and_blocks_others() {
    let (site, upstream, name) = gate().await;
    push(&site, "clean", "a", (Severity::Low, 1)).await;
    let digest = push(&site, "crit", "b", (Severity::Critical, 2)).await;
    let seen = until(&site, &name, |status| status.blocked_images.len() == 2).await;
    let failed = seen.0.notes.iter().any(|note| note.reason == Reason::ExecutionFailed);
    assert!(!failed, "to wait for a scan is nothing to be warned of: {:?}", seen.0.notes);
    assert!(seen.0.requeue <= Duration::from_secs(30), "events are noticed soon");
    let settled = |status: &ReplicationRuleStatus| {
        status.blocked_images.len() == 1
            && status.blocked_images[0].state == BlockedImageState::Refused
            && ended(status)
    };
    let seen = until(&site, &name, settled).await;
    assert_eq!(seen.ready(), "True Reconciled");
    assert!(seen.message().contains("vulnerability prevention blocks 1 image"), "{}", seen.message());
    assert!(upstream.manifest("out/clean", "v1").is_some(), "the clean image has been copied");
    assert!(upstream.manifest("out/crit", "v1").is_none());
    let held = &seen.0.status.blocked_images[0];
    assert_eq!((held.image.as_str(), held.digest.as_deref()), ("gate/crit:v1", Some(digest.as_str())));
    assert_eq!((held.severity.as_deref(), held.vulnerabilities), (Some("Critical"), Some(2)));
    assert!(held.reason.contains("2 vulnerabilities"), "{held:?}");

    let before = executions(&site, &name).await;
    assert_eq!(before, 2 + 1, "two pushes, and one run for the clean image alone");
    site.writes();
    for _ in 0..20 {
        look(&site, &name).await;
    }
    assert_eq!((executions(&site, &name).await, site.writes()), (before, Some(0)), "nothing has changed");

    // A scan that finds less is a new verdict.
    let double = site.double.as_ref().unwrap();
    double.set_report(&digest, Severity::Low, 1);
    let scan = "/projects/gate/repositories/crit/artifacts/v1/scan";
    assert_eq!(double.manual_request("POST", scan, Some(json!({"scan_type": "vulnerability"}))).await.0, 202);
    until(&site, &name, |status| status.blocked_images.is_empty() && ended(status)).await;
    assert!(upstream.manifest("out/crit", "v1").is_some());
    assert_eq!(executions(&site, &name).await, before + 1);
}

#[tokio::test]
async fn after_scan_finds_blocked_images_again_without_status() {
    let (site, upstream, name) = gate().await;
    push(&site, "clean", "a", (Severity::None, 0)).await;
    push(&site, "crit", "b", (Severity::Critical, 2)).await;
    let refused = |status: &ReplicationRuleStatus| {
        !status.blocked_images.is_empty()
            && status.blocked_images.iter().all(|held| held.state == BlockedImageState::Refused)
    };
    until(&site, &name, |status| refused(status) && ended(status)).await;
    let before = executions(&site, &name).await;
    site.world.set_status::<ReplicationRule>(&name, ReplicationRuleStatus::default()).unwrap();
    let seen = until(&site, &name, |status| refused(status) && ended(status)).await;
    assert_eq!(seen.0.status.blocked_images[0].image, "gate/crit:v1");
    assert!(executions(&site, &name).await <= before + 1, "what was refused in the past is tried once more at most");
    assert!(upstream.manifest("out/clean", "v1").is_some());
}

#[test]
fn the_rules_of_the_documentation_are_taken_and_those_of_both_ways_do_not_loop() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/replication.md")).unwrap();
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    let directory = tempfile::tempdir().unwrap();
    for (at, block) in blocks.iter().enumerate() {
        std::fs::write(directory.path().join(format!("{at}.yaml")), block).unwrap();
    }
    let rules = harbor_pilot::standalone::read(directory.path()).unwrap().rules;
    assert_eq!(rules.len(), 5);
    let both = |name: &str| rules.iter().find(|rule| rule.metadata.name.as_deref() == Some(name)).unwrap();
    let sends = |rule: &ReplicationRule| rule.spec.filters.clone().unwrap().name.unwrap().replace("/**", "");
    let (there, back) = (both("a-to-b"), both("b-to-a"));
    for (rule, other) in [(there, back), (back, there)] {
        let namespace = rule.spec.destination.clone().unwrap().namespace;
        let arrives_in = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| sends(rule));
        assert_ne!(arrives_in.split('/').next().unwrap(), sends(other), "what arrives would be sent back");
    }
}
