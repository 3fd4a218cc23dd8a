//! `harbor-pilot status`

mod report;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Resource, api::ListParams, core::DeserializeGuard};
use serde::de::DeserializeOwned;

use super::{deadline, exit, output::print};
use crate::{
    cluster::{Error, bounded, turn},
    summary::SummaryBuilder,
};

/// Resources that one request lists.
const PAGE: u32 = 500;
/// More pages of a kind are not read.
const MAX_PAGES: usize = 200;

const HELP: &str = "\
Reads our resources from the cluster of the kubeconfig, and asks neither Harbor nor the controller: what stands there is what
the controller has seen last. What you may not read is said, and the rest is shown.

Exit status:
  0  everything is Ready
  1  something is not Ready
  2  an error: something could not be read

Examples:
  harbor-pilot status
  harbor-pilot status --limit 5
  harbor-pilot status --output json | jq -r '.notReady.items[] | [.kind, .name, .reason] | @tsv'";

/// What showing takes from the command line.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// Resources that each list shows at most; what there is beyond is counted
    #[arg(long, default_value_t = 50, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// How it is printed
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    deadline: deadline::Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for each kind, and what is not Ready
    Text,
    /// One object
    Json,
}

/// Shows; see [`HELP`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    arguments.deadline.bound(status(arguments)).await
}

async fn status(arguments: &Arguments) -> anyhow::Result<u8> {
    // Its text has those of its sources in it already.
    let no_way = |error| anyhow::anyhow!("no way to the API server: set KUBECONFIG: {error}");
    let client = Client::try_default().await.map_err(no_way)?;
    let mut survey = SummaryBuilder::new(usize::try_from(arguments.limit).unwrap_or(usize::MAX));
    let mut missing = 0;
    let mut read = 0;
    macro_rules! each {
        ($take:ident, $plural:literal) => {
            match gather(&client, &mut survey, SummaryBuilder::$take).await {
                Ok(()) => read += 1,
                Err(error) if error.is_not_found() => {
                    missing += 1;
                    survey.unreadable($plural, "the cluster has no such kind: kubectl apply -f crds/".to_owned());
                }
                Err(error) if !error.is_api_response() => return Err(error).context("no answer from the API server"),
                Err(error) => survey.unreadable($plural, format!("{:#}", anyhow::Error::from(error))),
            }
        };
    }
    each!(instance, "HarborInstances");
    each!(registry, "Registries");
    each!(project, "ProxyProjects");
    each!(replication, "ReplicationRules");
    each!(policy, "ImagePolicies");
    each!(image, "CachedImages");
    ensure!(
        read > 0 || missing == 0,
        "the cluster has none of our kinds: is Harbor Pilot installed there (kubectl apply -f crds/)?"
    );
    let report = survey.report();
    let text = match arguments.output {
        Output::Text => report.text(Timestamp::now()),
        Output::Json => report.json()?,
    };
    print(&text)?;
    Ok(match (report.unreadable.is_empty(), report.ready) {
        (false, _) => exit::FAILED,
        (true, false) => exit::FOUND,
        (true, true) => exit::DONE,
    })
}

/// Hands over all resources of a kind, page by page.
async fn gather<K>(client: &Client, survey: &mut SummaryBuilder, take: fn(&mut SummaryBuilder, &K)) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    // One resource of another version of the product is no obstacle to the others.
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    for _ in 0..MAX_PAGES {
        let page = bounded("listing", api.list(&parameters)).await?;
        for object in &page.items {
            match &object.0 {
                Ok(object) => take(survey, object),
                Err(invalid) => survey.malformed(&K::kind(&()), &invalid.metadata, invalid.error.clone()),
            }
        }
        if !turn(&mut parameters, page.metadata) {
            return Ok(());
        }
    }
    let bound = MAX_PAGES * usize::try_from(PAGE).unwrap_or_default();
    survey.unreadable(&K::plural(&()), format!("there are more than {bound}; these were read"));
    Ok(())
}

#[cfg(test)]
mod tests;
