//! Child processes that log to a file and do not outlive their owner.
//!
//! In: a command. Out: a [`Process`] that is killed when dropped, and a [`Watchdog`] for the ends that run no `Drop`: a
//! killed test process, an abort, a value in a `static`.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

/// How often waits look again.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// Lines of a log that an error message carries.
const TAIL_LINES: usize = 40;

/// A running child, in a process group of its own (a Ctrl-C at the terminal does not reach it), with standard output
/// and standard error in one file. Dropping it kills it with SIGKILL and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `log`, which is created or emptied. The test's own
    /// proxy variables do not reach the child: all it talks to is on loopback.
    ///
    /// # Errors
    /// When the log cannot be created or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        without_proxies(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log file")?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id. It stays this child's until it is waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look after {}", self.name))
    }

    /// Sends a signal. To a process that has ended it does nothing.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Kills with SIGKILL and reaps. To a process that has ended it does nothing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("reap {}", self.name))
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it still runs after `deadline`; the message carries the tail of the log.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} still runs after {deadline:?}\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for the first whole line of output that contains `text`, and returns it.
    ///
    /// # Errors
    /// When the process ends without it or `deadline` passes; the message carries the tail of the log.
    pub async fn wait_for_line(&mut self, text: &str, deadline: Duration) -> Result<String> {
        let end = Instant::now() + deadline;
        loop {
            // Asked before the log is read, so that the last words of a process that ends are not missed.
            let exited = self.exited()?;
            let log = self.log();
            let whole = log.split_inclusive('\n').filter(|line| exited.is_some() || line.ends_with('\n'));
            if let Some(line) = whole.map(str::trim_end).find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = exited {
                bail!("{} ended ({status}) and never said {text:?}\n{}", self.name, self.log_tail());
            }
            if Instant::now() >= end {
                bail!("{} has not said {text:?} in {deadline:?}\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Everything logged so far; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log under a heading, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.name, &self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

/// A shell that sleeps until this process ends, in whatever way, and then kills what it was told of and removes the
/// directory it was given. Dropped, it does nothing more.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
}

impl Watchdog {
    // End of file on standard input means that the owner is gone.
    const SCRIPT: &'static str = r#"pids=
while read -r pid; do pids="$pids $pid"; done
[ -z "$pids" ] || kill -9 $pids 2>/dev/null
[ -z "$1" ] || rm -rf -- "$1""#;

    /// Starts a watchdog that removes `directory` in the end, unless [`keep_directories`].
    ///
    /// # Errors
    /// When `sh` cannot be started.
    pub fn start(directory: &Path) -> Result<Self> {
        let remove = if keep_directories() { Path::new("") } else { directory };
        let shell = Command::new("sh")
            .args(["-c", Self::SCRIPT, "harbor-pilot-e2e-watchdog"])
            .arg(remove)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start sh as a watchdog")?;
        Ok(Self { shell })
    }

    /// Adds a process.
    ///
    /// # Errors
    /// When the watchdog is gone.
    pub fn watch(&mut self, process: &Process) -> Result<()> {
        let stdin = self.shell.stdin.as_mut().context("the watchdog has no standard input")?;
        writeln!(stdin, "{}", process.id()).context("tell the watchdog of a process")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

/// A temporary directory, kept in the end where [`keep_directories`] says so.
///
/// # Errors
/// When it cannot be created.
pub(crate) fn directory(prefix: &str) -> Result<tempfile::TempDir> {
    let mut directory = tempfile::Builder::new().prefix(prefix).tempdir().context("create a temporary directory")?;
    if keep_directories() {
        directory.disable_cleanup(true);
        note(&format!("keeping {}", directory.path().display()));
    }
    Ok(directory)
}

/// Whether `HARBOR_PILOT_E2E_KEEP` asks to leave directories and logs for a look.
#[must_use]
pub fn keep_directories() -> bool {
    std::env::var_os("HARBOR_PILOT_E2E_KEEP").is_some()
}

/// Loopback ports that were free a moment ago, all different. Somebody may take one before it is used: callers try
/// again with new ones.
///
/// # Errors
/// When the kernel has none.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
        *port = listener.local_addr().context("read the port")?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Says something at once, past the output capture of the test runner: what takes minutes must not look hung.
pub(crate) fn note(text: &str) {
    // Nothing can be done where standard error is closed.
    drop(writeln!(std::io::stderr(), "harbor-pilot-e2e: {text}"));
}

/// The last lines of `text` under a heading.
pub(crate) fn tail(name: &str, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    format!("--- last lines of {name} ---\n{}", last.join("\n"))
}

/// Keeps the test's own proxy settings from a child. What the caller has set for the child stays.
pub(crate) fn without_proxies(command: &mut Command) {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        if !command.get_envs().any(|(set, _)| set == name) {
            command.env_remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str, directory: &Path) -> Process {
        Process::spawn("shell", Command::new("sh").args(["-c", script]), &directory.join("log")).unwrap()
    }

    #[tokio::test]
    async fn a_line_is_found_and_a_signal_is_obeyed() {
        let directory = tempfile::tempdir().unwrap();
        let script = "trap 'echo leaving; exit 3' TERM; echo ready at last; while :; do sleep 0.05; done";
        let mut process = shell(script, directory.path());
        assert_eq!(process.wait_for_line("ready", SOON).await.unwrap(), "ready at last");
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait(SOON).await.unwrap().code(), Some(3));
        assert_eq!(process.wait_for_line("leaving", SOON).await.unwrap(), "leaving");
        process.signal(Signal::TERM).unwrap(); // to nobody, least of all to a stranger with the same id
    }

    #[tokio::test]
    async fn waiting_for_a_line_ends_with_the_process_and_shows_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell("echo no such file >&2; exit 7", directory.path());
        let error = process.wait_for_line("ready", SOON).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("no such file"), "{error}");
    }

    #[tokio::test]
    async fn a_deadline_ends_the_wait_for_a_process_that_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell("exec sleep 600", directory.path());
        let short = Duration::from_millis(200);
        assert!(process.wait_for_line("ready", short).await.is_err());
        assert!(process.wait(short).await.is_err());
        assert!(process.exited().unwrap().is_none(), "the wait must not have harmed it");
    }

    #[tokio::test]
    async fn a_watchdog_whose_owner_dies_kills_and_cleans_up() {
        let directory = tempfile::tempdir().unwrap();
        let watched = directory.path().join("watched");
        fs::create_dir(&watched).unwrap();
        let mut process = shell("exec sleep 600", directory.path());
        let mut watchdog = Watchdog::start(&watched).unwrap();
        watchdog.watch(&process).unwrap();

        // What the kernel does to the pipe of a process that was killed.
        drop(watchdog.shell.stdin.take());
        assert_eq!(process.wait(SOON).await.unwrap().code(), None, "killed by a signal");
        watchdog.shell.wait().unwrap();
        assert!(!watched.exists() || keep_directories());
    }

    #[test]
    fn watchdog_that_is_dropped_kills_no_other_process() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = shell("exec sleep 600", directory.path());
        let mut watchdog = Watchdog::start(directory.path()).unwrap();
        watchdog.watch(&process).unwrap();
        drop(watchdog);
        assert!(process.exited().unwrap().is_none());
        assert!(directory.path().exists());
    }
}
