//! Rules from manifests, for commands that ask no Harbor: every rule is taken as served.

use std::path::Path;

use anyhow::Context;

use crate::{
    policy::Policies,
    rewrite::{self, Namespaces, Rules},
    standalone,
};

/// The rules that the manifests of a file or directory state. Logs what is odd about them.
///
/// # Errors
/// When a manifest is wrong, or a ProxyProject states no rule.
pub(super) fn from_files(path: &Path) -> anyhow::Result<Rules> {
    let manifests = standalone::read(path).context("rules")?;
    let (rules, problems) = rewrite::assumed(&manifests.instances, &manifests.registries, &manifests.projects);
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem).context(format!("rules of {}", path.display()));
    }
    for finding in rules.findings() {
        tracing::warn!(%finding, "rule");
    }
    Ok(rules)
}

/// The policies that the manifests state, and the labels of the Namespaces among them. Logs what is odd about policies.
///
/// # Errors
/// When a manifest is wrong.
pub(super) fn policies_from_files(path: &Path) -> anyhow::Result<(Policies, Namespaces)> {
    let manifests = standalone::read(path).context("policies")?;
    let policies = Policies::compile(&manifests.policies);
    for finding in policies.findings() {
        tracing::warn!(%finding, "policy");
    }
    Ok((policies, manifests.namespaces.into_iter().collect()))
}
