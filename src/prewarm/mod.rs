//! Prewarming: images of admitted Pods become CachedImages, and CachedImages become warm and verified.
//!
//! In: an [`queue::Offer`] from the webhook, or a CachedImage and the current time. Out: requests to Harbor, and the next
//! status with the requeue time. No step waits for Harbor's background work; a later reconcile checks it.
//!
//! ```text
//! Offer → queue → name → CachedImage → reconcile ─┬─ life    what to do now, what the status becomes      PURE
//!                                                 ├─ puller  pull through Harbor as containerd does
//!                                                 ├─ verify  what Harbor has stored, what it serves offline
//!                                                 └─ scan    what scans say, when Harbor is asked for one        PURE
//! ```
//!
//! Before a pull, [`allowance`] decides whether the upstream may be asked now, and [`silence`] whether Harbor may.

pub mod allowance;
pub mod asked;
mod causes;
pub mod life;
pub mod lifetime;
pub mod limit;
pub mod name;
mod note;
pub mod puller;
pub mod queue;
pub mod quota;
pub mod reconcile;
mod rest;
pub mod scan;
mod scanner;
pub mod select;
pub mod siblings;
pub mod silence;
pub mod stored;
pub mod surroundings;
pub mod target;
mod timing;
pub mod turns;
pub mod verify;
pub mod wanted;

pub use allowance::Allowance;
pub use asked::Asked;
pub use note::Note;
pub use puller::{Progress, Puller, Warmed};
pub use queue::{Offer, OfferReceiver, Offers};
pub use reconcile::{Context, Outcome, reconcile};
pub use scan::Terms as ScanTerms;
pub use siblings::Siblings;
pub use silence::Silence;
pub use surroundings::{Resolved, Surroundings, Unresolved};
pub use target::Target;
pub use timing::Timing;
