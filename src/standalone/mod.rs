//! The whole product without a cluster: resources from manifests in a directory, status in memory.
//!
//! In: YAML and JSON files, read again when they change. Out: the same reconciles, rewrite rules and warming as in a
//! cluster, from the same code; only the store of the resources differs.

mod engine;
mod manifest_source;
mod memory_store;
mod run;

pub use manifest_source::{ManifestProblem, ManifestSet, parse, read, secret_value};
pub use memory_store::{MemoryStore, StoredKind};
pub use run::{Standalone, StandaloneOptions, StartError};
