//! The real `harbor-pilot` binary as a process of its own, to be watched, killed and restarted.
//!
//! In: arguments and environment. Out: a [`Pilot`] with a log. The binary is built once for each test process, with the
//! profile and in the target directory of the tests themselves.

use std::env;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::process::{Process, Watchdog, directory, note};

/// A running `harbor-pilot`. Dropping it kills it.
pub struct Pilot {
    process: Process,
    _watchdog: Watchdog,
    _directory: TempDir,
}

impl Pilot {
    /// Starts `harbor-pilot` with `arguments`. Variables of `environment` come on top of those of the test.
    ///
    /// # Errors
    /// When the binary cannot be built or started. That it ends at once is no error here: see
    /// [`Pilot::wait_for_line`].
    pub async fn spawn(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let program = binary().await?;
        let directory = directory("harbor-pilot-e2e-pilot-")?;
        let mut watchdog = Watchdog::start(directory.path())?;
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().copied());
        let process = Process::spawn("harbor-pilot", &mut command, &directory.path().join("log"))?;
        watchdog.watch(&process)?;
        Ok(Self { process, _watchdog: watchdog, _directory: directory })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills with SIGKILL, as a node that fails would, and reaps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// Halts it with SIGSTOP: it keeps what it knows, and hears of nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn halt(&mut self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on after [`Pilot::halt`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn go_on(&mut self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Asks to end, with SIGTERM, as the kubelet does; returns at once. See [`Pilot::wait`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When it still runs after `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait(deadline).await
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_none())
    }

    /// Everything written to standard output and standard error so far.
    #[must_use]
    pub fn logs(&self) -> String {
        self.process.log()
    }

    /// Waits for the first whole line that contains `text`, and returns it.
    ///
    /// # Errors
    /// When the process ends without it or `deadline` passes; the message carries the tail of the log.
    pub async fn wait_for_line(&mut self, text: &str, deadline: Duration) -> Result<String> {
        self.process.wait_for_line(text, deadline).await
    }
}

/// Resident memory of a process, in MiB.
///
/// # Errors
/// When there is no such process.
pub fn resident(process: u32) -> Result<f64> {
    let file = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
    Ok(kibibytes / 1024.0)
}

/// The path of the `harbor-pilot` binary, built now if it is out of date. The first call takes as long as the build.
///
/// # Errors
/// When the build fails.
pub async fn binary() -> Result<&'static Path> {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    let build = || async { tokio::task::spawn_blocking(build).await.context("build harbor-pilot")? };
    Ok(BINARY.get_or_try_init(build).await?.as_path())
}

fn build() -> Result<PathBuf> {
    let Build { target_directory, triple, profile } = Build::of_this_test()?;
    note("making sure that harbor-pilot is built");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["build", "--quiet", "-p", "harbor-pilot", "--bin", "harbor-pilot"])
        .args(["--message-format", "json-render-diagnostics", "--profile", &profile])
        .arg("--target-dir")
        .arg(&target_directory);
    if let Some(triple) = triple {
        cargo.args(["--target", &triple]);
    }
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("run cargo to build harbor-pilot")?;
    if !output.status.success() {
        bail!("cargo could not build harbor-pilot ({}); see above", output.status);
    }
    executable(&output.stdout).context("cargo built harbor-pilot and did not say where")
}

/// The last executable that cargo's messages (one JSON object a line) name.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    messages
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .last()
}

/// How this test binary was built: `TARGET[/TRIPLE]/PROFILE/deps/NAME`.
struct Build {
    target_directory: PathBuf,
    triple: Option<String>,
    profile: String,
}

impl Build {
    fn of_this_test() -> Result<Self> {
        let test = env::current_exe().context("find this test binary")?;
        let strange = || format!("{} does not lie in a target directory of cargo", test.display());
        let profile_directory = test
            .ancestors()
            .find(|path| path.ends_with("deps") || path.ends_with("examples"))
            .and_then(Path::parent)
            .with_context(strange)?;
        let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let profile = match name(profile_directory).with_context(strange)?.as_str() {
            "debug" => "dev".to_owned(),
            other => other.to_owned(),
        };
        let above = profile_directory.parent().with_context(strange)?;
        // Cargo marks the root of a target directory; a folder without the mark is that of a target triple.
        if above.join("CACHEDIR.TAG").is_file() {
            return Ok(Self { target_directory: above.to_owned(), triple: None, profile });
        }
        let target_directory = above.parent().with_context(strange)?.to_owned();
        Ok(Self { target_directory, triple: name(above), profile })
    }
}
