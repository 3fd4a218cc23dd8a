//! The direction of dependencies, and the purity of the parts that decide.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harbor_pilot::api::Reason;

/// What each module may use of the others. `cli` stands above all of them.
const ALLOWED: &[(&str, &[&str])] = &[
    ("addresses", &[]),
    ("api", &[]),
    ("image", &[]),
    ("jitter", &[]),
    ("fair", &[]),
    ("lease", &[]),
    ("leadership", &[]),
    ("transport", &["addresses", "leadership"]),
    ("harbor", &["api", "transport"]),
    ("registry", &["api", "transport"]),
    ("json_scan", &[]),
    ("rewrite", &["api", "image", "json_scan", "text"]),
    ("manifests", &["image", "rewrite"]),
    ("policy", &["api", "image", "rewrite", "text"]),
    ("active_config", &["api", "policy", "rewrite"]),
    ("plan", &["addresses", "api", "harbor", "transport"]),
    ("tls", &[]),
    ("telemetry", &[]),
    ("text", &[]),
    ("summary", &["api"]),
    ("status_page", &["api", "summary", "telemetry", "text"]),
    ("reconcile", &["api", "harbor", "registry", "transport"]),
    ("prewarm", &["api", "jitter", "fair", "harbor", "image", "reconcile", "registry", "rewrite", "text", "transport"]),
    (
        "controller",
        &["api", "harbor", "image", "leadership", "plan", "prewarm", "reconcile", "registry", "rewrite", "transport"],
    ),
    ("webhook", &["api", "fair", "image", "policy", "prewarm", "rewrite", "json_scan", "telemetry", "text", "tls"]),
    (
        "engine",
        &[
            "active_config",
            "api",
            "controller",
            "harbor",
            "image",
            "leadership",
            "policy",
            "prewarm",
            "registry",
            "rewrite",
            "status_page",
            "summary",
            "telemetry",
            "tls",
            "transport",
        ],
    ),
    (
        "cluster",
        &[
            "active_config",
            "api",
            "controller",
            "engine",
            "image",
            "jitter",
            "leadership",
            "lease",
            "prewarm",
            "rewrite",
            "telemetry",
            "tls",
        ],
    ),
    (
        "standalone",
        &["active_config", "api", "controller", "engine", "leadership", "prewarm", "telemetry", "tls", "webhook"],
    ),
];

/// Modules that take values and return values.
const PURE: &[&str] = &[
    "addresses",
    "api",
    "fair",
    "image",
    "lease",
    "manifests",
    "plan",
    "policy",
    "rewrite",
    "json_scan",
    "summary",
    "text",
];

/// What a pure module may not name: clients, clocks, environment, files, threads, logs.
const IMPURE: &[&str] = &[
    "tokio::",
    "reqwest::",
    "hyper::",
    "axum::",
    "kube::Client",
    "kube::Api",
    "kube::runtime",
    "kube::client",
    "tracing::",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::io",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "Zoned::now",
    "rand::",
];

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, files) in modules() {
        let allowed = match ALLOWED.iter().find(|(name, _)| *name == module) {
            Some((_, allowed)) => allowed,
            None if module == "cli" => continue,
            None => panic!("src/{module} has no place in the map of dependencies: give it one here"),
        };
        seen.insert(module.clone());
        for (file, code) in files {
            for used in used_modules(&code) {
                if used != module && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}: {module} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let missing: Vec<_> = ALLOWED.iter().filter(|(name, _)| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "the map names modules that are not there: {missing:?}");
}

#[test]
fn watches_start_in_one_place_that_counts_their_failures() {
    let cluster = modules().remove("cluster").unwrap();
    let starts = |code: &str| code.contains("watcher(") || code.contains("metadata_watcher(");
    let starting: Vec<_> = cluster.iter().filter(|(_, code)| starts(code)).map(|(file, _)| file.clone()).collect();
    assert_eq!(starting.len(), 1, "start a watch with cluster::watch::watch: {starting:?}");
    assert!(starting[0].ends_with("cluster/watch.rs"), "{starting:?}");
}

#[test]
fn plan_sees_nothing_of_harbor_but_its_model_and_credentials() {
    for (file, code) in modules().remove("plan").unwrap() {
        for line in code.lines().filter(|line| line.contains("harbor::") || line.contains("transport::")) {
            for forbidden in ["Client", "Endpoint", "Error"] {
                assert!(!line.contains(forbidden), "{}: {line}", file.display());
            }
        }
    }
}

#[test]
fn what_decides_is_pure() {
    let mut wrong = Vec::new();
    for (module, files) in modules() {
        if !PURE.contains(&module.as_str()) {
            continue;
        }
        for (file, code) in files {
            for name in IMPURE.iter().filter(|name| code.contains(**name)) {
                wrong.push(format!("{}: {name}", file.display()));
            }
            if code.contains("async fn") || code.contains(".await") {
                wrong.push(format!("{}: async", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_have_one_subject_and_about_four_hundred_lines_at_most() {
    let too_long: Vec<String> = modules()
        .into_values()
        .flatten()
        .filter(|(file, _)| !file.ends_with("tests.rs"))
        .map(|(file, code)| (file, code.lines().count()))
        .filter(|(_, lines)| *lines > 420)
        .map(|(file, lines)| format!("{}: {lines} lines", file.display()))
        .collect();
    assert!(too_long.is_empty(), "{too_long:#?}");
}

#[test]
fn no_decision_compares_a_reason_as_text() {
    let mut wrong = Vec::new();
    for (file, code) in modules().into_values().flatten().filter(|(file, _)| !is_test(file)) {
        for line in code.lines() {
            let names = || Reason::ALL.iter().map(|reason| format!("\"{reason}\""));
            let is_named = names().any(|name| line.contains(&name)) && !names_another_thing(&file, line);
            if is_named || compares_a_reason_as_text(line) {
                wrong.push(format!("{}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "ask condition::reason, and match its variants: {wrong:#?}");
}

#[test]
fn comparisons_of_reasons_as_text_are_recognised() {
    for line in [
        "if ready.reason == Reason::Suspended.to_string() {",
        "own.iter().any(|reason| reason.to_string() == ready.reason)",
        "let is_said = ready_reason(&status) == Some(format!(\"{reason:?}\").as_str());",
        "ACCEPTED.iter().any(|accepted| accepted.to_string() == reason)",
        "match ready.reason.as_str() {",
        "if note.reason.as_str() == other {",
        "[Reason::HarborUnreachable].map(|reason| reason.to_string()).contains(&ready.reason)",
    ] {
        assert!(compares_a_reason_as_text(line), "{line}");
    }
    for line in ["reason: Some(note.reason.to_string()),", "old.status == new.status && old.reason == new.reason"] {
        assert!(!compares_a_reason_as_text(line), "{line}");
    }
}

/// Whether a line compares text with the text of a reason.
fn compares_a_reason_as_text(line: &str) -> bool {
    let compares = ["==", "!=", "contains(", "match "].iter().any(|compared| line.contains(compared));
    let as_text = [".to_string()", ".as_str()", ":?}"].iter().any(|text| line.contains(text));
    line.contains("reason") && compares && as_text
}

/// Whether a text that is also a reason means another thing: the end of `harbor-pilot warm`.
fn names_another_thing(file: &Path, line: &str) -> bool {
    file.ends_with("cli/warm/report.rs") && line.contains("WarmEnd::")
}

fn is_test(file: &Path) -> bool {
    file.ends_with("tests.rs")
}

/// Every module below `src`, with its files and their code: without comments, and without the tests at the end.
fn modules() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let code = code_of(&std::fs::read_to_string(&file).unwrap());
        modules.entry(module).or_default().push((relative.to_owned(), code));
    }
    modules
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn code_of(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]").next().unwrap();
    let lines = shipped.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// `crate::x`, and the heads of `use crate::{x, y::…}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            used.extend(heads(group));
        } else {
            used.insert(identifier(rest));
        }
    }
    used.remove("");
    used
}

fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut start) = (1, Vec::new(), true);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => start = true,
            character if start && depth == 1 && (character.is_alphabetic() || character == '_') => {
                heads.push(identifier(&group[at..]));
                start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}
