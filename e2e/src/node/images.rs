//! Images without a container engine, and a registry that serves them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::{Host, program};
use crate::process::{Process, without_proxies};
use crate::tools::Tool;

/// Under this name the node finds the [`Registry`].
pub const HOST: &str = "images.test";

/// What the script needs, and where it comes from.
const NEEDED: [(&str, &[&str], &str); 2] = [
    ("musl-gcc", &["--version"], "apt-get install musl-tools"),
    ("cargo", &["cyclonedx", "--version"], "cargo install cargo-cyclonedx --locked"),
];
const TARGET: &str = "x86_64-unknown-linux-musl";

/// What holds the namespaces of a Pod.
pub(super) const PAUSE: &str = "images.test/pause:1";

/// A registry on a loopback port. Dropping it stops it.
pub struct Registry {
    address: String,
    scratch: PathBuf,
    _process: Process,
}

impl Registry {
    pub(super) async fn start(root: &Path) -> Result<Self> {
        let scratch = root.join("images");
        let blobs = scratch.join("blobs");
        fs::create_dir_all(&blobs).context("create a directory of images")?;
        let mut command = Command::new(Tool::Crane.path_async().await?);
        command.args(["registry", "serve", "--address", "127.0.0.1:0", "--disk"]).arg(blobs);
        let mut process = Process::spawn("registry", &mut command, &root.join("registry.log"))?;
        let line = process.wait_for_line("serving on", std::time::Duration::from_secs(20)).await?;
        let port = line.rsplit(' ').next().unwrap_or_default();
        Ok(Self { address: format!("127.0.0.1:{port}"), scratch, _process: process })
    }

    /// Where the node's runtime finds it.
    #[must_use]
    pub fn host(&self) -> Host {
        Host { name: HOST.to_owned(), url: format!("http://{}", self.address) }
    }

    /// Pushes the images of an OCI layout, with their index, as `HOST/name`.
    ///
    /// # Errors
    /// When there is none, or the registry does not take it.
    pub async fn push_layout(&self, layout: &Path, name: &str) -> Result<()> {
        let layout = layout.display().to_string();
        crane(&["push", &layout, &format!("{}/{name}", self.address)]).await.map(drop)
    }

    /// Makes an image of busybox as `docker.io/library/busybox` has it, with an index of two platforms, and pushes it to `to`
    /// (`ADDRESS:PORT/library/busybox:1`).
    ///
    /// # Errors
    /// When busybox is missing, or the registry does not take it.
    pub async fn push_busybox(&self, to: &str) -> Result<()> {
        let layer = self.busybox_layer("busybox").await?;
        let own = format!("{}/busybox", self.address);
        let (amd64, arm64) = (format!("{own}:amd64"), format!("{own}:arm64"));
        for (image, platform) in [(&amd64, "linux/amd64"), (&arm64, "linux/arm64")] {
            crane(&["append", "--oci-empty-base", "--new_layer", &layer, "--new_tag", image]).await?;
            crane(&["mutate", image, "--tag", image, "--set-platform", platform, "--cmd", "sh"]).await?;
        }
        crane(&["index", "append", "--manifest", &amd64, "--manifest", &arm64, "--tag", &own]).await?;
        crane(&["copy", &own, to]).await.map(drop)
    }

    /// A tar archive with busybox, the commands that tests use, and a name: of two images that have one layer in common, the node
    /// pulls it once.
    async fn busybox_layer(&self, name: &str) -> Result<String> {
        let (archive, directory) = (self.scratch.join(format!("{name}.tar")), self.scratch.join(name));
        if !archive.is_file() {
            let bin = directory.join("bin");
            fs::create_dir_all(&bin).context("create a directory for busybox")?;
            let busybox = program("busybox").context("busybox is missing (apt-get install busybox-static)")?;
            fs::copy(busybox, bin.join("busybox")).context("copy busybox")?;
            for command in ["sh", "sleep", "wget", "echo"] {
                symlink("busybox", bin.join(command)).context("link busybox")?;
            }
            fs::write(directory.join("name"), name).context("write the name")?;
            let mut tar = Command::new("tar");
            tar.arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&directory).args(["bin", "name"]);
            run(tar).await?;
        }
        Ok(archive.display().to_string())
    }
}

pub(super) async fn push_pause(registry: &Registry) -> Result<()> {
    let layer = registry.busybox_layer("pause").await?;
    let own = PAUSE.replace(HOST, &registry.address);
    crane(&["append", "--oci-empty-base", "--new_layer", &layer, "--new_tag", &own]).await?;
    let entry = "/bin/sleep,2147483647";
    crane(&["mutate", &own, "--tag", &own, "--set-platform", "linux/amd64", "--entrypoint", entry]).await.map(drop)
}

/// What a test that builds the product's image lacks here.
#[must_use]
pub fn missing() -> Vec<String> {
    let runs = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let mut missing = Vec::new();
    for (program, arguments, from) in NEEDED {
        if !runs(program, arguments) {
            missing.push(format!("{program} {} fails ({from})", arguments.join(" ")));
        }
    }
    let targets = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let library = targets.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    if !library.is_ok_and(|library| library.is_dir()) {
        missing.push(format!("Rust has no {TARGET} (rustup target add {TARGET})"));
    }
    missing
}

/// Makes the product's image with the script, in the profile of tests, into `output`. One at a time: cargo locks, and the bill of
/// materials goes through the tree.
///
/// # Errors
/// When the script fails.
pub fn build_product(output: &Path) -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/build.sh");
    let reported = Command::new(&script)
        .args(["--profile", "dev", "--output"])
        .arg(output)
        .output()
        .with_context(|| format!("run {}", script.display()))?;
    if !reported.status.success() {
        bail!("{}: {}", script.display(), String::from_utf8_lossy(&reported.stderr));
    }
    Ok(())
}

/// Runs crane, and returns what it says.
async fn crane(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(Tool::Crane.path_async().await?);
    command.args(arguments);
    run(command).await
}

async fn run(mut command: Command) -> Result<String> {
    without_proxies(&mut command);
    let shown = format!("{command:?}");
    let output = tokio::process::Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), output)
        .await
        .with_context(|| format!("{shown} does not end"))?
        .with_context(|| format!("run {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
