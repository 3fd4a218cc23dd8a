//! Strings that are nearly image references: what is far from one is refused by any parser, and shows nothing.

use fastrand::Rng;

/// Pieces with a meaning somewhere in the grammar, and pieces that nearly have one.
const PIECES: &[&str] = &[
    "a",
    "b",
    "z",
    "0",
    "9",
    "f",
    "A",
    "F",
    "Z",
    "-",
    "--",
    "---",
    "_",
    "__",
    "___",
    ".",
    "..",
    "/",
    "//",
    ":",
    "::",
    "@",
    "@@",
    "+",
    "[",
    "]",
    "[::1]",
    "::1",
    "fe80:",
    "localhost",
    "LOCALHOST",
    "docker.io",
    "index.docker.io",
    "Docker.io",
    "registry-1.docker.io",
    "library",
    "library/",
    "nginx",
    "latest",
    "example.com",
    "example.com.",
    "127.0.0.1",
    ":5000",
    ":65536",
    ":00",
    "sha256:",
    "sha512:",
    "sha384:",
    "SHA256:",
    "md5:",
    "sha256+b64:",
    "sha256",
    "https://",
    "docker://",
    " ",
    "\t",
    "\n",
    "\0",
    "%2f",
    "\\",
    "~",
    "é",
    "ß",
    "İ",
    "\u{212a}",
    "１",
    "а",
    "\u{301}",
    "\u{200b}",
    "🐳",
    "\u{7f}",
    "\u{80}",
    "*",
    "?",
    "#",
    "=",
    "$",
    "\"",
    "'",
];

const LOWER: &[u8] = b"abcxyz0189";
const HOST: &[u8] = b"abcXYZ0189-";
const TAG: &[u8] = b"abcXYZ0189_.-";
const HEX: &[u8] = b"0123456789abcdef";

/// An endless source of strings; the same seed yields the same strings.
pub(crate) struct Generator {
    random: Rng,
    corpus: Vec<String>,
}

impl Generator {
    pub(crate) fn new(seed: u64, corpus: Vec<String>) -> Self {
        Self { random: Rng::with_seed(seed), corpus }
    }

    pub(crate) fn string(&mut self) -> String {
        match self.random.u8(0..10) {
            0..4 => self.reference(),
            4..7 => {
                let reference = self.reference();
                self.damaged(&reference)
            }
            7..8 => {
                let written = self.random.choice(&self.corpus).cloned().unwrap_or_default();
                self.damaged(&written)
            }
            _ => (0..self.random.usize(0..9)).map(|_| self.piece()).collect(),
        }
    }

    /// Mostly valid.
    fn reference(&mut self) -> String {
        let mut text = match self.random.u8(0..10) {
            0..4 => String::new(),
            4 => "docker.io/".to_owned(),
            5 => "index.docker.io/".to_owned(),
            6 => "localhost/".to_owned(),
            _ => self.host() + "/",
        };
        let components = self.random.usize(1..5);
        for number in 0..components {
            if number > 0 {
                text.push('/');
            }
            text += &self.component();
        }
        if self.random.u8(0..30) == 0 {
            // Names are bounded by 255: land on either side of it.
            let missing = (250 + self.random.usize(0..24)).saturating_sub(text.len());
            text += &self.word(LOWER, missing..missing + 1);
        }
        if self.random.u8(0..5) < 2 {
            text.push(':');
            let length = if self.random.u8(0..15) == 0 { 126..131 } else { 1..12 };
            text += &self.word(TAG, length);
        }
        if self.random.u8(0..5) < 2 {
            text.push('@');
            text += &self.digest();
        }
        text
    }

    fn host(&mut self) -> String {
        let mut host = match self.random.u8(0..8) {
            0 => format!("[{}]", self.word(b"0189abcdefAF:", 0..12)),
            1 => self.word(HOST, 1..8),
            2 => "127.0.0.1".to_owned(),
            _ => {
                let labels = self.random.usize(2..5);
                let labels: Vec<String> = (0..labels).map(|_| self.word(HOST, 1..6)).collect();
                labels.join(".")
            }
        };
        if self.random.u8(0..3) == 0 {
            host.push(':');
            host += &self.word(b"0123456789", 0..7);
        }
        host
    }

    fn component(&mut self) -> String {
        let mut component = self.word(LOWER, 1..7);
        for _ in 0..self.random.usize(0..3) {
            component += self.random.choice([".", "_", "__", "-", "--", "----"]).unwrap_or_default();
            component += &self.word(LOWER, 1..5);
        }
        component
    }

    fn digest(&mut self) -> String {
        let (algorithm, digits) = match self.random.u8(0..12) {
            0..6 => ("sha256", 64),
            6..8 => ("sha512", 128),
            8 => ("sha384", 96),
            9 => ("sha1", 40),
            10 => ("md5", 32),
            _ => ("sha256+b64", 64),
        };
        let length = match self.random.u8(0..10) {
            0 => digits - 1..digits + 2,
            1 => 30..34,
            _ => digits..digits + 1,
        };
        format!("{algorithm}:{}", self.word(HEX, length))
    }

    fn damaged(&mut self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..self.random.usize(1..4) {
            let at = self.random.usize(0..=characters.len());
            let until = (at + self.random.usize(0..3)).min(characters.len());
            let put: Vec<char> = match self.random.u8(0..6) {
                0 => Vec::new(),
                1 => characters[at..until].iter().flat_map(|&one| [one, one]).collect(),
                2 => characters[at..until].iter().flat_map(|one| one.to_uppercase()).collect(),
                3 => characters[at..until].iter().rev().copied().collect(),
                _ => self.piece().chars().collect(),
            };
            characters.splice(at..until, put);
        }
        if self.random.u8(0..10) == 0 {
            characters.truncate(self.random.usize(0..=characters.len()));
        }
        characters.into_iter().collect()
    }

    fn piece(&mut self) -> &'static str {
        self.random.choice(PIECES).copied().unwrap_or_default()
    }

    fn word(&mut self, alphabet: &[u8], length: std::ops::Range<usize>) -> String {
        let length = self.random.usize(length);
        (0..length).map(|_| char::from(alphabet[self.random.usize(0..alphabet.len())])).collect()
    }
}
