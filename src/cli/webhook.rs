//! `harbor-pilot webhook`

use std::{net::TcpListener, path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use futures::{FutureExt, future::LocalBoxFuture};

use super::rules::activate;
use crate::{
    active_config::ActiveConfig,
    cluster::backend::ApiResources,
    engine::{
        collectors::{AdmissionCollector, CertificateCollector},
        create_cached_images, page_inputs, rules,
    },
    prewarm::{expiry::ImageOrigin, namespace_limit::NamespaceLimit, queue},
    telemetry::{metrics::Metrics, prewarm_queue::PrewarmQueueMetrics, probes::Readiness, watches::WatchMetrics},
    webhook::{self, Admission, BodyLimits, PrewarmSink, ServeOptions},
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
    #[arg(long, default_value_t = NamespaceLimit::default().burst, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    namespace_rate_burst: u32,
    /// New images that the Pods of one namespace may bring each second from then on
    #[arg(long, default_value_t = NamespaceLimit::default().per_second, value_parser = rate)]
    namespace_rate_qps: f64,
    #[command(flatten)]
    serve: super::serve::Arguments,
    #[command(flatten)]
    clients: super::client_ca::Arguments,
    #[command(flatten)]
    logs: super::logs::Arguments,
}

/// Runs until SIGTERM.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let begun = arguments.logs.begin("webhook")?;
    let shutdown = super::signals::serve_until_signal()?;
    let serve = &arguments.serve;
    let in_force = ActiveConfig::default();
    let mut metrics = Metrics::new();
    let readiness = Readiness::new();
    let (offers, follow) = match &arguments.rules {
        Some(path) => {
            activate(path, &in_force)?;
            metrics.exposition_mut().collect(AdmissionCollector { in_force: in_force.clone(), offers: None });
            readiness.set(true);
            let nowhere: PrewarmSink = Arc::new(drop);
            (nowhere, std::future::pending().boxed_local())
        }
        None => {
            let limit =
                NamespaceLimit { burst: arguments.namespace_rate_burst, per_second: arguments.namespace_rate_qps };
            follow_cluster(&in_force, &mut metrics, readiness.clone(), limit).await?
        }
    };
    let certificate = serve.certificate().await?;
    metrics.exposition_mut().collect(CertificateCollector { certificate: certificate.clone() });
    let tls = arguments.clients.tls(certificate).await?;
    let bind = |address| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"));
    let (listener, ops_listener) = (bind(serve.listen())?, bind(serve.metrics_bind_address())?);
    let connections = metrics.admission.connections.clone();
    let router = webhook::router(Admission {
        rules: in_force.rules.clone(),
        namespaces: in_force.namespaces.clone(),
        policies: in_force.policies.clone(),
        scans: in_force.scans.clone(),
        offers,
        metrics: metrics.admission.clone(),
        readiness: readiness.clone(),
        limits: BodyLimits::default(),
    });
    tracing::info!(address = %serve.listen(), ops = %serve.metrics_bind_address(), "serving admission");
    let page = page_inputs::of_webhook(in_force.clone(), begun.about());
    let options = ServeOptions { metrics: connections, ..serve.options() };
    let ops = super::ops::router(readiness.clone(), Arc::new(metrics), page, &begun);
    let end = || shutdown.clone().cancelled_owned();
    tokio::select! {
        result = async {
            tokio::try_join!(
                webhook::serve(listener, Some(tls), router, readiness.clone(), options, end()),
                webhook::serve(ops_listener, None, ops, readiness.with_own_room(), serve.options().of_ops(), end()),
            )
        } => { result?; }
        ended = follow => return ended,
    }
    begun.end().await;
    Ok(())
}

/// Where images are offered, and what has to run meanwhile: it ends with an error only.
async fn follow_cluster(
    in_force: &ActiveConfig,
    metrics: &mut Metrics,
    readiness: Readiness,
    limit: NamespaceLimit,
) -> anyhow::Result<(PrewarmSink, LocalBoxFuture<'static, anyhow::Result<()>>)> {
    let client =
        kube::Client::try_default().await.context("no way to the API server: set KUBECONFIG, or run in a Pod")?;
    let (offers, offered) =
        queue::queue(queue::QueueBounds { of_namespace: Some(limit), ..queue::QueueBounds::default() });
    metrics.exposition_mut().collect(AdmissionCollector { in_force: in_force.clone(), offers: Some(offers.clone()) });
    let registry = metrics.exposition_mut().registry_mut();
    let (watches, stored) = (WatchMetrics::register(registry), PrewarmQueueMetrics::register(registry));
    let followed = in_force.clone();
    let resources = ApiResources { client, watches };
    let writer = resources.clone();
    let follow = async move { Box::pin(rules::follow_all(&resources, &followed, move || readiness.set(true))).await };
    let manual = in_force.manual.clone();
    let store = async move {
        let create = |offer: queue::PrewarmRequest| {
            let writer = &writer;
            async move { create_cached_images::create(writer, &offer, ImageOrigin::Admission).await }
        };
        create_cached_images::store(offered, &stored, &manual, create).await;
    };
    let both = async {
        tokio::select! {
            () = follow => anyhow::bail!("the watch of what admission goes by ended"),
            // Nobody is left who offers: the server has ended.
            () = store => std::future::pending().await,
        }
    };
    let queued = webhook::queued(offers, &metrics.admission);
    let sink = webhook::from_known_namespaces(queued, in_force.namespaces.clone(), &metrics.admission);
    Ok((sink, both.boxed_local()))
}

/// A number of images a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is no rate: write a number from 0.001 to 10000, such as `0.5`"))
}
