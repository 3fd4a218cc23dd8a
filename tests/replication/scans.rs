//! Replication out of a project that lets nothing be pulled before it is scanned.

use std::time::Duration;

use harbor_double::{Harbor, Image, Severity};
use harbor_pilot::harbor::model::{ReplicationPolicyContent, ReplicationTrigger, replication_failure};
use serde_json::json;

use crate::{
    scanner::Scanner,
    stage::{Stage, filter, trigger},
};

#[tokio::test]
async fn what_is_pushed_is_replicated_only_by_a_run_after_its_scan() {
    let stage = Stage::with(Harbor::builder().speed(8.0).scanner()).await;
    let scanner = Scanner::start().await;
    let metadata = json!({"public": "true", "prevent_vul": "true", "severity": "high", "auto_scan": "true"});
    let project = stage.project("gate", metadata).await;
    let registration = register(&stage, &scanner, &project).await;
    let content = ReplicationPolicyContent {
        trigger: trigger(ReplicationTrigger::EVENT_BASED, ""),
        ..stage.push("gate-out", "gateout", vec![filter("name", &format!("{project}/**"), "")])
    };
    let policy = stage.client.create_replication_policy(&content).await.unwrap();

    // Other bytes each time: Harbor keeps the reports of digests.
    let image = |name: &str| Image::single("linux", "amd64").layers([10]).seed(&stage.name(name));
    let clean = stage.push_image(&format!("{project}/clean"), "v1", &image("clean")).await;
    let bad = stage.push_image(&format!("{project}/crit"), "v1", &image("crit")).await;
    scanner.set_report(&bad.digest, &["Critical", "Low"]);
    if let Some(double) = &stage.site.double {
        double.set_report(&bad.digest, Severity::Critical, 2);
    }
    let (status, body) = stage.read(&format!("{project}/clean/manifests/v1")).await;
    assert_eq!(status, 412, "{body}");
    assert!(body.contains("PROJECTPOLICYVIOLATION") && body.contains("status of vulnerability scanning"), "{body}");

    let events = stage.ended_of(policy, 2).await;
    for execution in &events {
        assert_eq!((execution.status.as_str(), execution.failed, execution.status_text.as_str()), ("Failed", 1, ""));
        let task = stage.client.replication_tasks(execution.id).await.unwrap().remove(0);
        let log = stage.client.replication_task_log(execution.id, task.id).await.unwrap();
        let reason = replication_failure(&log).unwrap();
        assert!(reason.starts_with("http status code: 412: current image with "), "{reason}");
    }
    assert_eq!(severity(&stage, &project, "clean").await, "None");
    assert_eq!(severity(&stage, &project, "crit").await, "Critical");
    assert_eq!(stage.read(&format!("{project}/clean/manifests/v1")).await.0, 200);
    let (status, body) = stage.read(&format!("{project}/crit/manifests/v1")).await;
    assert_eq!(status, 412);
    let expected = "current image with 2 vulnerabilities cannot be pulled due to configured policy in 'Prevent images with \
                    vulnerability severity of \\\"High\\\" or higher from running.' To continue with pull, please contact your \
                    project administrator to exempt matched vulnerabilities through configuring the CVE allowlist.";
    assert!(body.contains(expected), "{body}");
    assert!(stage.upstream.tags("gateout/clean").is_empty(), "nobody tries again");
    assert_eq!(stage.client.replication_executions(policy, 10).await.unwrap().len(), 2);

    let again = stage.run_again(policy).await;
    assert_eq!((again.status.as_str(), again.succeed, again.failed), ("Failed", 1, 1));
    assert_eq!(stage.upstream.tags("gateout/clean").get("v1"), Some(&clean.digest));
    assert!(stage.upstream.tags("gateout/crit").is_empty());

    let rescan = format!("/projects/{project}/repositories/crit/artifacts/v1/scan");
    assert_eq!(stage.api("POST", &rescan, Some(json!({"scan_type": "vulnerability"}))).await.0, 202);
    let (status, answer) = stage.api("POST", &rescan, Some(json!({"scan_type": "vulnerability"}))).await;
    let reported = answer["errors"][0]["message"].as_str().unwrap_or_default();
    assert!(status == 409 && reported.starts_with("a previous scan process is "), "{answer}");
    severity(&stage, &project, "crit").await;
    stage.clear().await;
    if let Some(registration) = registration {
        assert_eq!(stage.api("DELETE", &format!("/scanners/{registration}"), None).await.0, 200);
    }
}

/// Makes the scanner that of the project. The double has one.
async fn register(stage: &Stage, scanner: &Scanner, project: &str) -> Option<String> {
    if stage.site.double.is_some() {
        return None;
    }
    let name = stage.name("scanner");
    let body = json!({"name": name, "url": scanner.url, "auth": "", "skip_certVerify": true});
    assert_eq!(stage.api("POST", "/scanners", Some(body)).await.0, 201);
    let (_, found) = stage.api("GET", &format!("/scanners?q=name%3D{name}"), None).await;
    let id = found[0]["uuid"].as_str().unwrap().to_owned();
    let set = stage.api("PUT", &format!("/projects/{project}/scanner"), Some(json!({"uuid": id}))).await;
    assert_eq!(set.0, 200, "{set:?}");
    Some(id)
}

/// Waits for the end of the scan; answers how bad the image is.
async fn severity(stage: &Stage, project: &str, repository: &str) -> String {
    for _ in 0..600 {
        let artifacts = stage.client.scanned_artifacts(project, repository).await.unwrap();
        let scan = artifacts[0].scan_overview.values().next().cloned().unwrap_or_default();
        if scan.scan_status == "Success" {
            return scan.severity;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{repository} is not scanned");
}
