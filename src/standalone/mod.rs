//! The whole product without a cluster: resources from manifests in a directory, status in memory.
//!
//! In: YAML and JSON files, read again when they change. Out: the same reconciles, rewrite rules and warming as in a
//! cluster, by the same [`engine`](crate::engine); only the backend differs.

mod kind_store;
mod manifest_source;
mod memory_backend;
mod run;

pub use manifest_source::{ManifestProblem, ManifestSet, parse, read, secret_value};
pub use memory_backend::MemoryBackend;
pub use run::{Standalone, StandaloneOptions, StartError};
