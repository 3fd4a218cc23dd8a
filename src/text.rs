//! Text for messages and commands: columns, sizes, ages, and escaped text from outside.

use std::fmt::{self, Write};
use std::time::Duration;

use comfy_table::{Table, presets::NOTHING};

/// Text from outside for a message: in quotes, at most N characters, only printable ASCII, because warnings travel in HTTP headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'t>(pub(crate) &'t str, pub(crate) usize);

/// As [`Quoted`], without the quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrintableText<'t>(pub(crate) &'t str, pub(crate) usize);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", PrintableText(self.0, self.1))
    }
}

impl fmt::Display for PrintableText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
        self.0.chars().take(self.1).try_for_each(|c| f.write_char(printable(c)))?;
        if self.0.chars().nth(self.1).is_some() { f.write_str("...") } else { Ok(()) }
    }
}

/// Escapes text from any source: the result cannot move the cursor, start a line or change the text direction.
pub(crate) fn printable(text: &str) -> String {
    let moves = |character: char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|character| if moves(character) { ' ' } else { character }).collect()
}

/// Formats columns as kubectl does: no borders, three spaces between columns, nothing truncated. Makes each cell
/// [`printable`].
pub(crate) fn columns<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(&cell) }));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 3));
    });
    table.trim_fmt() + "\n"
}

/// Formats bytes: `812 B`, `3.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Formats a duration with at least one digit: `4.2 s`, `48 s`, `3m`, `5h`, `12d`.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Formats an image for a column: a digest is cut to its first digits.
pub(crate) fn short_image(image: &str) -> String {
    match image.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@sha256:{}…", digest.get(..8).unwrap_or(digest)),
        None => image.to_owned(),
    }
}

/// Formats a number with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_moves_no_cursor_and_begins_no_line() {
        let evil = "\u{1b}[2Jgone\r\nReady\u{202e}\u{9b}1mü";
        assert_eq!(printable(evil), " [2Jgone  Ready  1mü");
        let table = columns(["A", "B"], [[evil.to_owned(), String::new()]]);
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(!table.contains('\u{1b}') && table.ends_with("-\n"), "{table:?}");
    }

    #[test]
    fn columns_stand_below_one_another_and_lines_end_with_their_text() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(
            columns(["NAME", "READY"], [row("a", "True"), row("longer", "")]),
            "NAME     READY\na        True\nlonger   -\n"
        );
    }

    #[test]
    fn sizes_and_times_are_of_a_length_that_can_be_read() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_023_999, "1000.0 KiB"), (5 << 30, "5.0 GiB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        let times =
            [(0, "0.0 s"), (9, "9.0 s"), (10, "10 s"), (119, "119 s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")];
        for (seconds, text) in times {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
    }
}
