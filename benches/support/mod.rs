//! What the benchmarks share.
#![allow(dead_code, reason = "each benchmark uses its part of this")]

pub mod client;
pub mod reviews;

use harbor_pilot::tls::issue::Validity;
use jiff::{SignedDuration, Timestamp};

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
