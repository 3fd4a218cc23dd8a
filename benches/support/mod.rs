//! What the benchmarks share.
#![allow(dead_code, reason = "each benchmark uses its part of this")]

pub mod client;
pub mod reviews;

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use harbor_pilot::tls::issue::{Authority, Validity};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What docs/admission.md says about memory.
pub const ALLOCATOR_OPTIONS: [(&str, &str); 2] = [("MIMALLOC_ARENA_EAGER_COMMIT", "0"), ("MIMALLOC_PURGE_DELAY", "0")];

/// Whether this is `cargo bench`: `cargo test --benches` only wants to know that it runs.
pub fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// A number that the environment may give.
pub fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Fails the run when what was promised is not kept. The environment may say less, where the machine is no measure.
pub fn assert_at_least(name: &str, promised: f64, found: f64) {
    let least = setting(name).unwrap_or(promised);
    assert!(!is_measured() || found >= least, "{found:.3} is below {name}={least}");
}

/// As [`assert_at_least`], the other way.
pub fn assert_at_most(name: &str, promised: f64, found: f64) {
    let most = setting(name).unwrap_or(promised);
    assert!(!is_measured() || found <= most, "{found:.3} is above {name}={most}");
}

/// What the kernel says of a process's memory, in MiB.
pub struct Memory {
    pub resident: f64,
    pub anonymous: f64,
    pub peak: f64,
}

impl Memory {
    pub fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let mebibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().unwrap() / 1024.0
        };
        Self { resident: mebibytes("VmRSS"), anonymous: mebibytes("RssAnon"), peak: mebibytes("VmHWM") }
    }
}

/// Writes a certificate for `localhost`, and its key, as the webhook reads them.
pub fn write_certificate(directory: &Path, authority: &Authority) {
    let leaf = authority.issue(&["localhost".to_owned()], validity()).unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("tls.crt"), leaf.certificate_pem).unwrap();
    fs::write(directory.join("tls.key"), leaf.key_pem).unwrap();
}

/// What all threads of a process have run for.
pub fn cpu_time(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let run = threads.filter_map(|thread| {
        // A thread may end meanwhile.
        let statistics = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(run.sum())
}

/// A day from now.
pub fn validity() -> Validity {
    Validity::starting(Timestamp::now(), SignedDuration::from_hours(24))
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
