//! Replication through our client, against the double or a real Harbor: both answer alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod copies;
mod events;
mod policies;
mod scanner;
mod scans;
mod stage;
#[path = "../support/mod.rs"]
mod support;
