//! `harbor-pilot webhook`

use std::{net::TcpListener, path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use futures::{FutureExt, future::LocalBoxFuture};

use super::rules::put_in_force;
use crate::{
    cluster::{rules, sink},
    in_force::InForce,
    prewarm::{lifetime::Source, limit::Limit, queue},
    telemetry::{metrics::Metrics, probes, probes::Readiness},
    webhook::{self, Admission, Limits, OfferSink},
};

/// What the webhook takes from the command line.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File or directory of manifests to take rules, policies and labels of Namespaces from, as if Harbor served all of them: for trying and measuring.
    /// Neither a cluster nor Harbor is asked, and nothing is warmed
    #[arg(long, value_name = "FILE|DIR")]
    rules: Option<PathBuf>,
    /// New images that the Pods of one namespace may bring at once; the controller finds what is beyond by its own watch, where the Pod
    /// was admitted
    #[arg(long, default_value_t = Limit::default().burst, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    new_images_burst: u32,
    /// New images that the Pods of one namespace may bring each second from then on
    #[arg(long, default_value_t = Limit::default().per_second, value_parser = rate)]
    new_images_per_second: f64,
    #[command(flatten)]
    serve: super::serve::Arguments,
    #[command(flatten)]
    clients: super::clients::Arguments,
    #[command(flatten)]
    logs: super::logs::Arguments,
}

/// Runs until SIGTERM.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    arguments.logs.init()?;
    let shutdown = super::shutdown_on_signal()?;
    let serve = &arguments.serve;
    let in_force = InForce::default();
    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::new();
    let (offers, follow) = match &arguments.rules {
        Some(path) => {
            put_in_force(path, &in_force)?;
            readiness.set(true);
            let nowhere: OfferSink = Arc::new(drop);
            (nowhere, std::future::pending().boxed_local())
        }
        None => {
            let limit = Limit { burst: arguments.new_images_burst, per_second: arguments.new_images_per_second };
            follow_cluster(&in_force, &metrics, readiness.clone(), limit).await?
        }
    };
    let tls = arguments.clients.tls(serve.certificate().await?).await?;
    let bind = |address| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"));
    let (listener, ops_listener) = (bind(serve.listen())?, bind(serve.ops_listen())?);
    let router = webhook::router(Admission {
        rules: in_force.rules,
        namespaces: in_force.namespaces,
        policies: in_force.policies,
        scans: in_force.scans,
        offers,
        metrics: metrics.admission.clone(),
        readiness: readiness.clone(),
        limits: Limits::default(),
    });
    tracing::info!(address = %serve.listen(), ops = %serve.ops_listen(), "serving admission");
    let ops = probes::ops(readiness.clone(), metrics);
    let end = || shutdown.clone().cancelled_owned();
    tokio::select! {
        result = async {
            tokio::try_join!(
                webhook::serve(listener, Some(tls), router, readiness.clone(), serve.options(), end()),
                webhook::serve(ops_listener, None, ops, readiness.clone(), serve.options(), end()),
            )
        } => { result?; }
        ended = follow => return ended,
    }
    Ok(())
}

/// Where images are offered, and what has to run meanwhile: it ends with an error only.
async fn follow_cluster(
    in_force: &InForce,
    metrics: &Metrics,
    readiness: Readiness,
    limit: Limit,
) -> anyhow::Result<(OfferSink, LocalBoxFuture<'static, anyhow::Result<()>>)> {
    let client =
        kube::Client::try_default().await.context("no way to the API server: set KUBECONFIG, or run in a Pod")?;
    let (offers, offered) = queue::queue(queue::Bounds { of_namespace: Some(limit), ..queue::Bounds::default() });
    let follow = rules::follow_all(client.clone(), in_force.clone(), move || readiness.set(true));
    let manual = in_force.manual.clone();
    let store =
        sink::store(client, offered, Source::Admission, move |offer| !manual.load().contains(&offer.proxy_project));
    let both = async {
        tokio::select! {
            () = follow => anyhow::bail!("the watch of what admission goes by ended"),
            // Nobody is left who offers: the server has ended.
            () = store => std::future::pending().await,
        }
    };
    Ok((webhook::queued(offers, &metrics.admission), both.boxed_local()))
}

/// A number of images a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is no rate: write a number from 0.001 to 10000, such as `0.5`"))
}
