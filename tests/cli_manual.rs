//! What shells and `man` get from the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
};

const BINARY: &str = env!("CARGO_BIN_EXE_harbor-pilot");

#[test]
fn bash_completes_commands_and_their_options() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("harbor-pilot.bash");
    fs::write(&script, printed(&["completions", "bash"])).unwrap();
    let completed = |words: &str, at: usize| {
        let typed = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={at}; \
             \"$(complete -p harbor-pilot | sed 's/.*-F \\([^ ]*\\).*/\\1/')\" harbor-pilot \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[{}]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            at - 1
        );
        let output = Command::new("bash").args(["-c", &typed]).output().unwrap();
        text(output).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completed("harbor-pilot wa", 1), ["warm"]);
    assert_eq!(completed("harbor-pilot warm --req", 2), ["--require"]);
    assert_eq!(completed("harbor-pilot warm --require offline", 3), ["offline-by-tag", "offline-by-digest"]);
}

#[test]
fn each_shell_gets_a_script_that_knows_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for command in commands() {
            assert!(script.contains(&command), "{shell} does not know {command}");
        }
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    printed(&["man", "--dir", pages.to_str().unwrap()]);
    let written: BTreeSet<String> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    let wanted = commands.iter().map(|command| format!("harbor-pilot-{command}.1"));
    assert_eq!(written, wanted.chain(["harbor-pilot.1".to_owned()]).collect());

    let warm = fs::read_to_string(pages.join("harbor-pilot-warm.1")).unwrap();
    for part in [".TH harbor-pilot-warm 1", r"\-\-require", r"\-\-timeout"] {
        assert!(warm.contains(part), "{part} is missing in\n{warm}");
    }
    assert_eq!(printed(&["man"]), fs::read_to_string(pages.join("harbor-pilot.1")).unwrap());
}

/// The commands of the help.
fn commands() -> BTreeSet<String> {
    let help = printed(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let name = |line: &str| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned);
    list.lines().filter(|line| !line.starts_with("   ")).filter_map(name).filter(|name| name != "help").collect()
}

fn printed(arguments: &[&str]) -> String {
    text(Command::new(BINARY).args(arguments).output().unwrap())
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
