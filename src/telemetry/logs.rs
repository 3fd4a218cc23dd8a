//! Log lines on standard error, as text or JSON. The filter can change while the process runs.

use std::io::IsTerminal;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use super::recent_errors::RecentErrors;
use super::traces::Traces;

/// The environment variable with the filter, in the syntax of tracing-subscriber: `info`, `harbor_pilot=debug,warn`.
pub const FILTER_VARIABLE: &str = "HARBOR_PILOT_LOG";
/// The default filter.
pub const DEFAULT_FILTER: &str = "info";
/// The filter of `--debug`.
pub const DEBUG_FILTER: &str = "harbor_pilot=debug,info";

/// The format of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Text for users.
    #[default]
    Text,
    /// One JSON object per line, fields at the top level.
    Json,
}

/// The reason why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter is invalid.
    #[error("cannot read {FILTER_VARIABLE}: {0}; write a level such as `info`, or `target=level,…`")]
    Filter(#[from] ParseError),
    /// Logging is already set up.
    #[error("logging is already set up: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// The reason why the filter did not change.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// The filter is invalid.
    #[error("cannot read the filter: {0}; write a level such as `debug`, or `target=level,…`")]
    Filter(#[from] ParseError),
    /// The filter is empty.
    #[error("the filter is empty; write a level such as `info`")]
    Empty,
    /// Logging is not set up.
    #[error("the log filter of this process cannot be changed: {0}")]
    Gone(#[from] reload::Error),
}

/// Reads and changes the log filter. Clones share it.
#[derive(Debug, Clone)]
pub struct LogControl(Arc<Control>);

#[derive(Debug)]
struct Control {
    handle: Handle<EnvFilter, Registry>,
    current: Mutex<Current>,
    /// The initial filter.
    first: String,
}

#[derive(Debug)]
struct Current {
    filter: String,
    /// The number of changes.
    changes: u64,
}

/// Sets up logging for the process, once. `filter` is the value of [`FILTER_VARIABLE`]; absent or empty means `info`.
/// `troubles` keeps warnings and errors, whatever the filter. Spans go to `traces`, if present.
pub fn init(
    filter: Option<&str>,
    format: Format,
    troubles: &RecentErrors,
    traces: Option<&Traces>,
) -> Result<LogControl, LogsError> {
    let text = filter.map(str::trim).filter(|filter| !filter.is_empty()).unwrap_or(DEFAULT_FILTER);
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(text)?);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter)).with(troubles.layer());
    // A layer of `None` would ask about each call that no layer needs.
    match traces {
        Some(traces) => registry.with(traces.layer()).try_init()?,
        None => registry.try_init()?,
    }
    let current = Mutex::new(Current { filter: text.to_owned(), changes: 0 });
    Ok(LogControl(Arc::new(Control { handle, current, first: text.to_owned() })))
}

impl LogControl {
    /// Returns the current filter.
    pub fn filter(&self) -> String {
        self.0.current.lock().filter.clone()
    }

    /// Sets the filter. Returns a number for [`LogControl::fall_back`].
    ///
    /// # Errors
    /// [`SetError`]; then the filter does not change.
    pub fn set(&self, filter: &str) -> Result<u64, SetError> {
        let filter = filter.trim();
        if filter.is_empty() {
            return Err(SetError::Empty);
        }
        let parsed = EnvFilter::try_new(filter)?;
        let mut current = self.0.current.lock();
        self.0.handle.reload(parsed)?;
        tracing::warn!(before = current.filter, now = filter, "log filter changed");
        *current = Current { filter: filter.to_owned(), changes: current.changes + 1 };
        Ok(current.changes)
    }

    /// Restores the initial filter, unless it was changed since `change`.
    pub fn fall_back(&self, change: u64) {
        if self.0.current.lock().changes == change {
            // The filter was valid at the start.
            self.set(&self.0.first).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filter_that_is_invalid_is_an_error() {
        let error = init(Some("harbor_pilot=loud"), Format::Text, &RecentErrors::default(), None).unwrap_err();
        assert!(error.to_string().contains("HARBOR_PILOT_LOG"), "{error}");
    }
}
