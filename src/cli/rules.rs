//! Rules from manifests, for commands that ask no Harbor: every rule is taken as served.

use std::path::Path;

use anyhow::Context;

use crate::{
    rewrite::{self, Rules},
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
