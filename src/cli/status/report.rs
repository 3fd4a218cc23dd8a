//! The state of a cluster as text, and as JSON. Pure.

use std::{collections::BTreeMap, fmt::Write};

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::api::condition;
use crate::cli::text::{columns, printable, short_image, size, time};

/// The state of a cluster. Its fields stay as they are: others may be added.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether everything is Ready, and all could be read.
    pub(super) ready: bool,
    pub(super) instances: List<Instance>,
    pub(super) registries: List<Registered>,
    pub(super) proxy_projects: List<Project>,
    pub(super) replication_rules: List<Replication>,
    pub(super) policies: List<Policy>,
    pub(super) images: Images,
    /// What is not Ready, newest first; `total` counts no conflicts and blocked deletions, which are listed, too.
    pub(super) not_ready: List<Trouble>,
    pub(super) unreadable: Vec<Unreadable>,
}

/// The first resources of a kind, and how many there are.
#[derive(Debug, Serialize)]
pub(super) struct List<T> {
    pub(super) total: usize,
    pub(super) items: Vec<T>,
}

/// What all kinds tell.
#[derive(Debug, Serialize)]
pub(super) struct State {
    pub(super) name: String,
    /// `True`, `False` or `Unknown`.
    pub(super) ready: String,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    #[serde(flatten)]
    pub(super) state: State,
    pub(super) version: Option<String>,
    pub(super) url: String,
    pub(super) pull_host: String,
    pub(super) unhealthy_components: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Registered {
    #[serde(flatten)]
    pub(super) state: State,
    #[serde(rename = "type")]
    pub(super) type_: String,
    pub(super) url: String,
    pub(super) harbor: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Project {
    #[serde(flatten)]
    pub(super) state: State,
    /// Whether its rule is followed at admission.
    pub(super) in_force: bool,
    pub(super) matches: Vec<String>,
    pub(super) target: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) when_unavailable: Option<String>,
    pub(super) prewarm: String,
    pub(super) harbor: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replication {
    #[serde(flatten)]
    pub(super) state: State,
    pub(super) direction: &'static str,
    pub(super) registry: String,
    pub(super) trigger: Option<String>,
    pub(super) enabled: Option<bool>,
    pub(super) held_back: usize,
    pub(super) last_execution: Option<Execution>,
}

#[derive(Debug, Serialize)]
pub(super) struct Execution {
    pub(super) status: String,
    pub(super) trigger: String,
    pub(super) started: Option<String>,
    pub(super) total: i64,
    pub(super) succeeded: i64,
    pub(super) failed: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) action: String,
    pub(super) allowed: Vec<String>,
    pub(super) require_digest: bool,
    pub(super) forbid_latest: bool,
}

/// CachedImages, counted.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Images {
    pub(super) total: usize,
    pub(super) ready: usize,
    /// Nobody has looked at them yet.
    pub(super) pending: usize,
    pub(super) warming: usize,
    pub(super) verifying: usize,
    pub(super) failed: usize,
    pub(super) failed_by_reason: BTreeMap<String, usize>,
    /// What Harbor has stored of them.
    pub(super) bytes: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Serialize)]
pub(super) struct Trouble {
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    pub(super) condition: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) since: Option<Timestamp>,
    /// Whether it stays so until a person acts.
    pub(super) stalled: bool,
}

/// A kind that could not be read.
#[derive(Debug, Serialize)]
pub(super) struct Unreadable {
    pub(super) what: String,
    pub(super) why: String,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { total: 0, items: Vec::new() }
    }
}

impl<T> List<T> {
    /// Counts one more, and keeps it if there is room.
    pub(super) fn add(&mut self, item: T, limit: usize) {
        self.total += 1;
        if self.items.len() < limit {
            self.items.push(item);
        }
    }
}

impl Report {
    /// Tables, and what is not Ready. `now` makes ages of times.
    pub(super) fn text(&self, now: Timestamp) -> String {
        let mut text = String::new();
        let state = |state: &State| {
            let State { name, ready, reason } = state;
            (name.clone(), ready.clone(), reason.clone().unwrap_or_default())
        };
        table(&mut text, &self.instances, ["INSTANCE", "READY", "REASON", "VERSION", "URL", "UNHEALTHY"], |line| {
            let (name, ready, reason) = state(&line.state);
            let version = line.version.clone().unwrap_or_default();
            [name, ready, reason, version, line.url.clone(), line.unhealthy_components.join(",")]
        });
        table(&mut text, &self.registries, ["REGISTRY", "READY", "REASON", "TYPE", "UPSTREAM"], |line| {
            let (name, ready, reason) = state(&line.state);
            [name, ready, reason, line.type_.clone(), line.url.clone()]
        });
        let header = ["PROXY PROJECT", "READY", "REASON", "REWRITES", "TO", "MODE", "PREWARM"];
        table(&mut text, &self.proxy_projects, header, |line| {
            let (name, ready, reason) = state(&line.state);
            let matches = if line.in_force { line.matches.join(",") } else { "(not in force)".to_owned() };
            let (target, mode) = (line.target.clone().unwrap_or_default(), line.mode.clone().unwrap_or_default());
            [name, ready, reason, matches, target, mode, line.prewarm.clone()]
        });
        let header = ["REPLICATION", "READY", "REASON", "DIRECTION", "REGISTRY", "TRIGGER", "LAST RUN", "HELD BACK"];
        table(&mut text, &self.replication_rules, header, |line| {
            let (name, ready, reason) = state(&line.state);
            let trigger = match line.enabled {
                Some(false) => "(disabled)".to_owned(),
                _ => line.trigger.clone().unwrap_or_default(),
            };
            let held = if line.held_back > 0 { line.held_back.to_string() } else { String::new() };
            let last = line.last_execution.as_ref().map(|last| last.text(now)).unwrap_or_default();
            [name, ready, reason, line.direction.to_owned(), line.registry.clone(), trigger, last, held]
        });
        table(&mut text, &self.policies, ["POLICY", "ACTION", "ALLOWS", "DEMANDS"], |line| {
            let demands = [(line.require_digest, "digest"), (line.forbid_latest, "not latest")];
            let demands = demands.into_iter().filter_map(|(is, what)| is.then_some(what)).collect::<Vec<_>>();
            let allows = if line.allowed.is_empty() { "any".to_owned() } else { line.allowed.join(",") };
            [line.name.clone(), line.action.clone(), allows, demands.join(", ")]
        });
        self.images.write(&mut text);
        self.troubles(&mut text, now);
        for Unreadable { what, why } in &self.unreadable {
            writeln!(text, "{what} cannot be read: {}", printable(why)).ok();
        }
        if self.ready {
            text.push_str("Everything is Ready.\n");
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }

    /// The same as one object.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    fn troubles(&self, text: &mut String, now: Timestamp) {
        let List { total, items } = &self.not_ready;
        if items.is_empty() {
            return;
        }
        let shown = items.iter().filter(|trouble| trouble.condition == "Ready").count();
        let part = if shown < *total { format!(", the newest {shown} of them here (--limit)") } else { String::new() };
        writeln!(text, "NOT READY: {total}{part}").ok();
        for trouble in items {
            let Trouble { kind, name, image, condition, reason, message, since, stalled } = trouble;
            let image = image.as_ref().map(|image| format!(", {}", short_image(image))).unwrap_or_default();
            let age = since.map(|since| format!(" for {}", time(condition::since(since, now)))).unwrap_or_default();
            let condition = if *condition == "Ready" { String::new() } else { format!("{condition}: ") };
            let acts = if *stalled { "; until somebody acts" } else { "" };
            let head = format!("{kind} {name}{image}: {condition}{reason}{age}{acts}");
            writeln!(text, "  {}\n    {}", printable(&head), printable(message)).ok();
        }
        text.push('\n');
    }
}

impl Images {
    fn write(&self, text: &mut String) {
        let Self { total, ready, pending, warming, verifying, failed, failed_by_reason, bytes } = self;
        if *total == 0 {
            return;
        }
        write!(text, "IMAGES: {ready} of {total} warm").ok();
        for (number, word) in [(pending, "pending"), (warming, "warming"), (verifying, "verifying"), (failed, "failed")]
        {
            if *number > 0 {
                write!(text, ", {number} {word}").ok();
            }
        }
        if !failed_by_reason.is_empty() {
            let reasons = failed_by_reason.iter().map(|(reason, number)| format!("{} {number}", printable(reason)));
            write!(text, " ({})", reasons.collect::<Vec<_>>().join(", ")).ok();
        }
        writeln!(text, "; {} in Harbor\n", size(*bytes)).ok();
    }
}

impl Execution {
    fn text(&self, now: Timestamp) -> String {
        let started = self.started.as_ref().and_then(|started| started.parse::<Timestamp>().ok());
        let ago = started.map(|started| format!(" {} ago", time(condition::since(started, now)))).unwrap_or_default();
        format!("{}{ago}, {}/{}", self.status, self.succeeded, self.total)
    }
}

fn table<T, const N: usize>(text: &mut String, list: &List<T>, header: [&str; N], row: impl Fn(&T) -> [String; N]) {
    if list.total == 0 {
        return;
    }
    text.push_str(&columns(header, list.items.iter().map(row)));
    if let Some(more) = list.total.checked_sub(list.items.len()).filter(|more| *more > 0) {
        writeln!(text, "and {more} more (--limit)").ok();
    }
    text.push('\n');
}
