//! The command line, one file per subcommand.
//!
//! Input: arguments and environment. Output: values for the rest of the library, which reads neither.

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
mod output;
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

use clap::{Parser, Subcommand};

/// Rewrites the images of Pods to Harbor, prewarms Harbor's proxy caches, and configures Harbor from manifests.
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
    /// Reconciles the cluster's resources into Harbor, and prewarms images
    Controller(controller::Arguments),
    /// Runs webhook and controller from manifests in a directory, without a cluster
    Standalone(standalone::Arguments),
    /// Prints manifests with their images rewritten
    Rewrite(rewrite::Arguments),
    /// Checks the images of manifests against policies
    Check(check::Arguments),
    /// Shows which rule rewrites an image, and why others do not
    Explain(explain::Arguments),
    /// Shows what the controller would change in Harbor, or applies it once
    Plan(plan::Arguments),
    /// Lists the permissions in Harbor that given manifests need
    Permissions(permissions::Arguments),
    /// Prewarms images through Harbor, from a shell or CI
    Warm(warm::Arguments),
    /// Shows the state of all resources: instances, rules, cached images, and what is not Ready and why
    Status(status::Arguments),
    /// Removes the finalizers of resources whose deletion waits for a deleted controller or Harbor
    RemoveFinalizers(remove_finalizers::Arguments),
    /// Prints the CustomResourceDefinitions as YAML
    Crds,
    /// Prints the completion script of a shell
    Completions(manual::Completions),
    /// Prints the manual page, or writes one for each command
    Man(manual::Pages),
}

impl Cli {
    /// Runs the command. Exit status 0: no findings; 1: findings or differences; more: an error. The help of each command lists
    /// its findings.
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
            Command::RemoveFinalizers(arguments) => remove_finalizers::run(&arguments).await,
            Command::Crds => crds::run().map(done),
            Command::Completions(arguments) => manual::completions(&arguments).map(done),
            Command::Man(arguments) => manual::man(&arguments).map(done),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
