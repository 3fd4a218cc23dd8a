//! The ops port of the controller: probes, metrics, status page and log filter.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::Context;
use axum::Router;
use clap::Args;

use super::logs::LoggingGuard;
use crate::{
    telemetry::{exposition::Exposed, log_level::log_level, probes, probes::Readiness},
    webhook::{self, ServeOptions},
};

/// Address of the ops port.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Address of the status page, /healthz, /readyz, /metrics and /log, over plain HTTP
    #[arg(long, default_value = "0.0.0.0:8081")]
    metrics_bind_address: SocketAddr,
}

/// The bound port.
pub(super) struct Bound(TcpListener);

impl Arguments {
    /// Binds the port, so that the command fails at start if it is in use.
    pub(super) fn bind(&self) -> anyhow::Result<Bound> {
        let address = self.metrics_bind_address;
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        tracing::info!(ops = %address, "serving probes, metrics and status page");
        Ok(Bound(listener))
    }
}

impl Bound {
    /// Serves until dropped. The controller is ready once it runs, also while it waits for leadership.
    pub(super) async fn serve(
        self,
        metrics: Arc<dyn Exposed>,
        page: Router,
        begun: &LoggingGuard,
    ) -> anyhow::Result<()> {
        let readiness = Readiness::new();
        readiness.set(true);
        let router = router(readiness.clone(), metrics, page, begun);
        let options = ServeOptions::default().of_ops();
        webhook::serve(self.0, None, router, readiness.with_own_room(), options, std::future::pending()).await?;
        Ok(())
    }
}

/// All routes of an ops port.
pub(super) fn router(readiness: Readiness, metrics: Arc<dyn Exposed>, page: Router, begun: &LoggingGuard) -> Router {
    probes::ops(readiness, metrics).merge(log_level(begun.control.clone())).merge(page)
}
