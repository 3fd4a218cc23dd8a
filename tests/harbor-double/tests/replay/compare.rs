//! Compares an answer with the recorded one. Digests are paired as they are met: what was recorded once must be answered
//! by the same digest ever after. Times are compared as times, sizes not at all.

use std::collections::BTreeMap;

use serde_json::Value;

/// Recorded digest → the double's.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    known: BTreeMap<String, String>,
    /// The first eight digits, where a note names no more.
    short: BTreeMap<String, String>,
}

/// Members whose values depend on the bytes of the images, or on when something was done.
const VOLATILE: [&str; 5] = ["size", "expires_in", "expires_at", "pull_count", "current_time"];
/// Members that count up over the life of the recorded Harbor.
pub(crate) const IDS: [&str; 9] =
    ["id", "project_id", "registry_id", "repository_id", "artifact_id", "parent_id", "child_id", "retention_id", "ref"];

impl Digests {
    /// Pairs two digests.
    pub(crate) fn learn(&mut self, recorded: &str, found: &str) {
        self.known.insert(recorded.to_owned(), found.to_owned());
    }

    /// Pairs a shortened digest of a note with the double's, unless it is known.
    pub(crate) fn learn_short(&mut self, short: &str, found: &str) {
        if self.by_short(short).is_none() {
            self.short.insert(short.to_owned(), found.to_owned());
        }
    }

    /// The double's digest for a shortened one.
    pub(crate) fn by_short(&self, short: &str) -> Option<String> {
        let start = format!("sha256:{short}");
        let full = self.known.iter().find(|(long, _)| long.starts_with(&start)).map(|(_, found)| found);
        full.or_else(|| self.short.get(short)).cloned()
    }

    fn get(&self, recorded: &str) -> Option<String> {
        self.known.get(recorded).cloned().or_else(|| self.by_short(&recorded[7..15]))
    }

    /// Replaces recorded digests by the double's, for a request.
    pub(crate) fn request(&self, text: &str) -> String {
        let known = |text: String, digest: &String| match self.get(digest) {
            Some(known) => text.replace(digest, &known),
            None => text,
        };
        find(text).iter().fold(text.to_owned(), known)
    }

    /// Whether two texts are the same but for digests, which are paired.
    pub(crate) fn same(&mut self, recorded: &str, found: &str) -> bool {
        let (ours, theirs) = (find(found), find(recorded));
        if ours.len() != theirs.len() {
            return false;
        }
        let mut pairs = Vec::new();
        let mut blank = (recorded.to_owned(), found.to_owned());
        for (recorded, found) in theirs.into_iter().zip(ours) {
            if self.get(&recorded).is_some_and(|known| known != found) {
                return false;
            }
            pairs.push((recorded.clone(), found.clone()));
            blank = (blank.0.replacen(&recorded, "DIGEST", 1), blank.1.replacen(&found, "DIGEST", 1));
        }
        if blank.0 == blank.1 {
            for (recorded, found) in pairs {
                self.learn(&recorded, &found);
            }
            return true;
        }
        false
    }

    /// The differences of two JSON values.
    pub(crate) fn differences(&mut self, at: &str, recorded: &Value, found: &Value, ignored: &[&str]) -> Vec<String> {
        let report = || vec![format!("{at}: recorded {recorded}, found {found}")];
        match (recorded, found) {
            (Value::Object(left), Value::Object(right)) => {
                let mut differences = Vec::new();
                for key in left.keys().chain(right.keys().filter(|key| !left.contains_key(*key))) {
                    let at = format!("{at}.{key}");
                    match (left.get(key), right.get(key)) {
                        _ if ignored.contains(&key.as_str()) => {}
                        (Some(_), Some(_)) if VOLATILE.contains(&key.as_str()) => {}
                        (Some(left), Some(right)) => {
                            differences.extend(self.differences(&at, left, right, ignored));
                        }
                        (left, right) => {
                            differences.push(format!("{at}: recorded {left:?}, found {right:?}"));
                        }
                    }
                }
                differences
            }
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => left
                .iter()
                .zip(right)
                .enumerate()
                .flat_map(|(number, (left, right))| self.differences(&format!("{at}[{number}]"), left, right, ignored))
                .collect(),
            (Value::String(left), Value::String(right)) => {
                let times = is_time(left) && is_time(right) && left.starts_with("0001") == right.starts_with("0001");
                if times || self.same(left, right) { Vec::new() } else { report() }
            }
            _ if recorded == found => Vec::new(),
            _ => report(),
        }
    }
}

/// The full digests in a text.
fn find(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let hex: String = rest[at + 7..].chars().take(64).take_while(char::is_ascii_hexdigit).collect();
        rest = &rest[at + 7..];
        if hex.len() == 64 && !hex.bytes().all(|byte| byte == hex.as_bytes()[0]) {
            found.push(format!("sha256:{hex}"));
        }
    }
    found
}

fn is_time(text: &str) -> bool {
    text.len() >= 20
        && text.is_char_boundary(11)
        && text.as_bytes()[4] == b'-'
        && text.as_bytes()[10] == b'T'
        && text.ends_with('Z')
}
