//! The state of a cluster as text, and as JSON. Pure.

use std::fmt::Write;

use k8s_openapi::jiff::Timestamp;

use crate::api::condition;
use crate::summary::{
    ExecutionSummary, ImageSummary, NotReadyItem, Summary, SummaryList, SummaryState, UnreadableKind,
};
use crate::text::{columns, printable, short_image, size, time};

impl Summary {
    /// Tables, and resources that are not Ready. `now` is for ages.
    pub(super) fn text(&self, now: Timestamp) -> String {
        let mut text = String::new();
        let state = |state: &SummaryState| {
            let SummaryState { name, ready, reason } = state;
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
            let matches = if line.in_force { line.matches.join(",") } else { "(not active)".to_owned() };
            let (target, mode) = (line.target.clone().unwrap_or_default(), line.mode.clone().unwrap_or_default());
            [name, ready, reason, matches, target, mode, line.prewarm.clone()]
        });
        let header = ["REPLICATION", "READY", "REASON", "DIRECTION", "REGISTRY", "TRIGGER", "LAST RUN", "BLOCKED"];
        table(&mut text, &self.replication_rules, header, |line| {
            let (name, ready, reason) = state(&line.state);
            let trigger = match line.enabled {
                Some(false) => "(disabled)".to_owned(),
                _ => line.trigger.clone().unwrap_or_default(),
            };
            let held = if line.blocked_images > 0 { line.blocked_images.to_string() } else { String::new() };
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
        for UnreadableKind { what, why } in &self.unreadable {
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
        let SummaryList { total, items } = &self.not_ready;
        if items.is_empty() {
            return;
        }
        let shown = items.iter().filter(|trouble| trouble.condition == "Ready").count();
        let part = if shown < *total { format!(", the newest {shown} of them here (--limit)") } else { String::new() };
        writeln!(text, "NOT READY: {total}{part}").ok();
        for trouble in items {
            let NotReadyItem { kind, name, image, condition, reason, message, since, stalled } = trouble;
            let image = image.as_ref().map(|image| format!(", {}", short_image(image))).unwrap_or_default();
            let age = since.map(|since| format!(" for {}", time(condition::since(since, now)))).unwrap_or_default();
            let condition = if *condition == "Ready" { String::new() } else { format!("{condition}: ") };
            let acts = if *stalled { "; needs user action" } else { "" };
            let head = format!("{kind} {name}{image}: {condition}{reason}{age}{acts}");
            writeln!(text, "  {}\n    {}", printable(&head), printable(message)).ok();
        }
        text.push('\n');
    }
}

impl ImageSummary {
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

impl ExecutionSummary {
    fn text(&self, now: Timestamp) -> String {
        let started = self.started.as_ref().and_then(|started| started.parse::<Timestamp>().ok());
        let ago = started.map(|started| format!(" {} ago", time(condition::since(started, now)))).unwrap_or_default();
        format!("{}{ago}, {}/{}", self.status, self.succeeded, self.total)
    }
}

fn table<T, const N: usize>(
    text: &mut String,
    list: &SummaryList<T>,
    header: [&str; N],
    row: impl Fn(&T) -> [String; N],
) {
    if list.total == 0 {
        return;
    }
    text.push_str(&columns(header, list.items.iter().map(row)));
    if let Some(more) = list.total.checked_sub(list.items.len()).filter(|more| *more > 0) {
        writeln!(text, "and {more} more (--limit)").ok();
    }
    text.push('\n');
}
