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

/// Resources per list request.
const PAGE: u32 = 500;
/// Maximum number of pages per kind.
const MAX_PAGES: usize = 200;

const HELP: &str = "\
Reads the resources of Harbor Pilot from the cluster of the kubeconfig. It contacts neither Harbor nor the controller: the status
shows the last reconcile of the controller. Kinds that you may not read are listed, and the others are shown.

Exit status:
  0  everything is Ready
  1  something is not Ready
  2  an error: something could not be read

Examples:
  harbor-pilot status
  harbor-pilot status --limit 5
  harbor-pilot status --output json | jq -r '.notReady.items[] | [.kind, .name, .reason] | @tsv'";

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// Maximum number of resources per list; the rest is counted
    #[arg(long, default_value_t = 50, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    deadline: deadline::Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One table per kind, and resources that are not Ready
    Text,
    /// One object
    Json,
}

/// Runs the command; see [`HELP`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    arguments.deadline.bound(status(arguments)).await
}

async fn status(arguments: &Arguments) -> anyhow::Result<u8> {
    // The text of the error includes its sources.
    let no_way = |error| anyhow::anyhow!("cannot connect to the API server: set KUBECONFIG: {error}");
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
                    survey.unreadable($plural, "the cluster has no CRD for it: kubectl apply -f crds/".to_owned());
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
        "the cluster has no CRDs of Harbor Pilot: is it installed (kubectl apply -f crds/)?"
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

/// Passes all resources of a kind to `take`, page by page.
async fn gather<K>(client: &Client, survey: &mut SummaryBuilder, take: fn(&mut SummaryBuilder, &K)) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    // A resource of another version of the product must not hide the others.
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
