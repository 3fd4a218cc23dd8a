//! JSON text, written piece by piece into a buffer.

/// Appends `text` as a JSON string, escaped where it has to be.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    if needs_escapes(text) {
        // Writing a string to memory has no way to fail.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
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
            let mut written = Vec::new();
            push_string(&mut written, &text);
            prop_assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }
}
