//! Removes secrets from texts of the network: a Harbor, or a proxy before it, may echo parts of a request into a condition, an
//! Event, a log line or a page.
//!
//! In: the secrets of one endpoint, and a text from the network. Out: the text without them, whether they appear plain, in
//! base64 (also within the value of a Basic header), in hexadecimal digits, URL-encoded, quoted-printable, escaped for JSON,
//! HTML or a shell, or split by line breaks and invisible characters.

mod encodings;
mod needles;

use std::sync::Arc;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};

use self::{
    encodings::EncodingLayer,
    needles::{Needles, base64_runs, hex_runs, tokens},
};

/// Replaces a secret.
pub const REDACTED: &str = "[redacted]";
/// Maximum number of remembered secrets; above it the oldest are forgotten.
const MOST: usize = 512;
/// Maximum depth of nested encodings that are searched.
const DEPTH: usize = 3;
/// Maximum length of a message, in characters.
const LONGEST: usize = 300;
/// Maximum part of a text that is searched for a message, in bytes.
const BEGINNING: usize = 16 << 10;
/// A longer text is searched in pieces of this size, in bytes: each layer takes twenty times as much memory.
const PIECE: usize = 64 << 10;

/// The secrets of one endpoint: those of its account, and those that were sent to it. Clones share them.
#[derive(Clone, Default)]
pub struct Redactor(Arc<Mutex<KnownSecrets>>);

#[derive(Default)]
struct KnownSecrets {
    /// User names (may be empty) and secrets.
    pairs: Vec<(String, SecretString)>,
    /// Built at the first search.
    needles: Option<Arc<Needles>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Redactor {
    /// Remembers another secret, with a user name or an empty one.
    pub fn learn(&self, username: &str, secret: &SecretString) {
        let mut known = self.0.lock();
        let same = |(name, value): &(String, SecretString)| {
            name == username && value.expose_secret() == secret.expose_secret()
        };
        if secret.expose_secret().is_empty() || known.pairs.iter().any(same) {
            return;
        }
        if known.pairs.len() >= MOST {
            known.pairs.remove(0);
        }
        known.pairs.push((username.to_owned(), secret.clone()));
        known.needles = None;
    }

    /// Returns the text without the secrets, and without any tokens and Basic values.
    pub fn redact(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while rest.len() > PIECE {
            // Prefer the end of a line.
            let end = rest.get(..rest.floor_char_boundary(PIECE)).unwrap_or_default();
            let end = end.rfind('\n').map_or(end.len(), |at| at + 1);
            let (piece, other) = rest.split_at(end);
            result.push_str(&self.cover(piece, &[], false));
            rest = other;
        }
        result.push_str(&self.cover(rest, &[], false));
        result
    }

    /// Like [`Redactor::redact`], on one line.
    pub fn line(&self, text: &str) -> String {
        flat(&self.redact(text))
    }

    /// Formats an answer for a message: without the remembered secrets and those of `more`, on one line, and of readable
    /// length. `cut`: the text was truncated at its end.
    pub fn message(&self, text: &[u8], cut: bool, more: &[&str]) -> String {
        let beginning = text.get(..BEGINNING).unwrap_or(text);
        let cut = cut || beginning.len() < text.len();
        let line = flat(&self.cover(&String::from_utf8_lossy(beginning), more, cut));
        match line.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default().trim()),
            None => line.trim().to_owned(),
        }
    }

    fn cover(&self, text: &str, more: &[&str], cut: bool) -> String {
        let needles = self.needles();
        let mut covered = Vec::new();
        through(text, |layer| {
            let found = needles.find(&layer.text).into_iter().chain(if layer.is_squeezed {
                Vec::new()
            } else {
                tokens(&layer.text)
            });
            let plain = more.iter().filter(|secret| !secret.is_empty());
            let plain = plain.flat_map(|secret| layer.text.match_indices(*secret));
            let found = found.chain(plain.map(|(at, secret)| at..at + secret.len()));
            let found = found.chain(base64_runs(&layer.text, |decoded| needles.are_in(decoded)));
            let found = found.chain(hex_runs(&layer.text, |decoded| needles.are_in(decoded)));
            covered.extend(found.map(|range| layer.source(range)));
        });
        if cut && let Some(at) = needles.begins_at_the_end_of(text) {
            covered.push(at..text.len());
        }
        covered.sort_by_key(|range| (range.start, range.end));
        let (mut result, mut done) = (String::with_capacity(text.len()), 0);
        for range in covered {
            if range.start >= done {
                result.push_str(text.get(done..range.start).unwrap_or_default());
                result.push_str(REDACTED);
            }
            done = done.max(range.end);
        }
        result.push_str(text.get(done..).unwrap_or_default());
        result
    }

    fn needles(&self) -> Arc<Needles> {
        let mut known = self.0.lock();
        if let Some(needles) = &known.needles {
            return needles.clone();
        }
        let needles = Arc::new(Needles::new(&known.pairs));
        known.needles = Some(needles.clone());
        needles
    }
}

/// Calls `look` for a text, and for the text without each encoding, each time also without invisible characters: a line break
/// may split a secret.
fn through(text: &str, mut look: impl FnMut(&EncodingLayer)) {
    let mut layer = EncodingLayer::new(text);
    for depth in 0..=DEPTH {
        look(&layer);
        let unquoted = if depth == 0 { layer.unquoted() } else { None };
        unquoted.iter().for_each(&mut look);
        for squeezed in [Some(&layer), unquoted.as_ref()].into_iter().flatten().filter_map(EncodingLayer::squeezed) {
            look(&squeezed);
        }
        let Some(next) = layer.decoded() else { return };
        layer = next;
    }
}

fn flat(text: &str) -> String {
    text.chars().map(|character| if moves(character) { ' ' } else { character }).collect()
}

/// Whether a character begins a line, moves a cursor or changes the direction of a text.
fn moves(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
