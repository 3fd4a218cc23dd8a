//! Arguments about logs, the same for every command that serves.

use clap::{Args, ValueEnum};

use crate::telemetry::logs::{self, Format};

/// How the process logs.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// What is logged: a level, or `target=level,…`
    #[arg(long, env = logs::FILTER_VARIABLE, default_value = "info")]
    log: String,
    /// How a line looks
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Arguments {
    /// Sets the logs up.
    pub(super) fn init(&self) -> anyhow::Result<()> {
        let format = match self.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        };
        logs::init(Some(&self.log), format)?;
        Ok(())
    }
}
