//! Every field that we manage, changed by hand in Harbor: told with its name, not written while only observed, and put back.
//! Against the double, or a real Harbor (see `support`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod rows;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use harbor_double::Upstream;
use harbor_pilot::{
    api::{self, ProxyProject, Registry, ReplicationRule},
    controller::{Reconciler, Reconcilers},
    harbor::Client,
};
use serde_json::{Value, json};

use rows::{Hand, Place, Row};
use support::{Declared, Site};

/// A Harbor with two registries that are as they should be.
struct Stage {
    site: Site,
    _upstreams: [Upstream; 2],
    place: Place,
    client: Client,
}

impl Stage {
    async fn start(base: &str, kind: &str) -> Self {
        let (site, upstreams) = (Site::start().await, [upstream().await, upstream().await]);
        let name = site.name(base);
        let other = format!("{name}-other");
        site.secret("up", "puller", "right");
        for (name, upstream) in [(&name, &upstreams[0]), (&other, &upstreams[1])] {
            site.apply::<Registry>(name, json!({"type": "docker-registry", "url": upstream.url()}));
            assert_eq!(site.reconcile::<Registry>(name).await.ready(), "True Reconciled");
        }
        let place = Place {
            marker: format!("[harbor-pilot {}/{kind}/{name}]", site.kinds.installation.0),
            url: upstreams[0].url(),
            other_url: upstreams[1].url(),
            other_registry: site.client().registry_named(&other).await.unwrap().unwrap().id,
            name,
        };
        let client = site.client();
        Self { site, _upstreams: upstreams, place, client }
    }

    /// The paths of what Harbor has of this kind.
    async fn paths<K: Declared>(&self) -> Vec<String> {
        let (client, name) = (&self.client, &self.place.name);
        match &*K::kind(&()) {
            "Registry" => vec![format!("/registries/{}", client.registry_named(name).await.unwrap().unwrap().id)],
            "ProxyProject" => {
                let project = client.project_named(name).await.unwrap().unwrap();
                let quota = client.project_quota(project.project_id).await.unwrap().unwrap().id;
                let retention = &project.metadata["retention_id"];
                vec![
                    format!("/projects/{}", project.project_id),
                    format!("/quotas/{quota}"),
                    format!("/retentions/{retention}"),
                ]
            }
            _ => {
                let policies = client.replication_policies().await.unwrap();
                let ours =
                    policies.iter().find(|policy| policy.content.description.ends_with(&self.place.marker)).unwrap();
                vec![format!("/replication/policies/{}", ours.id)]
            }
        }
    }

    async fn documents(&self, paths: &[String]) -> Vec<Value> {
        let mut documents = Vec::new();
        for path in paths {
            let (status, mut document) = self.site.manual_request("GET", path, None).await;
            assert_eq!(status, 200, "{path}");
            document.as_object_mut().unwrap().remove("update_time");
            documents.push(document);
        }
        documents
    }

    /// Changes what the row says, by hand.
    async fn meddle(&self, paths: &[String], hand: &Hand) {
        let path = &paths[hand.document()];
        let body = hand.body(self.site.manual_request("GET", path, None).await.1);
        let (status, answer) = self.site.manual_request("PUT", path, Some(&body)).await;
        assert_eq!(status, 200, "{path} {body}: {answer}");
    }

    async fn check<K>(&self, row: &Row)
    where
        K: Declared,
        Reconcilers: Reconciler<K>,
    {
        let (site, name, field) = (&self.site, &self.place.name, row.field);
        let apply = |policy: &str| {
            let mut spec = row.spec.clone();
            spec["managementPolicy"] = json!(policy);
            site.apply::<K>(name, spec);
        };
        apply("Full");
        let seen = site.reconcile::<K>(name).await;
        assert_eq!(seen.ready(), "True Reconciled", "{field}: {}", seen.message());
        let paths = self.paths::<K>().await;
        let before = self.documents(&paths).await;
        self.meddle(&paths, &row.hand).await;
        let meddled = self.documents(&paths).await;
        assert_ne!(meddled, before, "{field}: nothing was changed by hand");

        apply("ObserveOnly");
        site.writes();
        let seen = site.reconcile::<K>(name).await;
        let drift = json!(seen.0.status)["drift"].clone();
        let lines: Vec<&str> = drift.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(seen.ready() == "False Drifted" && lines.len() == 1, "{field}: {lines:?}");
        assert!(lines[0].starts_with(&row.reported), "{field}: {lines:?} instead of {}", row.reported);
        assert!(site.writes().is_none_or(|writes| writes == 0), "{field}: observing wrote to Harbor");
        assert_eq!(self.documents(&paths).await, meddled, "{field}: observing changed Harbor");

        apply("Full");
        let seen = site.reconcile::<K>(name).await;
        assert_eq!(seen.ready(), "True Reconciled", "{field}: {}", seen.message());
        let reported = seen.0.notes.iter().any(|note| note.message.contains(&row.reported));
        assert!(reported, "{field}: {:?}", seen.0.notes);
        assert_eq!(self.documents(&paths).await, before, "{field} was not put back");
        site.writes();
        assert_eq!(site.reconcile::<K>(name).await.0.notes, [], "{field}");
        assert!(site.writes().is_none_or(|writes| writes == 0), "{field}: a second look wrote to Harbor");
    }

    async fn end(self) {
        self.site.clean(&[&self.place.name, &format!("{}-other", self.place.name)]).await;
    }
}

/// Anybody may pull from it, with any password.
async fn upstream() -> Upstream {
    Upstream::builder().start().await
}

#[tokio::test]
async fn registry_drift_in_each_field_is_reported_and_repaired() {
    let stage = Stage::start("registry", "Registry").await;
    for row in rows::of_registry(&stage.place) {
        stage.check::<Registry>(&row).await;
    }
    stage.end().await;
}

#[tokio::test]
async fn project_drift_in_each_field_is_reported_and_repaired() {
    let stage = Stage::start("project", "ProxyProject").await;
    for row in rows::of_project(&stage.place) {
        stage.check::<ProxyProject>(&row).await;
    }
    stage.end().await;
}

#[tokio::test]
async fn replication_rule_drift_in_each_field_is_reported_and_repaired() {
    let stage = Stage::start("rule", "ReplicationRule").await;
    for row in rows::of_rule(&stage.place) {
        stage.check::<ReplicationRule>(&row).await;
    }
    stage.end().await;
}

/// Paths of all fields that hold a value. Lists of objects are as one object.
fn leaves(path: &str, schema: &Value, found: &mut BTreeSet<String>) {
    let inner = [&schema["properties"], &schema["items"]["properties"]];
    let Some(properties) = inner.into_iter().find_map(Value::as_object) else {
        found.insert(path.to_owned());
        return;
    };
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        leaves(&path, property, found);
    }
}

#[test]
fn each_field_of_the_schema_has_a_row_or_a_reason_why_it_needs_none() {
    let place = Place::default();
    let tables = [
        ("Registry", rows::of_registry(&place), rows::UNMANAGED_OF_REGISTRY),
        ("ProxyProject", rows::of_project(&place), rows::UNMANAGED_OF_PROJECT),
        ("ReplicationRule", rows::of_rule(&place), rows::UNMANAGED_OF_RULE),
    ];
    for (kind, rows, unmanaged) in tables {
        let crd = api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let schema = json!(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema);
        let mut fields = BTreeSet::new();
        leaves("", &schema["properties"]["spec"], &mut fields);
        let covered: BTreeSet<&str> = rows.iter().map(|row| row.field).collect();
        let unmanaged: Vec<&str> = rows::UNMANAGED.iter().chain(unmanaged).map(|(field, _)| *field).collect();
        let is_unmanaged = |field: &str| {
            unmanaged
                .iter()
                .any(|prefix| field.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        };
        let without: Vec<&String> =
            fields.iter().filter(|field| !covered.contains(field.as_str()) && !is_unmanaged(field)).collect();
        assert!(without.is_empty(), "{kind}: give these a row in the table of drift: {without:?}");
        let unknown: Vec<&&str> =
            covered.iter().filter(|field| !fields.contains(**field) || is_unmanaged(field)).collect();
        assert!(unknown.is_empty(), "{kind}: no such fields, or not managed: {unknown:?}");
    }
}
