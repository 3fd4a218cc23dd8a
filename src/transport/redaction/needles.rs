//! The search patterns: a secret as it is, and its forms in base64 and hexadecimal digits.

use std::{collections::BTreeMap, ops::Range};

use aho_corasick::AhoCorasick;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use secrecy::{ExposeSecret, SecretString};

use super::{encodings::is_unseen, through};

/// A shorter secret is searched only within a Basic value: it occurs in any text.
const SHORTEST: usize = 4;
/// A shorter secret is matched only as a whole word.
const LONG: usize = 8;
/// Minimum length of a secret's prefix at the end of a truncated text.
const TELLING: usize = 4;
/// Minimum length of a token or a Basic value.
const TOKEN: usize = 16;

/// Where a match counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NeedleKind {
    /// At any position.
    Anywhere,
    /// Only as a whole word.
    Word,
}

/// All search patterns.
pub(super) struct Needles {
    patterns: Vec<(Vec<u8>, NeedleKind)>,
    /// `None` without patterns.
    automaton: Option<AhoCorasick>,
}

impl Needles {
    pub(super) fn new(pairs: &[(String, SecretString)]) -> Self {
        let mut all = BTreeMap::new();
        for (username, secret) in pairs {
            add(username, secret.expose_secret(), &mut all);
        }
        let patterns: Vec<_> = all.into_iter().collect();
        let automaton =
            if patterns.is_empty() { None } else { AhoCorasick::new(patterns.iter().map(|(pattern, _)| pattern)).ok() };
        Self { patterns, automaton }
    }

    /// Returns the matches in a text; they may overlap.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let counts = |found: &aho_corasick::Match| {
            let kind = self.patterns.get(found.pattern().as_usize()).map(|(_, kind)| *kind);
            kind != Some(NeedleKind::Word) || is_word(text, &found.range())
        };
        automaton.find_overlapping_iter(text).filter(counts).map(|found| found.range()).collect()
    }

    /// Returns whether a text contains a match, in any encoding.
    pub(super) fn are_in(&self, text: &str) -> bool {
        let mut found = false;
        through(text, |layer| found |= !self.find(&layer.text).is_empty());
        found
    }

    /// Returns where a prefix of a pattern begins at the end of a truncated text.
    pub(super) fn begins_at_the_end_of(&self, text: &str) -> Option<usize> {
        let begins = |(pattern, _): &(Vec<u8>, NeedleKind)| {
            (TELLING..pattern.len())
                .rev()
                .find_map(|length| text.as_bytes().ends_with(pattern.get(..length)?).then(|| text.len() - length))
        };
        self.patterns.iter().filter_map(begins).filter(|at| text.is_char_boundary(*at)).min()
    }
}

fn add(username: &str, secret: &str, all: &mut BTreeMap<Vec<u8>, NeedleKind>) {
    let mut put = |pattern: String, kind: NeedleKind| {
        all.insert(pattern.into_bytes(), kind);
    };
    let basic = format!("{username}:{secret}");
    put(STANDARD.encode(&basic), NeedleKind::Anywhere);
    put(URL_SAFE.encode(&basic), NeedleKind::Anywhere);
    put(STANDARD.encode(&basic).trim_end_matches('=').to_owned(), NeedleKind::Anywhere);
    put(URL_SAFE.encode(&basic).trim_end_matches('=').to_owned(), NeedleKind::Anywhere);
    if secret.len() < SHORTEST {
        return;
    }
    let visible: String = secret.chars().filter(|character| !is_unseen(*character)).collect();
    if visible.len() >= LONG {
        put(visible, NeedleKind::Anywhere);
    }
    put(secret.to_owned(), if secret.len() < LONG { NeedleKind::Word } else { NeedleKind::Anywhere });
    if secret.len() < LONG {
        return;
    }
    let digits: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    put(digits.to_uppercase(), NeedleKind::Anywhere);
    put(digits, NeedleKind::Anywhere);
    // Base64 of the secret has one of three forms, whatever precedes it in the encoded text, except for the characters at its
    // ends.
    for before in 0..3_usize {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        let (start, end) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        for text in [STANDARD.encode(&bytes), URL_SAFE.encode(&bytes)] {
            put(text.get(start..end).unwrap_or_default().to_owned(), NeedleKind::Anywhere);
        }
    }
}

fn is_word(text: &str, range: &Range<usize>) -> bool {
    let before = text.get(..range.start).and_then(|text| text.chars().next_back());
    let after = text.get(range.end..).and_then(|text| text.chars().next());
    ![before, after].into_iter().flatten().any(char::is_alphanumeric)
}

/// Returns the base64 runs of a text whose content is of interest.
pub(super) fn base64_runs(text: &str, is_of_interest: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
    let is_digit = |character: char| character.is_ascii_alphanumeric() || matches!(character, '+' | '/' | '-' | '_');
    let mut found = Vec::new();
    for run in text.split(|character| !is_digit(character)).filter(|run| run.len() >= TOKEN) {
        let start = run.as_ptr().addr() - text.as_ptr().addr();
        let digits: String = run.replace('-', "+").replace('_', "/");
        // Characters right before the value may look like base64 digits.
        let holds = |skipped: usize| {
            let whole = digits.get(skipped..).unwrap_or_default();
            let whole = whole.get(..whole.len() / 4 * 4).unwrap_or_default();
            STANDARD.decode(whole).is_ok_and(|decoded| is_of_interest(&String::from_utf8_lossy(&decoded)))
        };
        if (0..4).any(holds) {
            let rest = text.get(start + run.len()..).unwrap_or_default();
            let padding = rest.len() - rest.trim_start_matches('=').len();
            found.push(start..start + run.len() + padding);
        }
    }
    found
}

/// Returns the runs of hexadecimal digits, with or without `:` or `-` between them, whose content is of interest.
pub(super) fn hex_runs(text: &str, is_of_interest: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
    let is_digit = |character: char| character.is_ascii_hexdigit() || matches!(character, ':' | '-');
    let mut found = Vec::new();
    for run in text.split(|character| !is_digit(character)).filter(|run| run.len() >= TOKEN) {
        let start = run.as_ptr().addr() - text.as_ptr().addr();
        let digits: Vec<u8> =
            run.chars().filter_map(|digit| digit.to_digit(16)).filter_map(|digit| u8::try_from(digit).ok()).collect();
        // A character right before the value may look like a digit.
        let holds = |skipped: usize| {
            let pairs = digits.get(skipped..).unwrap_or_default().chunks_exact(2);
            let bytes: Vec<u8> = pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
            is_of_interest(&String::from_utf8_lossy(&bytes))
        };
        if (0..2).any(holds) {
            found.push(start..start + run.len());
        }
    }
    found
}

/// Returns the values of Authorization headers and JSON Web Tokens in a text, of any owner.
pub(super) fn tokens(text: &str) -> Vec<Range<usize>> {
    let lower = text.to_ascii_lowercase();
    let mut found = Vec::new();
    for (scheme, is_value) in [("basic ", is_basic as fn(&str) -> bool), ("bearer ", is_bearer)] {
        for (at, _) in lower.match_indices(scheme) {
            let start = at + scheme.len();
            let value = token_at(text, start);
            if is_value(value) {
                found.push(start..start + value.len());
            }
        }
    }
    for (at, _) in text.match_indices("eyJ") {
        // Checked first, because a long text may have many matches within one token.
        if text.get(..at).and_then(|text| text.chars().next_back()).is_some_and(is_token) {
            continue;
        }
        let value = token_at(text, at);
        if value.len() >= TOKEN && value.contains('.') {
            found.push(at..at + value.len());
        }
    }
    found
}

fn token_at(text: &str, start: usize) -> &str {
    let rest = text.get(start..).unwrap_or_default();
    let end = rest.find(|character: char| !is_token(character)).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '~' | '+' | '/' | '=')
}

/// Whether this is base64 of a user name and a password, or the beginning of it.
fn is_basic(value: &str) -> bool {
    let whole = value.trim_end_matches('=');
    let whole = whole.get(..whole.len() / 4 * 4).unwrap_or_default();
    whole.len() >= 8 && STANDARD.decode(whole).is_ok_and(|decoded| decoded.contains(&b':'))
}

fn is_bearer(value: &str) -> bool {
    value.len() >= TOKEN && value.bytes().any(|byte| byte.is_ascii_digit())
}
