//! Liveness, readiness and metrics over plain HTTP, on a port inside the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::exposition::Exposed;

/// Whether the process accepts requests: ready once it is set, and never again once it drains.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    flags: Arc<Flags>,
    /// Milliseconds from `Flags::began` until which the process counts as full.
    full_until: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Flags {
    ready: AtomicBool,
    draining: AtomicBool,
    began: Instant,
}

/// How long the process counts as full after it refused a client.
const FULL: Duration = Duration::from_secs(5);

impl Default for Flags {
    fn default() -> Self {
        let (ready, draining) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { ready, draining, began: Instant::now() }
    }
}

impl Readiness {
    /// Creates the state, not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the state for a second server of the process: ready and draining as this one, but with its own limit. Clients
    /// that the ops port refuses do not make the process unready.
    pub fn with_own_room(&self) -> Self {
        Self { flags: Arc::clone(&self.flags), full_until: Arc::default() }
    }

    /// Sets whether the process can answer requests.
    pub fn set(&self, ready: bool) {
        self.flags.ready.store(ready, Ordering::Release);
    }

    /// Makes the process unready permanently: it is about to end.
    pub fn drain(&self) {
        self.flags.draining.store(true, Ordering::Release);
    }

    /// Records that a client was refused because of a limit: other replicas get the requests for a while.
    pub fn refuse(&self) {
        self.full_until.store(self.flags.millis() + FULL.as_millis() as u64, Ordering::Release);
    }

    /// Returns whether a client was refused a moment ago.
    pub fn is_full(&self) -> bool {
        self.flags.millis() < self.full_until.load(Ordering::Acquire)
    }

    /// Returns whether the process accepts requests.
    pub fn is_ready(&self) -> bool {
        self.flags.ready.load(Ordering::Acquire) && !self.is_draining() && !self.is_full()
    }

    /// Returns whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.flags.draining.load(Ordering::Acquire)
    }
}

impl Flags {
    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Serves `/healthz` and `/readyz` for Kubernetes: 200 or 503.
pub fn probes(readiness: Readiness) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(readiness)
}

/// Serves the ops port: [`probes`], and `/metrics` as OpenMetrics text.
pub fn ops<E: Exposed + ?Sized + 'static>(readiness: Readiness, metrics: Arc<E>) -> Router {
    Router::new().route("/metrics", get(show_metrics::<E>)).with_state(metrics).merge(probes(readiness))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else if readiness.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if readiness.is_full() {
        (StatusCode::SERVICE_UNAVAILABLE, "too many connections\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready yet\n")
    }
}

async fn show_metrics<E: Exposed + ?Sized>(State(metrics): State<Arc<E>>) -> Response {
    match metrics.encode() {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_with_its_own_room_shares_everything_but_the_room() {
        let admission = Readiness::new();
        let ops = admission.with_own_room();
        admission.set(true);
        ops.refuse();
        assert!(ops.is_full());
        assert!(admission.is_ready(), "the ops port is full, admission is not");
        ops.drain();
        assert!(admission.is_draining() && !admission.is_ready());
    }
}
