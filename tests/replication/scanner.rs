//! A scanner for a real Harbor, which has none: it speaks Harbor's scanner adapter API and finds what a test tells it to find.
//! The double has its own.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

const METADATA: &str = "application/vnd.scanner.adapter.metadata+json; version=1.1";
const REPORT: &str = "application/vnd.security.vulnerability.report; version=1.1";
/// How long a scan takes: longer than a replication that a push sets going.
const TAKES: Duration = Duration::from_secs(6);

#[derive(Clone)]
pub struct Scanner {
    pub url: String,
    /// Digest, beginning, and whether it fails.
    scans: Arc<Mutex<Vec<(String, Instant, bool)>>>,
    /// Digest → severity of each vulnerability.
    reports: Arc<Mutex<HashMap<String, Vec<&'static str>>>>,
    /// Digests whose next scan fails.
    failing: Arc<Mutex<HashSet<String>>>,
}

impl Scanner {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let scanner = Self { url, scans: Arc::default(), reports: Arc::default(), failing: Arc::default() };
        let router = Router::new()
            .route("/api/v1/metadata", get(metadata))
            .route("/api/v1/scan", post(scan))
            .route("/api/v1/scan/{id}/report", get(report))
            .with_state(scanner.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        scanner
    }

    #[allow(dead_code, reason = "each test binary uses its part")]
    pub fn fail_next(&self, digest: &str) {
        self.failing.lock().unwrap().insert(digest.to_owned());
    }

    pub fn set_report(&self, digest: &str, severities: &[&'static str]) {
        self.reports.lock().unwrap().insert(digest.to_owned(), severities.to_vec());
    }
}

async fn metadata() -> Response {
    let scanner = json!({"name": "Test", "vendor": "Test", "version": "0.1"});
    let consumes =
        ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
    let capabilities = json!([{"consumes_mime_types": consumes, "produces_mime_types": [REPORT]}]);
    let body = json!({"scanner": scanner, "capabilities": capabilities, "properties": {}});
    ([(header::CONTENT_TYPE, METADATA)], body.to_string()).into_response()
}

async fn scan(State(scanner): State<Scanner>, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap();
    let digest = body["artifact"]["digest"].as_str().unwrap().to_owned();
    let mut scans = scanner.scans.lock().unwrap();
    let fails = scanner.failing.lock().unwrap().remove(&digest);
    scans.push((digest, Instant::now(), fails));
    (StatusCode::ACCEPTED, Json(json!({"id": (scans.len() - 1).to_string()}))).into_response()
}

async fn report(State(scanner): State<Scanner>, Path(id): Path<usize>) -> Response {
    let (digest, since, fails) = scanner.scans.lock().unwrap()[id].clone();
    if since.elapsed() < TAKES {
        return (StatusCode::FOUND, [("refresh-after", "1"), ("location", "report")]).into_response();
    }
    if fails {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": {"message": "it fails"}}))).into_response();
    }
    let severities = scanner.reports.lock().unwrap().get(&digest).cloned().unwrap_or_default();
    let vulnerability = |(number, severity): (usize, &&str)| {
        json!({"id": format!("CVE-2026-{number}"), "package": "p", "version": "1", "fix_version": "2", "severity": severity,
            "description": "d", "links": ["http://127.0.0.1/cve"]})
    };
    let found: Vec<Value> = severities.iter().enumerate().map(vulnerability).collect();
    let body = json!({
        "generated_at": "2026-11-21T08:30:10Z", "severity": severities.first().unwrap_or(&"None"), "vulnerabilities": found,
        "scanner": {"name": "Test", "vendor": "Test", "version": "0.1"}, "artifact": {"digest": digest},
    });
    ([(header::CONTENT_TYPE, REPORT)], body.to_string()).into_response()
}
