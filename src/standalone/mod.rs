//! The whole product without a cluster: resources from manifests in a directory, status in memory.
//!
//! In: YAML and JSON files, read again when they change. Out: the same reconciles, rewrite rules and warming as in a
//! cluster, from the same code; only the store of the resources differs.

mod engine;
mod files;
mod run;
mod world;

pub use files::{Manifests, Problem, parse, read, secret_value};
pub use run::{Settings, Standalone, StartError};
pub use world::{Kept, World};
