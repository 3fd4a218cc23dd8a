//! A JSON reader for a few fields out of many: it skips all other fields, 32 bytes at a time.
//!
//! In: a text. Out: values that borrow from it; their types say which fields they need. A review has some kilobytes, of which
//! admission needs some hundred bytes, so most of the work is skipping. Skipped text is measured and not validated: brackets
//! are counted whatever their kind, and `truth` passes as a literal. All well-formed JSON gives the same values as
//! `serde_json`; the tests check this. Some malformed JSON is accepted; the rest is [`Unread`], without a reason: parse it
//! with `serde_json` for the reason.

mod scan;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::str::from_utf8;

/// Reads a text that holds exactly one value.
///
/// # Errors
/// When the text is malformed, has more than one value, or has a value of another type.
pub fn read<'a, T: Read<'a>>(text: &'a [u8]) -> Result<T, Unread> {
    let mut scanner = Scanner { text, at: 0 };
    let value = T::read(&mut scanner)?;
    match scanner.peek() {
        None => Ok(value),
        Some(_) => Err(Unread),
    }
}

/// Reads the fields of an object that come before the text ends, or before what cannot be read.
pub fn read_beginning<'a, T: Fields<'a>>(text: &'a [u8]) -> T {
    let (mut scanner, mut value) = (Scanner { text, at: 0 }, T::default());
    scanner.object(|name, scanner| value.field(&name, scanner)).ok();
    value
}

/// A value that can be read.
pub trait Read<'a>: Sized {
    /// Reads the value at the position of `scanner`.
    ///
    /// # Errors
    /// When another value is there.
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread>;
}

/// An object with some fields to read.
pub trait Fields<'a>: Default {
    /// Reads the value of a field: [`Scanner::field`] for a needed field, [`Scanner::skip`] for any other.
    ///
    /// # Errors
    /// When the value is invalid.
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread>;
}

/// Implements [`Fields`] for a struct of [`Option`]s: the field that receives the value of each JSON name. All other values are
/// skipped.
macro_rules! fields {
    ($object:ty $(where [$($parameters:tt)+])? { $($name:literal => $field:ident),+ }) => {
        impl<'a $(, $($parameters)+)?> $crate::json_scan::Fields<'a> for $object {
            fn field(
                &mut self,
                name: &[u8],
                scanner: &mut $crate::json_scan::Scanner<'a>,
            ) -> Result<(), $crate::json_scan::Unread> {
                match name {
                    $($name => scanner.field(&mut self.$field),)+
                    _ => scanner.skip(),
                }
            }
        }
    };
}
pub(crate) use fields;

/// The text is not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is no JSON, or has another type of value than expected")]
pub struct Unread;

/// A position in a text.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Returns the next byte that is not whitespace, without consuming it.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Consumes exactly this byte.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> Result<(), Unread> {
        if self.peek() != Some(byte) {
            return Err(Unread);
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes `null`, if it is next.
    #[inline(always)]
    pub fn take_null(&mut self) -> bool {
        let null = self.peek() == Some(b'n') && self.text.get(self.at..).is_some_and(|text| text.starts_with(b"null"));
        self.at += if null { 4 } else { 0 };
        null
    }

    /// Consumes a string. Returns the bytes between its quotes, and whether they have escapes.
    #[inline(always)]
    fn take_raw(&mut self) -> Result<(&'a [u8], bool), Unread> {
        self.take(b'"')?;
        let start = self.at;
        let mut escapes = false;
        loop {
            let (end, byte) = self.next_quote_or_backslash().ok_or(Unread)?;
            self.at = end + 1;
            if byte == b'"' {
                return Ok((self.text.get(start..end).ok_or(Unread)?, escapes));
            }
            escapes = true;
            self.at += 1;
        }
    }

    /// Consumes the name of a member.
    #[inline(always)]
    fn take_name(&mut self) -> Result<Cow<'a, [u8]>, Unread> {
        let start = self.at;
        match self.take_raw()? {
            (raw, false) => Ok(Cow::Borrowed(raw)),
            (_, true) => {
                self.at = start;
                Ok(Cow::Owned(self.take_text()?.into_owned().into_bytes()))
            }
        }
    }

    /// Consumes a string, borrowed unless it has escapes.
    ///
    /// # Errors
    /// When the next value is not a string.
    pub fn take_text(&mut self) -> Result<Cow<'a, str>, Unread> {
        let start = self.at;
        let (raw, escapes) = self.take_raw()?;
        if escapes {
            let quoted = self.text.get(start..self.at).ok_or(Unread)?;
            return serde_json::from_slice(quoted).map(Cow::Owned).map_err(|_| Unread);
        }
        from_utf8(raw).map(Cow::Borrowed).map_err(|_| Unread)
    }

    /// Skips a value of any kind.
    ///
    /// # Errors
    /// When there is no value.
    #[inline(always)]
    pub fn skip(&mut self) -> Result<(), Unread> {
        match self.peek().ok_or(Unread)? {
            b'"' => self.take_raw().map(drop),
            b'{' | b'[' => self.skip_brackets(),
            b',' | b':' | b'}' | b']' => Err(Unread),
            _ => {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
                self.at += rest.iter().position(ends).unwrap_or(rest.len());
                Ok(())
            }
        }
    }

    /// Reads the value of a needed field; `null` counts as absent. Refuses a field that occurs twice, because readers differ
    /// in which one counts.
    ///
    /// # Errors
    /// When the value is invalid.
    #[inline(always)]
    pub fn field<T: Read<'a>>(&mut self, to: &mut Option<T>) -> Result<(), Unread> {
        if to.is_some() {
            return Err(Unread);
        }
        if !self.take_null() {
            *to = Some(T::read(self)?);
        }
        Ok(())
    }

    /// Reads a list as [`Scanner::field`] does, with at most `most` elements. Skips the rest, so that the list needs memory only
    /// for the kept elements. Returns whether there were more.
    ///
    /// # Errors
    /// When the value is not a list, or an element is invalid.
    pub fn list<T: Read<'a>>(&mut self, to: &mut Option<Vec<T>>, most: usize) -> Result<bool, Unread> {
        if to.is_some() {
            return Err(Unread);
        }
        if self.take_null() {
            return Ok(false);
        }
        let mut elements = Vec::new();
        let more = self.take_list(&mut elements, most)?;
        *to = Some(elements);
        Ok(more)
    }

    /// Calls `take`, and also returns the text that it consumed.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn with_text<T>(&mut self, take: impl FnOnce(&mut Self) -> Result<T, Unread>) -> Result<(T, &'a [u8]), Unread> {
        self.peek();
        let start = self.at;
        let taken = take(self)?;
        Ok((taken, self.text.get(start..self.at).ok_or(Unread)?))
    }

    #[inline(always)]
    fn take_list<T: Read<'a>>(&mut self, elements: &mut Vec<T>, most: usize) -> Result<bool, Unread> {
        self.take(b'[')?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(false);
        }
        loop {
            if elements.len() >= most {
                return self.skip_rest().map(|()| true);
            }
            elements.push(T::read(self)?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(false);
                }
                _ => return Err(Unread),
            }
        }
    }

    /// Reads an object, member by member. Calls `member` after each name; it consumes the value.
    ///
    /// # Errors
    /// When there is no object, and the errors of `member`.
    #[inline(always)]
    pub fn object(
        &mut self,
        mut member: impl FnMut(Cow<'a, [u8]>, &mut Self) -> Result<(), Unread>,
    ) -> Result<(), Unread> {
        self.take(b'{')?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.take_name()?;
            self.take(b':')?;
            member(name, self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(Unread),
            }
        }
    }
}

impl<'a, T: Fields<'a>> Read<'a> for T {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        let mut value = T::default();
        scanner.object(|name, scanner| value.field(&name, scanner))?;
        Ok(value)
    }
}

impl<'a, T: Read<'a>> Read<'a> for Vec<T> {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        let mut elements = Self::new();
        scanner.take_list(&mut elements, usize::MAX)?;
        Ok(elements)
    }
}

impl<'a> Read<'a> for bool {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        scanner.peek();
        let rest = scanner.text.get(scanner.at..).unwrap_or_default();
        let value = match rest {
            [b't', b'r', b'u', b'e', ..] => true,
            [b'f', b'a', b'l', b's', b'e', ..] => false,
            _ => return Err(Unread),
        };
        scanner.at += if value { 4 } else { 5 };
        Ok(value)
    }
}
