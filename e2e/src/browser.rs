//! A page as a browser has it: Chromium without a window, with nobody to talk to but the page's own server.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::process::directory;

/// Where this environment variable is set, a test that needs a browser fails if there is none; elsewhere it is ignored.
pub const REQUIRED: &str = "HARBOR_PILOT_REQUIRE_BROWSER";

const DEADLINE: Duration = Duration::from_secs(60);

/// What Chromium is called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// What Chromium does on its own, and is not to do here.
const QUIET: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--enable-logging=stderr",
];

/// A page that was opened.
#[derive(Debug)]
pub struct Page {
    /// The document once it was there, as HTML.
    pub dom: String,
    /// What was said on the console.
    pub console: Vec<String>,
    /// The addresses of all requests that the page made, the first of them its own. What the browser asks for itself is none.
    pub requests: Vec<String>,
}

/// Chromium, if it is installed.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name))).find(|file| file.is_file())
}

/// What a test that needs a browser lacks here.
#[must_use]
pub fn missing() -> Vec<String> {
    if find().is_some() { Vec::new() } else { vec!["no Chromium in PATH (apt-get install chromium)".to_owned()] }
}

/// Opens a page.
///
/// # Errors
/// When the browser cannot be started, or does not come to an end.
pub async fn open(browser: &PathBuf, url: &str) -> Result<Page> {
    let home = directory("harbor-pilot-e2e-browser-")?;
    let log = home.path().join("net.json");
    let mut command = Command::new(browser);
    command
        .args(QUIET)
        .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
        .arg(format!("--log-net-log={}", log.display()))
        .args(["--virtual-time-budget=3000", "--dump-dom", url])
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await.context("Chromium does not end")?;
    let output = output.context("start Chromium")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("Chromium failed ({}): {said}", output.status);
    }
    let console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    let requests = requests(&fs::read_to_string(&log).context("read what Chromium asked for")?, url)?;
    Ok(Page { dom: String::from_utf8_lossy(&output.stdout).into_owned(), console, requests })
}

/// The addresses in a log of the network that are the page's, or were asked for by a page.
fn requests(log: &str, page: &str) -> Result<Vec<String>> {
    // A browser that ends in haste leaves the end of the list out.
    let whole = serde_json::from_str::<Value>(log)
        .or_else(|_| serde_json::from_str(&format!("{}]}}", log.trim_end().trim_end_matches(','))));
    let whole = whole.context("the log of the network is no JSON")?;
    let events = whole.pointer("/events").and_then(Value::as_array).context("no events in the log of the network")?;
    let asked = events.iter().filter_map(|event| {
        let text = |pointer| event.pointer(pointer).and_then(Value::as_str);
        let by_page = text("/params/initiator").is_some_and(|initiator| initiator.starts_with("http"));
        text("/params/url").filter(|url| by_page || *url == page).map(str::to_owned)
    });
    let mut urls: Vec<String> = asked.collect();
    urls.sort();
    urls.dedup();
    Ok(urls)
}
