//! Harbor v2.15.2 and an upstream registry, in-process, for tests and for the demo.
//!
//! ```text
//!   test ──builder──▶ Upstream ◀──pull── Harbor ◀──REST /api/v2.0, /v2, /service/token── what is tested
//!                        │  images,        │  state behind one lock; background jobs of the proxy cache
//!                        ▼  failures       ▼  (delays divided by `speed`)
//!                      log()             log()
//! ```
//!
//! Both are real HTTP servers on loopback ports, so that other processes can use them. [`Harbor`] contacts its upstreams
//! over HTTP, too. It behaves as the recorded exchanges in `fixtures/` show, quirks included, and is never kinder: the
//! contract tests replay them. What it does not know (scanners, webhooks, schedules, members, users other than the
//! administrator) answers 404 as an unknown path does.
//!
//! The model of the proxy cache, in Harbor's own time:
//!
//! | event | what follows |
//! |---|---|
//! | GET of an uncached manifest | proxied at once; after 20 s, and then each 20 s, Harbor looks whether its blobs are stored, at the 10th look it fetches the rest itself; then the manifest is stored |
//! | GET of an uncached index | proxied at once; each 20 s, 20 times, it looks whether all children are stored; then it stores the index anew, cut down to those (none: nothing) |
//! | HEAD of an uncached tag | proxied; each 10 s, 60 times, it looks whether the artifact is stored, and tags it |
//! | GET of an uncached blob | streamed from the upstream; a second GET fills the store |
//! | health of an upstream | looked at each 5 minutes and at each PUT of the registry; unhealthy upstreams are not asked |
//!
//! Its jobs, in Harbor's own time:
//!
//! | job | how long it takes |
//! |---|---|
//! | a task of a replication | waits 1 s; a blob that fails is tried 5 times, over 30 s |
//! | the status of an execution | follows 20 s after its last task; its counts are always those of its tasks |
//! | a scan, with [`HarborBuilder::scanner`] | pending for 5 s, running for 5 s, then the report that a test set |
//! | a schedule | fires when a test says so ([`Harbor::run_schedules`]); one that never fires hangs the job service |
//!
//! Three things were not recorded and follow from how Harbor is built: a rate limit of the upstream is 429 unless the image
//! is stored; a cold blob of more than 2 KiB has no `Content-Length`; one that breaks off upstream ends as a success
//! with an error document behind it. Credentials of `aws-ecr` are sent to the routed upstream as they are.
//!
//! Dropping a [`Harbor`] or an [`Upstream`] closes its port, its connections and its background jobs.

#![allow(clippy::indexing_slicing, reason = "what is indexed here is JSON, where a missing member reads null")]

mod body;
mod digest;
mod harbor;
mod image;
mod index;
mod log;
mod net;
mod severity;
mod upstream;

pub use digest::sha256;
pub use harbor::{Builder as HarborBuilder, Harbor, Hold};
pub use image::{Blob, Child, Image, Platform, Pushed};
pub use log::Request;
pub use severity::Severity;
pub use upstream::{Builder as UpstreamBuilder, Failure, Upstream};
