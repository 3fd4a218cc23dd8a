//! Observability of the process: logs, metrics, traces, liveness and readiness.
//!
//! In: events, spans and counts of all other parts. Out: lines on standard error, answers on the ops port, and spans for a
//! collector.

pub mod controller;
pub mod exposition;
mod labels;
pub mod log_level;
pub mod logs;
pub mod metrics;
pub mod prewarm_queue;
pub mod probes;
mod process;
pub mod recent_errors;
pub mod traces;
pub mod watches;
