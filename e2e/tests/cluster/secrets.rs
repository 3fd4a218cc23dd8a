//! Passwords that are rotated, come late or go: acted on within seconds, whatever the interval says.

use std::time::Duration;

use harbor_double::{Harbor, Request, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, NAMESPACE, condition_of, registry, resource, robot, secret, shared};
use serde_json::{Value, json};
use tokio::time::Instant;

/// What rotation may take; the interval is an hour, and what waits for something is looked at each 30 s.
const SECONDS: Duration = Duration::from_secs(10);

/// A Registry with credentials, looked at each hour.
fn with_credentials(name: &str, upstream: &Upstream) -> Value {
    let mut registry = registry(name, &upstream.url());
    registry["spec"]["credentialsSecretRef"] = json!({"name": name});
    registry["spec"]["interval"] = json!("1h");
    registry
}

/// Waits for `Ready`, and fails when it was not there in seconds.
async fn soon(cluster: &Cluster, kind: &str, name: &str, ready: &str) {
    let begin = Instant::now();
    cluster.wait_for(kind, name, "Ready", ready).await.unwrap();
    let took = begin.elapsed();
    assert!(took < SECONDS, "{kind} {name} was {ready} only after {took:?}");
}

/// Fails when one of these values is told anywhere.
async fn assert_not_reported(cluster: &Cluster, values: &[&str]) {
    let events = cluster.plane.kubectl(&["get", "events", "-A", "-o", "json"]).await.unwrap().ok().unwrap();
    let kinds = "hinst,hreg,hpp,hrr,hci";
    let resources = cluster.plane.kubectl(&["get", kinds, "-o", "json"]).await.unwrap().ok().unwrap();
    for text in [events, resources, cluster.logs(), format!("{:?}", cluster.harbor.log())] {
        for value in values {
            assert!(!text.contains(value), "{value} is told: {text}");
        }
    }
}

#[tokio::test]
async fn a_registry_whose_password_is_rotated_is_given_it_within_seconds_though_its_interval_is_an_hour() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().basic_auth("user", "c4nary-right").start().await;
    cluster.apply(&secret("rotation", "user", "c4nary-wrong")).await.unwrap();
    cluster.apply(&with_credentials("rotation", &upstream)).await.unwrap();
    cluster.wait_for("Registry", "rotation", "Ready", "False CredentialsRejected").await.unwrap();

    for (password, ready) in [
        ("c4nary-right", "True Reconciled"),
        ("c4nary-wrong", "False CredentialsRejected"),
        ("c4nary-right", "True Reconciled"),
    ] {
        cluster.apply(&secret("rotation", "user", password)).await.unwrap();
        soon(&cluster, "Registry", "rotation", ready).await;
    }
    assert_not_reported(&cluster, &["c4nary-right", "c4nary-wrong"]).await;
    cluster.delete("hreg", "rotation").await.unwrap();
}

#[tokio::test]
async fn secret_is_used_immediately_after_creation_and_missed_after_deletion() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().basic_auth("user", "c4nary-late").start().await;
    cluster.apply(&with_credentials("late", &upstream)).await.unwrap();
    cluster.wait_for("Registry", "late", "Ready", "False SecretNotFound").await.unwrap();
    for _ in 0..2 {
        cluster.apply(&secret("late", "user", "c4nary-late")).await.unwrap();
        soon(&cluster, "Registry", "late", "True Reconciled").await;
        cluster.plane.kubectl(&["delete", "secret", "late", "-n", NAMESPACE]).await.unwrap().ok().unwrap();
        soon(&cluster, "Registry", "late", "False SecretNotFound").await;
    }
    assert_not_reported(&cluster, &["c4nary-late"]).await;
    cluster.delete("hreg", "late").await.unwrap();
}

#[tokio::test]
async fn an_instance_whose_password_is_rotated_is_ready_again_within_seconds_and_so_is_what_it_was_refused_for() {
    let cluster = shared().await.unwrap();
    let harbor = Harbor::builder().admin("admin", "c4nary-first").start().await;
    let upstream = Upstream::builder().start().await;
    cluster.apply(&secret("instance-rotation", "admin", "c4nary-first")).await.unwrap();
    let spec = json!({
        "url": harbor.url(), "credentialsSecretRef": {"name": "instance-rotation"}, "interval": "1h",
    });
    cluster.apply(&resource("HarborInstance", "rotation", spec)).await.unwrap();
    cluster.wait_for("HarborInstance", "rotation", "Ready", "True Healthy").await.unwrap();
    let mut registry = registry("of-rotation", &upstream.url());
    registry["spec"]["harborRef"] = json!({"name": "rotation"});
    registry["spec"]["interval"] = json!("1h");
    cluster.apply(&registry).await.unwrap();
    cluster.wait_for("Registry", "of-rotation", "Ready", "True Reconciled").await.unwrap();

    cluster.apply(&secret("instance-rotation", "admin", "c4nary-second")).await.unwrap();
    soon(&cluster, "HarborInstance", "rotation", "False HarborUnauthorized").await;
    soon(&cluster, "Registry", "of-rotation", "False InstanceNotReady").await;
    cluster.apply(&secret("instance-rotation", "admin", "c4nary-first")).await.unwrap();
    soon(&cluster, "HarborInstance", "rotation", "True Healthy").await;
    soon(&cluster, "Registry", "of-rotation", "True Reconciled").await;

    // Nothing is to be seen of an instance that stays as Ready as it was, and all that is its is looked at all the same.
    let password = robot(&harbor).await.unwrap();
    let mut account = secret("instance-rotation", "robot$harbor-pilot", &password);
    for note in ["one", "two"] {
        account["stringData"]["note"] = json!(note);
        tokio::time::sleep(Duration::from_secs(1)).await;
        harbor.clear_log();
        cluster.apply(&account).await.unwrap();
        let end = Instant::now() + SECONDS;
        let looked = |log: Vec<Request>| {
            let by_robot = |request: &Request| request.user.as_deref().is_some_and(|user| user.starts_with("robot$"));
            log.iter().any(|request| request.path.starts_with("/api/v2.0/registries") && by_robot(request))
        };
        while !looked(harbor.log()) {
            assert!(Instant::now() < end, "note {note}: {:?}", harbor.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert_not_reported(&cluster, &["c4nary-first", "c4nary-second", &password]).await;
    cluster.delete("hreg", "of-rotation").await.unwrap();
    cluster.delete("hinst", "rotation").await.unwrap();
}

#[tokio::test]
async fn secrets_are_watched_by_name_alone_and_only_as_long_as_something_names_them() {
    let cluster = shared().await.unwrap();
    let upstream = Upstream::builder().basic_auth("user", "right").start().await;
    cluster.apply(&secret("unnamed", "user", "right")).await.unwrap();
    cluster.apply(&secret("named", "user", "right")).await.unwrap();
    cluster.apply(&with_credentials("named", &upstream)).await.unwrap();
    cluster.wait_for("Registry", "named", "Ready", "True Reconciled").await.unwrap();
    let stages = |name: &str| {
        let text = cluster.plane.audit_log().unwrap();
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let watches = entries.filter(|entry| entry["objectRef"]["resource"] == "secrets" && entry["verb"] == "watch");
        let uri = |entry: &Value| entry["requestURI"].as_str().unwrap().to_owned();
        let watches: Vec<Value> = watches.collect();
        for watch in &watches {
            assert!(uri(watch).contains("fieldSelector=metadata.name%3D"), "{watch:#}");
            assert_eq!(watch["objectRef"]["namespace"], NAMESPACE, "{watch:#}");
        }
        let own = watches.iter().filter(|watch| uri(watch).contains(&format!("metadata.name%3D{name}&")));
        own.map(|watch| watch["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let until = async |wanted: &[&str]| {
        let end = Instant::now() + Duration::from_secs(30);
        while stages("named") != wanted {
            assert!(Instant::now() < end, "{:?} and not {wanted:?}", stages("named"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    until(&["ResponseStarted"]).await;
    assert!(stages("unnamed").is_empty());
    cluster.delete("hreg", "named").await.unwrap();
    until(&["ResponseStarted", "ResponseComplete"]).await;

    // And begun anew.
    cluster.apply(&with_credentials("named", &upstream)).await.unwrap();
    cluster.wait_for("Registry", "named", "Ready", "True Reconciled").await.unwrap();
    cluster.apply(&secret("named", "user", "wrong")).await.unwrap();
    soon(&cluster, "Registry", "named", "False CredentialsRejected").await;
    let ready = cluster.get("Registry", "named").await.unwrap();
    assert_eq!(condition_of(&ready, "Stalled"), "True CredentialsRejected");
    cluster.delete("hreg", "named").await.unwrap();
}
