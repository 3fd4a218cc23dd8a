//! Manifests that documents show can be applied as they stand.

use std::fs;

use harbor_pilot::standalone;

use super::{documents, read};

#[test]
fn every_manifest_of_our_kinds_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for document in documents() {
        let text = read(&document);
        for block in yaml(&text) {
            let ours: Vec<&str> =
                block.split("\n---\n").filter(|part| part.contains("apiVersion: harbor-pilot.dev/")).collect();
            if ours.is_empty() {
                continue;
            }
            seen += ours.len();
            let file = directory.path().join("manifest.yaml");
            fs::write(&file, ours.join("\n---\n")).unwrap();
            if let Err(problem) = standalone::read(&file) {
                wrong.push(format!("{}: {problem}", document.display()));
            }
        }
    }
    assert!(seen > 20, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The blocks that are marked as YAML.
fn yaml(markdown: &str) -> impl Iterator<Item = &str> {
    markdown.split("```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next())
}
