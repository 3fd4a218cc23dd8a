//! Log lines on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable with the filter, in the syntax of tracing-subscriber: `info`, `harbor_pilot=debug,warn`.
pub const FILTER_VARIABLE: &str = "HARBOR_PILOT_LOG";

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, fields at the top level.
    Json,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter cannot be read.
    #[error("cannot read {FILTER_VARIABLE}: {0}; write a level such as `info`, or `target=level,…`")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody has set up logs already.
    #[error("logs are set up already: {0}; do it once")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the logs of the process, once. `filter` is the value of [`FILTER_VARIABLE`]; absent or empty, it is `info`.
pub fn init(filter: Option<&str>, format: Format) -> Result<(), LogsError> {
    let filter = EnvFilter::try_new(filter.filter(|filter| !filter.trim().is_empty()).unwrap_or("info"))?;
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(lines).try_init()?,
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_told() {
        let error = init(Some("harbor_pilot=loud"), Format::Text).unwrap_err();
        assert!(error.to_string().contains("HARBOR_PILOT_LOG"), "{error}");
    }
}
