//! Admission over HTTPS: reviews in, replies out, and offers to the prewarmer that no reply waits for.
//!
//! [`review`] turns the bytes of a review into those of the answer, from the rules alone; [`validate`] does it with what
//! policies say of the result. [`handler`] puts HTTP around
//! it, `body` bounds what is read, and [`server`] puts TLS, limits and an orderly end around that.

mod answer;
mod beginning;
mod body;
mod connection;
mod frames;
mod head;
mod hub;
mod known_namespaces;
mod places;
mod request;
mod seldom;
mod silence;
mod workers;
mod workload;

pub mod handler;
pub mod review;
pub mod server;
pub mod validate;

pub use handler::{Admission, Limits, OfferSink, queued, router};
pub use known_namespaces::from_known_namespaces;
pub use server::{ServeError, ServeOptions, serve};
