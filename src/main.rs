//! The binary: memory, crypto provider, command line, run.

use std::process::ExitCode;

use clap::Parser;
use harbor_pilot::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which a process of a few megabytes fills little: each thread would hold some
    // 2 MiB for its kilobytes. Where the kernel refuses, that is all that is lost.
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true).ok();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    harbor_pilot::tls::install_crypto_provider();
    Cli::parse().run().await
}
