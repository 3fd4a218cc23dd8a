//! Liveness, readiness and metrics over plain HTTP, on a port that only the cluster sees.

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

/// Whether the process wants requests: ready once somebody says so, and never again once it drains.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Flags>);

#[derive(Debug)]
struct Flags {
    ready: AtomicBool,
    draining: AtomicBool,
    began: Instant,
    /// Milliseconds from `began` until which it is taken for full.
    full_until: AtomicU64,
}

/// So long after a client was refused there is no room.
const FULL: Duration = Duration::from_secs(5);

impl Default for Flags {
    fn default() -> Self {
        let (ready, draining) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { ready, draining, began: Instant::now(), full_until: AtomicU64::new(0) }
    }
}

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether what requests need is there.
    pub fn set(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Release);
    }

    /// Not ready any more, for good: the process is about to end.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// A client was refused, for there is no room: others go elsewhere for a while.
    pub fn refuse(&self) {
        self.0.full_until.store(self.0.millis() + FULL.as_millis() as u64, Ordering::Release);
    }

    /// Whether there was no room for a client a moment ago.
    pub fn is_full(&self) -> bool {
        self.0.millis() < self.0.full_until.load(Ordering::Acquire)
    }

    /// Whether requests are wanted.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && !self.is_draining() && !self.is_full()
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }
}

impl Flags {
    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// `/healthz` and `/readyz`, as Kubernetes asks: 200 or 503.
pub fn probes(readiness: Readiness) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(readiness)
}

/// The ops port: [`probes`], and `/metrics` in OpenMetrics text.
pub fn ops<E: Exposed + ?Sized + 'static>(readiness: Readiness, metrics: Arc<E>) -> Router {
    Router::new().route("/metrics", get(show_metrics::<E>)).with_state(metrics).merge(probes(readiness))
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else if readiness.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if readiness.is_full() {
        (StatusCode::SERVICE_UNAVAILABLE, "no room for another connection\n")
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
