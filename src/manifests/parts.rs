//! Splits a text into parts that are parsed one by one: JSON values without a separator, otherwise the whole text.

use std::ops::Range;

use serde::de::IgnoredAny;

use super::ManifestError;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextPart {
    /// The bytes of the part.
    pub(super) bytes: Range<usize>,
    /// The number of lines before it.
    lines: usize,
    /// The number of characters before it in its first line.
    columns: usize,
}

impl TextPart {
    /// Converts a position in the part (line counted from 1, column counted from 0) to line and column in the text, both
    /// counted from 1.
    pub(super) fn place(&self, line: usize, column: usize) -> (usize, usize) {
        (self.lines + line, column + 1 + if line <= 1 { self.columns } else { 0 })
    }
}

/// Splits several JSON values, as JSON Lines has them, into one part each. A text that is not all JSON is one part.
///
/// # Errors
/// When a text after a JSON value begins like a JSON value and is invalid.
pub(super) fn parts(text: &str) -> Result<Vec<TextPart>, ManifestError> {
    let found = json_values(text)?;
    Ok(found.unwrap_or_else(|| vec![TextPart { bytes: 0..text.len(), lines: 0, columns: 0 }]))
}

/// Returns the text with `---` between JSON values that have no separator, so that other documents can follow.
///
/// # Errors
/// When the text cannot be split into documents.
pub fn separated(text: &str) -> Result<String, ManifestError> {
    let parts = parts(text)?;
    let [_] = parts.as_slice() else {
        let values: Vec<&str> = parts.iter().filter_map(|part| text.get(part.bytes.clone())).collect();
        return Ok(format!("{}\n", values.join("\n---\n")));
    };
    Ok(text.to_owned())
}

fn json_values(text: &str) -> Result<Option<Vec<TextPart>>, ManifestError> {
    let start = text.len() - text.trim_start_matches('\u{feff}').trim_start().len();
    let Some(values) = text.get(start..).filter(|rest| rest.starts_with(['{', '['])) else { return Ok(None) };
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    let mut stream = serde_json::Deserializer::from_str(values).into_iter::<IgnoredAny>();
    let mut parts = Vec::new();
    let (mut at, mut lines, mut line_start) = (0, 0, 0);
    let mut end = 0;
    while let Some(value) = stream.next() {
        let before = rest(start + end);
        if let Err(error) = value {
            // The first value may be YAML in flow style; a text after a JSON value may not.
            let is_json = !parts.is_empty() && before.trim_start().starts_with('{');
            let above = rest(0).get(..start).map_or(0, |above| above.matches('\n').count());
            let text = error.to_string();
            let detail = text.split(" at line ").next().unwrap_or_default().to_owned();
            let (document, line, column) = (parts.len() + 1, above + error.line(), error.column().max(1));
            return if is_json { Err(ManifestError { document, line, column, detail }) } else { Ok(None) };
        }
        let next = start + stream.byte_offset();
        let first = start + end + (before.len() - before.trim_start().len());
        for (newline, _) in text.get(at..first).unwrap_or_default().match_indices('\n') {
            lines += 1;
            line_start = at + newline + 1;
        }
        let columns = text.get(line_start..first).unwrap_or_default().trim_start_matches('\u{feff}').chars().count();
        parts.push(TextPart { bytes: first..next, lines, columns });
        at = first;
        end = stream.byte_offset();
    }
    Ok((parts.len() > 1).then_some(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(&str, (usize, usize))> {
        parts(text).unwrap().into_iter().map(|part| (&text[part.bytes.clone()], part.place(1, 0))).collect()
    }

    #[test]
    fn parts_are_the_values_of_json_lines_and_of_concatenated_json() {
        assert_eq!(places("{\"a\":1}\n{\"b\":[\n2]}\n"), [("{\"a\":1}", (1, 1)), ("{\"b\":[\n2]}", (2, 1))]);
        assert_eq!(places("{\"\u{e9}\":1}{} [1]"), [("{\"\u{e9}\":1}", (1, 1)), ("{}", (1, 8)), ("[1]", (1, 11))]);
        assert_eq!(places("{}\r\n\r\n{}"), [("{}", (1, 1)), ("{}", (3, 1))]);
    }

    #[test]
    fn separated_puts_a_separator_between_json_values_alone() {
        for (text, expected) in [
            ("{\"a\":1}\n{\"b\":2}", "{\"a\":1}\n---\n{\"b\":2}\n"),
            ("{}{} {}\n\n", "{}\n---\n{}\n---\n{}\n"),
            ("{}\n", "{}\n"),
            ("a: 1\n---\nb: 2", "a: 1\n---\nb: 2"),
        ] {
            assert_eq!(separated(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn parts_are_the_whole_text_where_it_is_not_json_throughout() {
        for text in ["", "{}", "{a: 1}\n{b: 2}", "{}\n---\n{}", "a: 1", "{a: 1}\n{"] {
            assert_eq!(places(text), [(text, (1, 1))], "{text}");
        }
    }
}
