//! `harbor-pilot release`

use std::fmt::Write;

use anyhow::{Context, ensure};
use clap::Args;

use super::{deadline, exit, output::print};
use crate::cluster::finalizer_removal::{self, FinalizedResource, FinalizerScope};

/// Stands before what belongs to the line above.
const DETAIL: &str = "           ";

const HELP: &str = "\
What is released goes from the cluster; its object stays in Harbor as it is, and nothing is asked of Harbor. While a controller
runs this command is not needed: set spec.deletionPolicy: Retain, and it lets the resource go.

Exit status:
  0  nothing to release, or all was released
  1  something would be released, and --apply was not given
  2  an error: something could not be read or released

Examples:
  harbor-pilot release                             # what waits to be deleted, and would be released
  harbor-pilot release --apply
  harbor-pilot release ReplicationRule/nightly --apply
  harbor-pilot release --all --apply               # before `kubectl delete crd`, when the controller is gone";

/// What releasing takes from the command line.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// Only these, each a kind and a name; without any, all
    #[arg(value_name = "KIND/NAME")]
    only: Vec<String>,
    /// Also what is not being deleted. A controller that runs puts the finalizer back
    #[arg(long)]
    all: bool,
    /// Releases; without it nothing is changed
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    deadline: deadline::Arguments,
}

/// Releases; see [`HELP`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    arguments.deadline.bound(remove(arguments)).await
}

async fn remove(arguments: &Arguments) -> anyhow::Result<u8> {
    let client = kube::Client::try_default().await.context("no way to the API server: set KUBECONFIG")?;
    let held = finalizer_removal::finalized_resources(&client).await?;
    for only in &arguments.only {
        ensure!(
            held.iter().any(|held| is(held, only)),
            "{only} has no finalizer of ours: it is gone already, or has deletionPolicy Retain, or is written otherwise (KIND/NAME)"
        );
    }
    let meant =
        |held: &&FinalizedResource| arguments.only.is_empty() || arguments.only.iter().any(|only| is(held, only));
    let (chosen, undeleted): (Vec<&FinalizedResource>, Vec<&FinalizedResource>) =
        held.iter().filter(meant).partition(|held| arguments.all || held.since.is_some());
    let mut text = String::new();
    let mut failures = 0;
    for held in &chosen {
        let word = if arguments.apply { remove_finalizer(&client, held, arguments.all).await } else { Ok("release ") };
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
    Ok(if finalizer_removal::remove_finalizer(client, held, which).await? { "released" } else { "gone    " })
}

/// Kinds are written as users write them to kubectl: in any case, singular or plural, or short.
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
    writeln!(text, "{word} {kind} {name}: {object} {stays} in {harbor}, if it is still there")?;
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
        (_, 0) => writeln!(text, "Nothing waits to be deleted.")?,
        (true, _) => writeln!(text, "{} released, {failures} failed.", chosen - failures)?,
        (false, _) => writeln!(text, "{chosen} to release. Nothing was changed: add --apply.")?,
    }
    if undeleted > 0 {
        writeln!(text, "{undeleted} more would wait if deleted, and are not being deleted: --all has them, too.")?;
    }
    Ok(())
}
