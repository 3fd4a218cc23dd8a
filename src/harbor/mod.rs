//! A typed client of Harbor's API v2.0, as Harbor really answers it.
//!
//! In: what `plan` decided, as typed requests. Out: what Harbor has ([`model`]), or an [`Error`] that says whether to try
//! again, to wait, or to ask a person. Every request has a deadline, and a client bounds how many are under way at once. A [`View`]
//! reads by lists, for all who look at the same Harbor.

mod answer;
mod artifacts;
mod client;
mod error;
pub mod model;
mod observer;
mod pages;
mod projects;
mod registries;
mod replication;
pub mod rights;
mod secrets;
mod system;
pub mod transport;
mod view;

pub use client::{Client, Credentials, Deadlines, Endpoint};
pub use error::{Class, Error};
pub use observer::{Answer, Api, Observer};
pub use secrets::{REDACTED, Secrets};
pub use view::{Freshness, Seen, View};
