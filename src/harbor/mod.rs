//! A typed client of Harbor's API v2.0, as a real Harbor answers it.
//!
//! In: the decisions of `plan`, as typed requests. Out: the state of Harbor ([`model`]), or an [`Error`] that says whether to
//! retry, to wait, or to ask a person. The [`transport`](crate::transport) bounds each request. A [`HarborCache`] reads lists,
//! and shares them between all readers of the same Harbor.

mod artifacts;
mod cache;
mod client;
mod error;
pub mod model;
mod pages;
pub mod permissions;
mod projects;
mod registries;
mod replication;
mod system;

pub use cache::{Cached, Freshness, HarborCache};
pub use client::Client;
pub use error::Error;
