//! docs/troubleshooting.md has a word on each condition and each reason.

use super::{anchors, at, read};

#[test]
fn troubleshooting_has_each_reason_and_condition() {
    let reported = anchors(&read(&at("docs/troubleshooting.md")));
    let source = read(&at("src/api/condition.rs"));
    let mut missing = Vec::new();
    for list in ["ConditionType", "Reason"] {
        let names = variants(&source, list);
        assert!(names.len() > 5, "{names:?}");
        missing.extend(names.into_iter().filter(|name| !reported.contains(&name.to_lowercase())));
    }
    assert!(missing.is_empty(), "no heading of docs/troubleshooting.md is {missing:?}");
}

#[test]
fn troubleshooting_has_no_unknown_reason() {
    let source = read(&at("src/api/condition.rs"));
    let known = [variants(&source, "ConditionType"), variants(&source, "Reason")].concat();
    let text = read(&at("docs/troubleshooting.md"));
    let headings = text.lines().filter_map(|line| line.strip_prefix("### ")).filter(|name| !name.contains(' '));
    let unknown: Vec<&str> = headings.filter(|name| !known.iter().any(|known| known == name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The variants of an enum of the source.
fn variants(source: &str, name: &str) -> Vec<String> {
    let body = source.split(&format!("pub enum {name} {{")).nth(1).unwrap().split("\n}").next().unwrap();
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.map(|line| line.trim_end_matches(',').to_owned()).collect()
}
