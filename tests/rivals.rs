//! Several resources for one object in Harbor: the oldest has it, and the others say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use harbor_double::{Harbor, Upstream};
use harbor_pilot::{
    api::{ProxyProject, Registry, ReplicationRule},
    controller::{ReconciledKind, Reconciler, Reconcilers},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::{Declared, Site};

/// The younger is there first. When the older comes it has the object, and the younger says so; when that is gone the younger
/// takes over only if it is told to.
async fn contend<K>(site: &Site, object: &str, spec: Value)
where
    K: ReconciledKind + Declared,
    Reconcilers: Reconciler<K>,
{
    let with = |extra: Value| {
        let mut spec = spec.clone();
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    };
    let kind = K::kind(&()).into_owned();
    site.apply::<K>("younger", with(json!({"name": object})));
    let seen = site.reconcile::<K>("younger").await;
    assert_eq!(seen.ready(), "True Reconciled", "{kind}: {}", seen.message());

    let before = Timestamp::now() - SignedDuration::from_secs(3600);
    site.apply_at::<K>("older", with(json!({"name": object})), before);
    let seen = site.reconcile::<K>("older").await;
    assert_eq!(seen.ready(), "True Reconciled", "{kind}: {}", seen.message());
    site.writes();
    let seen = site.reconcile::<K>("younger").await;
    assert_eq!(seen.ready(), "False NameConflict", "{kind}");
    assert!(seen.message().contains(&format!("{kind} older is older")), "{}", seen.message());
    for name in ["older", "younger", "older"] {
        site.reconcile::<K>(name).await;
    }
    assert_eq!(site.writes(), Some(0), "{kind}: they fight");

    site.delete::<K>("older");
    let seen = site.reconcile::<K>("younger").await;
    assert_eq!(seen.ready(), "False AdoptionRequired", "{kind}");
    assert!(seen.message().contains(&format!("by the deleted {kind} older")), "{}", seen.message());
    assert_eq!(site.writes(), Some(0));
    site.apply::<K>("younger", with(json!({"name": object, "adoptionPolicy": "IfExists"})));
    let seen = site.reconcile::<K>("younger").await;
    assert_eq!(seen.ready(), "True Reconciled", "{kind}: {}", seen.message());
    assert_eq!(site.reconcile::<K>("younger").await.ready(), "True Reconciled");
}

#[tokio::test]
async fn of_two_resources_for_one_object_the_older_has_it_and_the_younger_says_so() {
    let site = Site::doubled(Harbor::builder().speed(100.0)).await;
    let upstream = Upstream::builder().start().await;
    let registry = json!({"type": "docker-registry", "url": upstream.url()});
    contend::<Registry>(&site, "contested", registry.clone()).await;
    site.apply::<Registry>("hub", registry);
    assert_eq!(site.reconcile::<Registry>("hub").await.ready(), "True Reconciled");
    contend::<ProxyProject>(&site, "contested", json!({"registryRef": {"name": "hub"}, "public": true})).await;
    let rule = json!({
        "source": {"registryRef": {"name": "hub"}}, "filters": {"name": "app/**"}, "trigger": {"type": "Manual"},
        "deletionPolicy": "Retain",
    });
    contend::<ReplicationRule>(&site, "contested", rule).await;
}

#[tokio::test]
async fn who_only_observes_claims_nothing() {
    let site = Site::doubled(Harbor::builder().speed(100.0)).await;
    let upstream = Upstream::builder().start().await;
    let spec = |policy: &str| json!({"name": "hub", "type": "docker-registry", "url": upstream.url(), "managementPolicy": policy});
    let before = Timestamp::now() - SignedDuration::from_secs(3600);
    site.apply_at::<Registry>("watcher", spec("ObserveOnly"), before);
    site.apply::<Registry>("owner", spec("Full"));
    let seen = site.reconcile::<Registry>("owner").await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
    assert_eq!(site.reconcile::<Registry>("owner").await.ready(), "True Reconciled");
}
