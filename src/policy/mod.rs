//! Takes the images that a Pod would run and the active policies, returns the findings. Pure, from memory.
//!
//! In: [`ImagePolicy`](crate::api::ImagePolicy)s, compiled once into [`Policies`], and per admission the images after the
//! rules, with their [`Subject`](crate::rewrite::Subject). Out: a [`Judgement`], which holds the reasons of a refusal, the
//! warnings for the user, and the entries of the audit log.
//!
//! Results of scans come from CachedImages, compiled into [`Scans`]. Only policies that check scans read them.
//!
//! Images are compared only as parsed references, never as text: a text that resembles an allowed registry does not match.

mod ceiling;
mod judge;
mod policies;
mod scans;
mod text;

pub use ceiling::Evidence;
pub use judge::{Judged, Judgement, Note};
pub use policies::{Finding, Policies};
pub use scans::{Record, Scans, Unknown, Verdict};
pub use text::{Printable, Quoted};

#[cfg(test)]
mod tests;
