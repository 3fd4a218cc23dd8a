//! Takes a Pod and the active rules, returns what admission does with the Pod. Pure, from memory.
//!
//! In: [`Rule`]s, compiled once into [`Rules`], and per admission a [`pod::Pod`] from the request (with the old one, on an
//! update). Out: an [`Outcome`], which is a JSON Patch of image fields, pull secrets and one annotation, the images to
//! prewarm, and warnings.

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
