//! `.ci/notes` takes the notes of a release from the changelog.

use std::process::Command;

use super::at;

const CHANGELOG: &str =
    "# Changelog\n\n## Unreleased\n\n- new\n\n## 1.2.3\n\n### Added\n\n- a\n\n## 1.2.30\n\n- other\n\n## 1.0.0\n";

fn notes(version: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CHANGELOG).unwrap();
    let output = Command::new(at(".ci/notes")).arg(version).arg(file.path()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn notes_prints_the_section_of_one_version() {
    assert_eq!(notes("1.2.3"), (true, "### Added\n\n- a\n".to_owned()));
    assert_eq!(notes("Unreleased"), (true, "- new\n".to_owned()));
}

#[test]
fn notes_refuses_a_version_without_text() {
    for version in ["1.2", "9.9.9", "1.0.0"] {
        assert_eq!(notes(version), (false, String::new()), "{version}");
    }
}
