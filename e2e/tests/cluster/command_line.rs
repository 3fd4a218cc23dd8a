//! The tools of the command line, against the cluster: rules come from it, and what is rewritten goes back into it.

use std::{process::Stdio, time::Duration};

use harbor_pilot_e2e::cluster::{Cluster, account, resource, shared};
use harbor_pilot_e2e::pilot;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(60);

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn run(cluster: &Cluster, arguments: &[&str], input: &str) -> Ran {
    let mut child = Command::new(pilot::binary().await.unwrap())
        .args(arguments)
        .env("KUBECONFIG", cluster.plane.kubeconfig_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let done = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: done.status.code(), out: text(done.stdout), err: text(done.stderr) }
}

#[tokio::test]
async fn rewritten_manifests_go_through_the_pipe_into_the_cluster_as_kubectl_reads_them() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("pipe").await.unwrap();
    let namespace = cluster.plane.namespace("pipe").await.unwrap();
    let (from, to) = (upstream.host(), format!("{}/pipe", cluster.harbor.host()));
    let text = format!(
        "---\n# Source: web/templates/web.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  \
         selector: &s {{matchLabels: {{app: web}}}}\n  template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      \
         containers:\n      - &base\n        name: one   # first\n        image: {from}/team/one:1\n      - <<: *base\n        \
         name: two\n      - <<: *base\n        name: three\n        image: '{from}/team/three:1'\n---\napiVersion: v1\nkind: List\n\
         items:\n- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, data: {{image: {from}/team/one:1}}}}\n"
    );
    let done = run(&cluster, &["rewrite", "-f", "-", "-n", &namespace], &text).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let images =
        |text: &str| text.replace(&format!("image: {from}/team/one:1\n"), &format!("image: {to}/team/one:1\n"));
    assert_eq!(done.out, images(&text).replace(&format!("'{from}"), &format!("'{to}")));
    assert!(done.err.contains("3 of 3 images rewritten"), "{}", done.err);

    let apply = ["apply", "-n", &namespace, "-f", "-"];
    cluster.plane.kubectl_with_input(&apply, &done.out).await.unwrap().ok().unwrap();
    let path = "jsonpath={.spec.template.spec.containers[*].image}";
    let stored = cluster.plane.kubectl(&["get", "deployment", "web", "-n", &namespace, "-o", path]).await.unwrap();
    assert_eq!(stored.ok().unwrap().trim(), format!("{to}/team/one:1 {to}/team/one:1 {to}/team/three:1"));

    let again = run(&cluster, &["rewrite", "-f", "-", "--diff"], &done.out).await;
    assert_eq!((again.code, again.out.as_str()), (Some(0), ""), "{}", again.err);
    cluster.forget("pipe").await.unwrap();
}

#[tokio::test]
async fn an_image_is_explained_by_the_rules_of_the_cluster_and_by_those_that_do_not_serve() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("explained").await.unwrap();
    let waiting = resource("ProxyProject", "waiting", json!({"registryRef": {"name": "nowhere"}}));
    cluster.apply(&waiting).await.unwrap();

    let image = format!("{}/team/app:1", upstream.host());
    let done = run(&cluster, &["explain", &image, "-o", "json"], "").await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let read: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(read["result"], format!("{}/explained/team/app:1", cluster.harbor.host()));
    assert_eq!(read["rules"][0]["rule"], "explained");
    let other =
        |name: &str| read["rules"].as_array().unwrap().iter().find(|rule| rule["rule"] == name).cloned().unwrap();
    assert_eq!(other("waiting")["verdict"], "NotServing", "{read}");
    assert!(other("waiting")["why"].as_str().unwrap().contains("Harbor does not serve the project yet"), "{read}");
    cluster.delete("ProxyProject", "waiting").await.unwrap();
    cluster.forget("explained").await.unwrap();
}

#[tokio::test]
async fn the_status_of_the_cluster_names_what_is_there_and_what_is_not_ready_and_what_may_not_be_read() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("shown").await.unwrap();
    let deleted = resource("CachedImage", "shown-gone", json!({"image": format!("{}/team/gone:1", upstream.host())}));
    cluster.apply(&deleted).await.unwrap();
    cluster.wait_for("CachedImage", "shown-gone", "Ready", "False ImageNotFound").await.unwrap();

    let done = run(&cluster, &["status", "-o", "json", "--limit", "1000"], "").await;
    assert_eq!(done.code, Some(1), "{}", done.err);
    let read: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let found = |list: &str, name: &str| {
        let items = read[list]["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).cloned().unwrap_or_else(|| panic!("{list} {name}: {read}"))
    };
    assert_eq!(found("instances", "default")["ready"], "True");
    let project = found("proxyProjects", "shown");
    assert_eq!(
        (&project["inForce"], &project["target"]),
        (&json!(true), &json!(format!("{}/shown", cluster.harbor.host())))
    );
    assert_eq!(found("registries", "shown")["url"], upstream.url());
    let trouble = found("notReady", "shown-gone");
    assert_eq!((&trouble["kind"], &trouble["reason"]), (&json!("CachedImage"), &json!("ImageNotFound")));
    assert!(read["images"]["failedByReason"]["ImageNotFound"].as_u64() >= Some(1), "{read}");

    let text = run(&cluster, &["status"], "").await;
    assert!(text.out.contains("CachedImage shown-gone, ") && text.out.contains("NOT READY: "), "{}", text.out);

    // The webhook's account may read rules, and neither Registries nor what they are replicated by.
    let kubeconfig = account(&cluster.plane, cluster.plane.directory(), "harbor-pilot-webhook").await.unwrap();
    let output = Command::new(pilot::binary().await.unwrap())
        .arg("status")
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, output).await.unwrap().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{shown}");
    assert!(shown.contains("Registries cannot be read: ") && shown.contains("forbidden"), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("shown ")), "{shown}");

    cluster.delete("CachedImage", "shown-gone").await.unwrap();
    cluster.forget("shown").await.unwrap();
}

#[tokio::test]
async fn an_image_is_warmed_by_the_rules_nodes_and_secret_of_the_cluster_where_one_may_read_them() {
    let cluster = shared().await.unwrap();
    let upstream = cluster.proxied("warmed").await.unwrap();
    upstream.push_image("team/app", "1", &harbor_pilot_e2e::cluster::image());
    let image = format!("{}/team/app:1", upstream.host());
    let arguments = ["warm", &image, "--store-delay", "1s", "-o", "json", "--operator-namespace"];

    let done = run(&cluster, &[&arguments[..], &["harbor-pilot"]].concat(), "").await;
    assert_eq!(done.code, Some(0), "{} {}", done.out, done.err);
    let read: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let line = &read["images"][0];
    assert_eq!(line["image"], format!("{}/warmed/team/app:1", cluster.harbor.host()));
    let platforms: Vec<_> = line["platforms"].as_array().unwrap().iter().map(|child| &child["platform"]).collect();
    assert_eq!(platforms, ["linux/amd64"], "those of the nodes");

    let lost = run(&cluster, &[&arguments[..], &["elsewhere"]].concat(), "").await;
    assert_eq!((lost.code, lost.out.as_str()), (Some(2), ""), "{}", lost.err);
    assert!(lost.err.contains("Secret elsewhere/") && lost.err.contains("HARBOR_USERNAME"), "{}", lost.err);
    cluster.forget("warmed").await.unwrap();
}
