//! ReplicationRules in a cluster: applied, run by an annotation, killed in the middle, deleted.

use std::time::{Duration, Instant};

use harbor_double::Upstream;
use harbor_pilot_e2e::cluster::{Cluster, SOON, alone, image, registry, resource, shared};
use serde_json::{Value, json};

/// A Registry with one image `team/app:v1`, and a rule that pulls it into the project `name` when it is asked to.
async fn rule(cluster: &Cluster, name: &str) -> Upstream {
    let upstream = Upstream::builder().start().await;
    upstream.push_image("team/app", "v1", &image());
    let mut known = registry(name, &upstream.url());
    known["spec"]["deletionPolicy"] = json!("Delete");
    cluster.apply(&known).await.unwrap();
    let spec = json!({
        "source": {"registryRef": {"name": name}}, "destination": {"namespace": name},
        "filters": {"name": "team/**"}, "interval": "2s",
    });
    cluster.apply(&resource("ReplicationRule", name, spec)).await.unwrap();
    cluster.wait_for("ReplicationRule", name, "Ready", "True Reconciled").await.unwrap();
    upstream
}

async fn run_now(cluster: &Cluster, name: &str, token: &str) {
    let annotation = format!("harbor-pilot.dev/run-now={token}");
    let arguments = ["annotate", "--overwrite", "hrr", name, &annotation];
    cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
}

/// The rule, as soon as its status is as wanted.
async fn until(cluster: &Cluster, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + SOON;
    loop {
        let rule = cluster.get("ReplicationRule", name).await.unwrap();
        if wanted(&rule["status"]) {
            return rule;
        }
        assert!(Instant::now() < end, "{rule:#}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn executions(cluster: &Cluster, rule: &Value) -> usize {
    let path = format!("/replication/executions?policy_id={}", rule["status"]["id"]);
    cluster.harbor.manual_request("GET", &path, None).await.1.as_array().unwrap().len()
}

#[tokio::test]
async fn replication_rule_runs_by_annotation_and_reports_the_result() {
    let cluster = shared().await.unwrap();
    let _upstream = rule(&cluster, "on-demand").await;
    run_now(&cluster, "on-demand", "first").await;
    let rule = until(&cluster, "on-demand", |status| status["lastExecution"]["status"] == "Succeed").await;
    assert_eq!(rule["status"]["lastRunToken"], "first");
    assert_eq!(rule["status"]["lastExecution"]["succeeded"], 1, "{rule:#}");
    assert_eq!(executions(&cluster, &rule).await, 1);
    let copied = cluster.harbor.artifacts("on-demand/app");
    assert!(copied.values().any(|tags| tags.contains(&"v1".to_owned())), "{copied:?}");
    let columns = cluster.plane.kubectl(&["get", "hrr", "on-demand"]).await.unwrap().ok().unwrap();
    for shown in ["READY", "LAST RUN", "True", "Reconciled", "Succeed"] {
        assert!(columns.contains(shown), "{shown} is not shown: {columns}");
    }

    // Both at once: the registry waits for the rule.
    let both = ["delete", "--timeout=60s", "hreg/on-demand", "hrr/on-demand"];
    cluster.plane.kubectl(&both).await.unwrap().ok().unwrap();
    let (_, policies) = cluster.harbor.manual_request("GET", "/replication/policies?page_size=100", None).await;
    let named = |object: &Value| object["name"] == "on-demand";
    assert!(!policies.as_array().unwrap().iter().any(named), "{policies}");
    let (_, registries) = cluster.harbor.manual_request("GET", "/registries?page_size=100", None).await;
    assert!(!registries.as_array().unwrap().iter().any(named), "{registries}");
}

#[tokio::test]
async fn a_controller_that_is_killed_while_it_starts_an_execution_starts_no_second() {
    let mut cluster = alone().await.unwrap();
    let _upstream = rule(&cluster, "killed-run").await;
    let mut last = Value::Null;
    for round in 0..4_u64 {
        let token = format!("token-{round}");
        run_now(&cluster, "killed-run", &token).await;
        tokio::time::sleep(Duration::from_millis(40 * round)).await;
        cluster.kill_controller().unwrap();
        cluster.start_controller().await.unwrap();
        last = until(&cluster, "killed-run", |status| status["lastRunToken"] == token.as_str()).await;
    }
    assert_eq!(executions(&cluster, &last).await, 4, "{last:#}");
    cluster.delete("hrr", "killed-run").await.unwrap();
    cluster.delete("hreg", "killed-run").await.unwrap();
}
