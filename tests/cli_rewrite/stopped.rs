//! `rewrite --in-place` that is killed or interrupted at some moment.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Desk, pod_json};

const FILES: usize = 120;

fn new_desk() -> Desk {
    let desk = Desk::new();
    for number in 0..FILES {
        let name = format!("in/{number:03}.json");
        desk.write(&name, &pod_json("nginx"));
        std::fs::set_permissions(desk.path(&name), std::fs::Permissions::from_mode(0o640)).unwrap();
    }
    desk
}

fn start(desk: &Desk) -> Child {
    Command::new(env!("CARGO_BIN_EXE_harbor-pilot"))
        .args(["rewrite", "--rules", "rules.yaml", "-f", "in", "--in-place"])
        .current_dir(desk.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// How many files are written, of those that have to be whole; names beside them, which have to be no more readable.
fn state(desk: &Desk) -> (usize, usize) {
    let (mut written, mut beside) = (0, 0);
    for entry in std::fs::read_dir(desk.path("in")).unwrap() {
        let Ok(path) = entry.map(|entry| entry.path()) else { continue };
        let ending = path.extension().unwrap().to_str().unwrap().to_owned();
        let Ok(metadata) = path.metadata() else { continue };
        assert_eq!(metadata.permissions().mode() & 0o7777 & !0o640, 0, "{}", path.display());
        if ending == "json" {
            let text = std::fs::read_to_string(&path).unwrap();
            let new = pod_json("nginx").replace("\"image\":\"", "\"image\":\"harbor.example.com/hub/library/");
            assert!([pod_json("nginx"), new.clone()].contains(&text), "{}: {text}", path.display());
            written += usize::from(text == new);
        } else {
            assert!(ending.starts_with("harbor-pilot-"), "{}", path.display());
            beside += 1;
        }
    }
    (written, beside)
}

/// Waits until so many names are beside the files, or the process has ended; then for a part of a millisecond.
fn wait_for(desk: &Desk, child: &mut Child, names: usize, micros: u64) {
    let begun = Instant::now();
    while std::fs::read_dir(desk.path("in")).unwrap().count() < FILES + names && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    std::thread::sleep(Duration::from_micros(micros));
}

#[test]
fn rewrite_in_place_that_is_killed_leaves_whole_files_and_a_second_run_finishes() {
    let mut interrupted = 0;
    for (names, micros) in [(1, 0), (FILES, 0), (2 * FILES, 0), (2 * FILES, 100), (2 * FILES, 500), (2 * FILES, 2_000)]
    {
        let desk = new_desk();
        let mut child = start(&desk);
        wait_for(&desk, &mut child, names, micros);
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, left) = state(&desk);
        interrupted += usize::from(left > 0);

        let again = desk.rewrite(&["-f", "in", "--in-place"], "");
        assert_eq!(again.code, 0, "{}", again.err);
        assert_eq!(state(&desk), (FILES, left), "a second run finishes, and removes nothing of another one");
        assert_eq!(again.err.contains("of an earlier run that was killed"), left > 0, "{}", again.err);
    }
    assert!(interrupted > 0, "no run was killed in the middle");
}

#[test]
fn rewrite_in_place_that_is_interrupted_writes_all_or_none_and_leaves_nothing_beside() {
    let mut ends = BTreeSet::new();
    for (names, micros) in [(1, 0), (FILES, 0), (2 * FILES, 0), (2 * FILES, 500)] {
        let desk = new_desk();
        let mut child = start(&desk);
        wait_for(&desk, &mut child, names, micros);
        kill_process(Pid::from_child(&child), Signal::INT).ok();
        let code = child.wait().unwrap().code();
        let (written, beside) = state(&desk);
        assert_eq!(beside, 0);
        let expected = if code == Some(0) { FILES } else { 0 };
        assert_eq!(written, expected, "{code:?}");
        ends.insert(code);
    }
    assert!(ends.contains(&Some(2)), "no run was interrupted before its first rename: {ends:?}");
}
