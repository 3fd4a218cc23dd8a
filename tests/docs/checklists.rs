//! The checklists and tables of CONTRIBUTING.md and the pages of docs/decisions name files that exist.

use super::{at, read};

/// The part of a document below a heading, up to the next heading of the same level.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\n{heading}\n"))?;
    let level = heading.split(' ').next()?;
    rest.split(&format!("\n{level} ")).next()
}

/// The paths of this tree that a text names in backticks.
fn paths(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| {
            let first = word.split('/').next().unwrap();
            word.contains('/')
                && !word.contains(char::is_whitespace)
                && ["src", "tests", "e2e", "docs", "charts", "config", "crds", "examples", "benches"].contains(&first)
        })
        .collect()
}

fn missing(text: &str) -> Vec<&str> {
    paths(text).into_iter().filter(|path| !at(path).exists()).collect()
}

#[test]
fn checklists_name_files_that_exist() {
    let text = read(&at("CONTRIBUTING.md"));
    for heading in ["## Where do I find", "## Glossary", "### Add a kind", "### Add a field", "### Add a metric"] {
        let list = section(&text, heading).unwrap_or_else(|| panic!("CONTRIBUTING.md has no {heading}"));
        assert!(paths(list).len() > 3, "{heading} names {:?}", paths(list));
        assert_eq!(missing(list), Vec::<&str>::new(), "{heading}");
    }
}

#[test]
fn decisions_are_listed_and_have_a_measured_figure_and_name_code_that_exists() {
    let contributing = read(&at("CONTRIBUTING.md"));
    let pages: Vec<_> = at("docs/decisions").read_dir().unwrap().map(|page| page.unwrap().path()).collect();
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        assert!(contributing.contains(&format!("](docs/decisions/{name})")), "CONTRIBUTING.md does not list {name}");
        let text = read(&page);
        for heading in ["## Context", "## Decision", "## Measured", "## When to revisit"] {
            assert!(section(&text, heading).is_some_and(|text| !text.trim().is_empty()), "{name}: {heading}");
        }
        let measured = section(&text, "## Measured").unwrap();
        assert!(
            measured.contains(|c: char| c.is_ascii_digit()) && measured.contains('`'),
            "{name}: figure and command"
        );
        assert!(!paths(&text).is_empty(), "{name} names no code");
        assert_eq!(missing(&text), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn missing_finds_a_path_that_does_not_exist() {
    assert_eq!(missing("`src/lib.rs`, `src/no_such_file.rs`, `cargo test src/x y` and `a/b`"), ["src/no_such_file.rs"]);
}
