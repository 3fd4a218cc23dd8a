//! The output of commands: results on standard output, everything else on standard error.

use std::{fmt::Display, io::Write as _};

use anyhow::Context as _;

/// Writes a result to standard output.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Prints warnings about invalid or shadowed rules and policies.
pub(super) fn warn_of(findings: &[impl Display]) {
    findings.iter().for_each(|finding| eprint_line(format_args!("warning: {finding}")));
}

/// Writes a line to standard error. If standard error is closed, the line is lost.
pub(super) fn eprint_line(message: impl Display) {
    writeln!(std::io::stderr(), "harbor-pilot: {}", escaped(&message.to_string())).ok();
}

/// A text without characters that move the cursor, end the line or change the direction of writing.
pub(super) fn escaped(text: &str) -> String {
    let is_control = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_leaves_no_control_characters() {
        assert_eq!(escaped("a\u{1b}[31m\nb\u{202e}\u{e9}"), "a\\u{1b}[31m\\nb\\u{202e}\u{e9}");
    }
}
