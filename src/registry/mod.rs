//! OCI distribution, the pull side, as Harbor serves it below `/v2`.
//!
//! In: an endpoint, a repository and a reference. Out: checked manifests, and whether a blob is stored or was streamed with the
//! expected digest. No byte of a blob is kept.
//!
//! The types of manifests and of error responses are those of `oci-client`. The requests are not: that client reads a manifest
//! of any size into memory, sends credentials to any host that a token realm names, follows redirects, and drops `Retry-After`.

mod auth;
pub mod client;
pub mod digest;
pub mod error;
pub mod manifest;
mod token;

pub use crate::transport::RetryClass;
pub use auth::TOKEN_PATH;
pub use client::{BlobResponse, Client, FetchedManifest};
pub use digest::Digest;
pub use error::Error;
pub use manifest::{Descriptor, ImageManifest, Index, IndexChild, Manifest};
