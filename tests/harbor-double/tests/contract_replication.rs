//! Replication answers as the recorded Harbor did, and does what the recorder saw.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod replay;

use std::time::Duration;

use harbor_double::{Harbor, Image, Severity, Upstream};
use replay::World;
use serde_json::{Value, json};

const PAST: [(&str, &str); 2] =
    [("/log", "the logs are cut, and say where Harbor was built"), ("/schedules", "schedules are not doubled")];

/// Where a note says that an execution has ended, waits for it.
async fn await_executions(world: &mut World, note: &str) {
    if note.contains(": execution ended after") {
        settled(&world.harbor).await;
    }
}

/// Waits, up to ten seconds, until no execution is in progress; answers all, the newest first.
async fn settled(harbor: &Harbor) -> Vec<Value> {
    for _ in 0..1000 {
        let (_, found) = harbor.manual_request("GET", "/replication/executions?page_size=100", None).await;
        let found = found.as_array().unwrap().clone();
        let over = |execution: &Value| {
            let has_end = !execution["end_time"].as_str().unwrap().starts_with("0001");
            has_end && execution["status"] != "InProgress" && execution["status"] != "Stopped"
        };
        if found.iter().all(over) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("an execution does not end");
}

/// Ids of policies count up as recorded; those of executions and tasks belong to another life.
async fn world() -> World {
    let mut world = World::new(100.0).await.with_projects().await;
    for member in ["policy_id", "execution_id", "job_id"] {
        world.ignore(member);
    }
    world
}

#[tokio::test]
async fn replication_is_as_recorded() {
    let mut world = world().await;
    let first = [
        PAST[0],
        ("GET /api/v2.0/projects/plain/repositories ", "which of two tasks ends first is a race"),
        ("GET /api/v2.0/projects/plain/repositories?", "the same"),
        ("executions/22/tasks", "their order is that of the repositories"),
    ];
    world.play("04-replication.md", &first, await_executions).await;
    assert_eq!(world.closed.tags("mirror/single").len(), 1);
    assert_eq!(world.closed.tags("mirror/multi").len(), 1);
    // The policy that hung Harbor had used up a number.
    let taken = json!({"name": "pull-min", "src_registry": {"id": 1}});
    assert_eq!(world.harbor.manual_request("POST", "/replication/policies", Some(taken)).await.0, 409);
    let second = [
        PAST[1],
        PAST[0],
        ("executions?policy_id=15", "the recorder pushed without a note"),
        ("/repositories/evtimg/", "the same"),
        ("executions?page_size=2", "the executions of events are missing"),
        ("policies?page_size=2", "policies were deleted off the record"),
    ];
    world.play("04c-replication-2.md", &second, await_executions).await;
    world.finish(110);
}

async fn upstream_and_harbor(scanner: bool) -> (Upstream, Harbor, i64) {
    let upstream = Upstream::builder().start().await;
    // A scan shall not be over before a busy machine gets to what the push set going.
    let builder = if scanner { Harbor::builder().speed(10.0).scanner() } else { Harbor::builder().speed(100.0) };
    let harbor = builder.start().await;
    let body = json!({"name": "up", "type": "docker-registry", "url": upstream.url()});
    assert_eq!(harbor.manual_request("POST", "/registries", Some(body)).await.0, 201);
    (upstream, harbor, 1)
}

async fn policy(harbor: &Harbor, body: Value) -> i64 {
    let name = body["name"].as_str().unwrap().to_owned();
    let (status, answer) = harbor.manual_request("POST", "/replication/policies", Some(body)).await;
    assert_eq!(status, 201, "{answer}");
    let (_, found) = harbor.manual_request("GET", &format!("/replication/policies?q=name%3D{name}"), None).await;
    found[0]["id"].as_i64().unwrap()
}

#[tokio::test]
async fn push_scan_replicate_fails_until_it_is_run_again_as_recorded() {
    let (upstream, harbor, up) = upstream_and_harbor(true).await;
    let metadata = json!({"public": "true", "prevent_vul": "true", "severity": "high", "auto_scan": "true"});
    let project = json!({"project_name": "gate1", "metadata": metadata});
    assert_eq!(harbor.manual_request("POST", "/projects", Some(project)).await.0, 201);
    let gate = policy(
        &harbor,
        json!({"name": "gate-out", "dest_registry": {"id": up}, "dest_namespace": "gateout", "enabled": true,
            "filters": [{"type": "name", "value": "gate1/**"}], "trigger": {"type": "event_based"}}),
    )
    .await;
    let image = Image::single("linux", "amd64").layers([10]);
    let clean = harbor.push_image("gate1/clean-app", "v1", &image);
    let bad = harbor.push_image("gate1/crit-app", "v1", &image);
    harbor.set_report(&bad.digest, Severity::Critical, 2);
    let events = settled(&harbor).await;
    let shape = |execution: &Value| {
        let part = |name: &str| execution[name].to_string().replace('"', "");
        [part("status"), part("trigger"), part("succeed"), part("failed"), part("status_text")].join(" ")
    };
    assert_eq!(events.iter().map(shape).collect::<Vec<_>>(), ["Failed event_based 0 1 ", "Failed event_based 0 1 "]);
    let id = events[0]["id"].as_i64().unwrap();
    let (_, tasks) = harbor.manual_request("GET", &format!("/replication/executions/{id}/tasks"), None).await;
    assert_eq!(tasks[0]["src_resource"], "gate1/crit-app [1 item(s) in total]");
    assert_eq!(tasks[0]["dst_resource"], "gateout/crit-app [1 item(s) in total]");
    for (name, severity) in [("clean-app", "None"), ("crit-app", "Critical")] {
        let path = format!("/projects/gate1/repositories/{name}/artifacts/v1?with_scan_overview=true");
        let (_, artifact) = harbor.manual_request("GET", &path, None).await;
        let overview = artifact["scan_overview"].as_object().unwrap().values().next().unwrap().clone();
        assert_eq!(
            (overview["scan_status"].as_str(), overview["severity"].as_str()),
            (Some("Success"), Some(severity))
        );
    }
    assert!(upstream.tags("gateout/clean-app").is_empty());
    let run = json!({"policy_id": gate});
    assert_eq!(harbor.manual_request("POST", "/replication/executions", Some(run)).await.0, 201);
    assert_eq!(shape(&settled(&harbor).await[0]), "Failed manual 1 1 ");
    assert_eq!(upstream.tags("gateout/clean-app").get("v1"), Some(&clean.digest));
    assert!(upstream.tags("gateout/crit-app").is_empty());
}

#[tokio::test]
async fn a_schedule_that_never_fires_hangs_the_job_service_for_good() {
    let (source, harbor, up) = upstream_and_harbor(false).await;
    source.push_image("app/single", "v1", &Image::single("linux", "amd64").layers([10]));
    let body = |name: &str, cron: &str, enabled: bool| {
        json!({"name": name, "src_registry": {"id": up}, "dest_namespace": "library", "enabled": enabled,
            "filters": [{"type": "name", "value": "app/single"}],
            "trigger": {"type": "scheduled", "trigger_settings": {"cron": cron}}})
    };
    let nightly = policy(&harbor, body("nightly", "0 0 2 * * *", true)).await;
    policy(&harbor, body("off", "0 0 2 30 2 *", false)).await;
    assert_eq!(harbor.run_schedules(), 1);
    assert_eq!(settled(&harbor).await[0]["trigger"], "scheduled");
    let create = harbor.manual_request("POST", "/replication/policies", Some(body("never", "0 0 2 30 2 *", true)));
    assert!(tokio::time::timeout(Duration::from_millis(200), create).await.is_err(), "it was answered");
    assert!(harbor.job_service_hangs());
    let (_, found) = harbor.manual_request("GET", "/replication/policies?q=name%3Dnever", None).await;
    assert_eq!(found, json!([]), "nothing is stored");
    let run = json!({"policy_id": nightly});
    assert_eq!(harbor.manual_request("POST", "/replication/executions", Some(run)).await.0, 201);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (_, found) = harbor.manual_request("GET", &format!("/replication/executions?policy_id={nightly}"), None).await;
    assert_eq!(found[0]["status"], "InProgress", "60 s of its own are over");
    harbor.wipe();
    assert!(!harbor.job_service_hangs());
}

#[tokio::test]
async fn a_run_that_fails_before_it_has_tasks_is_stopped_for_a_moment() {
    let upstream = Upstream::builder().start().await;
    let harbor = Harbor::builder().speed(0.2).start().await;
    let body = json!({"name": "up", "type": "docker-registry", "url": upstream.url()});
    assert_eq!(harbor.manual_request("POST", "/registries", Some(body)).await.0, 201);
    let filters = json!([{"type": "name", "value": "no/such"}]);
    let body = json!({"name": "missing", "src_registry": {"id": 1}, "enabled": true, "filters": filters});
    let id = policy(&harbor, body).await;
    assert_eq!(harbor.manual_request("POST", "/replication/executions", Some(json!({"policy_id": id}))).await.0, 201);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last: &(Value, Value)| last.0 != "Failed") {
        let (_, found) = harbor.manual_request("GET", "/replication/executions", None).await;
        let state = (found[0]["status"].clone(), found[0]["status_text"].clone());
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        assert!(seen.len() < 5, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen.contains(&(json!("Stopped"), json!(""))), "{seen:?}");
    assert!(seen.last().unwrap().1.as_str().unwrap().starts_with("failed to fetch artifacts: "), "{seen:?}");
}
