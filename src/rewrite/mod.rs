//! Takes a Pod and the active rules, returns what admission does with the Pod. Pure, from memory.
//!
//! In: [`Rule`]s, compiled once into [`Rules`], and per admission a [`pod::Pod`] from the request (with the old one, on an
//! update). Out: an [`PodMutation`], which is a JSON Patch of image fields, pull secrets and one annotation, the images to
//! prewarm, and warnings.

mod active_rules;
pub mod decide;
mod desired_rule;
pub mod glob;
pub mod image_decision;
pub mod json;
pub mod limits;
mod opt_out;
mod original_images;
mod patch;
pub mod pod;
mod pod_scope;
mod prewarm_target;
mod rules;
pub mod selector;

pub use active_rules::{OUTAGE_AFTER, active_rules, conflicts, unavailable};
pub use decide::{PodChange, PodMutation, decide, decide_within};
pub use desired_rule::{DesiredRuleError, assumed, desired_rule};
pub use image_decision::{ImageDecider, ImageDecision, KeepReason, placeholder};
pub use limits::{BudgetExhausted, StepBudget};
pub use opt_out::{ALLOW_EXEMPT, EXEMPT};
pub use pod::{KEEP_IMAGES, ORIGINAL_IMAGES};
pub use pod_scope::{NAMESPACE_NAME, Namespaces, PodScope};
pub use prewarm_target::PrewarmTarget;
pub use rules::{RewriteTarget, Rule, RuleDecision, RuleWarning, Rules};
