//! What the benchmarks share.
#![allow(dead_code, reason = "each benchmark uses its part of this")]

pub mod client;
pub mod reviews;

use std::fs;
use std::time::Duration;

use harbor_pilot::tls::issue::Validity;
use jiff::{SignedDuration, Timestamp};

/// What docs/admission.md says about memory.
pub const ALLOCATOR_OPTIONS: [(&str, &str); 2] = [("MIMALLOC_ARENA_EAGER_COMMIT", "0"), ("MIMALLOC_PURGE_DELAY", "0")];

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
