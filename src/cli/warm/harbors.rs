//! The Harbors of the images: credentials, platforms, and whether they answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::{bail, ensure};
use k8s_openapi::{
    api::core::v1::{Node, Secret},
    jiff::Timestamp,
};
use kube::{Api, Client, api::ListParams};

use super::{
    images::{ImageTarget, RequestedImage},
    progress::ProgressBoard,
};
use crate::{
    api::{CachedImage, HarborInstance, Platform, ProxyProject, Registry},
    cli::{
        credentials_env::{self, PASSWORD, USERNAME},
        output::eprint_line,
        sources::Sources,
    },
    cluster::{bounded, nodes::platform_of, turn},
    controller::{Connections, SecretValue, connections::Connection},
    harbor::Error,
    leadership::Leadership,
    prewarm::{Environment, PullProgress, RateLimiter, Resolved, Unresolved},
    reconcile::ReconcileError,
    standalone::{self, ManifestSet, MemoryBackend},
};

/// Nodes per list request.
const PAGE: u32 = 500;

/// The platforms of images without own platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DefaultPlatforms {
    /// These, whatever ProxyProjects say; empty: all platforms of an image.
    Given(Vec<Platform>),
    /// Those of the image's ProxyProject, else these.
    Project(Vec<Platform>),
}

/// The connected Harbors.
pub(super) struct Harbors {
    instances: Connections,
    connections: BTreeMap<String, Result<Connection, ReconcileError>>,
}

impl Harbors {
    /// Connects to the Harbors of these images and checks the credentials. Their pulls fetch at most `budget` bytes of layers at
    /// the same time.
    ///
    /// # Errors
    /// If there are no credentials.
    pub(super) async fn connect(
        sources: &Sources,
        wanted: &[RequestedImage],
        operator: &str,
        budget: u64,
    ) -> anyhow::Result<Self> {
        let needed: BTreeSet<&str> =
            wanted.iter().filter_map(|wanted| Some(wanted.place.as_ref().ok()?.instance.as_str())).collect();
        let account = credentials_env::from_environment()?;
        if account.is_some() && needed.len() > 1 {
            eprint_line(format_args!(
                "warning: the images are in {} Harbors, and {USERNAME} is for one: the Secrets of the HarborInstances are used",
                needed.len()
            ));
        }
        let account = account.filter(|_| needed.len() == 1);
        let (instances, mut connections) = (Connections::new(budget, Leadership::always()), BTreeMap::new());
        for name in needed {
            let found = sources.instances.iter().find(|instance| instance.metadata.name.as_deref() == Some(name));
            let Some(instance) = found else {
                bail!("HarborInstance {name} does not exist, or you may not read it: use --harbor URL, or --rules");
            };
            let secret = match &account {
                Some(account) => account.clone(),
                None => secret(sources, &instance.spec.credentials_secret_ref.name, operator).await?,
            };
            connections.insert(name.to_owned(), connect(&instances, name, instance, secret).await);
        }
        Ok(Self { instances, connections })
    }

    /// The environment for the reconciles of images: each image with its target, or the reason why it has none.
    pub(super) fn surroundings(
        &self,
        sources: &Sources,
        wanted: &[RequestedImage],
        usual: DefaultPlatforms,
        board: Arc<ProgressBoard>,
    ) -> ImageTargets {
        let places = wanted.iter().filter_map(|wanted| wanted.place.as_ref().ok());
        let resolved =
            places.filter_map(|place| Some((place.image.to_string(), self.resolved(sources, place, &usual)?)));
        let resolved = resolved.collect();
        ImageTargets { resolved, usual, board }
    }

    /// Why images of an instance cannot be prewarmed.
    pub(super) fn refusal(&self, place: &ImageTarget) -> Option<&ReconcileError> {
        self.connections.get(&place.instance)?.as_ref().err()
    }

    fn resolved(&self, sources: &Sources, place: &ImageTarget, usual: &DefaultPlatforms) -> Option<Resolved> {
        let connection = self.connections.get(&place.instance)?.as_ref().ok()?.clone();
        let name = place.project.as_deref();
        let project =
            sources.projects.iter().find(|project| name.is_some() && project.metadata.name.as_deref() == name);
        let platforms = match usual {
            DefaultPlatforms::Given(_) => Vec::new(),
            DefaultPlatforms::Project(_) => {
                project.map(|project| project.spec.prewarm.platforms.clone()).unwrap_or_default()
            }
        };
        let strategy = project.map(|project| project.spec.prewarm.strategy).unwrap_or_default();
        let lane = project.map(|project| self.instances.lane(project, upstream_of(sources, project)));
        let lane = lane.unwrap_or_default();
        Some(Resolved {
            image: place.image.clone(),
            proxy_project: name.unwrap_or_default().to_owned(),
            platforms,
            puller: connection.puller.on(lane, strategy),
            harbor: connection.client,
            // A user who runs the command decides what it may pull.
            allowance: RateLimiter::default(),
            away: None,
        })
    }
}

/// The images of one run with their targets.
pub(super) struct ImageTargets {
    resolved: HashMap<String, Resolved>,
    usual: DefaultPlatforms,
    board: Arc<ProgressBoard>,
}

impl ImageTargets {
    /// The platforms to prewarm for an image; empty means those of its environment.
    pub(super) fn platforms(&self, image: &str, wanted: &RequestedImage) -> Vec<Platform> {
        match &self.usual {
            DefaultPlatforms::Given(given) => given.clone(),
            DefaultPlatforms::Project(_) if !wanted.usual || wanted.platforms.is_empty() => wanted.platforms.clone(),
            DefaultPlatforms::Project(others) => {
                let own = self.resolved.get(image).map(|resolved| &resolved.platforms).filter(|own| !own.is_empty());
                let all: BTreeSet<_> = own.unwrap_or(others).iter().chain(&wanted.platforms).cloned().collect();
                all.into_iter().collect()
            }
        }
    }
}

impl Environment for ImageTargets {
    fn resolve(&self, image: &str) -> Result<Resolved, Unresolved> {
        self.resolved.get(image).cloned().ok_or_else(|| Unresolved::NotProxied(image.to_owned()))
    }

    fn cluster_platforms(&self) -> Option<Vec<Platform>> {
        let (DefaultPlatforms::Given(platforms) | DefaultPlatforms::Project(platforms)) = &self.usual;
        Some(platforms.clone())
    }

    fn progress(&self, image: &CachedImage) -> Arc<dyn PullProgress> {
        self.board.pull(&image.spec.image)
    }
}

/// The platforms of the cluster's nodes, else that of this machine, with a message about the choice.
pub(super) async fn usual_platforms(cluster: Option<&Client>, quiet: bool) -> Vec<Platform> {
    let own = Platform::new("linux", std::env::consts::ARCH, None);
    let why = match cluster {
        None => None,
        Some(client) => match node_platforms(client).await {
            Ok(platforms) if !platforms.is_empty() => return platforms,
            Ok(_) => Some("the cluster has no node".to_owned()),
            Err(error) => Some(format!("cannot read the nodes' platforms ({error})")),
        },
    };
    if !quiet {
        let why = why.map(|why| format!("{why}: ")).unwrap_or_default();
        eprint_line(format_args!(
            "{why}prewarming for {own}, the platform of this machine; use --platform or --all-platforms for others"
        ));
    }
    vec![own]
}

async fn node_platforms(client: &Client) -> Result<Vec<Platform>, crate::cluster::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    let mut platforms = BTreeSet::new();
    loop {
        let page = bounded("listing Nodes", nodes.list_metadata(&parameters)).await?;
        platforms.extend(page.items.iter().filter_map(platform_of));
        if !turn(&mut parameters, page.metadata) {
            return Ok(platforms.into_iter().collect());
        }
    }
}

fn upstream_of<'s>(sources: &'s Sources, project: &ProxyProject) -> Option<&'s Registry> {
    let name = project.spec.registry_ref.name.as_str();
    sources.registries.iter().find(|registry| registry.metadata.name.as_deref() == Some(name))
}

async fn secret(sources: &Sources, name: &str, operator: &str) -> anyhow::Result<SecretValue> {
    let instead = format!("set {USERNAME} and {PASSWORD} to credentials that may pull");
    let Some(cluster) = &sources.cluster else {
        ensure!(!name.is_empty(), "no credentials for Harbor: {instead}");
        let found = sources.secrets.get(name).cloned();
        return found
            .ok_or_else(|| anyhow::anyhow!("the manifests of --rules have no Secret {name}: add it, or {instead}"));
    };
    let secrets: Api<Secret> = Api::namespaced(cluster.clone(), operator);
    match bounded("reading the Secret of the HarborInstance", secrets.get_opt(name)).await {
        Ok(Some(secret)) => {
            let values = secret.data.unwrap_or_default().into_iter();
            let values = values.filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)));
            Ok(standalone::secret_value(values.collect()))
        }
        Ok(None) => bail!(
            "Secret {operator}/{name} does not exist: is the operator in another namespace (--operator-namespace)? Or {instead}"
        ),
        Err(error) => bail!("cannot read Secret {operator}/{name} ({error}): {instead}"),
    }
}

/// Checks the credentials with one request. Wrong credentials are not tried with each image: Harbor locks accounts, and serves
/// public projects with any password.
async fn connect(
    instances: &Connections,
    name: &str,
    instance: &HarborInstance,
    secret: SecretValue,
) -> Result<Connection, ReconcileError> {
    let world = MemoryBackend::new(Vec::new());
    let secrets = BTreeMap::from([(instance.spec.credentials_secret_ref.name.clone(), secret)]);
    world.apply(&ManifestSet { secrets, ..ManifestSet::default() }, Timestamp::now());
    let connection = instances.connect_to(world.directory().as_ref(), name, instance).await?;
    let refused = |error: Error| {
        let strange = matches!(error, Error::NotFound { .. } | Error::Malformed { .. });
        let hint = if strange { format!("; is {} the URL of a Harbor?", instance.spec.url) } else { String::new() };
        ReconcileError::stalled(error.reason(), format!("{error}{hint}"))
    };
    let info = connection.client.system_info().await.map_err(refused)?;
    // With a wrong password Harbor answers as to a client without credentials: 200, without the version.
    match info.harbor_version {
        Some(_) => Ok(connection),
        None => Err(refused(Error::Unauthorized { operation: "GET /systeminfo".to_owned() })),
    }
}
