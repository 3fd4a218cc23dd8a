//! JSON text, written piece by piece into a buffer.

/// Appends `text` as a JSON string, escaped where it has to be.
pub fn push_string(out: &mut String, text: &str) {
    if needs_escapes(text) {
        // A string has no way not to be written.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    } else {
        out.reserve(text.len() + 2);
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

/// Looks at every byte, several at once, instead of stopping at the first.
fn needs_escapes(text: &str) -> bool {
    text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\'))
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
