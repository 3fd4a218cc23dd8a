//! From a Pod and the rules in force to what admission does with it: pure, from memory.
//!
//! In flow [`Rule`]s, compiled once into [`Rules`], and per admission a [`pod::Pod`] read from the request (with the old
//! one, on an update). Out flows an [`Outcome`]: a JSON Patch of image fields, pull secrets and one annotation, the images that Harbor
//! ought to have warm, and warnings.

pub mod decide;
mod exempt;
pub mod fate;
pub mod glob;
pub mod json;
pub mod limits;
mod patch;
pub mod pod;
mod record;
mod rules;
pub mod selector;
mod serving;
mod stated;
mod subject;

pub use decide::{Outcome, Request, Wanted, decide, decide_within};
pub use exempt::{ALLOW_EXEMPT, EXEMPT, KEEP_IMAGES};
pub use fate::{Fate, Keeper, Reader, placeholder};
pub use limits::{Budget, Exhausted};
pub use record::ORIGINAL_IMAGES;
pub use rules::{Decision, Finding, Rule, Rules, Target};
pub use serving::{OUTAGE_AFTER, conflicts, serving, unavailable};
pub use stated::{StatedError, assumed, stated};
pub use subject::{NAMESPACE_NAME, Namespaces, Subject};
