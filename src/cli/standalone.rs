//! `harbor-pilot standalone`

use std::{net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;

use crate::{
    api::Platform,
    engine::{collectors::CertificateCollector, page_inputs},
    standalone::{Standalone, StandaloneOptions},
    webhook,
};

/// Interval of checking the manifests for changes.
const RELOAD: Duration = Duration::from_secs(2);

/// Arguments of `standalone`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory of manifests: HarborInstance, Registry, ProxyProject, ReplicationRule, CachedImage, the Secrets that they refer
    /// to, ImagePolicy, and Namespaces for their labels. It is reloaded when it changes
    #[arg(long, value_name = "DIR")]
    manifests_dir: PathBuf,
    /// Platform to prewarm if neither image nor ProxyProject has platforms; may be given several times [default: this machine's]
    #[arg(long = "platform", value_name = "OS/ARCH")]
    platforms: Vec<Platform>,
    /// Name or address for the certificate that is issued if --tls-dir has none; may be given several times
    #[arg(long = "tls-name", value_name = "NAME", default_values = ["localhost", "127.0.0.1"])]
    tls_names: Vec<String>,
    /// Name of this installation in Harbor's markers
    #[arg(long, env = "HARBOR_PILOT_INSTALLATION", default_value = "standalone")]
    installation_id: String,
    #[command(flatten)]
    serve: super::serve::Arguments,
    #[command(flatten)]
    engine: super::engine::Arguments,
    #[command(flatten)]
    logs: super::logs::Arguments,
}

/// Runs until SIGTERM.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let begun = arguments.logs.begin("standalone")?;
    let shutdown = super::signals::serve_until_signal()?;
    arguments.serve.issue_where_missing(&arguments.tls_names)?;
    let own = || Platform::new("linux", std::env::consts::ARCH, None);
    let platforms = if arguments.platforms.is_empty() { vec![own()] } else { arguments.platforms };
    let options = || arguments.serve.options();
    let certificate = arguments.serve.certificate().await?;
    let settings = StandaloneOptions {
        directory: arguments.manifests_dir,
        listen: arguments.serve.webhook_bind_address(),
        certificate: certificate.clone(),
        platforms,
        installation: arguments.installation_id,
        reload: RELOAD,
        engine: arguments.engine.options(),
        serve: options(),
    };
    let ops_address = arguments.serve.metrics_bind_address();
    let ops_listener = TcpListener::bind(ops_address).with_context(|| format!("cannot listen on {ops_address}"))?;
    let mut pilot = Standalone::start(settings, shutdown.clone()).await?;
    tracing::info!(address = %pilot.address, ops = %ops_address, "serving admission");
    let page = page_inputs::of_standalone(pilot.instruments.clone(), pilot.active.clone(), begun.about());
    let mut metrics = std::mem::take(&mut pilot.metrics);
    metrics.exposition_mut().collect(CertificateCollector { certificate });
    let ops = super::ops::router(pilot.readiness.clone(), Arc::new(metrics), page, &begun);
    let readiness = pilot.readiness.clone();
    let ops = webhook::serve(ops_listener, None, ops, readiness, options(), shutdown.cancelled_owned());
    tokio::try_join!(async { pilot.ended().await.map_err(anyhow::Error::from) }, async { Ok(ops.await?) })?;
    begun.end().await;
    Ok(())
}
