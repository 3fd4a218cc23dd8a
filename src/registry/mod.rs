//! OCI distribution, the pull side, as Harbor serves it below `/v2`.
//!
//! What flows in is an endpoint, a repository and a reference; what flows out are checked manifests, and the knowledge that a
//! blob is stored or was streamed with the right digest. No byte of a blob is kept.
//!
//! The manifests' types are those of `oci-client`. The requests are our own: that client reads a manifest of any size into
//! memory, sends credentials to whatever host a token realm names, follows redirects, and loses `Retry-After`.

mod auth;
pub mod client;
pub mod digest;
pub mod error;
pub mod manifest;
mod refusal;

pub use auth::TOKEN_PATH;
pub use client::{Blob, Client, Endpoint, Fetched};
pub use digest::Digest;
pub use error::{Class, Error};
pub use manifest::{Child, Descriptor, Image, Index, Manifest};
