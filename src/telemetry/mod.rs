//! What the process says of itself: logs, metrics, and whether it is alive and ready.
//!
//! In flow events and counts of all other parts; out flow lines on standard error and answers on the ops port.

mod histogram;
pub mod logs;
pub mod metrics;
pub mod probes;
