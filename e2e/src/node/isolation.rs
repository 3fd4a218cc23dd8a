//! Namespaces for a node: the test starts itself again where the network, the mounts and the process ids are its own.
//!
//! In: the name of a test. Out: that it passed inside, or that this machine cannot have a node.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::program;
use crate::process::{Process, Watchdog, directory, note};

/// Set inside: the directory of everything that belongs to the node.
const INSIDE: &str = "HARBOR_PILOT_NODE_DIRECTORY";

/// Where this environment variable is set, a test that needs a node fails if the machine cannot have one; elsewhere it is ignored.
pub const REQUIRED: &str = "HARBOR_PILOT_REQUIRE_NODE";

/// What the node needs of the machine, and the package of Debian that has it.
const PROGRAMS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("unshare", "util-linux"),
    ("busybox", "busybox-static"),
];

/// Where the plugins of the container network lie: in Debian's package, and elsewhere.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP_PREFIX: &str = "harbor-pilot-e2e-";

/// Process 1 of the namespaces. It is a shell, for it has to reap what shims leave behind.
///
/// The address is on an interface that leads nowhere. The default route is for the addresses of Services: a packet needs a
/// way before kube-proxy's rules send it elsewhere.
const INIT: &str = r#"set -e
mount --make-rprivate /
mount -t proc proc /proc
for place in /run /var/log /var/lib/cni; do mkdir -p "$place"; mount -t tmpfs tmpfs "$place"; done
mount --make-rshared /
mkdir -p /run/lock
ip link set lo up
ip link add node0 type veth peer name node1
ip address add 10.200.0.1/24 dev node0
ip link set node0 up
ip link set node1 up
ip route add default via 10.200.0.2 dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
set +e
"$@"
exit $?"#;

/// Where this process is.
pub enum Place {
    /// In namespaces of its own; the directory is the node's.
    Inside(PathBuf),
    /// On the machine.
    Outside,
}

impl Place {
    /// Where this process is.
    #[must_use]
    pub fn here() -> Self {
        env::var_os(INSIDE).map_or(Self::Outside, |directory| Self::Inside(directory.into()))
    }
}

/// Runs the test `name` of this binary again, inside, and waits for it. `prepare` gets the node's directory first, on the machine:
/// inside there is no way out to the network.
///
/// # Errors
/// When `prepare` fails, or the test fails inside or takes longer than `deadline`.
pub fn enter(name: &str, deadline: Duration, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    sweep();
    let directory = directory("harbor-pilot-e2e-node-")?;
    prepare(directory.path())?;
    let mut watchdog = Watchdog::start(directory.path())?;
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c", INIT, "node"])
        .arg(env::current_exe().context("find this test binary")?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("PATH", format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default()))
        .env(INSIDE, directory.path());
    let log = directory.path().join("inside.log");
    let mut inside = Process::spawn("the node's namespaces", &mut command, &log)?;
    watchdog.watch(&inside)?;
    let (started, mut reported) = (Instant::now(), 0);
    let status = loop {
        let status = inside.exited()?;
        reported = report(&inside.log(), reported);
        if let Some(status) = status {
            break status;
        }
        if started.elapsed() > deadline {
            bail!("{name} has not ended in {deadline:?}\n{}", inside.log());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let log = inside.log();
    drop(inside);
    sweep();
    if !status.success() {
        bail!("{name} failed ({status})\n{log}");
    }
    Ok(())
}

/// Says something that the outside passes on at once.
pub fn say(text: &str) {
    note(text);
}

/// A group of control groups for the node of this process.
///
/// # Errors
/// When there are no control groups to write to.
pub(super) fn control_group(directory: &Path) -> Result<String> {
    let own = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = format!("{CGROUP_PREFIX}{}", own.rsplit('-').next().unwrap_or_default());
    for hierarchy in hierarchies() {
        let group = hierarchy.join(&name);
        fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
        // A group of cpuset takes no process before it has processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(text) = fs::read_to_string(hierarchy.join(file)) {
                drop(fs::write(group.join(file), text));
            }
        }
    }
    Ok(name)
}

/// The directory of network plugins.
///
/// # Errors
/// When there is none.
pub(super) fn plugins() -> Result<&'static Path> {
    let found = PLUGINS.iter().map(Path::new).find(|path| path.join("ptp").is_file());
    found.context("no network plugins")
}

/// What a test that needs a node lacks here.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root is needed".to_owned());
    }
    for (name, package) in PROGRAMS {
        if program(name).is_none() {
            missing.push(format!("{name} is missing (apt-get install {package})"));
        }
    }
    if plugins().is_err() {
        missing.push("network plugins are missing (apt-get install containernetworking-plugins)".to_owned());
    }
    missing
}

/// Passes on the lines that a person wants to see while it lasts; returns how much of the log that was.
fn report(log: &str, reported: usize) -> usize {
    let new = log.get(reported..).unwrap_or_default();
    let whole = new.rfind('\n').map_or(0, |end| end + 1);
    for line in new.get(..whole).unwrap_or_default().lines() {
        if let Some(text) = line.strip_prefix("harbor-pilot-e2e: ") {
            note(text);
        }
    }
    reported + whole
}

/// Removes the control groups of nodes that are gone. Those in which processes live refuse.
fn sweep() {
    for hierarchy in hierarchies() {
        for group in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().starts_with(CGROUP_PREFIX) {
                remove(&group.path());
            }
        }
    }
}

fn remove(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&below.path());
        }
    }
    drop(fs::remove_dir(group));
}

/// Each hierarchy of control groups: one of version 2, or several of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").is_file() {
        return vec![root.to_owned()];
    }
    let below = fs::read_dir(root).into_iter().flatten().flatten();
    below.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}
