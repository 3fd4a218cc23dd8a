//! The engine: watches, triggers, reconciles and status, the same for an API server and for files.
//!
//! In: a [`Backend`], the source of resources and the sink of their state. Out: the
//! [`ResourceStore`](crate::controller::ResourceStore) that reconcilers read, the rewrite rules that the webhook follows,
//! and, for each reconcile, status, finalizer and Events.

pub mod backend;
pub mod collectors;
pub mod create_cached_images;
mod expiry;
mod gate;
pub mod image_usage;
pub mod instruments;
pub mod log_limit;
pub mod node_platforms;
pub mod page_inputs;
mod quota;
mod reconcile_loop;
pub mod resource_store;
pub mod rules;
pub mod run;
pub mod scan_requirements;
mod shared_watch;
mod status_cache;
pub mod watch;
mod watch_mappings;

pub use backend::{Backend, Error, Resources};
