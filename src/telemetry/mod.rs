//! What the process says of itself: logs, metrics, traces, and whether it is alive and ready.
//!
//! In flow events, spans and counts of all other parts; out flow lines on standard error, answers on the ops port, and spans to a
//! collector.

pub mod controller;
pub mod exposition;
mod histogram;
pub mod log_level;
pub mod logs;
pub mod metrics;
pub mod offers;
pub mod probes;
mod process;
pub mod traces;
pub mod troubles;
pub mod watches;
