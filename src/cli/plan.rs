//! `harbor-pilot plan`

mod apply;
mod report;

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use self::report::{PlanEntry, PlanReport};
use super::{
    credentials_env::{self, PASSWORD, USERNAME},
    deadline, exit,
    input::{self, Files, Input},
    listing,
    output::{eprint_line, print},
    resources,
};
use crate::{
    api::HarborInstance,
    controller::{Connections, Installation, PreviewInput, Reconcilers},
    manifests::KindTable,
    rewrite,
    standalone::{ManifestSet, MemoryBackend},
};

/// Not a valid name of a Secret.
const FROM_ENVIRONMENT: &str = "HARBOR_USERNAME, HARBOR_PASSWORD";

const EXIT_CODES: &str = "\
Exit status:
  0  no difference: Harbor matches the files
  1  Harbor differs from the files
  2  an error: something was refused, or could not be read or reached
With --apply: the state afterwards.

HARBOR_USERNAME and HARBOR_PASSWORD, if set, replace the Secret of the HarborInstance.

Examples:
  harbor-pilot plan -f harbor/ --installation-id \"$(kubectl get ns kube-system -o jsonpath='{.metadata.uid}')\"
  harbor-pilot plan -f harbor/ --harbor https://harbor.example.com --output json > plan.json
  harbor-pilot plan -f harbor/ --apply";

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(flatten)]
    input: input::Arguments,
    /// Harbor's URL, instead of the one in the HarborInstance; without a HarborInstance, of one named `default`
    #[arg(long, value_name = "URL")]
    harbor: Option<String>,
    /// Applies the plan once; without it nothing is written to Harbor
    #[arg(long)]
    apply: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Name of this installation in Harbor's markers: for the objects of a cluster the uid of its namespace kube-system, unless
    /// its controller has another name
    #[arg(long, env = "HARBOR_PILOT_INSTALLATION", default_value = "standalone")]
    installation_id: String,
    #[command(flatten)]
    deadline: deadline::Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each resource and each field that differs
    Text,
    /// One object
    Json,
}

/// Runs the command; see [`EXIT_CODES`].
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    arguments.deadline.bound(plan(arguments)).await
}

async fn plan(arguments: &Arguments) -> anyhow::Result<u8> {
    let manifests = manifests(arguments)?;
    let world = MemoryBackend::new(Vec::new());
    world.apply(&manifests, Timestamp::now());
    let kinds = Reconcilers {
        directory: world.directory(),
        instances: Arc::new(Connections::default()),
        installation: Installation(arguments.installation_id.clone()),
    };
    let planned = kinds.preview(&subjects(&world), Timestamp::now()).await;
    let entries = if arguments.apply {
        apply::apply(&world, &kinds, planned).await
    } else {
        planned.into_iter().map(PlanEntry::planned).collect()
    };
    let report = PlanReport { installation: arguments.installation_id.clone(), applied: arguments.apply, entries };
    let text = match arguments.output {
        Output::Text => report.text(),
        Output::Json => report.json()?,
    };
    print(&text)?;
    let verdicts = || report.entries.iter().map(PlanEntry::verdict);
    Ok(if verdicts().any(|verdict| verdict.is_refused()) {
        exit::FAILED
    } else if verdicts().any(|verdict| verdict.differs()) {
        exit::FOUND
    } else {
        exit::DONE
    })
}

/// All resources of the store.
fn subjects(world: &MemoryBackend) -> PreviewInput {
    PreviewInput { instances: world.all(), registries: world.all(), projects: world.all(), rules: world.all() }
}

fn manifests(arguments: &Arguments) -> anyhow::Result<ManifestSet> {
    let (mut manifests, inputs) = resources::read(&arguments.input)?;
    let resources =
        [manifests.instances.len(), manifests.registries.len(), manifests.projects.len(), manifests.rules.len()];
    ensure!(
        resources.iter().any(|count| *count > 0),
        "the files have no HarborInstance, Registry, ProxyProject or ReplicationRule"
    );
    if let Some(url) = &arguments.harbor {
        override_url(&mut manifests, url)?;
    }
    shared_credentials(&mut manifests)?;
    list_images(inputs, &manifests);
    Ok(manifests)
}

/// Prints images in the files that are not part of the plan, which contains kinds of harbor-pilot.dev only.
fn list_images(inputs: Vec<Input>, manifests: &ManifestSet) {
    let (rules, _) = rewrite::assumed(&manifests.instances, &manifests.registries, &manifests.projects);
    let files = Files::of(inputs, KindTable::default());
    match listing::tell_images(&files, &rules, "is not part of the plan: see rewrite, check and warm -f") {
        Ok(0) => {}
        Ok(count) => eprint_line(listing::counted(count, "is not part of the plan", "are not part of the plan")),
        Err(error) => eprint_line(format_args!("warning: cannot search the files for images: {error:#}")),
    }
}

fn override_url(manifests: &mut ManifestSet, url: &str) -> anyhow::Result<()> {
    if manifests.instances.is_empty() {
        let assumed = json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "HarborInstance", "metadata": {"name": "default"},
            "spec": {"url": url, "credentialsSecretRef": {"name": FROM_ENVIRONMENT}},
        });
        manifests.instances.push(serde_json::from_value(assumed)?);
    }
    let [instance] = manifests.instances.as_mut_slice() else {
        bail!("--harbor replaces one URL, and the files have several HarborInstances");
    };
    instance.spec.url = url.to_owned();
    instance.validate_cel().context("--harbor")
}

/// The credentials of the environment are for one Harbor: they are not sent to several.
fn shared_credentials(manifests: &mut ManifestSet) -> anyhow::Result<()> {
    let account = credentials_env::from_environment()?;
    if let (Some(account), [instance]) = (account, manifests.instances.as_mut_slice()) {
        FROM_ENVIRONMENT.clone_into(&mut instance.spec.credentials_secret_ref.name);
        manifests.secrets.insert(FROM_ENVIRONMENT.to_owned(), account);
    }
    let missing = |instance: &&HarborInstance| {
        !instance.spec.suspend && !manifests.secrets.contains_key(&instance.spec.credentials_secret_ref.name)
    };
    match manifests.instances.iter().find(missing).map(|instance| &instance.spec.credentials_secret_ref.name) {
        None => Ok(()),
        Some(_) if manifests.instances.len() > 1 => {
            bail!("with several HarborInstances, add the Secrets of their credentialsSecretRef to the files")
        }
        Some(name) if name == FROM_ENVIRONMENT => {
            bail!("set {USERNAME} and {PASSWORD}: the files have no HarborInstance")
        }
        Some(name) => bail!("the files have no Secret {name}: add it, or set {USERNAME} and {PASSWORD}"),
    }
}
