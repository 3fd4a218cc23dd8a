//! What admission goes by, from manifests: for a webhook that asks neither a cluster nor Harbor.

use std::path::Path;

use anyhow::Context;

use crate::{
    policy::Policies,
    rewrite::{self, Namespaces, Rules},
    standalone,
};

/// What manifests say.
#[derive(Debug)]
pub(super) struct FromFiles {
    /// Every rule is taken as served.
    pub(super) rules: Rules,
    /// The policies.
    pub(super) policies: Policies,
    /// Labels of the Namespaces among the manifests.
    pub(super) namespaces: Namespaces,
}

impl FromFiles {
    /// Reads the manifests of a file or directory, and logs what is odd about rules and policies.
    ///
    /// # Errors
    /// When a manifest is wrong, or a ProxyProject states no rule.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let manifests = standalone::read(path).context("rules")?;
        let (rules, problems) = rewrite::assumed(&manifests.instances, &manifests.registries, &manifests.projects);
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem).context(format!("rules of {}", path.display()));
        }
        for finding in rules.findings() {
            tracing::warn!(%finding, "rule");
        }
        let policies = Policies::compile(&manifests.policies);
        for finding in policies.findings() {
            tracing::warn!(%finding, "policy");
        }
        Ok(Self { rules, policies, namespaces: manifests.namespaces.into_iter().collect() })
    }
}
