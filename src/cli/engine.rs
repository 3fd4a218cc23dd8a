//! Arguments of the engine, the same for every command that reconciles.

use clap::Args;

use crate::engine::run::EngineOptions;

/// How resources are reconciled and images are warmed.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Resources of one kind that are reconciled at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Images that are warmed at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    warm_concurrency: u16,
    #[command(flatten)]
    caps: super::caps::Arguments,
    #[command(flatten)]
    prewarm: super::prewarm::Arguments,
}

impl Arguments {
    /// The settings.
    pub(super) fn options(&self) -> EngineOptions {
        EngineOptions {
            concurrency: self.concurrency,
            warm_concurrency: self.warm_concurrency,
            caps: self.caps.caps(),
            max_inflight_bytes: self.prewarm.max_inflight_bytes(),
            timing: self.prewarm.timing(),
            progress: None,
        }
    }
}
