//! Scanning: a push into a project with `auto_scan` starts a scan, which waits, runs, and ends with the report that a test set;
//! and the pulls that `prevent_vul` forbids.

use std::{collections::HashSet, sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Core,
    artifacts::no_artifact,
    http::{Ask, Fault, Outcome, empty, now},
    state::{Project, State},
};
use crate::{
    Severity,
    image::{DOCKER_LIST, OCI_INDEX},
    index,
};

/// Harbor's own seconds that a scan waits, and that it runs.
const WAITS: f64 = 5.0;
const RUNS: f64 = 5.0;
const REPORT: &str = "application/vnd.security.vulnerability.report; version=1.1";

/// The last scan of a digest.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    status: &'static str,
    report: Report,
    started: String,
    ended: String,
}

/// What a scanner finds: `CVE-2026-0` with this severity, and so many more that are low.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    pub(crate) severity: Severity,
    pub(crate) total: usize,
}

impl Report {
    /// How many of them an allowlist does not let pass, and the worst of these.
    fn counted(self, allowed: &HashSet<&str>) -> (usize, Severity) {
        let counts = |number: &usize| !allowed.contains(format!("CVE-2026-{number}").as_str());
        let total = (0..self.total).filter(counts).count();
        let worst = match total {
            0 => Severity::None,
            _ if counts(&0) => self.severity,
            _ => Severity::Low.min(self.severity),
        };
        (total, worst)
    }
}

impl Core {
    /// Scans what was pushed or cached, where the project wants it and there is a scanner. Children of an index that was pulled
    /// through a proxy project may be left out, and are here.
    pub(crate) fn scan_after_push(self: &Arc<Self>, repository: &str, digest: &str) {
        let wanted = {
            let state = self.state.lock();
            let project = state.project_named(repository.split('/').next().unwrap_or_default());
            let is_index = state.artifact(repository, digest).is_some_and(|found| is_index(&found.media_type));
            let is_child = |((name, _), (_, bytes)): (&(String, String), &(String, bytes::Bytes))| {
                name == repository && index::children(bytes).iter().any(|child| child.digest == digest)
            };
            !is_index
                && !state.indexes.iter().any(is_child)
                && project.and_then(|project| project.metadata.get("auto_scan")).is_some_and(|on| on == "true")
        };
        if wanted && self.settings.scanner {
            self.scan(digest);
        }
    }

    /// `POST …/scan`.
    pub(crate) fn start_scan(self: &Arc<Self>, ask: &Ask, project: &str, name: &str, reference: &str) -> Outcome {
        let project = self.project_by_name(ask, project, "scan", "create")?;
        let full = format!("{}/{}", project.name, percent_encoding::percent_decode_str(name).decode_utf8_lossy());
        if !self.settings.scanner {
            return Err(Fault::precondition(format!("no available scanner for project: {}", project.id)));
        }
        let state = self.state.lock();
        let Some(digest) = state.artifact(&full, reference).map(|artifact| artifact.digest.clone()) else {
            return Err(no_artifact(&full, reference));
        };
        if let Some(scan) = state.scans.get(&digest).filter(|scan| matches!(scan.status, "Pending" | "Running")) {
            return Err(Fault::conflict(format!("a previous scan process is {}", scan.status)));
        }
        drop(state);
        let body: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
        if body["scan_type"] == "sbom" {
            return Err(Fault::internal());
        }
        self.scan(&digest);
        Ok(empty(StatusCode::ACCEPTED))
    }

    /// Whether the policy of the project lets an image be pulled. Indexes always may, and everything without a scanner.
    ///
    /// # Errors
    /// 412, as recorded: for a bad report and for none alike.
    pub(crate) fn judge(&self, project: &Project, repository: &str, reference: &str) -> Result<(), Fault> {
        if !self.settings.scanner || project.metadata.get("prevent_vul").is_none_or(|prevent| prevent != "true") {
            return Ok(());
        }
        let state = self.state.lock();
        let Some(artifact) = state.artifact(repository, reference).filter(|found| !is_index(&found.media_type)) else {
            return Ok(());
        };
        let limit = Severity::named(project.metadata.get("severity").map_or("low", String::as_str));
        let own = project.metadata.get("reuse_sys_cve_allowlist").is_none_or(|system| system != "true");
        let items = project.allowlist.get("items").and_then(Value::as_array).filter(|_| own);
        let allowed = items.into_iter().flatten().filter_map(|item| item["cve_id"].as_str()).collect();
        let (what, tail) = match state.scans.get(&artifact.digest) {
            None => ("without vulnerability scanning".to_owned(), "for help."),
            Some(scan) if scan.status != "Success" => {
                (format!("with \"{}\" status of vulnerability scanning", scan.status), "for help.")
            }
            Some(Scan { report, .. }) => {
                let (total, severity) = report.counted(&allowed);
                if total == 0 || severity < limit {
                    return Ok(());
                }
                let noun = if total == 1 { "vulnerability" } else { "vulnerabilities" };
                let tail = "to exempt matched vulnerabilities through configuring the CVE allowlist.";
                (format!("with {total} {noun}"), tail)
            }
        };
        Err(Fault::violation(format!(
            "current image {what} cannot be pulled due to configured policy in 'Prevent images with vulnerability severity of \
             \"{limit:?}\" or higher from running.' To continue with pull, please contact your project administrator {tail}"
        )))
    }

    fn scan(self: &Arc<Self>, digest: &str) {
        let report = Report { severity: Severity::None, total: 0 };
        let scan = Scan { status: "Pending", report, started: now(), ended: super::http::NEVER.to_owned() };
        self.state.lock().scans.insert(digest.to_owned(), scan);
        let (core, digest) = (self.clone(), digest.to_owned());
        self.spawn(async move {
            core.pause(WAITS).await;
            if !core.advance(&digest, "Running") {
                return;
            }
            core.pause(RUNS).await;
            let fails = core.state.lock().failing_scans.get_mut(&digest).is_some_and(|left| {
                let fails = *left > 0;
                *left = left.saturating_sub(1);
                fails
            });
            core.advance(&digest, if fails { "Error" } else { "Success" });
        });
    }

    fn advance(&self, digest: &str, status: &'static str) -> bool {
        let mut state = self.state.lock();
        let State { scans, reports, job_service_hangs, .. } = &mut *state;
        let Some(scan) = scans.get_mut(digest).filter(|_| !*job_service_hangs) else {
            return false;
        };
        scan.status = status;
        if matches!(status, "Success" | "Error") {
            scan.ended = now();
        }
        if status == "Success" {
            scan.report = reports.get(digest).copied().unwrap_or(scan.report);
        }
        true
    }

    /// Waits so many of Harbor's own seconds.
    pub(crate) async fn pause(&self, seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds / self.settings.speed)).await;
    }
}

impl Scan {
    /// The member `scan_overview` of an artifact.
    pub(crate) fn overview(&self) -> Value {
        let mut overview = json!({
            "scan_status": self.status, "start_time": self.started, "end_time": self.ended, "duration": 3,
            "complete_percent": 0, "scanner": {"name": "double", "vendor": "Test", "version": "0.1"},
        });
        if self.status == "Success" {
            overview["complete_percent"] = json!(100);
            overview["severity"] = json!(format!("{:?}", self.report.severity));
            overview["summary"] = json!({"fixable": self.report.total, "total": self.report.total, "summary": {}});
        }
        json!({REPORT: overview})
    }
}

fn is_index(media_type: &str) -> bool {
    media_type == OCI_INDEX || media_type == DOCKER_LIST
}
