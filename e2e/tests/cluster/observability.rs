//! What the processes say of themselves: each metric that is documented and no other, and a log level
//! that changes while they run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use harbor_double::Upstream;
use harbor_pilot_e2e::cluster::{Cluster, registry, shared};
use harbor_pilot_e2e::tools::Tool;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);

/// A metric, as it is documented or shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

type Metrics = BTreeMap<String, Metric>;

fn tree(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

async fn get(url: String) -> String {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// The metrics that the table has for a process (`w` or `c`).
fn documented(process: &str) -> Metrics {
    let text = tree("docs/observability.md");
    let rows = text.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let rows = rows.filter(|cells| cells.len() == 7 && cells[1].starts_with('`'));
    let of_process = rows.filter(|cells| cells[4].split(' ').any(|found| found == process));
    let metric = |cells: Vec<&str>| {
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (cells[1].trim_matches('`').to_owned(), Metric { kind: cells[2].to_owned(), labels })
    };
    of_process.map(metric).collect()
}

/// The metrics that a process shows.
fn shown(text: &str) -> Metrics {
    let mut found = Metrics::new();
    let (mut kind, mut family) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, what) = rest.split_once(' ').unwrap();
            (family, kind) = (name.to_owned(), what.to_owned());
        } else if !line.starts_with('#') {
            let head = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = head.split_once('{').unwrap_or((head, ""));
            let name = if kind == "histogram" { family.as_str() } else { name };
            let metric =
                found.entry(name.to_owned()).or_insert_with(|| Metric { kind: kind.clone(), ..Metric::default() });
            let labels = labels.trim_end_matches('}').split("\",");
            let names = labels.filter_map(|label| label.split_once("=\"")).map(|(name, _)| name.to_owned());
            metric.labels.extend(names.filter(|name| name != "le"));
        }
    }
    found
}

fn differences(documented: &Metrics, shown: &Metrics) -> Vec<String> {
    let names: BTreeSet<&String> = documented.keys().chain(shown.keys()).collect();
    let differ = names.into_iter().filter(|name| documented.get(*name) != shown.get(*name));
    differ.map(|name| format!("{name}: documented {:?}, shown {:?}", documented.get(name), shown.get(name))).collect()
}

#[tokio::test]
async fn each_process_shows_the_metrics_of_the_table_and_no_others() {
    let cluster = shared().await.unwrap();
    // What only some clusters have.
    let upstream = Upstream::builder().start().await;
    let mut limited = registry("limited-pulls", &upstream.url());
    limited["spec"]["pullLimit"] = json!({"manifests": 100, "per": "6h"});
    cluster.apply(&limited).await.unwrap();
    cluster.wait_for("Registry", "limited-pulls", "Ready", "True Reconciled").await.unwrap();
    for (process, url) in [("c", cluster.controller_ops()), ("w", cluster.webhook_ops())] {
        let text = get(format!("{url}/metrics")).await;
        let different = differences(&documented(process), &shown(&text));
        assert!(different.is_empty(), "process {process}: {different:#?}\n{text}");
    }
    cluster.delete("hreg", "limited-pulls").await.unwrap();
}

#[tokio::test]
async fn counts_follow_what_happens() {
    let cluster = shared().await.unwrap();
    let text = get(format!("{}/metrics", cluster.controller_ops())).await;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    assert!(value(r#"harbor_pilot_instance_ready{harbor="default"}"#) >= 1.0);
    assert!(value(r#"harbor_pilot_reconciles_total{kind="ProxyProject",outcome="ready"}"#) >= 1.0);
    assert!(value(r#"harbor_pilot_pulls_total{outcome="succeeded"}"#) >= 1.0);
    assert!(value(r#"harbor_pilot_pull_blobs_total{outcome="fetched"}"#) >= 1.0);
    assert!(value("harbor_pilot_images_stored_bytes") > 0.0 && value("harbor_pilot_active_rules") >= 1.0);
    assert!((value("harbor_pilot_leader") - 1.0).abs() < 0.1);
    let webhook = get(format!("{}/metrics", cluster.webhook_ops())).await;
    let not_after =
        webhook.lines().find_map(|line| line.strip_prefix("harbor_pilot_certificate_not_after_timestamp_seconds "));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(not_after.unwrap().parse::<f64>().unwrap() > now, "{not_after:?}");
}

#[tokio::test]
async fn what_is_logged_changes_while_a_process_runs_and_a_filter_that_cannot_be_read_changes_nothing() {
    let cluster = shared().await.unwrap();
    let url = format!("{}/log", cluster.webhook_ops());
    let client = reqwest::Client::new();
    let put = async |filter: &'static str, origin: Option<&str>| {
        let mut request = client.put(&url).body(filter);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let before = get(url.clone()).await;
    let (status, why) = put("harbor_pilot=loud", None).await;
    assert!(status == 400 && why.contains("filter"), "{status} {why}");
    assert_eq!(put("debug", Some("https://evil.example")).await.0, 403);
    assert_eq!(put("", None).await.0, 400);
    assert_eq!(get(url.clone()).await, before);

    assert_eq!(put("harbor_pilot=debug,info", None).await.0, 204);
    assert_eq!(get(url.clone()).await, "harbor_pilot=debug,info\n");
    let lines = || cluster.logs().lines().filter(|line| line.contains("DEBUG") && line.contains("admission")).count();
    let first = lines();
    cluster.until_rewritten("nginx").await.unwrap();
    let end = Instant::now() + SOON;
    while lines() == first {
        assert!(Instant::now() < end, "no admission is logged");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(put("info", None).await.0, 204);
}

#[tokio::test]
async fn prometheus_reads_the_alerts_and_every_expression_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&tree("charts/harbor-pilot/files/monitoring/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    // Grafana's own words, as it fills them in.
    let filled = |text: &str| text.replace("$__rate_interval", "1m").replace("$namespace", ".*");
    let expressions: Vec<String> = targets.map(|target| filled(target["expr"].as_str().unwrap())).collect();
    assert!(expressions.len() > 30, "{expressions:?}");
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/harbor-pilot/files/monitoring/alerts.yaml");
    let mut command = tokio::process::Command::new(Tool::Prometheus.path_async().await.unwrap());
    command.arg(&alerts).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(expressions.join("\n").as_bytes()).await.unwrap();
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();

    let mut known: BTreeSet<String> = BTreeSet::new();
    for (name, metric) in documented("w").into_iter().chain(documented("c")) {
        if metric.kind == "histogram" {
            known.extend(["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")));
        } else {
            known.insert(name);
        }
    }
    let alerts = answer["alerts"].as_array().unwrap();
    assert!(alerts.len() > 10, "{answer:#}");
    let of_alerts = alerts.iter().flat_map(|alert| alert["metrics"].as_array().unwrap());
    for metric in of_alerts.chain(answer["metrics"].as_array().unwrap()) {
        assert!(known.contains(metric.as_str().unwrap()), "{metric} is not documented");
    }
    for alert in alerts {
        assert!(alert["labels"]["severity"].is_string() && alert["annotations"]["summary"].is_string(), "{alert:#}");
    }
}

/// Nothing that the controller says of itself has one of these in it.
pub(super) async fn assert_not_reported(cluster: &Cluster, values: &[&str]) {
    let metrics = get(format!("{}/metrics", cluster.controller_ops())).await;
    let page = get(cluster.controller_ops()).await;
    // Spans are sent every two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let spans = String::from_utf8_lossy(&cluster.spans()).into_owned();
    for span in ["reconcile", "harbor request", "HarborInstance"] {
        assert!(spans.contains(span), "no {span} among the spans");
    }
    assert!(page.contains("Not Ready"), "{page}");
    for (what, text) in [("metrics", metrics), ("page", page), ("spans", spans)] {
        for value in values {
            assert!(!text.contains(value), "{value} is in the {what}");
        }
    }
}
