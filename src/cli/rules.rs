//! Rules and policies from manifests, for a webhook without cluster and Harbor.

use std::{path::Path, sync::Arc};

use anyhow::Context;

use crate::{
    active_config::{ActiveConfig, warn_of_new},
    rewrite, standalone,
};

/// Activates the rules and policies of a file or directory, every rule as if Harbor served it. Logs invalid or shadowed rules and
/// policies.
///
/// A separate thread does it: the memory for checking, which is several times that of the rules, is freed with the thread.
///
/// # Errors
/// If a manifest is invalid, or a ProxyProject has no rule.
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
