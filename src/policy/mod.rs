//! From the images that a Pod would run and the policies in force to what is said of them: pure, from memory.
//!
//! In flow [`ImagePolicy`](crate::api::ImagePolicy)s, compiled once into [`Policies`], and per admission the images, as
//! rules have made them, with their [`Subject`](crate::rewrite::Subject). Out flows a [`Judgement`]: why the Pod is
//! refused, what its user is warned of, and what the audit log keeps.
//!
//! What scans said of images comes from CachedImages, compiled into [`Scans`], and is asked only by policies that go by it.
//!
//! Images are compared as parsed references only, never as text: what looks like an allowed registry is none.

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
