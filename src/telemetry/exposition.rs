//! The content of `/metrics`: our metrics under one prefix, and the standard process metrics under their usual names.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::process::Process;

/// Exports metrics as OpenMetrics text.
pub trait Exposed: Send + Sync {
    /// Returns all metrics as text.
    ///
    /// # Errors
    /// When a metric cannot be written.
    fn encode(&self) -> Result<String, fmt::Error>;
}

/// Metrics of a process: build and process metrics from the start, others as they are registered.
#[derive(Debug)]
pub struct Exposition {
    own: Registry,
    usual: Registry,
}

impl Exposition {
    /// Creates the metrics that every process has.
    pub fn new() -> Self {
        let (mut own, mut usual) = (Registry::with_prefix("harbor_pilot"), Registry::default());
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        own.register("build", "The running version", build);
        usual.register_collector(Box::new(Process));
        Self { own, usual }
    }

    /// Returns the registry, to add metrics before it is shared. Names get the prefix `harbor_pilot_`.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.own
    }

    /// Adds metrics that are computed at each scrape.
    pub fn collect(&mut self, collector: impl Collector) {
        self.own.register_collector(Box::new(collector));
    }
}

impl Default for Exposition {
    fn default() -> Self {
        Self::new()
    }
}

impl Exposed for Exposition {
    fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.own)?;
        encode_registry(&mut text, &self.usual)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}
