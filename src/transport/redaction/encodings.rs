//! A text, and its decoded forms: each byte keeps its position in the original.

use std::ops::Range;

/// One layer of a text.
pub(super) struct EncodingLayer {
    /// The text of this layer.
    pub(super) text: String,
    /// Start and end of each byte in the first layer. `None`: this is the first.
    origin: Option<Vec<(usize, usize)>>,
    /// Whether words are adjacent that are apart in the text.
    pub(super) is_squeezed: bool,
}

impl EncodingLayer {
    /// Creates the first layer: the text itself.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), origin: None, is_squeezed: false }
    }

    /// Returns the position of a range of this layer in the first one.
    pub(super) fn source(&self, range: Range<usize>) -> Range<usize> {
        let Some(origin) = &self.origin else { return range };
        let start = origin.get(range.start).map_or(0, |(start, _)| *start);
        let end = range.end.checked_sub(1).and_then(|last| origin.get(last)).map_or(start, |(_, end)| *end);
        start..end
    }

    /// Returns the next layer: with URL-encoding, JSON and HTML escapes decoded once. `None` if there are none.
    pub(super) fn decoded(&self) -> Option<Self> {
        self.taken_off(unescaped)
    }

    /// Returns the layer with quoted-printable decoded. It is separate from the other encodings, because `password=ABC` looks
    /// like it.
    pub(super) fn unquoted(&self) -> Option<Self> {
        self.taken_off(unquoted)
    }

    /// Returns the layer without invisible parts: whitespace, control characters, escape sequences of a terminal.
    pub(super) fn squeezed(&self) -> Option<Self> {
        let (mut text, mut origin) = (String::with_capacity(self.text.len()), Vec::new());
        let mut rest = self.text.as_str();
        while let Some(character) = rest.chars().next() {
            let at = self.text.len() - rest.len();
            let length = control_sequence(rest).unwrap_or(character.len_utf8());
            if length == character.len_utf8() && !is_unseen(character) {
                text.push(character);
                origin.extend((at..at + length).map(|index| self.place(index)));
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        (text.len() < self.text.len()).then_some(Self { text, origin: Some(origin), is_squeezed: true })
    }

    /// Returns the position of a byte in the first layer.
    fn place(&self, index: usize) -> (usize, usize) {
        let known = self.origin.as_ref().map(|origin| origin.get(index).copied().unwrap_or_default());
        known.unwrap_or((index, index + 1))
    }

    fn taken_off(&self, unescaped: impl Fn(&[u8]) -> (DecodedPiece, usize)) -> Option<Self> {
        let bytes = self.text.as_bytes();
        let (mut decoded, mut origin) = (Vec::with_capacity(bytes.len()), Vec::with_capacity(bytes.len()));
        let (mut at, mut changed) = (0, false);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (piece, length) = unescaped(rest);
            changed |= length > 1;
            let source = |index: usize| self.origin.as_ref().and_then(|origin| origin.get(index)).copied();
            let start = source(at).map_or(at, |(start, _)| start);
            let end = source(at + length - 1).map_or(at + length, |(_, end)| end);
            origin.extend(std::iter::repeat_n((start, end), piece.as_bytes().len()));
            decoded.extend_from_slice(piece.as_bytes());
            at += length;
        }
        if !changed {
            return None;
        }
        // Invalid UTF-8 is no secret; a byte stays a byte, so that origins match.
        let text = match String::from_utf8(decoded) {
            Ok(text) => text,
            Err(error) => {
                let bytes = error.into_bytes();
                let mut ascii = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    ascii.push_str(chunk.valid());
                    chunk.invalid().iter().for_each(|_| ascii.push('?'));
                }
                ascii
            }
        };
        Some(Self { text, origin: Some(origin), is_squeezed: false })
    }
}

/// A decoded piece: at most one character, or one byte of URL-encoding.
enum DecodedPiece {
    Byte([u8; 1]),
    Character([u8; 4], usize),
}

impl DecodedPiece {
    fn of(character: char) -> Self {
        let mut buffer = [0; 4];
        let length = character.encode_utf8(&mut buffer).len();
        Self::Character(buffer, length)
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Byte(byte) => byte,
            Self::Character(bytes, length) => bytes.get(..*length).unwrap_or_default(),
        }
    }
}

/// Returns whether a character is invisible.
pub(super) fn is_unseen(character: char) -> bool {
    character.is_whitespace()
        || super::moves(character)
        || matches!(character, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{fe00}'..='\u{fe0f}')
}

/// Returns the length of a terminal's control sequence at the start of the text: `ESC [ 0 m`.
fn control_sequence(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[").or_else(|| text.strip_prefix('\u{9b}'))?;
    let end = inner.bytes().take(32).position(|byte| !(0x20..=0x3f).contains(&byte))?;
    inner.as_bytes().get(end).filter(|byte| (0x40..=0x7e).contains(*byte))?;
    Some(text.len() - inner.len() + end + 1)
}

/// Like [`unescaped`], for quoted-printable.
fn unquoted(rest: &[u8]) -> (DecodedPiece, usize) {
    let decoded = match rest {
        [b'=', ..] => byte(hex(rest.get(1..3)), 3),
        _ => None,
    };
    decoded.unwrap_or_else(|| (DecodedPiece::Byte([rest.first().copied().unwrap_or_default()]), 1))
}

/// Decodes the start of the text; returns it with the number of bytes read: more than one for an escape.
fn unescaped(rest: &[u8]) -> (DecodedPiece, usize) {
    let decoded = match rest {
        [b'%', ..] => byte(hex(rest.get(1..3)), 3),
        [b'\\', b'u', ..] => unicode(rest),
        [b'\\', b'x' | b'X', ..] => byte(hex(rest.get(2..4)), 4),
        [b'\\', b'0'..=b'3', ..] => byte(octal(rest.get(1..4)), 4),
        [b'\\', escaped, ..] => {
            let plain = match escaped {
                b'"' | b'\\' | b'/' | b'\'' => Some(*escaped),
                b'n' => Some(b'\n'),
                b't' => Some(b'\t'),
                b'r' => Some(b'\r'),
                _ => None,
            };
            plain.map(|byte| (DecodedPiece::Byte([byte]), 2))
        }
        [b'&', ..] => entity(rest),
        _ => None,
    };
    decoded.unwrap_or_else(|| (DecodedPiece::Byte([rest.first().copied().unwrap_or_default()]), 1))
}

/// Returns a byte with that value, which took `length` bytes.
fn byte(value: Option<u32>, length: usize) -> Option<(DecodedPiece, usize)> {
    u8::try_from(value?).ok().map(|byte| (DecodedPiece::Byte([byte]), length))
}

fn octal(digits: Option<&[u8]>) -> Option<u32> {
    let digits = std::str::from_utf8(digits?).ok()?;
    if digits.bytes().all(|byte| matches!(byte, b'0'..=b'7')) { u32::from_str_radix(digits, 8).ok() } else { None }
}

fn hex(digits: Option<&[u8]>) -> Option<u32> {
    let digits = std::str::from_utf8(digits?).ok()?;
    if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// `\u00e9`, `\u{e9}`, and a surrogate pair beyond the first plane.
fn unicode(rest: &[u8]) -> Option<(DecodedPiece, usize)> {
    if rest.get(2) == Some(&b'{') {
        let end = rest.iter().take(10).position(|byte| *byte == b'}')?;
        return Some((DecodedPiece::of(char::from_u32(hex(rest.get(3..end))?)?), end + 1));
    }
    let first = hex(rest.get(2..6))?;
    if let Some(character) = char::from_u32(first) {
        return Some((DecodedPiece::of(character), 6));
    }
    let second = rest.get(6..8).filter(|mark| *mark == b"\\u").and_then(|_| hex(rest.get(8..12)))?;
    let low = second.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
    let character = char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + low)?;
    Some((DecodedPiece::of(character), 12))
}

/// `&amp;`, `&#39;`, `&#x27;`.
fn entity(rest: &[u8]) -> Option<(DecodedPiece, usize)> {
    let end = rest.iter().take(10).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(rest.get(1..end)?).ok()?;
    let character = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(digits) => hex(Some(digits.as_bytes())),
                None => number.parse().ok(),
            };
            char::from_u32(number?)?
        }
    };
    Some((DecodedPiece::of(character), end + 1))
}
