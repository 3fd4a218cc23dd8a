//! Exit statuses: one scheme for all commands, that of `kubectl diff`.
//!
//! 0 is nothing found, 1 is findings or differences, and more is an error.

use std::process::ExitCode;

use super::output::eprint_line;

/// Success without findings: no difference, nothing rejected, everything is Ready.
pub(super) const DONE: u8 = 0;
/// Success with findings. The help of each command lists them.
pub(super) const FOUND: u8 = 1;
/// An error. clap uses the same status for an invalid command line.
pub(super) const FAILED: u8 = 2;
/// `rewrite` wrote everything except single images.
pub(super) const INCOMPLETE: u8 = 3;

/// The exit status of a command. An error is printed to standard error.
pub(super) fn status(result: anyhow::Result<u8>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|error| {
        eprint_line(format_args!("{error:#}"));
        FAILED
    }))
}
