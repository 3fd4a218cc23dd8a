//! A typed client of Harbor's API v2.0, as a real Harbor answers it.
//!
//! In: the decisions of `plan`, as typed requests. Out: the state of Harbor ([`model`]), or an [`Error`] that says whether to
//! retry, to wait, or to ask a person. Every request has a deadline, and a client bounds its concurrent requests. A [`View`]
//! reads lists, and shares them between all readers of the same Harbor.

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
