//! The command line, one file a subcommand.
//!
//! In: arguments and environment. Out: values that the rest of the library takes; nothing below this reads either.

mod caps;
mod certificates;
mod check;
mod client_ca;
mod controller;
mod crds;
mod credentials_env;
mod deadline;
mod election;
mod engine;
mod exit;
mod explain;
mod input;
mod kustomization;
mod listing;
mod logs;
mod manual;
mod ops;
mod permissions;
mod plan;
mod prewarm;
mod remove_finalizers;
mod resources;
mod rewrite;
mod rules;
mod serve;
mod signals;
mod sources;
mod standalone;
mod status;
mod templates;
mod warm;
mod webhook;

use std::process::ExitCode;

use self::signals::shutdown_on_signal;
use crate::text;
use anyhow::Context;
use clap::{Parser, Subcommand};

/// Brings the images of a cluster's Pods from Harbor, keeps Harbor's proxy caches warm, and Harbor itself as Git says.
#[derive(Debug, Parser)]
#[command(name = "harbor-pilot", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the admission webhook of a cluster
    Webhook(webhook::Arguments),
    /// Reconciles the cluster's resources into Harbor, and warms images
    Controller(controller::Arguments),
    /// Does both from manifests in a directory, without a cluster
    Standalone(standalone::Arguments),
    /// Prints manifests with their images rewritten
    Rewrite(rewrite::Arguments),
    /// Judges the images of manifests by policies
    Check(check::Arguments),
    /// Says which rule an image is rewritten by, and why not by the others
    Explain(explain::Arguments),
    /// Says what the controller would change in Harbor, or does it once
    Plan(plan::Arguments),
    /// Says which rights in Harbor the account needs for given manifests
    Permissions(permissions::Arguments),
    /// Warms images through Harbor, now and from here
    Warm(warm::Arguments),
    /// Says how everything is: instances, rules, warm images, and what is not Ready and why
    Status(status::Arguments),
    /// Lets resources go whose deletion waits for a controller or a Harbor that is gone
    Release(remove_finalizers::Arguments),
    /// Prints the CustomResourceDefinitions as YAML
    Crds,
    /// Prints what makes a shell complete this command line
    Completions(manual::Completions),
    /// Prints the manual page, or writes one for each command
    Man(manual::Pages),
}

impl Cli {
    /// Runs the command. Exit status 0: nothing was found; 1: findings or differences; more: an error. The help of each
    /// command lists what it finds.
    pub async fn run(self) -> ExitCode {
        let done = |()| exit::DONE;
        exit::status(match self.command {
            Command::Webhook(arguments) => webhook::run(arguments).await.map(done),
            Command::Controller(arguments) => controller::run(arguments).await.map(done),
            Command::Standalone(arguments) => standalone::run(arguments).await.map(done),
            Command::Rewrite(arguments) => rewrite::run(&arguments).await,
            Command::Check(arguments) => check::run(&arguments).await,
            Command::Explain(arguments) => explain::run(&arguments).await,
            Command::Plan(arguments) => plan::run(&arguments).await,
            Command::Permissions(arguments) => permissions::run(&arguments).map(done),
            Command::Warm(arguments) => Box::pin(warm::run(arguments)).await,
            Command::Status(arguments) => Box::pin(status::run(&arguments)).await,
            Command::Release(arguments) => remove_finalizers::run(&arguments).await,
            Command::Crds => crds::run().map(done),
            Command::Completions(arguments) => manual::completions(&arguments).map(done),
            Command::Man(arguments) => manual::man(&arguments).map(done),
        })
    }
}

/// Writes a result to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
}

/// Warns of what is odd about rules or policies.
fn warn_of(findings: &[impl std::fmt::Display]) {
    findings.iter().for_each(|finding| eprint_line(format_args!("warning: {finding}")));
}

/// Writes a line to standard error; when even that is closed there is nobody left to tell.
fn eprint_line(message: impl std::fmt::Display) {
    use std::io::Write;
    writeln!(std::io::stderr(), "harbor-pilot: {}", escaped(&message.to_string())).ok();
}

/// A text without characters that move the cursor, end the line or change the direction of writing.
fn escaped(text: &str) -> String {
    let is_control = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_leaves_no_control_characters() {
        assert_eq!(escaped("a\u{1b}[31m\nb\u{202e}\u{e9}"), "a\\u{1b}[31m\\nb\\u{202e}\u{e9}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
