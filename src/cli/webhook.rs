//! `harbor-pilot webhook`

use std::{net::TcpListener, sync::Arc};

use anyhow::Context;
use clap::Args;

use crate::{
    cluster::{rules, sink},
    prewarm::queue,
    telemetry::{metrics::Metrics, probes, probes::Readiness},
    tls::serve::server_config,
    webhook::{self, Admission, Limits, ServeOptions},
};

/// What the webhook takes from the command line.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    serve: super::serve::Arguments,
    #[command(flatten)]
    logs: super::logs::Arguments,
}

/// Runs until SIGTERM.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    arguments.logs.init()?;
    let shutdown = super::shutdown_on_signal()?;
    let client =
        kube::Client::try_default().await.context("no way to the API server: set KUBECONFIG, or run in a Pod")?;
    let serve = &arguments.serve;
    let tls = Arc::new(server_config(serve.certificate().await?)?);
    let bind = |address| TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"));
    let (listener, ops_listener) = (bind(serve.listen())?, bind(serve.ops_listen())?);

    let metrics = Arc::new(Metrics::new());
    let readiness = Readiness::new();
    let following = rules::Following::default();
    let (offers, offered) = queue::queue(queue::Bounds::default());
    let offers = webhook::queued(offers, &metrics.admission);
    let router = webhook::router(Admission {
        rules: following.rules.clone(),
        offers,
        metrics: metrics.admission.clone(),
        readiness: readiness.clone(),
        limits: Limits::default(),
    });
    let manual = following.manual.clone();
    let loaded = readiness.clone();
    let follow = rules::follow(client.clone(), following, move || loaded.set(true));
    let store = sink::store(client, offered, move |offer| !manual.load().contains(&offer.proxy_project));
    tracing::info!(address = %serve.listen(), ops = %serve.ops_listen(), "serving admission");
    let ops = probes::ops(readiness.clone(), metrics);
    let end = || shutdown.clone().cancelled_owned();
    tokio::select! {
        result = async {
            tokio::try_join!(
                webhook::serve(listener, Some(tls), router, readiness.clone(), serve.options(), end()),
                webhook::serve(ops_listener, None, ops, readiness.clone(), ServeOptions::default(), end()),
            )
        } => { result?; }
        () = follow => anyhow::bail!("the watch of ProxyProjects ended"),
        () = store => anyhow::bail!("the queue of offers ended"),
    }
    Ok(())
}
