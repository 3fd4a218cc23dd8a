//! What has to be done so that Harbor is as a resource says: `plan(desired, observed) → steps, drift, refusal`.
//!
//! In: a desired value that was validated and dereferenced, and what Harbor answered ([`crate::harbor::model`]). Out: a value
//! that the controller applies and that anyone can print. No client, clock or log here, and all that is odd about Harbor's
//! objects is known here and nowhere else.

pub mod after_scan;
pub mod cron;
pub mod hosts;
pub mod marker;
pub mod project;
pub mod registry;
pub mod replication;
pub mod retention;
pub mod run;
pub mod version;
mod words;

use std::fmt;

pub use words::Difference;

use crate::api::Reason;

/// Stands for the id of an object that would be created by a step before. Harbor counts from 1, and 0 is Harbor itself. A plan
/// that is made with it is to be told, and not to be applied.
pub const TO_BE_CREATED: i64 = -1;

/// What to do about one object in Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<Step> {
    /// What the steps come to.
    pub action: Action,
    /// In this order.
    pub steps: Vec<Step>,
    /// Where Harbor differs from the spec, field by field. Empty when the object does not exist.
    pub drift: Vec<Drift>,
}

impl<Step> Plan<Step> {
    /// Whether Harbor is as the spec says.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty()
    }
}

/// What a plan comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Harbor is as the spec says.
    Nothing,
    /// Harbor has no such object.
    Create,
    /// Harbor has an object that nobody marked; it becomes ours, and what the spec says.
    Adopt,
    /// Our object differs.
    Change,
}

/// One field that differs. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Harbor's name of the field.
    pub field: String,
    /// What Harbor has.
    pub have: String,
    /// What the spec says.
    pub want: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.field, shown(&self.have), shown(&self.want))
    }
}

/// A person reads no more of one value, and status has room for no more.
const LONGEST: usize = 200;

fn shown(value: &str) -> std::borrow::Cow<'_, str> {
    match value.char_indices().nth(LONGEST) {
        _ if value.is_empty() => "nothing".into(),
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()).into(),
        None => value.into(),
    }
}

/// Why nothing may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the condition.
    pub reason: Reason,
    /// What a person can do.
    pub message: String,
}
