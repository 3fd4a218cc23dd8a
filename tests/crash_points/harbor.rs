//! What is in Harbor, as an administrator sees it.

use harbor_double::{Harbor, Upstream};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Names of what others have in Harbor.
const STRANGER: &str = "stranger";

/// What somebody else has made before: by hand, and by another installation.
pub async fn add_strangers(harbor: &Harbor, upstream: &Upstream) {
    let marker = |kind: &str| format!("[harbor-pilot theirs/{kind}/{STRANGER}]");
    let registry = json!({"name": STRANGER, "type": "docker-registry", "url": upstream.url(),
        "description": marker("Registry"), "credential": {"type": "basic", "access_key": "puller", "access_secret": "first"}});
    make(harbor, "/registries", registry).await;
    let registry = json!({"name": "stranger-2", "type": "docker-registry", "url": upstream.url(),
        "credential": {"type": "basic", "access_key": "puller", "access_secret": "first"}});
    make(harbor, "/registries", registry).await;
    make(harbor, "/projects", json!({"project_name": STRANGER, "registry_id": 1})).await;
    let project = get(harbor, "/projects?q=name=stranger").await[0]["project_id"].clone();
    let label =
        json!({"name": "harbor-pilot", "scope": "p", "project_id": project, "description": marker("ProxyProject")});
    make(harbor, "/labels", label).await;
    make(harbor, "/projects", json!({"project_name": "stranger-2", "registry_id": 1})).await;
    let policy = json!({"name": STRANGER, "src_registry": {"id": 1}, "description": marker("ReplicationRule")});
    make(harbor, "/replication/policies", policy).await;
}

/// All that others have, as it stands there.
pub async fn strangers(harbor: &Harbor) -> Value {
    let mut found = Vec::new();
    for list in ["/registries", "/projects", "/replication/policies"] {
        let all = get(harbor, &format!("{list}?page_size=100")).await;
        let theirs = all.as_array().unwrap().iter().filter(|object| is_strange(object)).cloned();
        found.extend(theirs);
    }
    for project in found.clone().iter().filter_map(|object| object["project_id"].as_i64()) {
        found.push(get(harbor, &format!("/labels?scope=p&project_id={project}")).await);
        found.push(get(harbor, &format!("/quotas?reference=project&reference_id={project}")).await);
    }
    for retention in found.clone().iter().filter_map(|object| object["metadata"]["retention_id"].as_str()) {
        found.push(get(harbor, &format!("/retentions/{retention}")).await);
    }
    Value::Array(found)
}

/// Whether an execution is under way, or its end not written yet.
pub async fn is_busy(harbor: &Harbor) -> bool {
    let executions = get(harbor, "/replication/executions").await;
    let running = |execution: &Value| {
        let end = execution["end_time"].as_str().unwrap_or_default();
        execution["status"] == "InProgress" || end.is_empty() || end.starts_with("0001")
    };
    executions.as_array().unwrap().iter().any(running)
}

/// All that others do not have. What refers to a registry does so by its name.
pub async fn everything(harbor: &Harbor) -> Value {
    // A registry with a wrong secret is unhealthy from here on.
    harbor.check_upstreams().await;
    let registries = ours(harbor, "/registries").await;
    let all = get(harbor, "/registries?page_size=100").await;
    let name_of = |id: &Value| {
        let found = all.as_array().unwrap().iter().find(|registry| registry["id"] == *id);
        found.map_or(Value::Null, |registry| registry["name"].clone())
    };
    let mut projects = ours(harbor, "/projects").await;
    for project in &mut projects {
        let id = project["project_id"].clone();
        project["registry"] = name_of(&project["registry_id"]);
        project["labels"] = get(harbor, &format!("/labels?scope=p&project_id={id}")).await;
        project["quota"] = get(harbor, &format!("/quotas?reference=project&reference_id={id}")).await;
        if let Some(retention) = project["metadata"]["retention_id"].as_str() {
            project["retention"] = get(harbor, &format!("/retentions/{retention}")).await;
        }
        let name = project["name"].as_str().unwrap();
        project["repositories"] = get(harbor, &format!("/projects/{name}/repositories")).await;
    }
    let mut policies = ours(harbor, "/replication/policies").await;
    for policy in &mut policies {
        let executions = get(harbor, &format!("/replication/executions?policy_id={}", policy["id"])).await;
        policy["executions"] = executions;
        for end in ["src_registry", "dest_registry"] {
            policy[end] = name_of(&policy[end]["id"]);
        }
    }
    json!({"registries": registries, "projects": projects, "policies": policies})
}

/// What two states differ in, line by line; empty where they do not.
pub fn difference(wanted: &impl Serialize, found: &impl Serialize) -> String {
    let [wanted, found] = [json!(wanted), json!(found)].map(|value| format!("{value:#}"));
    let diff = similar::TextDiff::from_lines(&wanted, &found);
    diff.unified_diff().context_radius(4).header("wanted", "found").to_string()
}

/// The same without what another life would have otherwise.
pub fn without_ids(value: Value) -> Value {
    const GONE: [&str; 16] = [
        "id",
        "project_id",
        "registry_id",
        "retention_id",
        "policy_id",
        "ref",
        "creation_time",
        "update_time",
        "start_time",
        "end_time",
        "startTime",
        "endTime",
        "lastTransitionTime",
        "since",
        "consideredExecution",
        "next_scheduled_time",
    ];
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(key, _)| !GONE.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key, without_ids(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.into_iter().map(without_ids).collect(),
        other => other,
    }
}

async fn ours(harbor: &Harbor, list: &str) -> Vec<Value> {
    let all = get(harbor, &format!("{list}?page_size=100")).await;
    all.as_array().unwrap().iter().filter(|object| !is_strange(object)).cloned().collect()
}

fn is_strange(object: &Value) -> bool {
    object["name"].as_str().is_some_and(|name| name.starts_with(STRANGER))
}

async fn get(harbor: &Harbor, path: &str) -> Value {
    let (status, body) = harbor.manual_request("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    if body.is_null() { json!([]) } else { body }
}

async fn make(harbor: &Harbor, path: &str, body: Value) {
    let (status, answer) = harbor.manual_request("POST", path, Some(body.clone())).await;
    assert_eq!(status, 201, "{path} {body}: {answer}");
}
