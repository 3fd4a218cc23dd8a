//! Writes JSON text into a buffer, piece by piece.

use std::fmt::Write;

/// Appends `text` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    out.reserve(text.len() + 2);
    out.push('"');
    push_escaped(out, text);
    out.push('"');
}

/// Appends `text` as the inside of a JSON string, with the escapes of `serde_json`.
pub fn push_escaped(out: &mut String, text: &str) {
    if !needs_escapes(text) {
        return out.push_str(text);
    }
    let mut rest = text;
    while let Some(at) = rest.bytes().position(is_special) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let mut characters = from.chars();
        characters.next().into_iter().for_each(|special| push_special(out, special));
        rest = characters.as_str();
    }
    out.push_str(rest);
}

fn push_special(out: &mut String, special: char) {
    match special {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\t' => out.push_str("\\t"),
        '\n' => out.push_str("\\n"),
        '\u{c}' => out.push_str("\\f"),
        '\r' => out.push_str("\\r"),
        // A write to a `String` cannot fail.
        control => drop(write!(out, "\\u{:04x}", u32::from(control))),
    }
}

/// Checks every byte, several at once, and does not stop at the first match.
fn needs_escapes(text: &str) -> bool {
    text.bytes().fold(false, |found, byte| found | is_special(byte))
}

fn is_special(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_string_is_written_as_serde_json_writes_it(text in "[ -~]{0,40}|\\PC{0,40}|[\u{0}-\u{7f}]{0,40}") {
            let mut written = String::new();
            push_string(&mut written, &text);
            prop_assert_eq!(written, serde_json::to_string(&text).unwrap());
        }
    }
}
