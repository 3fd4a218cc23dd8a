//! The container runtime, with everything it keeps in the node's directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Host, PODS, command, images, isolation, program};
use crate::process::Process;

/// Starts containerd, and waits until it answers.
pub(super) async fn start(root: &Path, hosts: &[Host]) -> Result<Process> {
    let own = root.join("containerd");
    for host in hosts {
        let directory = own.join("hosts").join(&host.name);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let url = &host.url;
        let text = format!("server = \"{url}\"\n[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        fs::write(directory.join("hosts.toml"), text).context("write hosts.toml")?;
    }
    let network = own.join("network");
    fs::create_dir_all(&network).context("create the directory of networks")?;
    fs::write(network.join("10-pods.conflist"), network_configuration(&own).to_string()).context("write a network")?;
    let file = own.join("config.toml");
    fs::write(&file, configuration(&own)?).context("write the configuration of containerd")?;

    let program = program("containerd").context("containerd is missing")?;
    let mut process =
        Process::spawn("containerd", command(&program).arg("--config").arg(&file), &root.join("containerd.log"))?;
    let started = Instant::now();
    while !ctr(root).arg("version").output().context("run ctr")?.status.success() {
        if let Some(status) = process.exited()? {
            bail!("containerd ended ({status})\n{}", process.log_tail());
        }
        if started.elapsed() > Duration::from_secs(60) {
            bail!("containerd does not answer\n{}", process.log_tail());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(process)
}

/// Where containerd listens.
pub(super) fn socket(root: &Path) -> PathBuf {
    root.join("containerd").join("socket")
}

/// Containerd's own client, in the namespace of Kubernetes.
pub(super) fn ctr(root: &Path) -> Command {
    let mut command = command(&program("ctr").unwrap_or_else(|| "ctr".into()));
    command.arg("--address").arg(socket(root)).args(["--namespace", "k8s.io"]);
    command
}

fn configuration(own: &Path) -> Result<String> {
    let (own, plugins, pause) = (own.display(), isolation::plugins()?.display(), images::PAUSE);
    // A process that may not raise its own standing with the kernel may not lower that of a sandbox.
    Ok(format!(
        r#"version = 2
root = "{own}/root"
state = "{own}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{own}/socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{own}/network"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{own}/hosts"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    ))
}

fn network_configuration(own: &Path) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": own.join("addresses"),
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}
