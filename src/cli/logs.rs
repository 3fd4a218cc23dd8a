//! Arguments for logs and traces, shared by all commands that serve.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use crate::{
    engine::page_inputs::PageInputs,
    telemetry::{
        logs::{self, Format, LogControl},
        recent_errors::RecentErrors,
        traces::{self, Traces},
    },
};

/// Logs and traces of the process.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Log filter: a level, or `target=level,…`. PUT /log on the ops port changes it while the process runs
    #[arg(long, env = logs::FILTER_VARIABLE, default_value = logs::DEFAULT_FILTER)]
    log: String,
    /// Logs details of all modules of harbor-pilot, in addition to --log
    #[arg(long)]
    debug: bool,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Collector that receives spans, by OTLP over HTTP [default: no spans]
    #[arg(long, env = traces::ENDPOINT_VARIABLE, value_name = "URL", hide_env_values = true)]
    otlp_endpoint: Option<String>,
    /// Ratio of traces that are sent, from 0 to 1
    #[arg(long, env = traces::RATIO_VARIABLE, default_value_t = 0.1, value_parser = ratio)]
    trace_ratio: f64,
    /// Name of this replica in traces
    #[arg(long, env = "POD_NAME", hide = true)]
    pod_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The running logs and traces.
#[derive(Clone)]
pub(super) struct LoggingGuard {
    /// Reads and changes the log filter.
    pub(super) control: LogControl,
    /// The last warnings and errors.
    pub(super) troubles: RecentErrors,
    traces: Option<Arc<Traces>>,
    started: Timestamp,
}

impl Arguments {
    /// Starts logs and traces. `component` is the role of the process.
    pub(super) fn begin(&self, component: &str) -> anyhow::Result<LoggingGuard> {
        let format = match self.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        let endpoint = self.otlp_endpoint.as_ref().filter(|endpoint| !endpoint.is_empty());
        let traces = endpoint.map(|endpoint| {
            Traces::begin(&traces::TraceOptions {
                endpoint: endpoint.clone(),
                ratio: self.trace_ratio,
                service: format!("harbor-pilot-{component}"),
                instance: self.pod_name.clone(),
            })
        });
        let traces = traces.transpose()?;
        let troubles = RecentErrors::default();
        let filter = if self.debug { logs::DEBUG_FILTER } else { &self.log };
        let control = logs::init(Some(filter), format, &troubles, traces.as_ref())?;
        Ok(LoggingGuard { control, troubles, traces: traces.map(Arc::new), started: Timestamp::now() })
    }
}

impl LoggingGuard {
    /// What the status page shows about the process.
    pub(super) fn about(&self) -> PageInputs {
        PageInputs { started: self.started, logs: self.control.clone(), troubles: self.troubles.clone() }
    }

    /// Flushes the remaining spans when the process ends.
    pub(super) async fn end(self) {
        if let Some(traces) = self.traces {
            // It has its own time limit, and at this point a panic in it can be ignored.
            tokio::task::spawn_blocking(move || traces.end()).await.ok();
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("`{text}` is not a ratio: write a number from 0 to 1, such as `0.1`"))
}
