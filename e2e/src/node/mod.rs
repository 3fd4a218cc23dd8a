//! A real node: containerd and runc of the machine, and kubelet, kube-proxy, scheduler and controller manager of the API
//! server's own release.
//!
//! ```text
//! test ──► isolation::enter ──(unshare: network, mounts, process ids)──► the same test again, inside
//!                                                                          │
//!            ControlPlane ◄── kubelet, kube-proxy, scheduler, manager ◄── Node ──► containerd ──► Pods
//!                                                          images: crane, a registry ─────┘
//! ```
//!
//! Inside, the addresses are a network's own, so nothing meets another test; and all that a node leaves behind where it is
//! killed (shims, mounts, network namespaces, rules of iptables) goes with the namespaces. What is left, the directories
//! of control groups, [`isolation`] sweeps.

mod containerd;
pub mod images;
pub mod isolation;
mod kubernetes;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::Instant;

use crate::control_plane::ControlPlane;
use crate::process::{Process, Watchdog, note};

use self::images::Registry;

/// The node's own address; `isolation` gives it to an interface.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);

/// The node's name.
pub const NAME: &str = "node-1";

/// Where Pods have their addresses.
const PODS: &str = "10.244.0.0/24";

/// A host that image references name, and where it is.
#[derive(Debug, Clone)]
pub struct Host {
    /// As in a reference: `harbor.test`.
    pub name: String,
    /// `http://ADDRESS:PORT`.
    pub url: String,
}

/// A node that is Ready, with its control plane. Dropping it kills all but the Pods' own processes, which end with the
/// namespaces.
pub struct Node {
    /// The control plane.
    pub plane: ControlPlane,
    /// Serves images that are pushed to it, under the name [`images::HOST`].
    pub registry: Registry,
    root: PathBuf,
    processes: Vec<Process>,
    _watchdog: Watchdog,
}

impl Node {
    /// Starts it all, and waits until the node is Ready: about 15 s. Image references of `hosts` go where they say.
    ///
    /// # Errors
    /// When something ends, or is not ready in two minutes; the message carries the tails of the logs.
    pub async fn start(root: &Path, hosts: &[Host]) -> Result<Self> {
        let plane = ControlPlane::start_at(ADDRESS.into()).await?;
        let registry = Registry::start(root).await?;
        images::push_pause(&registry).await?;
        let mut watchdog = Watchdog::start(&root.join("no-directory"))?;
        let mut processes = kubernetes::control(&plane, root).await?;
        processes.push(containerd::start(root, &[hosts, &[registry.host()]].concat()).await?);
        processes.extend(kubernetes::node(&plane, root).await?);
        for process in &processes {
            watchdog.watch(process)?;
        }
        let mut node = Self { plane, registry, root: root.to_owned(), processes, _watchdog: watchdog };
        node.until_ready().await?;
        Ok(node)
    }

    /// What the container runtime has of Kubernetes' images: the output of `ctr images list`.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn images(&self) -> Result<String> {
        let output = containerd::ctr(&self.root).args(["images", "list"]).output().context("run ctr")?;
        if !output.status.success() {
            bail!("ctr: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills the process of a container with SIGKILL, as the kernel does that is short of memory.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_container(&self, id: &str) -> Result<()> {
        let output = containerd::ctr(&self.root)
            .args(["tasks", "kill", "--signal", "SIGKILL", id])
            .output()
            .context("run ctr")?;
        if !output.status.success() {
            bail!("ctr: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The tails of all logs, for a message of a test that fails.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let tails: Vec<String> = self.processes.iter().map(Process::log_tail).collect();
        format!("{}\n{}", tails.join("\n"), self.plane.log_tails())
    }

    async fn until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            for process in &mut self.processes {
                if let Some(status) = process.exited()? {
                    bail!("{} ended ({status})\n{}", process.name(), process.log_tail());
                }
            }
            let output = self.plane.kubectl(&["get", "node", NAME, "-o", "json"]).await?;
            let node: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            if crate::cluster::condition_of(&node, "Ready") == "True KubeletReady" {
                break;
            }
            if started.elapsed() > Duration::from_secs(120) {
                bail!("the node is not Ready: {node}\n{}", self.log_tails());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        note(&format!("the node is ready after {:.1} s", started.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// Finds a program, also where root's own lie.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/sbin"]);
    places.map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// A command that finds the programs of root.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
