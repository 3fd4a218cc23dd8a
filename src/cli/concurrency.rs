//! Arguments about concurrency, the same for every command that reconciles.

use clap::Args;

/// How much is done at once.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// Resources of one kind that are reconciled at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) concurrency: u16,
    /// Images that are warmed at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) warm_concurrency: u16,
}
