//! The table of metrics, and what the dashboard and the alerts make of it.

use std::collections::BTreeSet;

use super::{anchors, at, read};

/// Where alerts send people.
const RUNBOOKS: &str = "https://harbor-pilot.dev/docs/observability.md#";

/// The metrics of the table.
fn documented() -> BTreeSet<String> {
    let text = read(&at("docs/observability.md"));
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let names = rows.filter(|(_, rest)| rest.split('|').count() > 4).map(|(name, _)| name.to_owned());
    names.filter(|name| name.starts_with("harbor_pilot_") || name.starts_with("process_")).collect()
}

/// The metrics that a text names, histograms by their own name.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let ours = words.filter(|word| word.starts_with("harbor_pilot_") || word.starts_with("process_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

#[test]
fn dashboard_and_alerts_use_only_documented_metrics() {
    let documented = documented();
    assert!(documented.len() > 40, "{documented:?}");
    for file in
        ["charts/harbor-pilot/files/monitoring/alerts.yaml", "charts/harbor-pilot/files/monitoring/dashboard.json"]
    {
        let named = named(&read(&at(file)));
        assert!(named.len() > 10, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&documented).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn alerts_and_runbooks_correspond() {
    let alerts = read(&at("charts/harbor-pilot/files/monitoring/alerts.yaml"));
    let after = |line: &str, key: &str| line.trim().trim_start_matches("- ").strip_prefix(key).map(str::to_owned);
    let names: Vec<String> = alerts.lines().filter_map(|line| after(line, "alert: ")).collect();
    let links: Vec<String> = alerts.lines().filter_map(|line| after(line, "runbook_url: ")).collect();
    let expected: Vec<String> = names.iter().map(|name| format!("{RUNBOOKS}{}", name.to_lowercase())).collect();
    assert_eq!(links, expected);
    let headings: BTreeSet<String> = anchors(&read(&at("docs/observability.md"))).into_iter().collect();
    let runbooks: BTreeSet<String> = headings.into_iter().filter(|anchor| anchor.starts_with("harborpilot")).collect();
    assert_eq!(runbooks, names.iter().map(|name| name.to_lowercase()).collect());
}
