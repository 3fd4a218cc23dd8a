//! The binary: crypto provider, command line, run.

use std::process::ExitCode;

use clap::Parser;
use harbor_pilot::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    harbor_pilot::tls::install_crypto_provider();
    Cli::parse().run().await
}
