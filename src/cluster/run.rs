//! Runs the engine with the resources of a cluster.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    admitted_namespaces::AdmittedNamespaces,
    backend::{ApiBackend, ApiResources},
    bounded,
};
use crate::{
    controller::Installation,
    engine::{
        instruments::Instruments,
        run::{self, Engine, EngineOptions},
    },
    leadership::Leadership,
    prewarm::expiry::ImageOrigin,
};

/// Settings of the controller.
#[derive(Clone)]
pub struct ControllerOptions {
    /// The operator's own namespace, which holds the Secrets.
    pub namespace: String,
    /// The namespaces whose Pods reach admission. The controller does not warm images for workloads of others.
    pub admitted_namespaces: AdmittedNamespaces,
    /// Installation name in the markers in Harbor; `None` uses the uid of the `kube-system` namespace.
    pub installation: Option<String>,
    /// Settings of the engine.
    pub engine: EngineOptions,
    /// The metrics.
    pub meters: Instruments,
}

/// Runs all controllers until `shutdown`. Sends nothing to any Harbor while `leadership` does not hold.
///
/// # Errors
/// When the installation cannot be identified.
pub async fn run(
    client: Client,
    settings: ControllerOptions,
    leadership: Leadership,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let installation = match settings.installation {
        Some(installation) => Installation(installation),
        None => identify(&client).await?,
    };
    tracing::info!(installation = installation.0, namespace = settings.namespace, "controller starts");
    let resources = ApiResources { client, watches: settings.meters.watches.clone() };
    let backend = ApiBackend::new(resources, &settings.namespace, settings.admitted_namespaces);
    let engine = Engine {
        backend,
        options: settings.engine,
        meters: settings.meters,
        installation,
        queue: run::prewarm_queue(),
        origin: ImageOrigin::Cluster,
        leadership,
    };
    Box::pin(run::run(engine, shutdown)).await;
    Ok(())
}

async fn identify(client: &Client) -> Result<Installation, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = bounded("reading the namespace kube-system", namespaces.get("kube-system")).await?;
    Ok(Installation(system.metadata.uid.unwrap_or_default()))
}
