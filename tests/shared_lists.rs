//! Harbor is read by lists that all resources of an instance share: what that costs, and that nothing is written by them alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use harbor_double::{Harbor, Upstream};
use harbor_pilot::{
    api::{DeletionPolicy, HarborInstance, ProxyProject, Registry, ReplicationRule, common::RECONCILE_NOW},
    controller::{ReconciledKind, Reconciler, Reconcilers},
};
use serde_json::json;
use support::{Declared, Site};

const REGISTRIES: usize = 300;
const PROJECTS: usize = 500;
const RETENTIONS: usize = 100;
const RULES: usize = 200;
/// Long enough for a look at all of them.
const INTERVAL: Duration = Duration::from_secs(8);

/// Looks at resources until nothing changes. Returns when the next look is due.
async fn settle<K>(site: &Site, names: &[String]) -> Duration
where
    K: ReconciledKind + Declared,
    Reconcilers: Reconciler<K>,
{
    let mut due = Duration::MAX;
    for name in names {
        let mut seen = site.reconcile_again::<K>(name).await;
        for _ in 0..3 {
            if seen.ready() == "True Reconciled" {
                break;
            }
            seen = site.reconcile_again::<K>(name).await;
        }
        assert_eq!(seen.ready(), "True Reconciled", "{name}: {}", seen.message());
        due = seen.0.requeue;
    }
    due
}

/// Looks once at each, and asserts that its status stays what it was.
async fn look<K>(site: &Site, names: &[String])
where
    K: ReconciledKind + Declared,
    Reconcilers: Reconciler<K>,
{
    for name in names {
        let before = site.world.get::<K>(name).unwrap().status().cloned();
        let after = site.reconcile_again::<K>(name).await.0;
        assert!(before.as_ref() == Some(&after.status), "the status of {name} would be patched");
        assert!(after.notes.is_empty(), "{:?}", after.notes);
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

fn fill(site: &Site, upstream: &Upstream) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (registries, projects, rules) = (names("r", REGISTRIES), names("p", PROJECTS), names("n", RULES));
    let interval = format!("{}s", INTERVAL.as_secs());
    for name in &registries {
        let spec = json!({"type": "docker-registry", "url": upstream.url(), "interval": interval});
        site.apply_later::<Registry>(name, spec);
    }
    for (number, name) in projects.iter().enumerate() {
        let mut spec = json!({
            "registryRef": {"name": registries[number % REGISTRIES]}, "public": true, "interval": interval,
            "rewrite": {"matches": [format!("{name}.example.com")]}, "storageLimit": "1Gi",
        });
        if number < RETENTIONS {
            spec["retention"] = json!({"rules": [{"pulledWithinDays": 30}], "schedule": "0 0 3 * * *"});
        }
        site.apply_later::<ProxyProject>(name, spec);
    }
    for (number, name) in rules.iter().enumerate() {
        let spec = json!({
            "source": {"registryRef": {"name": registries[number % REGISTRIES]}}, "interval": interval,
            "filters": {"name": "app/**"}, "destination": {"namespace": "mirror"}, "trigger": {"type": "Manual"},
        });
        site.apply_later::<ReplicationRule>(name, spec);
    }
    site.applied();
    (registries, projects, rules)
}

#[tokio::test]
async fn a_look_at_a_thousand_resources_costs_pages_and_writes_nothing() {
    let site = Site::doubled(Harbor::builder().speed(100.0)).await;
    let double = site.double.as_ref().unwrap();
    let upstream = Upstream::builder().start().await;
    let (registries, projects, rules) = fill(&site, &upstream);
    site.reconcile::<HarborInstance>("default").await;
    settle::<Registry>(&site, &registries).await;
    settle::<ReplicationRule>(&site, &rules).await;
    settle::<ProxyProject>(&site, &projects).await;
    // The next look asks whether all that was written is there.
    settle::<Registry>(&site, &registries).await;
    settle::<ReplicationRule>(&site, &rules).await;
    let mut next = settle::<ProxyProject>(&site, &projects).await;

    let mut reads_of_retention = 0;
    for _ in 0..2 {
        assert!(next <= INTERVAL + Duration::from_secs(1), "{next:?}");
        tokio::time::sleep(next).await;
        double.clear_log();
        look::<Registry>(&site, &registries).await;
        look::<ProxyProject>(&site, &projects).await;
        look::<ReplicationRule>(&site, &rules).await;
        assert!(double.writes().is_empty(), "{:?}", double.writes());
        let mut requests: BTreeMap<String, usize> = BTreeMap::new();
        for request in double.log() {
            let path = request.path.split('?').next().unwrap().trim_start_matches("/api/v2.0/").to_owned();
            let path = if path.starts_with("retentions/") { "retentions".to_owned() } else { path };
            *requests.entry(path).or_default() += 1;
        }
        let retentions = requests.remove("retentions").unwrap_or(0);
        assert!((1..=10).contains(&retentions), "{retentions} retention policies were read");
        reads_of_retention += retentions;
        let lists: usize = requests.values().sum();
        println!("{} resources: {requests:?}, {retentions} retentions", REGISTRIES + PROJECTS + RULES);
        assert!(lists <= 40, "{lists} requests: {requests:?}");
        assert!(lists >= 14, "{requests:?}: Harbor was not looked at");
        next = site.reconcile_again::<ProxyProject>(&projects[0]).await.0.requeue;
    }
    assert!(reads_of_retention >= 12, "they are read in turn");
}

#[tokio::test]
async fn what_a_list_showed_is_not_written_by_when_harbor_says_otherwise_by_now() {
    let site = Site::doubled(Harbor::builder().speed(100.0)).await;
    let double = site.double.as_ref().unwrap();
    let upstream = Upstream::builder().start().await;
    let spec = |text: &str| json!({"type": "docker-registry", "url": upstream.url(), "description": text, "interval": "1h", "deletionPolicy": DeletionPolicy::Delete});
    site.apply::<Registry>("hub", spec("first"));
    assert_eq!(site.reconcile::<Registry>("hub").await.ready(), "True Reconciled");
    assert_eq!(site.reconcile::<Registry>("hub").await.ready(), "True Reconciled");
    // Past the time for which what was read is good enough to write by.
    tokio::time::sleep(Duration::from_secs(6)).await;

    // Another registry has the name by now, and it is not ours.
    let id = site.world.get::<Registry>("hub").unwrap().status.as_ref().unwrap().id.unwrap();
    assert_eq!(double.manual_request("DELETE", &format!("/registries/{id}"), None).await.0, 200);
    let stranger = json!({"name": "hub", "type": "docker-registry", "url": upstream.url(), "description": "theirs"});
    assert_eq!(double.manual_request("POST", "/registries", Some(stranger)).await.0, 201);
    double.clear_log();
    site.apply::<Registry>("hub", spec("second"));
    let seen = site.reconcile_again::<Registry>("hub").await;
    assert_eq!(seen.ready(), "False AdoptionRequired", "{}", seen.message());
    assert!(double.writes().is_empty(), "{:?}", double.writes());
}

#[tokio::test]
async fn reconcile_now_looks_at_harbor_itself_and_not_at_the_last_list() {
    let site = Site::doubled(Harbor::builder().speed(100.0)).await;
    let upstream = Upstream::builder().start().await;
    site.apply::<Registry>("hub", json!({"type": "docker-registry", "url": upstream.url(), "interval": "1h"}));
    site.apply::<ProxyProject>("hub", json!({"registryRef": {"name": "hub"}, "public": true, "interval": "1h"}));
    assert_eq!(site.reconcile::<Registry>("hub").await.ready(), "True Reconciled");
    assert_eq!(site.reconcile::<ProxyProject>("hub").await.ready(), "True Reconciled");
    assert_eq!(site.reconcile::<ProxyProject>("hub").await.ready(), "True Reconciled");

    let client = site.client();
    let project = client.project_named("hub").await.unwrap().unwrap();
    let private = harbor_pilot::harbor::model::ProjectUpdate {
        metadata: BTreeMap::from([("public".to_owned(), "false".to_owned())]),
        ..Default::default()
    };
    client.update_project(project.project_id, &private).await.unwrap();
    site.writes();
    site.reconcile_again::<ProxyProject>("hub").await;
    assert_eq!(site.writes(), Some(0), "the next beat would have found it");

    site.annotate::<ProxyProject>("hub", RECONCILE_NOW, "2026-11-21T12:00:00Z");
    let seen = site.reconcile_again::<ProxyProject>("hub").await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    assert!(seen.0.notes.iter().any(|note| note.message.contains("public")), "{:?}", seen.0.notes);
    assert_eq!(seen.0.status.last_reconcile_token.as_deref(), Some("2026-11-21T12:00:00Z"));
    assert_eq!(site.writes(), Some(1));
    // What was written is looked at once more.
    site.reconcile_again::<ProxyProject>("hub").await;
    client.update_project(project.project_id, &private).await.unwrap();
    site.writes();
    site.reconcile_again::<ProxyProject>("hub").await;
    assert_eq!(site.writes(), Some(0), "a token counts once");
}

#[tokio::test]
async fn unhealthy_upstream_is_detected_and_pinged_between_resyncs() {
    let site = Site::doubled(Harbor::builder().speed(100.0).health_interval(Duration::from_secs(3600))).await;
    let double = site.double.as_ref().unwrap();
    let upstream = Upstream::builder().start().await;
    site.apply::<Registry>("hub", json!({"type": "docker-registry", "url": upstream.url(), "interval": "1h"}));
    assert_eq!(site.reconcile::<Registry>("hub").await.ready(), "True Reconciled");
    let seen = site.reconcile::<Registry>("hub").await;
    assert!(seen.0.requeue <= Duration::from_secs(30), "{:?}", seen.0.requeue);
    upstream.set_down(true).await;
    double.check_upstreams().await;
    upstream.set_down(false).await;
    let status = || async {
        double.manual_request("GET", "/registries?q=health%3Dunhealthy", None).await.1.as_array().unwrap().len()
    };
    assert_eq!(status().await, 1, "Harbor would say so for an hour");

    tokio::time::sleep(Duration::from_secs(26)).await;
    double.clear_log();
    let seen = site.reconcile_again::<Registry>("hub").await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    assert_eq!(status().await, 0);
    let paths: Vec<_> =
        double.log().into_iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    assert!(paths.iter().all(|path| !path.contains("page=2")) && paths.len() <= 3, "{paths:?}");
}

#[tokio::test]
async fn a_harbor_that_does_not_answer_is_asked_once_for_all_of_its_resources() {
    let site = Site::doubled(Harbor::builder().speed(100.0)).await;
    let double = site.double.as_ref().unwrap();
    let upstream = Upstream::builder().start().await;
    let all = names("hub", 20);
    for name in &all {
        site.apply::<Registry>(name, json!({"type": "docker-registry", "url": upstream.url()}));
    }
    settle::<Registry>(&site, &all).await;
    double.set_down(true).await;
    site.kinds.instances.known("default").unwrap().view.clear();
    let started = std::time::Instant::now();
    for name in &all {
        assert_eq!(site.reconcile_again::<Registry>(name).await.ready(), "False HarborUnreachable");
    }
    // What is down refuses connections at once, so what tells is that nobody tried: Harbor is back, and not asked yet.
    double.set_down(false).await;
    assert!(started.elapsed() < Duration::from_secs(15), "too slow to tell");
    assert_eq!(site.reconcile_again::<Registry>(&all[0]).await.ready(), "False HarborUnreachable");
    site.reconcile_again::<HarborInstance>("default").await;
    assert_eq!(site.reconcile_again::<Registry>(&all[0]).await.ready(), "True Reconciled", "the instance noticed");
}
