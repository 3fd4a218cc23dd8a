//! Admission over HTTPS: receives reviews, sends replies, and sends prewarm requests that no reply waits for.
//!
//! [`review`] turns the bytes of a review into those of the answer, from the rules alone. [`validate`] does the same from the
//! policies. [`handler`] adds HTTP, `body` limits what is read, and [`server`] adds TLS, limits and a graceful shutdown.

mod beginning;
mod body;
mod connection;
mod frames;
mod head;
mod hub;
mod known_namespaces;
mod peer_slots;
mod read_timeout;
mod request;
mod response;
mod seldom;
mod workers;
mod workload;

pub mod handler;
pub mod review;
pub mod server;
pub mod validate;

pub use handler::{Admission, BodyLimits, PrewarmSink, queued, router};
pub use known_namespaces::from_known_namespaces;
pub use server::{ServeError, ServeOptions, serve};
