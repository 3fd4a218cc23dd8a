//! Escapes text for messages: warnings travel in HTTP headers.

use std::fmt::{self, Write};

/// Text from outside for a message: in quotes, at most N characters, only printable ASCII.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'t>(pub &'t str, pub usize);

/// As [`Quoted`], without the quotes.
#[derive(Debug, Clone, Copy)]
pub struct PrintableText<'t>(pub &'t str, pub usize);

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
