//! `harbor-pilot crds`

use std::io::Write;

use crate::api;

/// Prints all CRDs as one YAML stream.
pub(super) fn run() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for crd in api::crds() {
        write!(out, "---\n{}", api::yaml(&crd)?)?;
    }
    Ok(())
}
