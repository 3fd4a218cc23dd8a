//! Liveness, readiness and metrics over plain HTTP, on a port that only the cluster sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

#[derive(Debug, Default)]
struct Flags {
    ready: AtomicBool,
    draining: AtomicBool,
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

    /// Whether requests are wanted.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
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
