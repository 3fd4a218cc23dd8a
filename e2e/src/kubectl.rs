//! The real `kubectl` against a kubeconfig, or another command line that takes one.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;

use crate::process::without_proxies;

/// A `kubectl` that takes longer has hung. `kubectl wait` has a timeout of its own below this.
const DEADLINE: Duration = Duration::from_secs(180);

/// What a run of `kubectl` gave.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it exited.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error: messages, and the warnings of admission webhooks (`Warning: …`).
    pub stderr: String,
}

impl Output {
    /// Standard output of a run that succeeded.
    ///
    /// # Errors
    /// When it did not; the message carries both streams.
    pub fn ok(self) -> Result<String> {
        if !self.status.success() {
            bail!("the command failed ({})\n{}{}", self.status, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// A `kubectl` bound to one kubeconfig, with nothing of the user's own settings.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// Binds `program` to `kubeconfig`; caches go to `home`.
    #[must_use]
    pub fn new(program: &Path, kubeconfig: &Path, home: &Path) -> Self {
        Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned(), home: home.to_owned() }
    }

    /// Runs with `arguments` and `input` on standard input.
    ///
    /// # Errors
    /// When `kubectl` cannot be run or does not end in three minutes. That it exits with an error is no error here:
    /// see [`Output::ok`].
    pub async fn run(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = std::process::Command::new(&self.program);
        without_proxies(&mut command);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let talk = async {
            let write = async {
                // A kubectl that does not read its input closes the pipe; what it says then is what matters.
                drop(stdin.write_all(input.as_bytes()).await);
                drop(stdin);
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        let output = tokio::time::timeout(DEADLINE, talk)
            .await
            .with_context(|| {
                format!("{} {} has not ended in {DEADLINE:?}", self.program.display(), arguments.join(" "))
            })?
            .context("wait for the command")?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}
