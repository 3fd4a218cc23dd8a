//! The real Helm and the chart of this tree.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::kubectl::{Kubectl, Output};
use crate::process::{Watchdog, directory};
use crate::tools::Tool;

/// The namespace of the release, unless a test says otherwise.
pub const NAMESPACE: &str = "harbor-pilot";

/// The Kubernetes that is rendered for where no cluster can be asked.
const KUBE_VERSION: &str = "1.36.3";

/// A Helm with nothing of the user's own settings.
#[derive(Debug)]
pub struct Helm {
    command: Kubectl,
    home: TempDir,
    // One that lives in a `static` is never dropped.
    _watchdog: Watchdog,
}

impl Helm {
    /// A Helm that only renders. Built first if need be.
    ///
    /// # Errors
    /// Those of [`Tool::path`].
    pub async fn offline() -> Result<Self> {
        Self::of(Path::new("/nonexistent")).await
    }

    /// A Helm for the cluster of a kubeconfig.
    ///
    /// # Errors
    /// Those of [`Tool::path`].
    pub async fn of(kubeconfig: &Path) -> Result<Self> {
        let (program, home) = (Tool::Helm.path_async().await?, directory("harbor-pilot-e2e-helm-")?);
        let command = Kubectl::new(&program, kubeconfig, home.path());
        let watchdog = Watchdog::start(home.path())?;
        Ok(Self { command, home, _watchdog: watchdog })
    }

    /// A directory that ends with this.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs with these arguments.
    ///
    /// # Errors
    /// When it cannot be run. That it exits with an error is no error here: see [`Output::ok`].
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command.run(arguments, "").await
    }

    /// Renders our chart, with `values` as a file that goes before those of the chart.
    ///
    /// # Errors
    /// When Helm cannot be run.
    pub async fn template(&self, values: &Value) -> Result<Output> {
        let chart = chart().display().to_string();
        let arguments =
            ["template", "pilot", &chart, "--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, "--values", "-"];
        self.command.run(&arguments, &values.to_string()).await
    }

    /// As [`Helm::template`], read.
    ///
    /// # Errors
    /// When Helm refuses; the message is Helm's.
    pub async fn objects(&self, values: &Value) -> Result<Vec<Value>> {
        documents(&self.template(values).await?.ok()?)
    }
}

/// The chart of this tree.
#[must_use]
pub fn chart() -> PathBuf {
    root().join("charts/harbor-pilot")
}

/// This tree.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The documents of a YAML text that are not empty.
///
/// # Errors
/// When it is no YAML.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(text).context("read YAML")?;
    Ok(documents.into_iter().flatten().collect())
}
