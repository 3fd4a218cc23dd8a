//! Every field that we manage, changed in the spec and by hand in Harbor, one after the other: what `tests/drift` shows of one
//! look, here through the API server.

use std::time::Duration;

use harbor_double::Upstream;
use harbor_pilot_e2e::cluster::{Cluster, condition_of, registry, resource, secret, shared};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::registries::events;
use rows::{Hand, Place, Row};

#[allow(dead_code, reason = "what has no row is told of there")]
#[path = "../../../tests/drift/rows.rs"]
mod rows;

const NAME: &str = "fields";
const SOON: Duration = Duration::from_secs(60);

/// An instance with an administrator's rights, for quotas are not for robots; and two registries.
async fn stage(cluster: &Cluster) -> (Place, [Upstream; 2]) {
    cluster.apply(&secret(NAME, "admin", "Harbor12345")).await.unwrap();
    cluster.apply(&secret("up", "puller", "right")).await.unwrap();
    let instance = json!({"url": cluster.harbor.url(), "credentialsSecretRef": {"name": NAME}});
    cluster.apply(&resource("HarborInstance", NAME, instance)).await.unwrap();
    let upstreams = [Upstream::builder().start().await, Upstream::builder().start().await];
    let other = format!("{NAME}-other");
    for (name, upstream) in [NAME, &other].into_iter().zip(&upstreams) {
        let mut registry = registry(name, &upstream.url());
        registry["spec"]["harborRef"] = json!({"name": NAME});
        cluster.apply(&registry).await.unwrap();
    }
    let other = cluster.wait_for("Registry", &other, "Ready", "True Reconciled").await.unwrap();
    cluster.wait_for("Registry", NAME, "Ready", "True Reconciled").await.unwrap();
    let place = Place {
        name: NAME.to_owned(),
        marker: String::new(),
        url: upstreams[0].url(),
        other_url: upstreams[1].url(),
        other_registry: other["status"]["id"].as_i64().unwrap(),
    };
    (place, upstreams)
}

/// Where Harbor shows what a resource stands for.
async fn paths(cluster: &Cluster, kind: &str, id: i64) -> Vec<String> {
    match kind {
        "Registry" => vec![format!("/registries/{id}")],
        "ProxyProject" => {
            let quota = format!("/quotas?reference=project&reference_id={id}");
            let quota = cluster.harbor.manual_request("GET", &quota, None).await.1[0]["id"].to_string();
            // By its name: a number would be taken for one.
            let project = format!("/projects/{NAME}");
            let found = cluster.harbor.manual_request("GET", &project, None).await.1;
            let retention = found["metadata"]["retention_id"].as_str().unwrap().to_owned();
            vec![project, format!("/quotas/{quota}"), format!("/retentions/{retention}")]
        }
        _ => vec![format!("/replication/policies/{id}")],
    }
}

async fn documents(cluster: &Cluster, paths: &[String]) -> Vec<Value> {
    let mut documents = Vec::new();
    for path in paths {
        let (status, mut document) = cluster.harbor.manual_request("GET", path, None).await;
        assert_eq!(status, 200, "{path}");
        document.as_object_mut().unwrap().remove("update_time");
        documents.push(document);
    }
    documents
}

async fn meddle(cluster: &Cluster, paths: &[String], hand: &Hand) {
    let path = &paths[hand.document()];
    let body = hand.body(cluster.harbor.manual_request("GET", path, None).await.1);
    let (status, answer) = cluster.harbor.manual_request("PUT", path, Some(body.clone())).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
}

/// Applies a resource as the row says, and waits until the controller has acted on just that.
async fn apply(cluster: &Cluster, kind: &str, row: &Row, token: &str) -> Value {
    let mut spec = row.spec.clone();
    spec["harborRef"] = json!({"name": NAME});
    let mut object = resource(kind, NAME, spec);
    object["metadata"]["annotations"] = json!({"harbor-pilot.dev/reconcile-now": token});
    let generation = cluster.apply(&object).await.unwrap().metadata.generation;
    let end = Instant::now() + SOON;
    loop {
        let object = cluster.get(kind, NAME).await.unwrap();
        let status = &object["status"];
        if status["lastReconcileToken"] == token
            && status["observedGeneration"].as_i64() == generation
            && condition_of(&object, "Ready") == "True Reconciled"
        {
            return object;
        }
        assert!(Instant::now() < end, "{kind}, {}: {status:#}", row.field);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn each_field(cluster: &Cluster, kind: &str, rows: Vec<Row>) {
    for (number, row) in rows.iter().enumerate() {
        let field = row.field;
        let object = apply(cluster, kind, row, &format!("{number} as specified")).await;
        let paths = paths(cluster, kind, object["status"]["id"].as_i64().unwrap()).await;
        let before = documents(cluster, &paths).await;
        meddle(cluster, &paths, &row.hand).await;
        assert_ne!(documents(cluster, &paths).await, before, "{kind}, {field}: nothing was changed by hand");
        apply(cluster, kind, row, &format!("{number} put back")).await;
        assert_eq!(documents(cluster, &paths).await, before, "{kind}, {field} was not put back");
    }
    let reported = events(cluster, kind, NAME).await;
    for row in rows {
        let named = reported.iter().any(|(_, message)| message.contains(&row.reported));
        assert!(named, "{kind}: no Event says {:?}: {reported:?}", row.reported);
    }
}

#[tokio::test]
async fn each_field_follows_the_spec_and_its_drift_is_repaired() {
    let cluster = shared().await.unwrap();
    let (place, _upstreams) = stage(&cluster).await;
    let system = cluster.plane.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]).await;
    let installation = system.unwrap().ok().unwrap();
    let of = |kind: &str| Place { marker: format!("[harbor-pilot {installation}/{kind}/{NAME}]"), ..place.clone() };
    each_field(&cluster, "Registry", rows::of_registry(&of("Registry"))).await;
    tokio::join!(
        each_field(&cluster, "ProxyProject", rows::of_project(&of("ProxyProject"))),
        each_field(&cluster, "ReplicationRule", rows::of_rule(&of("ReplicationRule"))),
    );
    for kind in ["ReplicationRule", "ProxyProject", "Registry"] {
        cluster.delete(kind, NAME).await.unwrap();
    }
    cluster.delete("Registry", &format!("{NAME}-other")).await.unwrap();
    cluster.delete("HarborInstance", NAME).await.unwrap();
}
