//! `managementPolicy: ObserveOnly`: drift stands in status and is told once, and nothing is written: against the double, or a
//! real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use harbor_double::Upstream;
use harbor_pilot::{
    api::{ConditionType, ProxyProject, Reason, Registry, ReplicationRule},
    controller::{EventMessage, ReconciledKind, Reconciler, Reconcilers},
    harbor::model::{self, ReplicationPolicyContent},
};
use serde_json::{Value, json};
use support::{Declared, Site};

fn registry(upstream: &Upstream, change: &Value) -> Value {
    changed(json!({"type": "docker-registry", "url": upstream.url(), "description": "of Git"}), change)
}

fn project(name: &str, change: &Value) -> Value {
    changed(json!({"registryRef": {"name": name}, "public": true, "proxySpeedKB": 512}), change)
}

fn rule(name: &str, change: &Value) -> Value {
    let spec = json!({"source": {"registryRef": {"name": name}}, "destination": {"namespace": name}, "override": true});
    changed(spec, change)
}

fn changed(mut spec: Value, change: &Value) -> Value {
    json_patch::merge(&mut spec, change);
    spec
}

/// One look: drift, notes, Ready.
async fn look<K>(
    site: &Site,
    name: &str,
    drift: fn(&K::Status) -> &[String],
) -> (Vec<String>, Vec<EventMessage>, String)
where
    K: ReconciledKind,
    Reconcilers: Reconciler<K>,
{
    let seen = site.reconcile::<K>(name).await;
    let reported = seen.condition(ConditionType::Drifted).map(|(status, _, message)| (status, message));
    let drift = drift(&seen.0.status).to_vec();
    assert_eq!(reported, (!drift.is_empty()).then(|| ("True".to_owned(), drift.join("; "))));
    (drift, seen.0.notes.clone(), seen.ready())
}

/// Looks at what differs in turn: each difference is in status at every look, and told of in one.
async fn assert_observed<K>(
    site: &Site,
    name: &str,
    specs: [Value; 3],
    fields: [&str; 3],
    drift: fn(&K::Status) -> &[String],
) where
    K: Declared,
    Reconcilers: Reconciler<K>,
{
    site.writes();
    for (spec, field) in specs.into_iter().zip(fields) {
        site.apply::<K>(name, changed(spec, &json!({"managementPolicy": "ObserveOnly"})));
        let (found, notes, ready) = look::<K>(site, name, drift).await;
        if field.is_empty() {
            assert_eq!((found, notes, ready.as_str()), (Vec::new(), Vec::new(), "True Reconciled"));
        } else {
            assert!(ready == "False Drifted" && found.iter().any(|line| line.starts_with(field)), "{found:?}");
            let told = [EventMessage { warning: true, reason: Reason::Drifted, message: found.join("; ") }];
            assert_eq!(notes, told, "it appeared, or is another than before");
            let again = look::<K>(site, name, drift).await;
            assert_eq!(again, (found, Vec::new(), ready), "it stays, and is not told again");
        }
    }
    assert!(site.writes().is_none_or(|writes| writes == 0), "observing wrote to Harbor");
}

#[tokio::test]
async fn drift_of_each_kind_is_in_status_and_reported_on_change() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (name, none) = (site.name("drift"), json!({}));
    site.apply::<Registry>(&name, registry(&upstream, &none));
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    site.apply::<ProxyProject>(&name, project(&name, &none));
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");
    site.apply::<ReplicationRule>(&name, rule(&name, &none));
    assert_eq!(site.reconcile::<ReplicationRule>(&name).await.ready(), "True Reconciled");

    // Drift is the same whichever side has moved: here it is Git.
    let of = |change: Value| registry(&upstream, &change);
    let specs = [of(json!({"insecure": true})), of(json!({"insecure": true, "description": "other"})), of(json!({}))];
    let fields = ["insecure: false instead of true", "description: ", ""];
    assert_observed::<Registry>(&site, &name, specs, fields, |status| &status.drift).await;

    let of = |change: Value| project(&name, &change);
    let specs = [of(json!({"public": false})), of(json!({"public": false, "proxySpeedKB": 64})), of(json!({}))];
    let fields = ["public: true instead of false", "proxy_speed_kb: 512 instead of 64", ""];
    assert_observed::<ProxyProject>(&site, &name, specs, fields, |status| &status.drift).await;

    let of = |change: Value| rule(&name, &change);
    let specs = [of(json!({"override": false})), of(json!({"override": false, "copyByChunk": true})), of(json!({}))];
    let fields = ["override: true instead of false", "copy_by_chunk: false instead of true", ""];
    assert_observed::<ReplicationRule>(&site, &name, specs, fields, |status| &status.drift).await;
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn observe_only_reports_changes_and_deletions_without_repair() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let (name, observe) = (site.name("hand"), json!({"managementPolicy": "ObserveOnly"}));
    site.apply::<Registry>(&name, registry(&upstream, &json!({})));
    site.reconcile::<Registry>(&name).await;
    site.apply::<ProxyProject>(&name, project(&name, &json!({})));
    site.reconcile::<ProxyProject>(&name).await;
    site.apply::<ReplicationRule>(&name, rule(&name, &json!({})));
    site.reconcile::<ReplicationRule>(&name).await;
    site.apply::<Registry>(&name, registry(&upstream, &observe));
    site.apply::<ProxyProject>(&name, project(&name, &observe));
    site.apply::<ReplicationRule>(&name, rule(&name, &observe));

    let client = site.client();
    let id = client.registry_named(&name).await.unwrap().unwrap().id;
    let update = model::RegistryUpdate { insecure: Some(true), ..model::RegistryUpdate::default() };
    client.update_registry(id, &update).await.unwrap();
    let project_id = client.project_named(&name).await.unwrap().unwrap().project_id;
    let metadata = [("public".to_owned(), "false".to_owned())].into();
    client
        .update_project(project_id, &model::ProjectUpdate { metadata, ..model::ProjectUpdate::default() })
        .await
        .unwrap();
    let policy = client.replication_policy_named(&name).await.unwrap().unwrap();
    let content = ReplicationPolicyContent { override_: false, ..policy.content };
    client.update_replication_policy(policy.id, &content).await.unwrap();
    site.writes();
    let drifted = "False Drifted".to_owned();
    let (drift, notes, ready) = look::<Registry>(&site, &name, |status| &status.drift).await;
    assert_eq!((drift, notes.len(), ready), (vec!["insecure: true instead of false".to_owned()], 1, drifted.clone()));
    let (drift, notes, ready) = look::<ProxyProject>(&site, &name, |status| &status.drift).await;
    assert_eq!((drift, notes.len(), ready), (vec!["public: false instead of true".to_owned()], 1, drifted.clone()));
    let (drift, notes, ready) = look::<ReplicationRule>(&site, &name, |status| &status.drift).await;
    assert_eq!((drift, notes.len(), ready), (vec!["override: false instead of true".to_owned()], 1, drifted.clone()));
    assert!(site.writes().is_none_or(|writes| writes == 0));

    client.delete_replication_policy(policy.id).await.unwrap();
    client.delete_project(project_id).await.unwrap();
    site.writes();
    let deleted = vec!["Harbor has no such object".to_owned()];
    let (drift, notes, _) = look::<ReplicationRule>(&site, &name, |status| &status.drift).await;
    assert_eq!((&drift, notes.len()), (&deleted, 1));
    let (drift, notes, _) = look::<ProxyProject>(&site, &name, |status| &status.drift).await;
    assert_eq!((&drift, notes.len()), (&deleted, 1));
    client.delete_registry(id).await.unwrap();
    site.writes();
    let (drift, notes, _) = look::<Registry>(&site, &name, |status| &status.drift).await;
    assert_eq!((&drift, notes.len()), (&deleted, 1));
    assert!(site.writes().is_none_or(|writes| writes == 0));
}

#[tokio::test]
async fn a_secret_that_was_never_ours_to_send_is_no_drift() {
    let site = Site::start().await;
    let upstream = Upstream::builder().basic_auth("puller", "right").start().await;
    let name = site.name("credentials");
    site.secret("upstream", "puller", "right");
    let credentials = json!({"credentialsSecretRef": {"name": "upstream"}, "adoptionPolicy": "IfExists"});
    site.apply::<Registry>(&name, registry(&upstream, &credentials));
    assert_eq!(site.reconcile::<Registry>(&name).await.ready(), "True Reconciled");
    // As it was restored from a backup that has no status.
    site.world.set_status::<Registry>(&name, harbor_pilot::api::RegistryStatus::default()).unwrap();
    let observed = changed(registry(&upstream, &credentials), &json!({"managementPolicy": "ObserveOnly"}));
    site.apply::<Registry>(&name, observed);
    site.writes();
    let (drift, notes, ready) = look::<Registry>(&site, &name, |status| &status.drift).await;
    assert_eq!((drift, notes, ready.as_str()), (Vec::new(), Vec::new(), "True Reconciled"));
    assert!(site.writes().is_none_or(|writes| writes == 0));
    site.clean(&[&name]).await;
}

#[tokio::test]
async fn a_project_that_lacks_our_marker_drifts_at_every_look_until_it_has_it() {
    let (site, upstream) = (Site::start().await, Upstream::builder().start().await);
    let name = site.name("label");
    site.apply::<Registry>(&name, registry(&upstream, &json!({})));
    site.reconcile::<Registry>(&name).await;
    let registry_id = site.client().registry_named(&name).await.unwrap().unwrap().id;
    let metadata = [("public".to_owned(), "true".to_owned()), ("proxy_speed_kb".to_owned(), "512".to_owned())].into();
    let manual_request = model::NewProject { project_name: name.clone(), registry_id, metadata, storage_limit: None };
    site.client().create_project(&manual_request).await.unwrap();

    let adopt = json!({"adoptionPolicy": "IfExists", "managementPolicy": "ObserveOnly"});
    site.apply::<ProxyProject>(&name, project(&name, &adopt));
    let first = look::<ProxyProject>(&site, &name, |status| &status.drift).await;
    assert!(first.0.len() == 1 && first.0[0].starts_with("label harbor-pilot: nothing instead of"), "{first:?}");
    let second = look::<ProxyProject>(&site, &name, |status| &status.drift).await;
    assert_eq!((second.0, second.1.len()), (first.0, 0));
    site.apply::<ProxyProject>(&name, project(&name, &json!({"adoptionPolicy": "IfExists"})));
    assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");
    site.apply::<ProxyProject>(&name, project(&name, &adopt));
    assert_eq!(look::<ProxyProject>(&site, &name, |status| &status.drift).await.0, Vec::<String>::new());
    site.clean(&[&name]).await;
}
