//! Texts of others without our own secrets: what a Harbor, or a proxy before it, echoes of a request becomes a condition, an
//! Event, a log line and a page.
//!
//! In: the secrets of one endpoint, and a text that came from the network. Out: the text without them, whether they stand there
//! plain, in base64 (also within the value of a Basic header), in hexadecimal digits, URL-encoded,
//! quoted-printable, escaped for JSON, HTML or a shell, or broken by ends of lines and invisible characters.

mod layers;
mod needles;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};

use self::{
    layers::Layer,
    needles::{Needles, base64_runs, hex_runs, tokens},
};

/// Stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";
/// Secrets that are remembered; of more the oldest are forgotten.
const MOST: usize = 512;
/// Encodings within encodings that are looked through.
const DEPTH: usize = 3;
/// A message is cut here, in characters.
const LONGEST: usize = 300;
/// Of a text that becomes a message no more is looked at, in bytes.
const BEGINNING: usize = 16 << 10;
/// A longer text is looked through piece by piece, in bytes: each layer takes twenty times as much.
const PIECE: usize = 64 << 10;

/// The secrets of one endpoint: its account, and what was sent to it. Clones are the same.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// User names (may be empty) and secrets.
    pairs: Vec<(String, SecretString)>,
    /// Built when a text is looked through first.
    needles: Option<Arc<Needles>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Remembers one more secret, which goes with a user name or with none.
    pub fn learn(&self, username: &str, secret: &SecretString) {
        let mut known = self.lock();
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

    /// The text without the secrets, and without tokens and Basic values, whoever they are of.
    pub fn redact(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while rest.len() > PIECE {
            // Best after a line.
            let end = rest.get(..rest.floor_char_boundary(PIECE)).unwrap_or_default();
            let end = end.rfind('\n').map_or(end.len(), |at| at + 1);
            let (piece, other) = rest.split_at(end);
            result.push_str(&self.cover(piece, &[], false));
            rest = other;
        }
        result.push_str(&self.cover(rest, &[], false));
        result
    }

    /// [`Secrets::redact`], on one line.
    pub fn line(&self, text: &str) -> String {
        flat(&self.redact(text))
    }

    /// What an answer says, for a message: without secrets (`more` of them beside those that are remembered), on one line, and
    /// of a length that can be read. `cut`: the text goes on where it ends here.
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
        let mut known = self.lock();
        if let Some(needles) = &known.needles {
            return needles.clone();
        }
        let needles = Arc::new(Needles::new(&known.pairs));
        known.needles = Some(needles.clone());
        needles
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a text, and at what it is without each encoding, and each time also without what a reader does not see: a secret
/// may be broken by the end of a line.
fn through(text: &str, mut look: impl FnMut(&Layer)) {
    let mut layer = Layer::new(text);
    for depth in 0..=DEPTH {
        look(&layer);
        let unquoted = if depth == 0 { layer.unquoted() } else { None };
        unquoted.iter().for_each(&mut look);
        for squeezed in [Some(&layer), unquoted.as_ref()].into_iter().flatten().filter_map(Layer::squeezed) {
            look(&squeezed);
        }
        let Some(next) = layer.decoded() else { return };
        layer = next;
    }
}

fn flat(text: &str) -> String {
    text.chars().map(|character| if moves(character) { ' ' } else { character }).collect()
}

/// Whether a character begins a line, moves a cursor or turns the direction of a text.
fn moves(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
