//! `harbor-pilot check`, as its users run it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

const RULES: &str = r"
apiVersion: harbor-pilot.dev/v1alpha1
kind: HarborInstance
metadata: {name: default}
spec: {url: 'https://harbor.example.com', credentialsSecretRef: {name: harbor}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: Registry
metadata: {name: hub}
spec: {type: docker-hub, url: 'https://hub.docker.com'}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ProxyProject
metadata: {name: dockerhub}
spec: {registryRef: {name: hub}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ImagePolicy
metadata: {name: only-harbor}
spec: {action: Enforce, allowed: [{host: harbor.example.com}]}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ImagePolicy
metadata: {name: pinned}
spec: {action: Warn, forbidLatest: true}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: ImagePolicy
metadata: {name: digests}
spec: {action: Audit, requireDigest: true, namespaceSelector: {matchLabels: {strict: 'yes'}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {strict: 'yes'}}
";

/// A Deployment with this image in line 8.
fn deployment(image: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  template:\n    spec:\n      \
         containers:\n      - {{name: web, image: '{image}'}}\n"
    )
}

fn check(manifest: &str, more: &[&str]) -> Output {
    check_by(RULES, manifest, more)
}

fn check_by(given: &str, manifest: &str, more: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let (rules, manifests) = (directory.path().join("rules.yaml"), directory.path().join("app.yaml"));
    fs::write(&rules, given).unwrap();
    fs::write(&manifests, manifest).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_harbor-pilot"));
    command.current_dir(directory.path()).args(["check", "-f", "app.yaml", "--rules", "rules.yaml"]).args(more);
    command.output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn the_exit_status_says_whether_pods_would_be_refused() {
    for (image, status) in [("nginx:1.27", 0), ("nginx", 0), ("ghcr.io/acme/tool:1", 1), ("Bad Image", 1)] {
        let output = check(&deployment(image), &[]);
        assert_eq!(output.status.code(), Some(status), "{image}: {output:?}");
    }
    assert_eq!(check("{ not yaml", &[]).status.code(), Some(2));
    assert_eq!(check(&deployment("nginx"), &["--output", "pdf"]).status.code(), Some(2));
}

#[test]
fn check_strict_says_by_its_status_that_a_text_names_an_image_of_a_mapped_host() {
    let args = "        args: [--sidecar=docker.io/library/busybox:1]\n";
    let manifest = deployment("nginx:1").replace("image: 'nginx:1'}", "image: 'nginx:1',") + args + "      }\n";
    for (more, code) in [(&[][..], 0), (&["--strict"][..], 1)] {
        let output = check(&manifest, more);
        assert_eq!(output.status.code(), Some(code), "{more:?}: {output:?}");
    }
}

#[test]
fn check_prints_each_violation_with_its_line() {
    let output = check(&deployment("ghcr.io/acme/tool"), &[]);
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 3, "{output:?}");
    for (line, reported) in lines.iter().zip(["error: ", "warning: ", "note: "]) {
        assert!(line.starts_with("app.yaml:8:") && line.contains(reported), "{line}");
    }
    assert!(
        lines[0].contains("container \"web\": image \"ghcr.io/acme/tool\" is not from an allowed registry"),
        "{lines:?}"
    );
}

#[test]
fn machines_read_it_too() {
    let manifest = deployment("ghcr.io/acme/tool");
    let json: Value = serde_json::from_str(stdout(&check(&manifest, &["-o", "json"]))).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    let sarif: Value = serde_json::from_str(stdout(&check(&manifest, &["-o", "sarif"]))).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 3);
    let junit = check(&manifest, &["-o", "junit"]);
    assert!(stdout(&junit).contains("<testsuites tests=\"1\" failures=\"1\" errors=\"0\">"), "{junit:?}");
}

const SCANNED: &str = r"
apiVersion: harbor-pilot.dev/v1alpha1
kind: ImagePolicy
metadata: {name: ceiling}
spec: {action: Enforce, vulnerability: {maxSeverity: High}}
---
apiVersion: harbor-pilot.dev/v1alpha1
kind: CachedImage
metadata: {name: bad}
spec: {image: 'harbor.example.com/dockerhub/library/bad:1'}
status:
  image: 'harbor.example.com/dockerhub/library/bad:1'
  digest: 'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
  platforms:
  - platform: unknown
    digest: 'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
    layers: 1
    bytes: 1
    stored: true
    scan: {state: Scanned, severity: Critical, total: 3, fixable: 1, scannedAt: '2100-01-01T00:00:00Z'}
";

#[test]
fn what_scans_found_is_taken_from_images_among_the_rules() {
    let rules = format!("{RULES}---{SCANNED}");
    for (image, status, reported) in [
        ("bad:1", 1, "error: Deployment shop/web: container \"web\": image \"bad:1\", which becomes"),
        (
            "bad:1",
            1,
            "has vulnerabilities of severity Critical (policy ceiling allows at most High): 3 found, 1 fixable",
        ),
        ("new:1", 0, "has no scan result (policy ceiling requires one): the image is not known yet"),
    ] {
        let output = check_by(&rules, &deployment(image), &[]);
        assert_eq!(output.status.code(), Some(status), "{image}: {output:?}");
        assert!(stdout(&output).contains(reported), "{reported}: {output:?}");
    }
}
