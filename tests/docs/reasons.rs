//! docs/troubleshooting.md has a word on each condition and each reason.

use harbor_pilot::api::{ConditionType, Reason};

use super::{anchors, at, read};

fn names() -> impl Iterator<Item = &'static str> {
    ConditionType::ALL.iter().map(|kind| kind.as_str()).chain(Reason::ALL.iter().map(|reason| reason.as_str()))
}

#[test]
fn each_reason_and_each_condition_has_its_place_in_troubleshooting() {
    let told = anchors(&read(&at("docs/troubleshooting.md")));
    let missing: Vec<_> = names().filter(|name| !told.contains(&name.to_lowercase())).collect();
    assert!(missing.is_empty(), "no heading of docs/troubleshooting.md is {missing:?}");
}

#[test]
fn no_reason_is_told_of_that_no_condition_has() {
    let text = read(&at("docs/troubleshooting.md"));
    let headings = text.lines().filter_map(|line| line.strip_prefix("### ")).filter(|name| !name.contains(' '));
    let unknown: Vec<&str> = headings.filter(|heading| !names().any(|known| known == *heading)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
