//! The HTTP transport to one Harbor, the same for its API (`/api/v2.0`) and for `/v2`.
//!
//! In: an [`Endpoint`], and requests of a protocol. Out: bounded responses, or an [`Error`] that says when to retry. The
//! transport owns the address and the CA, the limit on concurrent requests, the deadlines ([`timings`]), the tracing span and the
//! [`RequestObserver`], the write guard (no request while the leadership does not hold), the redaction of secrets, and the
//! [`CircuitBreaker`] that decides whether Harbor is unreachable.

mod address;
mod call;
mod circuit_breaker;
mod client;
mod error;
mod observer;
mod redaction;
mod refusal;
mod response;
pub mod timings;

pub use circuit_breaker::{CircuitBreaker, CircuitState, Denied, Open, Probe};
pub use client::{Client, Credentials, Endpoint, Request, Shared};
pub use error::{Error, RetryClass};
pub use observer::{Api, RequestObserver, RequestResult};
pub use redaction::{REDACTED, Redactor};
pub use refusal::Refusal;
pub use response::Response;
pub use timings::Deadlines;
