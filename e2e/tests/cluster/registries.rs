//! Registries that Harbor does not accept, that lose their password, and that are still in use.

use std::time::Duration;

use harbor_double::Upstream;
use harbor_pilot_e2e::cluster::{Cluster, condition_of, message_of, proxy_project, registry, secret, shared};
use serde_json::{Value, json};

/// A Registry with credentials, looked at each two seconds.
fn with_credentials(name: &str, upstream: &Upstream) -> Value {
    let mut registry = registry(name, &upstream.url());
    registry["spec"]["credentialsSecretRef"] = json!({"name": name});
    registry["spec"]["interval"] = json!("2s");
    registry
}

/// Events about an object, as `kubectl get events` has them: `type reason ×count`, and the message.
pub(crate) async fn events(cluster: &Cluster, kind: &str, name: &str) -> Vec<(String, String)> {
    let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let arguments = ["get", "events", "-n", "default", "--field-selector", &selector, "-o", "json"];
    let text = cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut events: Vec<_> = list["items"].as_array().unwrap().clone();
    events.sort_by_key(|event| event["eventTime"].to_string());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| {
            let count = event["series"]["count"].as_i64().unwrap_or(1);
            (format!("{} {} ×{count}", text(&event["type"]), text(&event["reason"])), text(&event["message"]))
        })
        .collect()
}

#[tokio::test]
async fn a_wrong_password_from_the_start_is_named_once_and_the_rule_does_not_rewrite() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().basic_auth("user", "right").start().await;
    let canary = "n0t-the-p4ssword";
    cluster.apply(&secret("refused", "user", canary)).await.unwrap();
    cluster.apply(&with_credentials("refused", &upstream)).await.unwrap();
    let mut project = proxy_project("refused");
    project["spec"]["interval"] = json!("2s");
    cluster.apply(&project).await.unwrap();
    let refused = cluster.wait_for("Registry", "refused", "Ready", "False CredentialsRejected").await.unwrap();
    assert!(message_of(&refused, "Ready").contains("credentialsSecretRef"), "{refused:#}");
    assert_eq!(condition_of(&refused, "Stalled"), "True CredentialsRejected");
    cluster.wait_for("ProxyProject", "refused", "Ready", "False RegistryNotReady").await.unwrap();

    // Several intervals go by.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let waiting = cluster.get("ProxyProject", "refused").await.unwrap();
    assert_eq!(waiting["status"]["rewrite"], Value::Null, "{waiting:#}");
    let image = format!("{}/app:v1", upstream.host());
    assert_eq!(cluster.admitted(&image).await.unwrap(), image);
    let reported = events(&cluster, "Registry", "refused").await;
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert_eq!(reported[0].0, "Warning CredentialsRejected ×1", "{reported:?}");
    let refused = cluster.get("Registry", "refused").await.unwrap().to_string();
    for text in [cluster.logs(), refused, format!("{reported:?}")] {
        assert!(!text.contains(canary), "the password is told: {text}");
    }

    // With the right one everything follows by itself.
    cluster.apply(&secret("refused", "user", "right")).await.unwrap();
    cluster.wait_for("Registry", "refused", "Ready", "True Reconciled").await.unwrap();
    cluster.wait_for("ProxyProject", "refused", "Ready", "True Reconciled").await.unwrap();
    cluster.until_rewritten(&image).await.unwrap();
    let reported = events(&cluster, "Registry", "refused").await;
    let created = ("Normal Reconciled ×1".to_owned(), "created registry refused in Harbor".to_owned());
    assert!(reported.contains(&created), "{reported:?}");
    let reported = events(&cluster, "ProxyProject", "refused").await;
    let created = ("Normal Reconciled ×1".to_owned(), "created proxy project refused in Harbor".to_owned());
    assert!(reported.contains(&created), "{reported:?}");
    cluster.forget("refused").await.unwrap();
}

#[tokio::test]
async fn a_password_that_becomes_wrong_is_named_and_the_rule_goes_on() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().basic_auth("user", "right").start().await;
    cluster.apply(&secret("rotated", "user", "right")).await.unwrap();
    cluster.apply(&with_credentials("rotated", &upstream)).await.unwrap();
    cluster.apply(&proxy_project("rotated")).await.unwrap();
    let image = format!("{}/app:v1", upstream.host());
    cluster.wait_for("ProxyProject", "rotated", "Ready", "True Reconciled").await.unwrap();
    let rewritten = cluster.until_rewritten(&image).await.unwrap();

    cluster.apply(&secret("rotated", "user", "wrong")).await.unwrap();
    cluster.wait_for("Registry", "rotated", "Ready", "False CredentialsRejected").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.admitted(&image).await.unwrap(), rewritten);
    let project = cluster.get("ProxyProject", "rotated").await.unwrap();
    assert_eq!(project["status"]["rewrite"]["target"], format!("{}/rotated", cluster.harbor.host()));

    cluster.apply(&secret("rotated", "user", "right")).await.unwrap();
    cluster.wait_for("Registry", "rotated", "Ready", "True Reconciled").await.unwrap();
    assert_eq!(cluster.admitted(&image).await.unwrap(), rewritten);
    let reported = events(&cluster, "Registry", "rotated").await;
    let refusals = reported.iter().filter(|(kind, _)| kind.starts_with("Warning CredentialsRejected")).count();
    assert_eq!(refusals, 1, "{reported:?}");
    cluster.forget("rotated").await.unwrap();
}

#[tokio::test]
async fn drift_is_repaired_and_the_event_names_the_field() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().start().await;
    cluster.apply(&registry("repaired", &upstream.url())).await.unwrap();
    let mut project = proxy_project("repaired");
    project["spec"]["interval"] = json!("2s");
    cluster.apply(&project).await.unwrap();
    cluster.wait_for("ProxyProject", "repaired", "Ready", "True Reconciled").await.unwrap();
    for _ in 0..2 {
        let edit = json!({"metadata": {"public": "false"}});
        assert_eq!(cluster.harbor.manual_request("PUT", "/projects/repaired", Some(edit)).await.0, 200);
        for _ in 0..100 {
            let (_, project) = cluster.harbor.manual_request("GET", "/projects/repaired", None).await;
            if project["metadata"]["public"] == "true" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (_, project) = cluster.harbor.manual_request("GET", "/projects/repaired", None).await;
        assert_eq!(project["metadata"]["public"], "true");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let reported = events(&cluster, "ProxyProject", "repaired").await;
    assert!(reported.iter().any(|(_, message)| message.contains("created proxy project")), "{reported:?}");
    let repairs: Vec<_> =
        reported.iter().filter(|(_, message)| message.contains("public: false instead of true")).collect();
    assert_eq!(repairs.len(), 1, "one Event that counts: {reported:?}");
    assert!(repairs[0].0.ends_with("×2"), "{reported:?}");
    cluster.forget("repaired").await.unwrap();
}

#[tokio::test]
async fn a_registry_that_a_project_uses_is_deleted_once_it_is_free_and_says_until_then_what_uses_it() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().start().await;
    let mut registry = registry("blocked", &upstream.url());
    registry["spec"]["deletionPolicy"] = json!("Delete");
    let mut project = proxy_project("blocked-by-this");
    project["spec"]["registryRef"]["name"] = json!("blocked");
    project["spec"]["deletionPolicy"] = json!("Delete");
    cluster.apply(&registry).await.unwrap();
    cluster.apply(&project).await.unwrap();
    cluster.wait_for("ProxyProject", "blocked-by-this", "Ready", "True Reconciled").await.unwrap();

    cluster.plane.kubectl(&["delete", "hreg", "blocked", "--wait=false"]).await.unwrap().ok().unwrap();
    let blocked = cluster.wait_for("Registry", "blocked", "DeletionBlocked", "True InUse").await.unwrap();
    let message = message_of(&blocked, "DeletionBlocked");
    assert!(message.contains("ProxyProject blocked-by-this"), "{message}");
    let reported = events(&cluster, "Registry", "blocked").await;
    assert!(reported.iter().any(|(kind, _)| kind == "Warning InUse ×1"), "{reported:?}");

    cluster.delete("hpp", "blocked-by-this").await.unwrap();
    let deleted = ["wait", "--for=delete", "hreg/blocked", "--timeout=20s"];
    cluster.plane.kubectl(&deleted).await.unwrap().ok().unwrap();
    for path in ["/projects/blocked-by-this", "/registries?name=blocked"] {
        let (status, found) = cluster.harbor.manual_request("GET", path, None).await;
        assert!(status == 404 || status == 403 || found == json!([]), "{path}: {status} {found}");
    }
}

#[tokio::test]
async fn unmarked_object_is_not_modified_until_its_resource_may_adopt_it() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().start().await;
    let made = json!({"name": "adopted", "type": "docker-registry", "url": upstream.url(), "description": "by hand"});
    assert_eq!(cluster.harbor.manual_request("POST", "/registries", Some(made)).await.0, 201);
    let found = async || {
        let list = cluster.harbor.manual_request("GET", "/registries?q=name%3Dadopted", None).await.1;
        assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
        list[0].clone()
    };
    let id = found().await["id"].as_i64().unwrap();
    let made = json!({"project_name": "adopted", "registry_id": id, "metadata": {"public": "true"}});
    assert_eq!(cluster.harbor.manual_request("POST", "/projects", Some(made)).await.0, 201);

    cluster.apply(&registry("adopted", &upstream.url())).await.unwrap();
    cluster.apply(&proxy_project("adopted")).await.unwrap();
    let refused = cluster.wait_for("Registry", "adopted", "Ready", "False AdoptionRequired").await.unwrap();
    assert!(message_of(&refused, "Ready").contains("spec.adoptionPolicy: IfExists"), "{refused:#}");
    cluster.wait_for("ProxyProject", "adopted", "Ready", "False RegistryNotReady").await.unwrap();
    assert_eq!(found().await["description"], "by hand");

    for mut object in [registry("adopted", &upstream.url()), proxy_project("adopted")] {
        object["spec"]["adoptionPolicy"] = json!("IfExists");
        cluster.apply(&object).await.unwrap();
    }
    let adopted = cluster.wait_for("Registry", "adopted", "Ready", "True Reconciled").await.unwrap();
    assert_eq!(adopted["status"]["id"].as_i64(), Some(id));
    cluster.wait_for("ProxyProject", "adopted", "Ready", "True Reconciled").await.unwrap();
    let description = found().await["description"].to_string();
    assert!(
        description.contains("by hand [harbor-pilot ") && description.contains("/Registry/adopted]"),
        "{description}"
    );
    let reported = events(&cluster, "Registry", "adopted").await;
    assert!(reported.iter().any(|(_, message)| message.contains("adopted registry adopted")), "{reported:?}");
    cluster.forget("adopted").await.unwrap();
}
