//! `harbor-pilot remove-finalizers`

use std::fmt::Write;

use anyhow::{Context, ensure};
use clap::Args;

use super::{deadline, exit, output::print};
use crate::cluster::finalizer_removal::{self, FinalizedResource, FinalizerScope};

/// Indentation of detail lines.
const DETAIL: &str = "           ";

const HELP: &str = "\
Without its finalizer a resource is deleted from the cluster. Its object in Harbor is not modified, and Harbor is not contacted.
While a controller runs, this command is not needed: set spec.deletionPolicy: Retain, and the controller removes the finalizer.

Exit status:
  0  no finalizer to remove, or all were removed
  1  finalizers would be removed, and --apply was not given
  2  an error: a resource could not be read or changed

Examples:
  harbor-pilot remove-finalizers                   # resources that wait for deletion
  harbor-pilot remove-finalizers --apply
  harbor-pilot remove-finalizers ReplicationRule/nightly --apply
  harbor-pilot remove-finalizers --all --apply     # before `kubectl delete crd`, without a controller";

/// Arguments of `remove-finalizers`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// Only these resources, each as kind and name [default: all]
    #[arg(value_name = "KIND/NAME")]
    only: Vec<String>,
    /// Also resources that are not being deleted. A running controller adds the finalizer again
    #[arg(long)]
    all: bool,
    /// Removes the finalizers; without it nothing is changed
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    deadline: deadline::Arguments,
}

/// Runs the command; see [`HELP`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    arguments.deadline.bound(remove(arguments)).await
}

async fn remove(arguments: &Arguments) -> anyhow::Result<u8> {
    let client = kube::Client::try_default().await.context("cannot connect to the API server: set KUBECONFIG")?;
    let held = finalizer_removal::finalized_resources(&client).await?;
    for only in &arguments.only {
        ensure!(
            held.iter().any(|held| is(held, only)),
            "{only} has no finalizer of Harbor Pilot: check the name (KIND/NAME); it may be deleted already, or have deletionPolicy Retain"
        );
    }
    let meant =
        |held: &&FinalizedResource| arguments.only.is_empty() || arguments.only.iter().any(|only| is(held, only));
    let (chosen, undeleted): (Vec<&FinalizedResource>, Vec<&FinalizedResource>) =
        held.iter().filter(meant).partition(|held| arguments.all || held.since.is_some());
    let mut text = String::new();
    let mut failures = 0;
    for held in &chosen {
        let word = if arguments.apply { remove_finalizer(&client, held, arguments.all).await } else { Ok("pending ") };
        match word {
            Ok(word) => describe(&mut text, word, held, arguments.apply)?,
            Err(error) => {
                failures += 1;
                writeln!(text, "failed   {} {}: {error}", held.kind, held.name)?;
            }
        }
    }
    conclude(&mut text, arguments, chosen.len(), undeleted.len(), failures)?;
    print(&text)?;
    Ok(match (failures, chosen.len(), arguments.apply) {
        (0, 0, _) | (0, _, true) => exit::DONE,
        (0, _, false) => exit::FOUND,
        _ => exit::FAILED,
    })
}

async fn remove_finalizer(
    client: &kube::Client,
    held: &FinalizedResource,
    all: bool,
) -> Result<&'static str, crate::cluster::Error> {
    let which = if all { FinalizerScope::All } else { FinalizerScope::Deleted };
    Ok(if finalizer_removal::remove_finalizer(client, held, which).await? { "removed " } else { "deleted " })
}

/// Kinds are accepted as in kubectl: in any case, singular or plural, or short.
fn is(held: &FinalizedResource, only: &str) -> bool {
    let Some((kind, name)) = only.split_once('/') else { return false };
    let kind = kind.split('.').next().unwrap_or(kind).to_lowercase();
    let names: &[&str] = match held.kind.as_str() {
        "Registry" => &["registry", "registries", "hreg"],
        "ProxyProject" => &["proxyproject", "proxyprojects", "hpp"],
        _ => &["replicationrule", "replicationrules", "hrr"],
    };
    name == held.name && names.contains(&kind.as_str())
}

fn describe(text: &mut String, word: &str, held: &FinalizedResource, applied: bool) -> std::fmt::Result {
    let FinalizedResource { kind, name, object, harbor, .. } = held;
    let stays = if applied { "stays" } else { "would stay" };
    writeln!(text, "{word} {kind} {name}: {object} {stays} in {harbor}, if it still exists")?;
    match (held.since, &held.blocked) {
        (Some(since), Some(blocked)) => writeln!(text, "{DETAIL}being deleted since {since}: {blocked}"),
        (Some(since), None) => writeln!(text, "{DETAIL}being deleted since {since}"),
        (None, _) => writeln!(text, "{DETAIL}not being deleted"),
    }
}

fn conclude(
    text: &mut String,
    arguments: &Arguments,
    chosen: usize,
    undeleted: usize,
    failures: usize,
) -> anyhow::Result<()> {
    match (arguments.apply, chosen) {
        (_, 0) => writeln!(text, "No resource is waiting for deletion.")?,
        (true, _) => writeln!(text, "{} finalizers removed, {failures} failed.", chosen - failures)?,
        (false, _) => writeln!(text, "{chosen} finalizers to remove. Nothing was changed: add --apply.")?,
    }
    if undeleted > 0 {
        writeln!(text, "{undeleted} more have a finalizer and are not being deleted: --all includes them.")?;
    }
    Ok(())
}
