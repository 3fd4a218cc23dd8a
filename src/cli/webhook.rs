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

/// Arguments of `webhook`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File or directory of manifests with rules, policies and labels of Namespaces, which are used as if Harbor served all of
    /// them: for tests and measurements. Neither a cluster nor Harbor is contacted, and nothing is prewarmed
    #[arg(long, value_name = "FILE|DIR")]
    rules: Option<PathBuf>,
    /// Burst of prewarm requests of one namespace; the controller finds further images by its own watch, once the Pod exists
    #[arg(long, default_value_t = NamespaceLimit::default().burst, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    namespace_rate_burst: u32,
    /// Prewarm requests of one namespace per second after the burst
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
    let (listener, ops_listener) = (bind(serve.webhook_bind_address())?, bind(serve.metrics_bind_address())?);
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
    tracing::info!(address = %serve.webhook_bind_address(), ops = %serve.metrics_bind_address(), "serving admission");
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

/// Creates the queue of prewarm requests and the tasks that follow the cluster; they end only with an error.
async fn follow_cluster(
    in_force: &ActiveConfig,
    metrics: &mut Metrics,
    readiness: Readiness,
    limit: NamespaceLimit,
) -> anyhow::Result<(PrewarmSink, LocalBoxFuture<'static, anyhow::Result<()>>)> {
    let client = kube::Client::try_default()
        .await
        .context("cannot connect to the API server: set KUBECONFIG, or run in a Pod")?;
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
            () = follow => anyhow::bail!("the watches of the webhook ended"),
            // No sender is left: the server has ended.
            () = store => std::future::pending().await,
        }
    };
    let queued = webhook::queued(offers, &metrics.admission);
    let sink = webhook::from_known_namespaces(queued, in_force.namespaces.clone(), &metrics.admission);
    Ok((sink, both.boxed_local()))
}

/// A number of images per second.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is not a rate: write a number from 0.001 to 10000, such as `0.5`"))
}
