//! The programs of Kubernetes beside the API server, as the administrator's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{ADDRESS, NAME, PODS, command, containerd, isolation};
use crate::control_plane::{ControlPlane, flag};
use crate::process::Process;
use crate::tools::Tool;

/// Scheduler and controller manager.
pub(super) async fn control(plane: &ControlPlane, root: &Path) -> Result<Vec<Process>> {
    let kubeconfig = flag("kubeconfig", plane.kubeconfig_path().display());
    let mut manager = Command::new(Tool::KubeControllerManager.path_async().await?);
    manager
        .arg(&kubeconfig)
        .arg(flag("leader-elect", false))
        .arg(flag("root-ca-file", plane.authority_path().display()))
        .arg(flag("service-account-private-key-file", plane.service_account_key_path().display()))
        .arg(flag("cert-dir", root.join("kube-controller-manager").display()));
    let mut scheduler = Command::new(Tool::KubeScheduler.path_async().await?);
    scheduler
        .arg(&kubeconfig)
        .arg(flag("leader-elect", false))
        .arg(flag("cert-dir", root.join("kube-scheduler").display()));
    Ok(vec![
        Process::spawn("kube-controller-manager", &mut manager, &root.join("kube-controller-manager.log"))?,
        Process::spawn("kube-scheduler", &mut scheduler, &root.join("kube-scheduler.log"))?,
    ])
}

/// Kubelet and kube-proxy.
pub(super) async fn node(plane: &ControlPlane, root: &Path) -> Result<Vec<Process>> {
    let kubeconfig = plane.kubeconfig_path();
    let own = root.join("kubelet");
    fs::create_dir_all(&own).context("create the kubelet's directory")?;
    let configuration = kubelet_configuration(plane, root, &own)?;
    let file = put(&root.join("kubelet.json"), &configuration)?;
    let mut kubelet = command(&Tool::Kubelet.path_async().await?);
    kubelet
        .arg(flag("config", file.display()))
        .arg(flag("kubeconfig", kubeconfig.display()))
        .arg(flag("root-dir", own.display()))
        .arg(flag("cert-dir", own.join("pki").display()))
        .arg(flag("hostname-override", NAME))
        .arg(flag("node-ip", ADDRESS));
    let file = put(&root.join("kube-proxy.json"), &proxy_configuration(kubeconfig))?;
    let mut proxy = command(&Tool::KubeProxy.path_async().await?);
    proxy.arg(flag("config", file.display())).arg(flag("hostname-override", NAME));
    Ok(vec![
        Process::spawn("kubelet", &mut kubelet, &root.join("kubelet.log"))?,
        Process::spawn("kube-proxy", &mut proxy, &root.join("kube-proxy.log"))?,
    ])
}

fn kubelet_configuration(plane: &ControlPlane, root: &Path, own: &Path) -> Result<Value> {
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": plane.authority_path()},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{}", containerd::socket(root).display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", isolation::control_group(root)?),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        // The machine's disk may be fuller than a node's should be.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "50Mi", "imagefs.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "oomScoreAdj": 0,
        "podLogsDir": own.join("logs"),
        "volumePluginDir": own.join("plugins"),
        // There is no name server.
        "resolvConf": "",
        "serializeImagePulls": false,
        "syncFrequency": "10s",
        "cpuManagerPolicy": "none",
    }))
}

fn proxy_configuration(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "mode": "iptables",
        "clusterCIDR": PODS,
        "oomScoreAdj": 0,
        // These belong to the machine, not to a network namespace.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

fn put(path: &Path, value: &Value) -> Result<PathBuf> {
    fs::write(path, value.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(path.to_owned())
}
