//! The result of `warm` as text and as JSON. Pure.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use serde::Serialize;

use super::run::{WarmEnd, WarmedImage};
use crate::{
    api::{ConditionType, Reason, cached_image::PlatformStatus, condition},
    text::{columns, count, printable, short_image, size, time},
};

/// A run.
pub(super) struct WarmReport {
    pub(super) done: Vec<WarmedImage>,
    pub(super) took: Duration,
}

/// The run as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarmDocument<'a> {
    images: Vec<WarmLine<'a>>,
    summary: WarmSummary,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarmLine<'a> {
    named: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_project: Option<&'a str>,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    platforms: &'a [PlatformStatus],
    bytes: u64,
    fetched_blobs: u64,
    fetched_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline_by_tag: Option<OfflineCondition<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offline_by_digest: Option<OfflineCondition<'a>>,
    seconds: f64,
}

/// A condition.
#[derive(Serialize)]
struct OfflineCondition<'a> {
    status: &'a str,
    reason: &'a str,
    /// The reason, and the fix.
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarmSummary {
    images: usize,
    warm: usize,
    pulled: usize,
    failed: usize,
    bytes: u64,
    fetched_bytes: u64,
    seconds: f64,
}

impl WarmReport {
    /// Returns whether every image is as warm as required.
    pub(super) fn is_good(&self) -> bool {
        self.done.iter().all(is_good)
    }

    /// A table, failures with their fix, and a summary.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let header = ["IMAGE", "STATE", "PLATFORMS", "DIGEST", "SIZE", "FETCHED", "BY TAG", "BY DIGEST", "TIME"];
        let (placed, nowhere): (Vec<&WarmedImage>, Vec<&WarmedImage>) =
            self.done.iter().partition(|done| done.wanted.place.is_ok());
        if !placed.is_empty() {
            text.push_str(&columns(header, placed.iter().map(|done| row(done))));
        }
        let mut failures: BTreeMap<(&str, &str), Vec<&WarmedImage>> = BTreeMap::new();
        for done in placed.into_iter().chain(nowhere).filter(|done| !is_good(done)) {
            failures.entry(why(done)).or_default().push(done);
        }
        for ((reason, message), whose) in failures {
            writeln!(text, "\n{reason}: {}", printable(message)).ok();
            for done in &whose {
                writeln!(text, "  {}", printable(&done.wanted.named)).ok();
            }
            if let Some(advice) = whose.first().and_then(|done| advice(done)) {
                writeln!(text, "  → {advice}").ok();
            }
        }
        self.untagged(&mut text);
        writeln!(text, "\n{}", self.sentence()).ok();
        text
    }

    /// Images that are warm and not served by tag while the upstream is down: why, and what is served.
    fn untagged(&self, text: &mut String) {
        for done in self.done.iter().filter(|done| done.end == WarmEnd::Warm) {
            let found = condition::find(&done.status.conditions, ConditionType::OfflineByTag);
            let Some(found) = found.filter(|found| found.status == "False") else { continue };
            writeln!(text, "\n{}: {}\n  {}", found.reason, printable(&found.message), printable(&done.wanted.named))
                .ok();
        }
    }

    /// The same as one object. Later versions may add fields, and keep these.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let whole = WarmDocument { images: self.done.iter().map(line).collect(), summary: self.summary() };
        Ok(serde_json::to_string_pretty(&whole)? + "\n")
    }

    fn summary(&self) -> WarmSummary {
        let number = |end: WarmEnd| self.done.iter().filter(|done| done.end == end).count();
        let (warm, pulled) = (number(WarmEnd::Warm), number(WarmEnd::Pulled));
        let sum = |value: fn(&WarmedImage) -> u64| self.done.iter().map(value).fold(0_u64, u64::saturating_add);
        WarmSummary {
            images: self.done.len(),
            warm,
            pulled,
            failed: self.done.len() - warm - pulled,
            bytes: sum(bytes),
            fetched_bytes: sum(|done| done.fetched.bytes),
            seconds: seconds(self.took),
        }
    }

    fn sentence(&self) -> String {
        let WarmSummary { images, warm, pulled, failed, bytes, fetched_bytes, .. } = self.summary();
        let mut text = match pulled {
            0 => format!("{warm} of {} warm", count(images, "image")),
            _ => format!("{pulled} of {} pulled, and not verified", count(images, "image")),
        };
        let rate = size((fetched_bytes as f64 / self.took.as_secs_f64().max(0.001)) as u64);
        match fetched_bytes {
            _ if warm + pulled == 0 => None,
            0 => write!(text, ", {}; nothing was fetched", size(bytes)).ok(),
            _ => write!(text, ", {}; {} fetched ({rate}/s)", size(bytes), size(fetched_bytes)).ok(),
        };
        write!(text, "; {}", time(self.took)).ok();
        if failed > 0 {
            write!(text, ". {failed} failed").ok();
        }
        text
    }
}

fn is_good(done: &WarmedImage) -> bool {
    matches!(done.end, WarmEnd::Warm | WarmEnd::Pulled)
}

fn row(done: &WarmedImage) -> [String; 9] {
    let image = done.wanted.place.as_ref().map(|place| place.image.to_string()).unwrap_or_default();
    let platforms = done.status.platforms.iter().map(|child| child.platform.as_str());
    // An image without an index does not state its platform.
    let platforms = platforms.filter(|platform| *platform != "unknown").collect::<Vec<_>>().join(",");
    let digest =
        done.status.digest.as_deref().and_then(|digest| digest.split_once(':')?.1.get(..12)).unwrap_or_default();
    let pulled = !done.status.platforms.is_empty();
    let fetched = match done.fetched.bytes {
        0 if pulled => "cached".to_owned(),
        0 => String::new(),
        bytes => size(bytes),
    };
    let pinned = done.wanted.place.as_ref().is_ok_and(|place| place.image.digest().is_some());
    let offline = |kind, applies: bool| {
        let found = condition::find(&done.status.conditions, kind).filter(|_| applies);
        let word = found.map(|found| match found.status.as_str() {
            "True" => "yes",
            "False" => "no",
            _ => "not yet",
        });
        word.unwrap_or_default().to_owned()
    };
    [
        short_image(&image),
        state(done).to_owned(),
        platforms,
        digest.to_owned(),
        if pulled { size(bytes(done)) } else { String::new() },
        fetched,
        offline(ConditionType::OfflineByTag, !pinned),
        offline(ConditionType::OfflineByDigest, true),
        time(done.took),
    ]
}

fn line(done: &WarmedImage) -> WarmLine<'_> {
    let place = done.wanted.place.as_ref().ok();
    let (reason, message) = if is_good(done) { ("", "") } else { why(done) };
    let offline = |kind| {
        let found = condition::find(&done.status.conditions, kind)?;
        let message = if found.status == "False" { found.message.as_str() } else { "" };
        Some(OfflineCondition { status: &found.status, reason: &found.reason, message })
    };
    WarmLine {
        named: &done.wanted.named,
        image: place.map(|place| place.image.as_str()),
        proxy_project: place.and_then(|place| place.project.as_deref()),
        state: state(done),
        reason,
        message,
        advice: advice(done),
        digest: done.status.digest.as_deref(),
        platforms: &done.status.platforms,
        bytes: bytes(done),
        fetched_blobs: done.fetched.blobs,
        fetched_bytes: done.fetched.bytes,
        offline_by_tag: offline(ConditionType::OfflineByTag),
        offline_by_digest: offline(ConditionType::OfflineByDigest),
        seconds: seconds(done.took),
    }
}

fn state(done: &WarmedImage) -> &'static str {
    match done.end {
        WarmEnd::Warm => "Warm",
        WarmEnd::Pulled => "Pulled",
        WarmEnd::Failed => "Failed",
        WarmEnd::TimedOut => "TimedOut",
        WarmEnd::Interrupted => "Interrupted",
    }
}

/// Returns reason and message of an image that is not warm.
fn why(done: &WarmedImage) -> (&str, &str) {
    match done.end {
        WarmEnd::TimedOut | WarmEnd::Interrupted if done.reason.is_none() => (state(done), "not started"),
        WarmEnd::TimedOut | WarmEnd::Interrupted => (state(done), &done.message),
        WarmEnd::Warm | WarmEnd::Pulled | WarmEnd::Failed => (done.reason_text(), &done.message),
    }
}

/// Returns the fix, if the message does not have it.
fn advice(done: &WarmedImage) -> Option<&'static str> {
    let is_ready = condition::is_true(&done.status.conditions, ConditionType::Ready);
    Some(match (done.end, done.reason) {
        (WarmEnd::Warm | WarmEnd::Pulled, _) => return None,
        (WarmEnd::TimedOut, _) if is_ready && done.status.index_children.is_none() => {
            "nodes can pull it; Harbor lists it about 30 s after the pull: use a longer --timeout, or --require online"
        }
        (WarmEnd::TimedOut, _) if is_ready => {
            "nodes can pull it; Harbor lists an index about 7 minutes after some of its platforms: use --all-platforms, \
             --require online, or a longer --timeout"
        }
        (WarmEnd::TimedOut, _) => {
            "run the command again, or with a longer --timeout: stored blobs are not fetched again"
        }
        (WarmEnd::Interrupted, _) => "run the command again: stored blobs are not fetched again",
        (_, Some(Reason::HarborUnauthorized)) => {
            "check HARBOR_USERNAME and HARBOR_PASSWORD, or the Secret of the HarborInstance"
        }
        (_, Some(Reason::HarborForbidden)) => {
            "the account needs these permissions on the project: repository (pull) and artifact (list, read)"
        }
        (_, Some(Reason::RateLimited)) => {
            "run the command later, or set credentials for the upstream in the Registry (credentialsSecretRef)"
        }
        (_, Some(Reason::PlatformMissing)) => "choose platforms of the image with --platform, or use --all-platforms",
        (_, Some(Reason::PullByDigest)) => {
            "use --require online, which does not wait for the tag; a longer --timeout does not help"
        }
        (_, Some(Reason::NestedIndex | Reason::ForeignLayer)) => "a retry or a longer --timeout does not help",
        (_, Some(Reason::HarborUnreachable)) => {
            "check the url of the HarborInstance, or --harbor, from this machine; stored blobs are not fetched again"
        }
        // The message contains the path that Harbor reported.
        (_, Some(Reason::PullFailed)) if done.message.contains("set spec.tokenPath") => {
            "correct spec.tokenPath of the HarborInstance"
        }
        (_, Some(Reason::HarborError | Reason::PullFailed)) => {
            "run the command again: stored blobs are not fetched again"
        }
        _ => return None,
    })
}

fn bytes(done: &WarmedImage) -> u64 {
    done.status.platforms.iter().fold(0, |sum, child| sum.saturating_add(child.bytes))
}

/// Seconds, rounded to milliseconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
