//! actionlint accepts the workflows of `.github/workflows`, and they run what a contributor runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harbor_pilot_e2e::helm::root;
use harbor_pilot_e2e::tools::Tool;

fn workflows() -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(root().join(".github/workflows")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn actionlint(files: &[PathBuf]) -> Output {
    let mut command = Command::new(Tool::Actionlint.path().unwrap());
    // What it finds must not depend on tools that this machine happens to have.
    command.args(["-shellcheck=", "-pyflakes="]).args(files).current_dir(root()).output().unwrap()
}

/// What actionlint says of a workflow with these steps.
fn verdict(directory: &Path, steps: &str) -> (bool, String) {
    let file = directory.join("ci.yaml");
    fs::write(&file, format!("on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n{steps}")).unwrap();
    let output = actionlint(&[file]);
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn actionlint_accepts_every_workflow() {
    let files = workflows();
    assert!(files.len() > 1, "{files:?}");
    let output = actionlint(&files);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn actionlint_refuses_a_broken_workflow() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(verdict(directory.path(), "      - run: .ci/run\n"), (true, String::new()));
    for (steps, reason) in [
        ("      - run: echo ${{ github.no_such_property }}\n", "no_such_property"),
        ("      - uses: actions/checkout\n", "specifying action"),
        ("      - rum: .ci/run\n", "rum"),
    ] {
        let (accepted, said) = verdict(directory.path(), steps);
        assert!(!accepted && said.contains(reason), "{steps}: {said}");
    }
}

#[test]
fn workflows_pin_each_action_by_commit_and_run_the_scripts_of_the_tree() {
    let texts: Vec<String> = workflows().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let uses: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.split_once("uses: "))
        .map(|(_, action)| action)
        .collect();
    assert!(!uses.is_empty());
    for action in uses {
        let commit = action.split_once('@').unwrap().1.split(' ').next().unwrap();
        assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{action}");
    }
    for script in [".ci/run", ".ci/release"] {
        assert!(texts.iter().any(|text| text.contains(script)), "no workflow runs {script}");
        assert!(root().join(script).is_file(), "{script}");
    }
}
