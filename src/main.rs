//! The binary: memory, crypto provider, command line, run.

use std::{io::Write as _, process::ExitCode};

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

fn run() -> ExitCode {
    harbor_pilot::tls::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            writeln!(std::io::stderr(), "error: cannot start a thread: {error}").ok();
            return ExitCode::from(2);
        }
    };
    let code = runtime.block_on(Cli::parse().run());
    // A thread may still wait for a name service or for standard input, and the process does not wait for it.
    runtime.shutdown_background();
    code
}
