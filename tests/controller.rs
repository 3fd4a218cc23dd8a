//! Registries and proxy projects become what their resources say: against the double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use harbor_double::{Harbor, Upstream};
use harbor_pilot::{
    api::{ConditionType, FoundSeverity, HarborInstance, Platform, ProxyProject, Registry, ReplicationRule},
    controller::{FinalizeResult, ResourceStore, SecretValue, Stores},
    harbor::model,
};
use serde_json::json;
use support::Site;

/// Every change that a reconcile makes is made once.
async fn assert_settled(site: &Site, registry: &str, project: Option<&str>) {
    site.writes();
    assert_eq!(site.reconcile::<Registry>(registry).await.ready(), "True Reconciled");
    if let Some(project) = project {
        assert_eq!(site.reconcile::<ProxyProject>(project).await.ready(), "True Reconciled");
    }
    assert!(site.writes().is_none_or(|writes| writes == 0), "a second reconcile wrote to Harbor");
}

async fn proxy(site: &Site, upstream: &Upstream, name: &str) {
    site.apply::<Registry>(name, json!({"type": "docker-registry", "url": format!("{}/", upstream.url())}));
    assert_eq!(site.reconcile::<Registry>(name).await.ready(), "True Reconciled");
    site.apply::<ProxyProject>(name, json!({"registryRef": {"name": name}, "public": true, "proxySpeedKB": -1}));
    let seen = site.reconcile::<ProxyProject>(name).await;
    assert_eq!(seen.ready(), "True Reconciled", "{}", seen.message());
}

#[tokio::test]
async fn instance_status_has_the_version_and_names_a_wrong_password() {
    let site = Site::start().await;
    let seen = site.reconcile::<HarborInstance>("default").await;
    assert!(seen.ready().starts_with("True"), "{}", seen.message());
    assert!(seen.0.status.version.as_deref().unwrap_or_default().starts_with('v'), "{:?}", seen.0.status);
    let advised = seen.message().contains("robot account");
    assert_eq!(advised, !site.username.starts_with("robot$"), "a user account is advised against: {}", seen.message());

    // Another name: Harbor locks a user out for a moment after a wrong password, and other tests use this one.
    site.secret("harbor", "nobody", "wrong");
    assert_eq!(site.reconcile::<HarborInstance>("default").await.ready(), "False HarborUnauthorized");
    site.apply::<HarborInstance>(
        "default",
        json!({"url": "http://127.0.0.1:9", "credentialsSecretRef": {"name": "harbor"}}),
    );
    assert_eq!(site.reconcile::<HarborInstance>("default").await.ready(), "False HarborUnreachable");
    site.apply::<HarborInstance>("default", json!({"url": site.url, "credentialsSecretRef": {"name": "nowhere"}}));
    assert_eq!(site.reconcile::<HarborInstance>("default").await.ready(), "False SecretNotFound");
}

#[tokio::test]
async fn resources_wait_for_their_instance_while_its_harbor_is_unreachable() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("waits");
    let instance = |url: &str| json!({"url": url, "credentialsSecretRef": {"name": "harbor"}});
    site.apply::<HarborInstance>("default", instance("http://127.0.0.1:9"));
    site.apply::<Registry>(&name, json!({"type": "docker-registry", "url": upstream.url()}));
    // Before the instance was looked at, Harbor is asked, which is how an outage is noticed.
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "False HarborUnreachable");
    assert_eq!(site.reconcile::<HarborInstance>("default").await.ready(), "False HarborUnreachable");
    let waits = site.reconcile::<Registry>(&name).await;
    assert_eq!(waits.ready(), "False InstanceNotReady");
    assert!(waits.message().contains("HarborInstance default") && waits.message().contains("127.0.0.1:9"), "{waits:?}");

    // What is known of the address of before says nothing of this one.
    site.apply::<HarborInstance>("default", instance(&site.url));
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_registry_and_its_project_are_created_once_and_carry_a_rule() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("hub");
    proxy(&site, &upstream, &name).await;
    assert_settled(&site, &name, Some(&name)).await;

    let rule = site.world.get::<ProxyProject>(&name).unwrap().active_rule().cloned().unwrap();
    assert_eq!(rule.matches, [upstream.host()]);
    assert_eq!(rule.target, format!("{}/{name}", site.url.trim_start_matches("http://")));
    let stored = site.client().project_named(&name).await.unwrap().unwrap();
    assert_eq!(stored.metadata["public"], "true");
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_registry_whose_host_is_no_longer_allowed_stops_its_dependants_and_its_secret_is_never_shown() {
    let (site, upstream) = (Site::doubled(Harbor::builder()).await, Upstream::builder().start().await);
    let name = site.name("hub");
    proxy(&site, &upstream, &name).await;
    let rule = json!({"source": {"registryRef": {"name": &name}}, "destination": {"namespace": "x"}});
    let allow = |hosts: serde_json::Value| {
        let before = site.world.get::<HarborInstance>("default").unwrap();
        let mut spec = serde_json::to_value(&before.spec).unwrap();
        spec["allowedRegistryHosts"] = hosts;
        site.apply::<HarborInstance>("default", spec);
    };
    allow(json!(["ghcr.io"]));
    site.secret("up", "somebody", "UpstreamCanary/7+zz");
    site.apply::<Registry>(
        &name,
        json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": "up"}}),
    );
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": &name}, "public": false}));
    site.apply::<ProxyProject>("fresh", json!({"registryRef": {"name": &name}}));
    site.apply::<ReplicationRule>("copy", rule);
    site.writes();
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "False HostNotAllowed");
    let (changed, fresh, copy) = (
        site.reconcile::<ProxyProject>(&name).await,
        site.reconcile::<ProxyProject>("fresh").await,
        site.reconcile::<ReplicationRule>("copy").await,
    );
    for (ready, message) in
        [(changed.ready(), changed.message()), (fresh.ready(), fresh.message()), (copy.ready(), copy.message())]
    {
        assert_eq!(ready, "False RegistryNotReady", "{message}");
        assert!(message.contains("(HostNotAllowed: ") && message.contains("allowedRegistryHosts"), "{message}");
    }
    assert_eq!(site.writes(), Some(0));
    let secrets = site.kinds.instances.secrets("default");
    assert_eq!(secrets.redact("its key is UpstreamCanary/7+zz"), "its key is [redacted]");
    allow(json!(["https://ghcr.io"]));
    assert!(site.reconcile::<ProxyProject>("fresh").await.message().contains("(InvalidSpec: "));
    allow(json!([]));
    site.apply::<Registry>(&name, json!({"type": "docker-registry", "url": upstream.url()}));
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    assert_eq!(site.reconcile::<ProxyProject>("fresh").await.ready(), "True Reconciled");
}

#[tokio::test]
async fn drift_is_repaired_and_reported() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("drift");
    proxy(&site, &upstream, &name).await;
    let client = site.client();
    let project = client.project_named(&name).await.unwrap().unwrap();
    let bad = [("public".to_owned(), "false".to_owned()), ("proxy_speed_kb".to_owned(), "bad".to_owned())];
    client
        .update_project(
            project.project_id,
            &model::ProjectUpdate { metadata: bad.into(), ..model::ProjectUpdate::default() },
        )
        .await
        .unwrap();

    let seen = site.reconcile::<ProxyProject>(&name).await;
    assert_eq!(seen.ready(), "True Reconciled");
    let reported = &seen.0.notes[0].message;
    assert!(
        reported.contains("public: false instead of true") && reported.contains("proxy_speed_kb: bad"),
        "{reported}"
    );
    assert_settled(&site, &name, Some(&name)).await;
    assert_eq!(client.project_named(&name).await.unwrap().unwrap().metadata["public"], "true");
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_wrong_password_from_the_start_is_named_and_its_rule_does_not_rewrite() {
    let site = Site::start().await;
    let upstream = Upstream::builder().basic_auth("puller", "right").start().await;
    let name = site.name("private");
    site.secret(&name, "puller", "wrong");
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": name}});
    site.apply::<Registry>(&name, spec);
    let seen = site.reconcile::<Registry>(&name).await;
    assert_eq!(seen.ready(), "False CredentialsRejected", "{}", seen.message());
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}}));
    let seen = site.reconcile::<ProxyProject>(&name).await;
    assert_eq!(seen.ready(), "False RegistryNotReady");
    assert!(seen.message().contains("CredentialsRejected"), "{}", seen.message());
    assert!(site.world.get::<ProxyProject>(&name).unwrap().active_rule().is_none());

    site.secret(&name, "puller", "right");
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");
    assert!(site.world.get::<ProxyProject>(&name).unwrap().active_rule().is_some());
    assert_settled(&site, &name, Some(&name)).await;
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_password_that_becomes_wrong_shows_and_the_rule_goes_on() {
    let site = Site::start().await;
    let upstream = Upstream::builder().basic_auth("puller", "right").start().await;
    let name = site.name("rotated");
    site.secret(&name, "puller", "right");
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": name}});
    site.apply::<Registry>(&name, spec);
    site.reconcile::<Registry>(&name).await;
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}}));
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");

    site.secret(&name, "puller", "wrong");
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "False CredentialsRejected");
    site.reconcile::<ProxyProject>(&name).await;
    assert!(site.world.get::<ProxyProject>(&name).unwrap().active_rule().is_some(), "a running cluster must not turn");
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_registry_in_use_is_kept_until_it_is_free_and_says_by_what() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("used");
    proxy(&site, &upstream, &name).await;
    let registry = json!({"type": "docker-registry", "url": upstream.url(), "deletionPolicy": "Delete"});
    site.apply::<Registry>(&name, registry);
    site.apply::<ProxyProject>(&name, json!({"registryRef": {"name": name}, "deletionPolicy": "Delete"}));

    site.delete::<Registry>(&name);
    let FinalizeResult::Blocked(outcome) = site.finalize::<Registry>(&name).await else { panic!("it was deleted") };
    let seen = support::Seen::<Registry>(outcome);
    let (status, reason, message) = seen.condition(ConditionType::DeletionBlocked).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "InUse"));
    assert!(message.contains(&format!("ProxyProject {name}")) && message.contains("Retain"), "{message}");

    site.delete::<ProxyProject>(&name);
    assert!(matches!(site.finalize::<ProxyProject>(&name).await, FinalizeResult::Done(_)));
    assert!(matches!(site.finalize::<Registry>(&name).await, FinalizeResult::Done(_)));
    let client = site.client();
    assert!(client.project_named(&name).await.unwrap().is_none());
    assert!(client.registry_named(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_retained_stays_and_is_found_again_by_its_marker() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("kept");
    proxy(&site, &upstream, &name).await;
    let before = site.client().project_named(&name).await.unwrap().unwrap().project_id;
    site.delete::<ProxyProject>(&name);
    site.delete::<Registry>(&name);
    assert!(site.world.get::<Registry>(&name).is_none(), "Retain waits for nothing");

    proxy(&site, &upstream, &name).await;
    assert_eq!(site.client().project_named(&name).await.unwrap().unwrap().project_id, before);
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_ca_bundle_without_a_certificate_is_refused_and_not_taken_for_none() {
    let site = Site::start().await;
    for bundle in ["no certificate", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"] {
        let spec = json!({"url": site.url, "credentialsSecretRef": {"name": "harbor"}, "caBundle": bundle});
        site.apply::<HarborInstance>("default", spec);
        let seen = site.reconcile::<HarborInstance>("default").await;
        assert_eq!(seen.ready(), "False InvalidSpec", "{bundle}");
        assert!(seen.message().contains("caBundle"), "{}", seen.message());
    }
}

#[tokio::test]
async fn a_strangers_registry_is_left_alone_until_it_may_be_adopted() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("stranger");
    let stranger = model::NewRegistry {
        name: name.clone(),
        type_: "docker-registry".to_owned(),
        url: upstream.url(),
        description: "made by hand".to_owned(),
        credential: None,
        insecure: false,
        ca_certificate: None,
    };
    site.client().create_registry(&stranger).await.unwrap();
    site.writes();
    site.apply::<Registry>(&name, json!({"type": "docker-registry", "url": upstream.url()}));
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "False AdoptionRequired");
    assert!(site.writes().is_none_or(|writes| writes == 0));

    site.apply::<Registry>(
        &name,
        json!({"type": "docker-registry", "url": upstream.url(), "adoptionPolicy": "IfExists"}),
    );
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    let stored = site.client().registry_named(&name).await.unwrap().unwrap();
    assert!(stored.description.starts_with("made by hand [harbor-pilot "), "{}", stored.description);
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn observing_reports_the_drift_and_writes_nothing() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("observed");
    site.writes();
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "managementPolicy": "ObserveOnly"});
    site.apply::<Registry>(&name, spec);
    let seen = site.reconcile::<Registry>(&name).await;
    assert_eq!(seen.ready(), "False Drifted");
    assert_eq!(seen.0.status.drift, ["Harbor has no such object"]);
    assert!(site.writes().is_none_or(|writes| writes == 0));
    assert!(site.client().registry_named(&name).await.unwrap().is_none());
}

#[tokio::test]
async fn unhealthy_upstream_has_its_own_reason_and_a_lost_project_stops_its_rule() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("lost");
    proxy(&site, &upstream, &name).await;
    let client = site.client();
    let project = client.project_named(&name).await.unwrap().unwrap();
    client.delete_project(project.project_id).await.unwrap();
    let registry = client.registry_named(&name).await.unwrap().unwrap();
    client.delete_registry(registry.id).await.unwrap();
    upstream.set_down(true).await;

    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "False UpstreamUnhealthy");
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "False RegistryNotReady");
    assert!(site.world.get::<ProxyProject>(&name).unwrap().active_rule().is_none(), "nothing serves it");

    upstream.set_down(false).await;
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");
    assert!(site.world.get::<ProxyProject>(&name).unwrap().active_rule().is_some());
    site.clean(&[&name]).await;
}

/// Reads of Secrets take a moment, as at an API server.
struct SlowSecrets(Arc<dyn ResourceStore>);

impl ResourceStore for SlowSecrets {
    fn stores(&self) -> &Stores {
        self.0.stores()
    }

    fn scan_max_age(&self) -> Option<Duration> {
        self.0.scan_max_age()
    }

    fn scan_ceiling(&self) -> Option<FoundSeverity> {
        self.0.scan_ceiling()
    }

    fn node_platforms(&self) -> Vec<Platform> {
        self.0.node_platforms()
    }

    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<SecretValue>, String>> {
        async move {
            tokio::task::yield_now().await;
            self.0.secret(name).await
        }
        .boxed()
    }
}

#[tokio::test]
async fn reconciles_that_connect_at_once_share_one_view_of_harbor() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    site.secret("up", "puller", "secret");
    let spec = json!({"type": "docker-registry", "url": upstream.url(), "credentialsSecretRef": {"name": "up"}});
    site.apply::<Registry>(&site.name("up"), spec);
    let directory = SlowSecrets(site.world.directory());
    let connections = &site.kinds.instances;
    let connect = || async { connections.connect(&directory, "default").await.unwrap().view };
    let (one, other) = tokio::join!(connect(), connect());
    assert!(Arc::ptr_eq(&one, &other));
}
