//! The whole product without a cluster: resources from manifests in a directory, status in memory.
//!
//! In: YAML and JSON files, read anew when they change. Out: the same reconciles, the same rewrite rules and the same warming
//! as in a cluster, by the same code; only the place where resources are kept is another.

mod engine;
mod files;
mod run;
mod world;

pub use files::{Manifests, Problem, parse, read, secret_value};
pub use run::{Settings, Standalone, StartError};
pub use world::{Kept, World};
