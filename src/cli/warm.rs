//! `harbor-pilot warm`

mod harbors;
mod images;
mod progress;
mod report;
mod run;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::time::Instant;

use self::{
    harbors::{DefaultPlatforms, Harbors, ImageTargets, usual_platforms},
    images::{ImageFinder, RequestedImage},
    progress::ProgressBoard,
    report::WarmReport,
    run::{WarmOptions, WarmRun},
};
use super::{
    exit, input,
    output::{eprint_line, print, warn_of},
    prewarm,
    signals::shutdown_on_signal,
    sources,
};
use crate::{
    api::{HarborInstance, Interval, Platform, cached_image::Require},
    prewarm::PrewarmContext,
};

const HELP: &str = "\
The command pulls images through Harbor as a container runtime does, keeps nothing, and waits until Harbor has stored them.
Blobs that Harbor has stored before are not fetched again.

By default (--require listed) it waits until nodes can pull the image and Harbor's API lists it under its tag, or under its
digest if it is pinned to one. That takes about 30 s for a single image, 60 s for all platforms of an index, and 7 minutes for
some of them; --require online does not wait for it. An image that Harbor will never list is reported immediately.

Harbor and its credentials:
  --rules FILE|DIR   the HarborInstances, ProxyProjects and Registries in it, and the Secrets that they refer to
  --harbor URL       this Harbor; without --rules, images are named as they are there
  neither            the cluster's HarborInstances and ProxyProjects, by the kubeconfig
HARBOR_USERNAME and HARBOR_PASSWORD, if set, replace the Secret of the HarborInstance.

Exit status:
  0  all images are warm
  1  some are not: standard output says which, why, and how to fix it; also after an interrupt or the timeout. With --strict
     also: a text of the manifests with an image of a mapped host was not prewarmed
  2  an error before the first pull (also: an invalid command line), or a file that could not be read: the images of the
     others were still prewarmed, unless --fail-fast was given

Examples:
  harbor-pilot warm nginx:1.27 redis:8                      # as Pods name them, by the cluster's rules
  helm template web ./chart | harbor-pilot warm -f -        # before a deployment
  harbor-pilot warm -f deploy/ -R --rules harbor/ --all-platforms --require offline-by-tag
  harbor-pilot warm --harbor https://harbor.example.com harbor.example.com/dockerhub/library/nginx:1.27";

/// Arguments of `warm`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// Images, as Pods name them or as they are named at Harbor
    #[arg(value_name = "IMAGE", required_unless_present = "filenames")]
    images: Vec<String>,
    #[command(flatten)]
    input: input::Optional,
    #[command(flatten)]
    reading: input::ReadOptions,
    #[command(flatten)]
    sources: sources::Arguments,
    /// Harbor's URL as seen from here, instead of the one in the HarborInstance
    #[arg(long, value_name = "URL")]
    harbor: Option<String>,
    /// Platform to prewarm; may be given several times [default: those of the CachedImage or ProxyProject, else those of the
    /// cluster's nodes, else this machine's]
    #[arg(long = "platform", value_name = "OS/ARCH", conflicts_with = "all_platforms")]
    platforms: Vec<Platform>,
    /// Prewarms all platforms of an image
    #[arg(long)]
    all_platforms: bool,
    /// What to wait for [default: as the CachedImage says, else listed]
    #[arg(long, value_enum, conflicts_with = "no_verify")]
    require: Option<Wait>,
    /// Ends after the pull, and does not wait until Harbor has stored everything
    #[arg(long)]
    no_verify: bool,
    /// Number of images that are pulled concurrently
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Time limit for everything together
    #[arg(long, default_value = "30m")]
    timeout: Interval,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    /// Exits with 1 if a text of the manifests with an image of a mapped host is not prewarmed
    #[arg(long)]
    strict: bool,
    /// Prints no progress
    #[arg(short, long)]
    quiet: bool,
    /// Namespace of objects without one [default: that of the kubeconfig, if rules come from the cluster]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The operator's own namespace, with its Secrets
    #[arg(long, env = "POD_NAMESPACE", default_value = "harbor-pilot", value_name = "NAMESPACE")]
    operator_namespace: String,
    #[command(flatten)]
    prewarm: prewarm::Arguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Everything is stored, and Harbor's API lists the image, or will never list it
    Listed,
    /// Everything is stored; Harbor may need the upstream to serve the tag
    Online,
    /// Also, Harbor serves the tag while the upstream is down
    OfflineByTag,
    /// Also, Harbor serves the upstream's digest while the upstream is down
    OfflineByDigest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table, and failures with their fix
    Text,
    /// One object
    Json,
}

/// Runs the command; see [`HELP`].
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let stop = shutdown_on_signal()?;
    let timeout = arguments.timeout.duration();
    let deadline = begun + timeout;
    let terms = WarmOptions {
        no_verify: arguments.no_verify,
        require: arguments.require.and_then(Wait::require),
        listed: arguments.require.is_none_or(|wait| wait == Wait::Listed),
        concurrency: usize::from(arguments.concurrency),
        deadline,
    };
    let (quiet, strict, output) = (arguments.quiet, arguments.strict, arguments.output);
    // The timeout also covers everything before the first pull: a terminal, a DNS server, the API server, Harbor.
    let prepared = tokio::select! {
        prepared = prepare(arguments, timeout) => prepared?,
        () = stop.cancelled() => return Ok(ended_early("stopped")),
        () = tokio::time::sleep_until(deadline) => {
            return Ok(ended_early(&format!("timed out ({})", crate::text::time(timeout))));
        }
    };
    let Prepared { context, places, board, wanted, harbors, listed, unread } = prepared;
    let done = WarmRun::new(context, places, board.clone(), terms, stop.clone()).run(wanted, &harbors).await;
    board.clear();
    let report = WarmReport { done: done?, took: begun.elapsed() };
    if stop.is_cancelled() && !quiet {
        eprint_line("stopped");
    }
    let text = match output {
        Output::Text => report.text(),
        Output::Json => report.json()?,
    };
    print(&text)?;
    Ok(match report.is_good() {
        _ if unread > 0 => exit::FAILED,
        true if strict && listed > 0 => exit::FOUND,
        true => exit::DONE,
        false => exit::FOUND,
    })
}

/// The result of the preparation.
struct Prepared {
    context: PrewarmContext,
    places: Arc<ImageTargets>,
    board: Arc<ProgressBoard>,
    wanted: Vec<RequestedImage>,
    harbors: Harbors,
    /// Number of texts with images of mapped hosts that are not prewarmed.
    listed: usize,
    /// Number of files that could not be read.
    unread: usize,
}

async fn prepare(arguments: Arguments, timeout: Duration) -> anyhow::Result<Prepared> {
    let (input, reading) = (arguments.input.clone(), arguments.reading.clone());
    let files = tokio::task::spawn_blocking(move || input.manifests(&reading)).await??;
    let sources = read_sources(&arguments).await?;
    let (rules, problems) = sources.rules();
    warn_of(&problems);
    warn_of(rules.findings());
    let mut finder = ImageFinder::new(&sources, &rules);
    arguments.images.iter().for_each(|image| finder.named(image));
    let listed = finder.manifests(&files, arguments.namespace.as_deref())?;
    if listed > 0 {
        eprint_line(super::listing::counted(listed, "is not prewarmed", "are not prewarmed"));
    }
    let wanted = finder.into_wanted();
    ensure!(!wanted.is_empty(), "the manifests have no image");

    let budget = arguments.prewarm.max_inflight_bytes();
    let harbors = Harbors::connect(&sources, &wanted, &arguments.operator_namespace, budget).await?;
    let usual = if arguments.all_platforms || !arguments.platforms.is_empty() {
        DefaultPlatforms::Given(arguments.platforms)
    } else {
        DefaultPlatforms::Project(usual_platforms(sources.cluster.as_ref(), arguments.quiet).await)
    };
    let board = ProgressBoard::new(wanted.len(), arguments.quiet);
    let places = Arc::new(harbors.surroundings(&sources, &wanted, usual, board.clone()));
    let context = PrewarmContext {
        timing: arguments.prewarm.timing(),
        warm_deadline: timeout,
        ..PrewarmContext::new(places.clone())
    };
    Ok(Prepared { context, places, board, wanted, harbors, listed, unread: files.failed })
}

fn ended_early(why: &str) -> u8 {
    eprint_line(format_args!("{why} before the first pull"));
    exit::FOUND
}

impl Wait {
    /// Replaces the requirement of each image.
    fn require(self) -> Option<Require> {
        match self {
            Self::Listed => None,
            Self::Online => Some(Require::Online),
            Self::OfflineByTag => Some(Require::OfflineByTag),
            Self::OfflineByDigest => Some(Require::OfflineByDigest),
        }
    }
}

async fn read_sources(arguments: &Arguments) -> anyhow::Result<sources::Sources> {
    let Some(url) = &arguments.harbor else {
        let read = arguments.sources.read().await;
        let hint = "without a cluster, use --harbor URL";
        return if arguments.sources.rules.is_none() { read.context(hint) } else { read };
    };
    if arguments.sources.rules.is_none() {
        let assumed = json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "HarborInstance", "metadata": {"name": "default"},
            "spec": {"url": url, "credentialsSecretRef": {"name": ""}},
        });
        let instance: HarborInstance = serde_json::from_value(assumed)?;
        instance.validate_cel().context("--harbor")?;
        return Ok(sources::Sources::of(instance));
    }
    let mut sources = arguments.sources.read().await?;
    let instances = sources.instances.len();
    let [instance] = sources.instances.as_mut_slice() else {
        anyhow::bail!("--harbor replaces one URL, and the rules have {instances} HarborInstances");
    };
    // Images keep their names, whatever the URL of Harbor is here.
    instance.spec.pull_host = Some(instance.spec.effective_pull_host().to_owned());
    instance.spec.url.clone_from(url);
    instance.validate_cel().context("--harbor")?;
    Ok(sources)
}
