//! A cluster of its own, through what the others would not survive: an API server that restarts and forgets, and kinds that
//! are deleted when the operator is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use harbor_double::{Harbor, Upstream};
use harbor_pilot_e2e::cluster::{Cluster, NAMESPACE, account, message_of, proxy_project, registry, resource, secret};
use harbor_pilot_e2e::pilot;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::observability;

/// In which everything has to be as it should, after the API server is back.
const CONVERGED: Duration = Duration::from_secs(30);

const CANARY: &str = "c4nary-of-its-own";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_survives_restarts_and_lost_watches_and_is_taken_down_without_its_operator() {
    let mut cluster = Cluster::own().await.unwrap();
    // From here on the controller may read no more Secrets than it needs, as the documentation has it.
    let role = documented("secrets.md", "kind: Role\n");
    cluster.plane.kubectl_with_input(&["apply", "-f", "-"], &role).await.unwrap().ok().unwrap();
    let upstream = Upstream::builder().basic_auth("user", CANARY).start().await;
    cluster.apply(&secret("ecr", "user", CANARY)).await.unwrap();
    let mut storm = registry("storm", &upstream.url());
    storm["spec"]["credentialsSecretRef"] = json!({"name": "ecr"});
    storm["spec"]["interval"] = json!("1h");
    cluster.apply(&storm).await.unwrap();
    for name in ["older", "younger"] {
        cluster.apply(&project(name, true)).await.unwrap();
        cluster.wait_for("ProxyProject", name, "Ready", "True Reconciled").await.unwrap();
    }
    cluster.wait_for("ProxyProject", "younger", "RewriteConflict", "True MatchConflict").await.unwrap();

    an_api_server_that_restarts_is_missed_for_seconds(&cluster).await;
    watches_that_are_too_old_to_resume_list_once_and_miss_nothing(&mut cluster).await;
    failures_never_show_the_password(&cluster).await;
    // The last is the first one as it is sent.
    let reported = [CANARY, "c4nary-rotated", "dXNlcjpjNG5hcnktb2YtaXRzLW93bg=="];
    assert_not_reported(&cluster, &reported).await;
    retain_policy_releases_resources_of_a_deleted_harbor(&cluster).await;
    crds_are_deleted_after_the_operator_is_deleted(&mut cluster).await;
}

/// HarborInstances that fail, each in its way, with the canary for a password.
async fn failures_never_show_the_password(cluster: &Cluster) {
    let failing = async || (StatusCode::INTERNAL_SERVER_ERROR, "no");
    let page = async || ([(CONTENT_TYPE, "text/html")], "<html>log in</html>");
    let limited = async || (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "3600")], "");
    let refused = Harbor::builder().admin("admin", "another").start().await;
    let ways = [
        ("refused", refused.url(), "False HarborUnauthorized"),
        ("failing", served(Router::new().fallback(failing)).await, "False HarborError"),
        ("page", served(Router::new().fallback(page)).await, "False HarborError"),
        ("limited", served(Router::new().fallback(limited)).await, "False RateLimited"),
        ("nobody", "http://127.0.0.1:9".to_owned(), "False HarborUnreachable"),
        ("no-tls", format!("https://{}", refused.host()), "False HarborUnreachable"),
    ];
    for (name, url, _) in &ways {
        let spec = json!({"url": url, "credentialsSecretRef": {"name": "ecr"}, "interval": "1h"});
        cluster.apply(&resource("HarborInstance", name, spec)).await.unwrap();
    }
    for (name, _, ready) in &ways {
        cluster.wait_for("HarborInstance", name, "Ready", ready).await.unwrap();
    }
}

async fn served(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// Nothing that can be read of the operator has one of these in it, although it logs all it can.
async fn assert_not_reported(cluster: &Cluster, values: &[&str]) {
    let logs = cluster.logs();
    assert!(logs.contains("TRACE"), "nothing was traced");
    let events = cluster.plane.kubectl(&["get", "events", "-A", "-o", "json"]).await.unwrap().ok().unwrap();
    let kinds = "hinst,hreg,hpp,hrr,hci";
    let resources = cluster.plane.kubectl(&["get", kinds, "-o", "json"]).await.unwrap().ok().unwrap();
    for (what, text) in [("log", logs), ("Events", events), ("status", resources)] {
        for value in values {
            assert!(!text.contains(value), "{value} is in the {what}");
        }
    }
    observability::assert_not_reported(cluster, values).await;
}

/// A project of the instance `default` on the Registry `storm`, looked at each hour. All have the same match.
fn project(name: &str, public: bool) -> Value {
    let mut project = proxy_project(name);
    project["spec"]["registryRef"] = json!({"name": "storm"});
    project["spec"]["public"] = json!(public);
    project["spec"]["rewrite"] = json!({"matches": ["storm.example"]});
    project["spec"]["interval"] = json!("1h");
    project
}

/// The YAML block of a page of the documentation that has this line.
fn documented(page: &str, line: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(str::to_owned).find(|block| block.contains(line)).unwrap()
}

/// Waits until Harbor has a project as public, or not.
async fn until_public(cluster: &Cluster, name: &str, public: bool, end: Instant) {
    loop {
        let (_, found) = cluster.harbor.manual_request("GET", &format!("/projects/{name}"), None).await;
        if found["metadata"]["public"].as_str() == Some(if public { "true" } else { "false" }) {
            return;
        }
        assert!(Instant::now() < end, "{found:#}\n{}", tail(&cluster.logs()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The end of a log that is long.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("TRACE")).collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

async fn an_api_server_that_restarts_is_missed_for_seconds(cluster: &Cluster) {
    cluster.plane.stop_apiserver().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.plane.start_apiserver().await.unwrap();
    let end = Instant::now() + CONVERGED;
    cluster.apply(&project("younger", false)).await.unwrap();
    until_public(cluster, "younger", false, end).await;
}

async fn watches_that_are_too_old_to_resume_list_once_and_miss_nothing(cluster: &mut Cluster) {
    // What happens while the controller hears nothing, and is forgotten before it listens again. Its connections are cut first, or
    // it would find there what it was told meanwhile.
    cluster.plane.stop_apiserver().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.controller().unwrap().halt().unwrap();
    cluster.plane.start_apiserver().await.unwrap();
    let (lists_before, too_old_before) = (lists(cluster).len(), too_old(cluster).len());
    cluster.delete("hpp", "older").await.unwrap();
    cluster.apply(&project("younger", true)).await.unwrap();
    cluster.apply(&secret("ecr", "user", "c4nary-rotated")).await.unwrap();
    cluster.apply(&project("newer", true)).await.unwrap();
    let noise: Vec<Value> = (0..100)
        .map(|number| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("noise-{number}")}}))
        .collect();
    let noise = json!({"apiVersion": "v1", "kind": "List", "items": noise}).to_string();
    cluster.plane.kubectl_with_input(&["create", "-n", "default", "-f", "-"], &noise).await.unwrap().ok().unwrap();
    cluster.plane.compact().await.unwrap();
    cluster.plane.stop_apiserver().await;
    cluster.plane.start_apiserver().await.unwrap();
    cluster.controller().unwrap().go_on().unwrap();

    let begin = Instant::now();
    until_public(cluster, "younger", true, begin + CONVERGED).await;
    cluster.wait_for("Registry", "storm", "Ready", "False CredentialsRejected").await.unwrap();
    cluster.wait_for("ProxyProject", "newer", "RewriteConflict", "True MatchConflict").await.unwrap();
    cluster.wait_for("ProxyProject", "younger", "RewriteConflict", "").await.unwrap();
    assert!(begin.elapsed() < CONVERGED, "only after {:?}", begin.elapsed());

    let kinds = ["harborinstances", "registries", "proxyprojects", "replicationrules", "cachedimages"];
    let of_kinds = kinds.map(|kind| format!("/apis/harbor-pilot.dev/v1alpha1/{kind}?&"));
    let of_secret = |name| format!("/api/v1/namespaces/{NAMESPACE}/secrets?&fieldSelector=metadata.name%3D{name}&");
    let wanted: Vec<String> = of_kinds.into_iter().chain(["harbor", "ecr"].map(of_secret)).collect();
    let counts = || {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for list in lists(cluster).split_off(lists_before) {
            *counts.entry(list.split("limit=").next().unwrap().to_owned()).or_default() += 1;
        }
        counts
    };
    while !wanted.iter().all(|list| counts().contains_key(list)) {
        assert!(begin.elapsed() < CONVERGED, "not all were listed: {:#?}\n{}", counts(), tail(&cluster.logs()));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Whoever would list in circles does so now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    // An API server that has just begun may call a watch too old again, though it begins where a list ended: that asks for another list.
    let (counts, too_old) = (counts(), too_old(cluster).split_off(too_old_before));
    let lists_again: usize = counts.values().map(|count| count - 1).sum();
    let too_old_again = too_old.len() - too_old.iter().collect::<BTreeSet<_>>().len();
    assert!(lists_again <= too_old_again, "one list a kind: {counts:#?}, {too_old:#?}\n{}", tail(&cluster.logs()));
    assert!(!too_old.is_empty(), "no watch was too old:\n{}", tail(&cluster.logs()));

    cluster.apply(&secret("ecr", "user", CANARY)).await.unwrap();
    cluster.wait_for("Registry", "storm", "Ready", "True Reconciled").await.unwrap();
}

/// Each time that the controller was told that a watch is too old to go on: what it says, without times and versions.
fn too_old(cluster: &Cluster) -> Vec<String> {
    let logs = cluster.logs();
    let lines = logs.lines().filter(|line| line.contains("too old resource version"));
    lines.map(|line| line.replace(|letter: char| letter.is_ascii_digit(), "")).collect()
}

/// Each list that the controller was given so far: its resource and its selector.
fn lists(cluster: &Cluster) -> Vec<String> {
    let text = cluster.plane.audit_log().unwrap();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lists = entries.filter(|entry| {
        entry["verb"] == "list"
            && entry["responseStatus"]["code"] == 200
            && entry["user"]["username"].as_str().unwrap_or_default().ends_with(":harbor-pilot-controller")
            // After a change of rules it is looked what there is that they speak of; no watch had to begin anew for that.
            && !entry["requestURI"].as_str().unwrap_or_default().contains("limit=250")
    });
    lists.map(|entry| entry["requestURI"].as_str().unwrap().to_owned()).collect()
}

async fn retain_policy_releases_resources_of_a_deleted_harbor(cluster: &Cluster) {
    let rule = json!({
        "source": {"registryRef": {"name": "storm"}}, "destination": {"namespace": "mirror"},
        "trigger": {"type": "Manual"},
    });
    for name in ["let-go", "released"] {
        cluster.apply(&resource("ReplicationRule", name, rule.clone())).await.unwrap();
        cluster.wait_for("ReplicationRule", name, "Ready", "True Reconciled").await.unwrap();
    }
    let upstream = Upstream::builder().start().await;
    let mut held = registry("held", &upstream.url());
    held["spec"]["deletionPolicy"] = json!("Delete");
    held["metadata"]["finalizers"] = json!(["example.com/someone-else"]);
    cluster.apply(&held).await.unwrap();
    cluster.wait_for("Registry", "held", "Ready", "True Reconciled").await.unwrap();

    cluster.harbor.set_down(true).await;
    cluster.plane.kubectl(&["delete", "hrr", "let-go", "--wait=false"]).await.unwrap().ok().unwrap();
    let blocked = cluster.wait_for_any("ReplicationRule", "let-go", "DeletionBlocked").await.unwrap();
    assert!(message_of(&blocked, "DeletionBlocked").contains("deletionPolicy: Retain"), "{blocked:#}");
    let policy = json!({"spec": {"deletionPolicy": "Retain"}}).to_string();
    let patch = ["patch", "replicationrule", "let-go", "--type", "merge", "-p", &policy];
    cluster.plane.kubectl(&patch).await.unwrap().ok().unwrap();
    let deleted = ["wait", "--for=delete", "hrr/let-go", "--timeout=20s"];
    cluster
        .plane
        .kubectl(&deleted)
        .await
        .unwrap()
        .ok()
        .unwrap_or_else(|error| panic!("{error}\n{}", tail(&cluster.logs())));
}

async fn crds_are_deleted_after_the_operator_is_deleted(cluster: &mut Cluster) {
    cluster.kill_controller().unwrap();
    let role = documented("deletion.md", "kind: ClusterRole\n");
    cluster.plane.kubectl_with_input(&["apply", "-f", "-"], &role).await.unwrap().ok().unwrap();
    let user = format!("--serviceaccount={NAMESPACE}:releaser");
    for arguments in [
        vec!["create", "serviceaccount", "releaser", "-n", NAMESPACE],
        vec!["create", "clusterrolebinding", "releaser", "--clusterrole=harbor-pilot-remove-finalizers", &user],
        vec!["delete", "-f", &crds(), "--wait=false"],
    ] {
        cluster.plane.kubectl(&arguments).await.unwrap().ok().unwrap();
    }
    let definition = |plural: &str| format!("crd/{plural}.harbor-pilot.dev");
    // Nothing of these has a finalizer: they go by themselves.
    for kind in ["harborinstances", "proxyprojects", "cachedimages", "imagepolicies"] {
        let deleted = ["wait", "--for=delete", &definition(kind), "--timeout=30s"];
        cluster.plane.kubectl(&deleted).await.unwrap().ok().unwrap();
    }
    let waits = ["wait", "--for=delete", &definition("replicationrules"), "--timeout=1s"];
    assert!(!cluster.plane.kubectl(&waits).await.unwrap().status.success(), "nothing had to be released");

    let kubeconfig = account(&cluster.plane, cluster.plane.directory(), "releaser").await.unwrap();
    let release = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(pilot::binary().await.unwrap())
            .arg("remove-finalizers")
            .args(arguments)
            .env("KUBECONFIG", &kubeconfig)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let dry = release(&[]).await;
    assert_eq!(dry.0, Some(1), "{dry:?}");
    for reported in [
        "pending  ReplicationRule released: replication policy released would stay in the Harbor of HarborInstance default",
        "pending  Registry held: registry held would stay",
        "2 finalizers to remove. Nothing was changed: add --apply.",
    ] {
        assert!(dry.1.contains(reported), "{reported}: {}", dry.1);
    }
    assert_eq!(release(&[]).await, dry, "it was said that nothing was changed");
    let one = release(&["hrr/released", "--apply"]).await;
    assert_eq!(one.0, Some(0), "{one:?}");
    assert!(
        one.1.starts_with("removed  ReplicationRule released:") && one.1.contains("1 finalizers removed, 0 failed"),
        "{one:?}"
    );
    let deleted = ["wait", "--for=delete", &definition("replicationrules"), "--timeout=30s"];
    cluster.plane.kubectl(&deleted).await.unwrap().ok().unwrap();

    let rest = release(&["--apply"]).await;
    assert!(rest.0 == Some(0) && rest.1.contains("removed  Registry held"), "{rest:?}");
    // What somebody else holds stays held.
    let held = cluster.get("Registry", "held").await.unwrap();
    assert_eq!(held["metadata"]["finalizers"], json!(["example.com/someone-else"]));
    let free = ["patch", "hreg", "held", "--type", "merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    cluster.plane.kubectl(&free).await.unwrap().ok().unwrap();
    let deleted = ["wait", "--for=delete", &definition("registries"), "--timeout=30s"];
    cluster.plane.kubectl(&deleted).await.unwrap().ok().unwrap();
    let nothing = release(&["--apply"]).await;
    assert!(nothing.0 == Some(0) && nothing.1.contains("No resource is waiting for deletion."), "{nothing:?}");

    // Harbor, which was away, still has it all.
    for path in ["/registries?name=held", "/replication/policies?name=released", "/replication/policies?name=let-go"] {
        let (_, found) = cluster.harbor.manual_request("GET", path, None).await;
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{path}: {found}");
    }
}

/// The definitions of our kinds.
fn crds() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds").display().to_string()
}
