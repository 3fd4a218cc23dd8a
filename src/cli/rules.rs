//! What admission goes by, from manifests: for a webhook that asks neither a cluster nor Harbor.

use std::{path::Path, sync::Arc};

use anyhow::Context;

use crate::{
    active_config::{ActiveConfig, warn_of_new},
    rewrite, standalone,
};

/// Puts in force what the manifests of a file or directory say, every rule taken as served, and logs what is odd about
/// rules and policies.
///
/// A thread of its own does it: the memory that checking takes, some times that of the rules, is given back with it.
///
/// # Errors
/// When a manifest is wrong, or a ProxyProject states no rule.
pub(super) fn activate(path: &Path, in_force: &ActiveConfig) -> anyhow::Result<()> {
    let read = || read_and_activate(path, in_force);
    std::thread::scope(|scope| scope.spawn(read).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn read_and_activate(path: &Path, in_force: &ActiveConfig) -> anyhow::Result<()> {
    let manifests = standalone::read(path).context("rules")?;
    let (rules, problems) = rewrite::assumed(&manifests.instances, &manifests.registries, &manifests.projects);
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem).context(format!("rules of {}", path.display()));
    }
    warn_of_new("rule", rules.findings(), &[]);
    in_force.rules.store(Arc::new(rules));
    in_force.enforce(&manifests.policies);
    in_force.set_scans(&manifests.images);
    in_force.namespaces.store(Arc::new(manifests.namespaces.into_iter().collect()));
    Ok(())
}
