//! Computes the steps that bring Harbor to the state of a resource: `plan(desired, observed) → steps, drift, refusal`.
//!
//! In: a validated and dereferenced desired value, and Harbor's answers ([`crate::harbor::model`]). Out: a value that the
//! controller applies and that any code can print. There is no client, clock or log here. All special cases of Harbor's
//! objects are here and nowhere else.

pub mod after_scan;
pub mod cron;
mod display;
pub mod hosts;
pub mod manual_run;
pub mod ownership_marker;
pub mod project;
pub mod registry;
pub mod replication;
pub mod retention;
pub mod version;

use std::fmt;

pub use display::Difference;

use crate::api::Reason;

/// Placeholder for the ID of an object that an earlier step would create. Harbor counts from 1, and 0 is Harbor itself. A
/// plan with this ID is for output, and must not be applied.
pub const TO_BE_CREATED: i64 = -1;

/// The plan for one object in Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<Step> {
    /// The overall action of the steps.
    pub action: Action,
    /// The requests, in order.
    pub steps: Vec<Step>,
    /// Where Harbor differs from the spec, field by field. Empty when the object does not exist.
    pub drift: Vec<Drift>,
}

impl<Step> Plan<Step> {
    /// Returns whether Harbor matches the spec.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty()
    }
}

/// The overall action of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Harbor matches the spec.
    Nothing,
    /// Harbor has no such object.
    Create,
    /// Harbor has an object without a marker; the plan marks it and applies the spec.
    Adopt,
    /// Our object differs from the spec.
    Change,
}

/// One field that differs. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Harbor's name of the field.
    pub field: String,
    /// Harbor's value.
    pub have: String,
    /// The value of the spec.
    pub want: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.field, shown(&self.have), shown(&self.want))
    }
}

/// The longest value, in characters: users do not read longer values, and status has no room for them.
const LONGEST: usize = 200;

fn shown(value: &str) -> std::borrow::Cow<'_, str> {
    match value.char_indices().nth(LONGEST) {
        _ if value.is_empty() => "nothing".into(),
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()).into(),
        None => value.into(),
    }
}

/// The reason why nothing may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason for the condition.
    pub reason: Reason,
    /// The fix for the user.
    pub message: String,
}
