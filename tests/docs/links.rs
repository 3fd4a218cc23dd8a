//! Every link to a file of this tree leads to it, and to a heading that it has.

use std::path::Path;

use super::{anchors, documents, read};

#[test]
fn every_link_inside_the_tree_leads_somewhere() {
    let mut broken = Vec::new();
    let documents = documents();
    assert!(documents.len() > 15, "{documents:?}");
    for document in &documents {
        let text = read(document);
        for link in links(&text) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let ends = target.exists() && (heading.is_empty() || has(&target, heading));
            if !ends {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn has(document: &Path, heading: &str) -> bool {
    document.is_file() && anchors(&read(document)).iter().any(|anchor| anchor == heading)
}

/// What stands in `](…)`, apart from addresses.
fn links(markdown: &str) -> impl Iterator<Item = &str> {
    let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| {
        !target.contains("://") && !target.starts_with("mailto:") && !target.contains(char::is_whitespace)
    })
}
