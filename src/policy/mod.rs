//! Takes the images that a Pod would run and the active policies, returns the findings. Pure, from memory.
//!
//! In: [`ImagePolicy`](crate::api::ImagePolicy)s, compiled once into [`Policies`], and per admission the images after the
//! rules, with their [`PodScope`](crate::rewrite::PodScope). Out: a [`PolicyResult`], which holds the reasons of a refusal, the
//! warnings for the user, and the entries of the audit log.
//!
//! Results of scans come from CachedImages, compiled into [`ScanIndex`]. Only policies that check scans read them.
//!
//! Images are compared only as parsed references, never as text: a text that resembles an allowed registry does not match.

mod compiled;
mod evaluate;
mod policies;
mod scans;
mod severity_limit;
mod violation;

pub use compiled::PolicyWarning;
pub use evaluate::{ForeignReason, JudgedImage, PolicyResult};
pub use policies::Policies;
pub use scans::{NoVerdict, ScanIndex, ScanRecord, ScanVerdict};
pub use severity_limit::ScanEvidence;

#[cfg(test)]
mod tests;
