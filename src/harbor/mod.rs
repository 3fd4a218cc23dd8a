//! A typed client of Harbor's API v2.0, as a real Harbor answers it.
//!
//! In: the decisions of `plan`, as typed requests. Out: the state of Harbor ([`model`]), or an [`Error`] that says whether to
//! retry, to wait, or to ask a person. Every request has a deadline, and a client bounds its concurrent requests. A [`View`]
//! reads lists, and shares them between all readers of the same Harbor.

mod artifacts;
mod cache;
mod client;
mod error;
pub mod model;
mod pages;
pub mod permissions;
mod projects;
mod redaction;
mod registries;
mod replication;
mod request_observer;
mod response;
mod system;
pub mod transport;

pub use cache::{Cached, Freshness, HarborCache};
pub use client::{Client, Credentials, Deadlines, Endpoint};
pub use error::{Error, RetryClass};
pub use redaction::{REDACTED, Redactor};
pub use request_observer::{Api, RequestObserver, RequestResult};
