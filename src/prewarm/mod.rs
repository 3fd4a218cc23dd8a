//! Prewarming: images of admitted Pods become CachedImages, and CachedImages become warm and verified.
//!
//! In: a [`PrewarmRequest`] from the webhook, or a CachedImage and the current time. Out: requests to Harbor, and the next
//! status with the requeue time. No step waits for Harbor's background work; a later reconcile checks it.
//!
//! ```text
//! queue → name → CachedImage → reconcile ─┬─ state_machine  what to do now, what the status becomes      PURE
//!                                         ├─ puller         pull through Harbor as containerd does
//!                                         ├─ verify         what Harbor has stored, what it serves offline
//!                                         └─ scan           what scans say, when Harbor is asked for one PURE
//! ```
//!
//! Before a pull, [`rate_limiter`] decides whether the upstream may be asked now, and the [`CircuitBreaker`](crate::transport::CircuitBreaker)
//! whether Harbor may.

mod causes;
pub mod environment;
pub mod expiry;
pub mod manifest_presence;
pub mod name;
pub mod namespace_limit;
pub mod new_platforms;
pub mod phase;
pub mod platform_select;
pub mod puller;
pub mod queue;
pub mod quota;
pub mod rate_limiter;
pub mod reconcile;
pub mod scan;
mod scanner;
pub mod sibling_tags;
pub mod state_machine;
pub mod target;
mod timing;
pub mod turns;
pub mod usage_tracker;
pub mod verify;

pub use environment::{Environment, Resolved, Unresolved};
pub use phase::Phase;
pub use puller::{PullProgress, PulledImage, Puller};
pub use queue::{PrewarmQueue, PrewarmReceiver, PrewarmRequest};
pub use rate_limiter::RateLimiter;
pub use reconcile::{PrewarmContext, reconcile};
pub use scan::ScanTerms;
pub use sibling_tags::SiblingTags;
pub use target::Target;
pub use timing::PrewarmTiming;
pub use usage_tracker::UsageTracker;
