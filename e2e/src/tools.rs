//! The Go programs of the tests, built from the pinned modules under `tools/` and kept outside the tree.
//!
//! In: a [`Tool`]. Out: the path of its binary. The first build of a tool takes up to some minutes and says so; after
//! that the cache answers. A binary lies under a key made of everything that decides its content (the module's files,
//! the Go version and platform, the flags), so nothing in the cache is ever stale. One process builds while others
//! wait at a file lock, and a binary appears under its name only when it is whole.
//!
//! The cache is `$HARBOR_PILOT_TOOLS_CACHE`, else `$XDG_CACHE_HOME/harbor-pilot/tools`, else
//! `$HOME/.cache/harbor-pilot/tools`. It may be deleted at any time.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::{note, tail};

/// A build that takes longer has hung.
const BUILD_DEADLINE: Duration = Duration::from_secs(45 * 60);

/// How often a build says that it still runs.
const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// A program of one of the modules under `tools/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// The Kubernetes API server.
    KubeApiserver,
    /// The Kubernetes command line.
    Kubectl,
    /// What makes Pods of Deployments, EndpointSlices of Services, and default accounts.
    KubeControllerManager,
    /// What gives Pods a node.
    KubeScheduler,
    /// What runs the Pods of a node.
    Kubelet,
    /// What leads a Service's address to its Pods.
    KubeProxy,
    /// Makes and copies images without a container engine; a registry, too.
    Crane,
    /// The API server's store.
    Etcd,
    /// The judge of the differential test: `tools/reference/main.go`.
    Reference,
    /// The judges of the health test: `tools/health/main.go`.
    Health,
    /// The judge of alerts and dashboards: `tools/prometheus/main.go`.
    Prometheus,
    /// What installs the chart.
    Helm,
    /// What checks the workflows of GitHub Actions.
    Actionlint,
}

impl Tool {
    /// The path of the binary, built now if the cache has it not. Blocks, for minutes the first time.
    ///
    /// # Errors
    /// When Go is missing or too old, when the build fails, or when the cache cannot be written.
    pub fn path(self) -> Result<PathBuf> {
        self.path_in(&cache_directory()?)
    }

    /// As [`Tool::path`], with a cache of the caller's.
    ///
    /// # Errors
    /// Those of [`Tool::path`].
    pub fn path_in(self, cache: &Path) -> Result<PathBuf> {
        let Recipe { module, package, name } = self.recipe();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(module);
        let flags = self.flags(&source)?;
        let key = key(&source, package, &flags)?;

        let directory = cache.join(name);
        let binary = directory.join(&key).join(name);
        if binary.is_file() {
            return Ok(binary);
        }
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let _lock = lock(&directory.join("lock"), name)?;
        if !binary.is_file() {
            build(name, &source, package, &flags, &binary)?;
        }
        Ok(binary)
    }

    /// As [`Tool::path`], away from the threads of the async runtime.
    ///
    /// # Errors
    /// Those of [`Tool::path`].
    pub async fn path_async(self) -> Result<PathBuf> {
        tokio::task::spawn_blocking(move || self.path()).await.context("build a tool")?
    }

    fn recipe(self) -> Recipe {
        let (module, package, name) = match self {
            Self::KubeApiserver => ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
            Self::Kubectl => ("kubernetes", "k8s.io/kubernetes/cmd/kubectl", "kubectl"),
            Self::KubeControllerManager => {
                ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager")
            }
            Self::KubeScheduler => ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
            Self::Kubelet => ("kubernetes", "k8s.io/kubernetes/cmd/kubelet", "kubelet"),
            Self::KubeProxy => ("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
            Self::Crane => ("crane", "github.com/google/go-containerregistry/cmd/crane", "crane"),
            Self::Etcd => ("etcd", "go.etcd.io/etcd/server/v3", "etcd"),
            Self::Reference => ("reference", ".", "reference"),
            Self::Health => ("health", ".", "health"),
            Self::Prometheus => ("prometheus", ".", "prometheus"),
            Self::Helm => ("helm", "helm.sh/helm/v3/cmd/helm", "helm"),
            Self::Actionlint => ("actionlint", "github.com/rhysd/actionlint/cmd/actionlint", "actionlint"),
        };
        Recipe { module, package, name }
    }

    fn flags(self, source: &Path) -> Result<Vec<String>> {
        let mut flags = vec!["-trimpath".to_owned(), "-buildvcs=false".to_owned()];
        let stamp = match self {
            Self::KubeApiserver
            | Self::Kubectl
            | Self::KubeControllerManager
            | Self::KubeScheduler
            | Self::Kubelet
            | Self::KubeProxy => kubernetes_stamp(source)?,
            Self::Actionlint
            | Self::Crane
            | Self::Etcd
            | Self::Helm
            | Self::Reference
            | Self::Health
            | Self::Prometheus => String::new(),
        };
        flags.push(format!("-ldflags=-s -w{stamp}"));
        Ok(flags)
    }
}

/// Where a tool comes from: the folder under `tools/`, the Go package, the name of the binary.
struct Recipe {
    module: &'static str,
    package: &'static str,
    name: &'static str,
}

/// Linker flags that tell a Kubernetes binary its version. Without them it reports one that clients cannot parse.
fn kubernetes_stamp(source: &Path) -> Result<String> {
    let file = source.join("go.mod");
    let go_mod = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let version = go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")?.split_whitespace().next())
        .with_context(|| format!("{} does not require k8s.io/kubernetes", file.display()))?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("{} requires k8s.io/kubernetes {version}, which is no version", file.display());
    };
    let values = [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")];
    let mut stamp = String::new();
    for (name, value) in values {
        write!(stamp, " -X k8s.io/component-base/version.{name}={value}")?;
    }
    Ok(stamp)
}

/// A name for what a build would yield.
fn key(source: &Path, package: &str, flags: &[String]) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    add(&go_environment(source)?);
    add(package.as_bytes());
    for flag in flags {
        add(flag.as_bytes());
    }
    let mut files = fs::read_dir(source)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("list {}", source.display()))?;
    files.sort();
    for file in files {
        add(file.file_name().unwrap_or_default().as_encoded_bytes());
        add(&fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    let mut key = String::new();
    for byte in hash.finalize().iter().take(8) {
        write!(key, "{byte:02x}")?;
    }
    Ok(key)
}

/// The Go version and platform that would build `source`.
fn go_environment(source: &Path) -> Result<Vec<u8>> {
    let output = go(source)
        .args(["env", "GOVERSION", "GOOS", "GOARCH"])
        .output()
        .context("cannot run `go`: the end-to-end tests build etcd and Kubernetes; install Go 1.26 or newer (https://go.dev/dl) and put it in PATH")?;
    if !output.status.success() {
        bail!(
            "`go env` failed; the tools need Go 1.26 or newer (https://go.dev/dl): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// Where the sources of a module lie that a folder under `tools/` pins, downloaded now if they are not there. Blocks.
///
/// # Errors
/// When Go is missing, or the module cannot be had.
pub fn module_sources(folder: &str, module: &str) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Module {
        dir: Option<PathBuf>,
        error: Option<String>,
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(folder);
    let output = go(&source).args(["mod", "download", "-json", module]).output().context("cannot run `go`")?;
    let stderr = || String::from_utf8_lossy(&output.stderr).into_owned();
    let found: Module =
        serde_json::from_slice(&output.stdout).with_context(|| format!("download {module}: {}", stderr()))?;
    found.dir.with_context(|| format!("download {module}: {}", found.error.unwrap_or_else(stderr)))
}

fn go(source: &Path) -> Command {
    let mut command = Command::new("go");
    // A static binary needs no C compiler. A workspace file or an edited go.mod of the developer has no say.
    command.current_dir(source).env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "-mod=readonly");
    command
}

fn cache_directory() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = set("HARBOR_PILOT_TOOLS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("harbor-pilot/tools")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/harbor-pilot/tools")))
        .context("nowhere to keep built tools: set HARBOR_PILOT_TOOLS_CACHE to a directory")?;
    std::path::absolute(directory).context("make the tools cache an absolute path")
}

/// Holds the lock until dropped.
fn lock(path: &Path, name: &str) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            note(&format!("waiting for another process that builds {name}"));
            file.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", path.display()));
        }
    }
    Ok(file)
}

fn build(name: &str, source: &Path, package: &str, flags: &[String], binary: &Path) -> Result<()> {
    let target = binary.parent().context("the cache has no directory")?;
    fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(target)
        .with_context(|| format!("create a directory in {}", target.display()))?;
    let fresh = scratch.path().join(name);
    let log = scratch.path().join("log");

    note(&format!("building {name}; once, up to a few minutes"));
    let started = Instant::now();
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut child = go(source)
        .arg("build")
        .args(flags)
        .arg("-o")
        .arg(&fresh)
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .context("start `go build`")?;
    let mut next_note = PROGRESS_EVERY;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for `go build`")? {
            break status;
        }
        if started.elapsed() > BUILD_DEADLINE {
            drop(child.kill());
            drop(child.wait());
            bail!("`go build` of {name} has not ended in {BUILD_DEADLINE:?}");
        }
        if started.elapsed() > next_note {
            note(&format!("still building {name} ({} s)", started.elapsed().as_secs()));
            next_note += PROGRESS_EVERY;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        bail!(
            "`go build` of {name} failed ({status}); the first build fetches modules and needs the network\n{}",
            tail("go build", &text)
        );
    }
    fs::rename(&fresh, binary).with_context(|| format!("move {name} to {}", binary.display()))?;
    note(&format!("built {name} in {} s", started.elapsed().as_secs()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_many_ask_for_is_built_once_and_leaves_no_scraps() {
        let cache = tempfile::tempdir().unwrap();
        let ask = || Tool::Reference.path_in(cache.path()).unwrap();
        let answers: Vec<PathBuf> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect()
        });
        let first = answers[0].clone();
        assert!(answers.iter().all(|answer| *answer == first), "{answers:?}");
        let built = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(ask(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), built, "built again");
        assert_eq!(fs::read_dir(first.parent().unwrap()).unwrap().count(), 1, "only the binary is left");
    }

    #[test]
    fn what_decides_a_binary_decides_its_key() {
        let source = tempfile::tempdir().unwrap();
        let go_mod = "module example.test\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/kubernetes v1.36.3\n)\n";
        fs::write(source.path().join("go.mod"), go_mod).unwrap();
        let flags = Tool::Kubectl.flags(source.path()).unwrap();
        assert!(flags.iter().any(|flag| flag.contains("gitVersion=v1.36.3 ") && flag.contains("gitMinor=36 ")));

        let key = |package: &str, flags: &[String]| key(source.path(), package, flags).unwrap();
        let before = key("a", &flags);
        assert_eq!(before, key("a", &flags));
        assert_ne!(before, key("b", &flags));
        assert_ne!(before, key("a", &[]));
        fs::write(source.path().join("go.sum"), "").unwrap();
        assert_ne!(before, key("a", &flags));
    }
}
