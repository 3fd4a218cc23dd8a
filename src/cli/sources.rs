//! Sources of rules for a command: manifests, or the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{Api, Client, ResourceExt, api::ListParams};

use super::output::warn_of;
use crate::{
    api::{CachedImage, HarborInstance, ImagePolicy, ProxyProject, Registry, RewriteRuleStatus},
    cluster::bounded,
    controller::SecretValue,
    rewrite::{self, DesiredRuleError, Rules},
    standalone,
};

/// Which rules to use.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// File or directory with HarborInstances, Registries, ProxyProjects, ImagePolicies and CachedImages with their status: every
    /// rule counts as active. Default: the active rules of the cluster
    #[arg(long, value_name = "FILE|DIR")]
    pub(super) rules: Option<PathBuf>,
}

/// ProxyProjects and the objects that they refer to.
pub(super) struct Sources {
    /// All ProxyProjects, active or not.
    pub(super) projects: Vec<ProxyProject>,
    /// The known HarborInstances: some users may not read them.
    pub(super) instances: Vec<HarborInstance>,
    /// The known Registries: some users may not read them.
    pub(super) registries: Vec<Registry>,
    /// All ImagePolicies, or why they cannot be read: some users may not read them.
    pub(super) policies: Result<Vec<ImagePolicy>, String>,
    /// CachedImages, whose scans policies may use. From a cluster only if a policy uses them and they may be read.
    pub(super) images: Vec<CachedImage>,
    /// Labels of the known namespaces.
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The default namespace: that of the kubeconfig.
    pub(super) default_namespace: Option<String>,
    /// Secrets by name, from manifests.
    pub(super) secrets: BTreeMap<String, SecretValue>,
    /// The API server, unless everything comes from manifests.
    pub(super) cluster: Option<Client>,
}

impl Arguments {
    /// Reads them.
    pub(super) async fn read(&self) -> anyhow::Result<Sources> {
        let Some(path) = &self.rules else { return from_cluster().await };
        let manifests = standalone::read(path).context("rules")?;
        Ok(Sources {
            projects: manifests.projects,
            instances: manifests.instances,
            registries: manifests.registries,
            policies: Ok(manifests.policies),
            images: manifests.images,
            namespaces: manifests.namespaces,
            default_namespace: None,
            secrets: manifests.secrets,
            cluster: None,
        })
    }
}

impl Sources {
    /// One Harbor without rules.
    pub(super) fn of(instance: HarborInstance) -> Self {
        Self {
            projects: Vec::new(),
            instances: vec![instance],
            registries: Vec::new(),
            policies: Ok(Vec::new()),
            images: Vec::new(),
            namespaces: BTreeMap::new(),
            default_namespace: None,
            secrets: BTreeMap::new(),
            cluster: None,
        }
    }

    /// The active rules, as if every Harbor were available, and why projects of the manifests have none.
    pub(super) fn rules(&self) -> (Rules, Vec<DesiredRuleError>) {
        if self.cluster.is_some() {
            return (rewrite::active_rules(&self.projects, |_| false), Vec::new());
        }
        rewrite::assumed(&self.instances, &self.registries, &self.projects)
    }

    /// Like [`Sources::rules`], and prints warnings about invalid or shadowed rules.
    pub(super) fn active_rules(&self) -> anyhow::Result<Rules> {
        let (rules, problems) = self.rules();
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem).context("rules");
        }
        warn_of(rules.findings());
        Ok(rules)
    }

    /// Returns the rule of a project, or why it is not active.
    pub(super) fn rule(&self, project: &ProxyProject) -> Result<RewriteRuleStatus, String> {
        if project.metadata.deletion_timestamp.is_some() {
            return Err("it is being deleted".to_owned());
        }
        if project.spec.suspend {
            return Err("it is suspended (spec.suspend)".to_owned());
        }
        if self.cluster.is_some() {
            return project.active_rule().cloned().ok_or_else(|| not_served(project));
        }
        let (instance, registry) = (&project.spec.harbor_ref.name, &project.spec.registry_ref.name);
        let named = |name: &str, found: Option<&str>| found == Some(name);
        let instance = self.instances.iter().find(|one| named(instance, one.metadata.name.as_deref()));
        let registry = self.registries.iter().find(|one| named(registry, one.metadata.name.as_deref()));
        let instance = instance.ok_or("the manifests have no HarborInstance for it")?;
        let registry = registry.ok_or("the manifests have no Registry for it")?;
        rewrite::desired_rule(project, registry, instance.spec.effective_pull_host()).map_err(|error| error.to_string())
    }

    /// Names of the projects whose Harbor is unavailable. From manifests: none.
    pub(super) fn unavailable(&self) -> BTreeSet<String> {
        if self.cluster.is_none() {
            return BTreeSet::new();
        }
        let unreachable = rewrite::unavailable(&self.instances, Timestamp::now());
        let waiting = self.projects.iter().filter(|project| unreachable.contains(&project.spec.harbor_ref.name));
        waiting.map(ResourceExt::name_any).collect()
    }
}

fn not_served(project: &ProxyProject) -> String {
    let mut conditions = project.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    let why = ready.map(|ready| format!(": Ready is {}, {}: {}", ready.status, ready.reason, ready.message));
    format!("Harbor does not serve the project yet{}", why.unwrap_or_default())
}

async fn from_cluster() -> anyhow::Result<Sources> {
    // The text of the error includes its sources.
    let no_way = |error| {
        anyhow::anyhow!(
            "cannot connect to the API server: set KUBECONFIG, or read the rules from manifests with --rules: {error}"
        )
    };
    let client = Client::try_default().await.map_err(no_way)?;
    let parameters = ListParams::default();
    let projects: Api<ProxyProject> = Api::all(client.clone());
    let projects = bounded("listing ProxyProjects", projects.list(&parameters)).await?.items;
    let instances: Api<HarborInstance> = Api::all(client.clone());
    let instances = bounded("listing HarborInstances", instances.list(&parameters)).await.map(|list| list.items);
    let registries: Api<Registry> = Api::all(client.clone());
    let registries = bounded("listing Registries", registries.list(&parameters)).await.map(|list| list.items);
    let policies: Api<ImagePolicy> = Api::all(client.clone());
    let policies = bounded("listing ImagePolicies", policies.list(&parameters)).await;
    let policies = policies.map(|list| list.items).map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    let go_by_scans = policies.iter().flatten().any(|policy| policy.spec.vulnerability.is_some());
    let images: Api<CachedImage> = Api::all(client.clone());
    let images = match go_by_scans {
        true => bounded("listing CachedImages", images.list(&parameters)).await?.items,
        false => Vec::new(),
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // Some users may not list these. Missing data is reported where it matters.
    let namespaces = bounded("listing Namespaces", namespaces.list_metadata(&parameters)).await;
    let labels = namespaces.into_iter().flatten();
    Ok(Sources {
        projects,
        instances: instances.unwrap_or_default(),
        registries: registries.unwrap_or_default(),
        policies,
        images,
        namespaces: labels.map(|found| (found.name_any(), found.metadata.labels.unwrap_or_default())).collect(),
        default_namespace: Some(client.default_namespace().to_owned()),
        secrets: BTreeMap::new(),
        cluster: Some(client),
    })
}
