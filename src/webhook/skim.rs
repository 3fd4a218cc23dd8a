//! JSON for a reader that wants a few fields out of many: what nobody asks for is jumped over, 32 bytes at a time.
//!
//! A review is some kilobytes of which admission wants some hundred bytes, so that skipping is most of the work. What
//! is skipped is only measured, not checked: brackets are counted whatever their kind, and `truth` passes for a
//! literal. All that is well-formed reads as `serde_json` reads it, which the tests hold; of what is not, some is
//! read nevertheless, and the rest is [`Unread`], without a reason: ask `serde_json` for that.

use std::borrow::Cow;
use std::fmt;
use std::str::from_utf8;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use wide::u8x16;

/// Reads a value of which the text is all there is.
pub(super) fn from_slice<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, Unread> {
    let mut skim = Skim { text, at: 0 };
    let value = T::deserialize(&mut skim)?;
    match skim.peek() {
        None => Ok(value),
        Some(_) => Err(Unread),
    }
}

/// The text is not what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unread")]
pub(super) struct Unread;

impl Error for Unread {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// A place in a text.
struct Skim<'de> {
    text: &'de [u8],
    at: usize,
}

impl<'de> Skim<'de> {
    /// The next byte that is no whitespace, which stays.
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

    /// Takes this very byte.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> Result<(), Unread> {
        if self.peek() != Some(byte) {
            return Err(Unread);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes `null`, if it is next.
    fn take_null(&mut self) -> bool {
        let null = self.peek() == Some(b'n') && self.text.get(self.at..).is_some_and(|text| text.starts_with(b"null"));
        self.at += if null { 4 } else { 0 };
        null
    }

    /// Takes a string: what is between its quotes, and whether that has escapes.
    #[inline(always)]
    fn take_raw(&mut self) -> Result<(&'de [u8], bool), Unread> {
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

    /// Takes a string, borrowed unless it has escapes.
    fn take_text(&mut self) -> Result<Cow<'de, str>, Unread> {
        let start = self.at;
        let (raw, escapes) = self.take_raw()?;
        if escapes {
            let quoted = self.text.get(start..self.at).ok_or(Unread)?;
            return serde_json::from_slice(quoted).map(Cow::Owned).map_err(|_| Unread);
        }
        from_utf8(raw).map(Cow::Borrowed).map_err(|_| Unread)
    }

    #[inline(always)]
    fn next_quote_or_backslash(&self) -> Option<(usize, u8)> {
        let mut at = self.at;
        while let Some(block) = self.text.get(at..).and_then(|rest| rest.first_chunk()) {
            let block = u8x16::new(*block);
            let found = (equal(block, b'"') | equal(block, b'\\')).to_bitmask();
            if found != 0 {
                at += found.trailing_zeros() as usize;
                return Some((at, *self.text.get(at)?));
            }
            at += 16;
        }
        let rest = self.text.get(at..)?.iter();
        let found = rest.zip(at..).find(|(byte, _)| matches!(byte, b'"' | b'\\'));
        found.map(|(byte, at)| (at, *byte))
    }

    /// Takes a value of any kind, unread.
    #[inline(always)]
    fn skip(&mut self) -> Result<(), Unread> {
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

    /// Takes an array or object.
    fn skip_brackets(&mut self) -> Result<(), Unread> {
        let mut depth = 0_usize;
        let mut quotes = Quotes::default();
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let mut padded = [b' '; 32];
            let block = match rest.first_chunk() {
                Some(block) => block,
                None if rest.is_empty() => return Err(Unread),
                None => {
                    padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                    &padded
                }
            };
            let marks = Marks::of(block);
            let outside = !quotes.inside(marks.quotes, marks.backslashes);
            let mut brackets = (marks.opens | marks.closes) & outside;
            while brackets != 0 {
                let lowest = brackets & brackets.wrapping_neg();
                if marks.opens & lowest != 0 {
                    depth += 1;
                } else if depth > 1 {
                    depth -= 1;
                } else {
                    self.at += lowest.trailing_zeros() as usize + 1;
                    return Ok(());
                }
                brackets ^= lowest;
            }
            self.at += 32;
        }
    }
}

/// Where in 32 bytes the characters stand that matter: a bit for each byte, the first the lowest.
struct Marks {
    quotes: u32,
    backslashes: u32,
    opens: u32,
    closes: u32,
}

impl Marks {
    #[inline(always)]
    fn of(block: &[u8; 32]) -> Self {
        let mut marks = Self { quotes: 0, backslashes: 0, opens: 0, closes: 0 };
        let (parts, _) = block.as_chunks::<16>();
        for (index, part) in parts.iter().enumerate() {
            let part = u8x16::new(*part);
            // Brackets and braces differ in this bit alone.
            let lower = part | u8x16::splat(0x20);
            let mask = |found: u8x16| found.to_bitmask() << (index * 16);
            marks.quotes |= mask(equal(part, b'"'));
            marks.backslashes |= mask(equal(part, b'\\'));
            marks.opens |= mask(equal(lower, b'{'));
            marks.closes |= mask(equal(lower, b'}'));
        }
        marks
    }
}

/// What goes from one block to the next: whether it ends within a string, and on a backslash that escapes.
#[derive(Default)]
struct Quotes {
    inside: u32,
    escaped: u32,
}

impl Quotes {
    /// The bytes that are within strings, their opening quote included.
    #[inline(always)]
    fn inside(&mut self, quotes: u32, backslashes: u32) -> u32 {
        let mut inside = quotes & !self.escaped(backslashes);
        for shift in [1, 2, 4, 8, 16] {
            inside ^= inside << shift;
        }
        inside ^= self.inside;
        self.inside = 0_u32.wrapping_sub(inside >> 31);
        inside
    }

    /// The bytes after a backslash that is not itself escaped. In a run of backslashes every other one is: an addition
    /// carries through the runs that begin at odd places, which tells the two kinds apart.
    #[inline(always)]
    fn escaped(&mut self, backslashes: u32) -> u32 {
        if backslashes == 0 {
            return std::mem::take(&mut self.escaped);
        }
        const EVEN: u32 = 0x5555_5555;
        let backslashes = backslashes & !self.escaped;
        let follows = backslashes << 1 | self.escaped;
        let odd_starts = backslashes & !EVEN & !follows;
        let (sum, carry) = odd_starts.overflowing_add(backslashes);
        self.escaped = u32::from(carry);
        (EVEN ^ (sum << 1)) & follows
    }
}

/// All bits of the bytes that are this one.
#[inline(always)]
fn equal(block: u8x16, byte: u8) -> u8x16 {
    block.simd_eq(u8x16::splat(byte))
}

impl<'de> Deserializer<'de> for &mut Skim<'de> {
    type Error = Unread;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        match self.peek().ok_or(Unread)? {
            b'"' => match self.take_text()? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            b'{' => self.deserialize_map(visitor),
            b'[' => self.deserialize_seq(visitor),
            b'n' if self.take_null() => visitor.visit_unit(),
            b't' if self.text.get(self.at..).is_some_and(|text| text.starts_with(b"true")) => {
                self.at += 4;
                visitor.visit_bool(true)
            }
            b'f' if self.text.get(self.at..).is_some_and(|text| text.starts_with(b"false")) => {
                self.at += 5;
                visitor.visit_bool(false)
            }
            // Nothing that we read is a number.
            _ => Err(Unread),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        self.take(b'[')?;
        visitor.visit_seq(Members { skim: self, first: true })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        self.take(b'{')?;
        visitor.visit_map(Members { skim: self, first: true })
    }

    /// Never from an array, as `serde_json` would.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unread> {
        self.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        if self.take_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        self.skip()?;
        visitor.visit_unit()
    }

    /// Names of fields: as bytes, since those that matter are ASCII.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        let start = self.at;
        match self.take_raw()? {
            (raw, false) => visitor.visit_borrowed_bytes(raw),
            (_, true) => {
                self.at = start;
                visitor.visit_str(&self.take_text()?)
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unread> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct enum
    }
}

/// The elements of an array or the members of an object.
struct Members<'s, 'de> {
    skim: &'s mut Skim<'de>,
    first: bool,
}

impl Members<'_, '_> {
    /// Goes to the next one; false at the end.
    #[inline(always)]
    fn next(&mut self, end: u8) -> Result<bool, Unread> {
        let byte = self.skim.peek().ok_or(Unread)?;
        if byte == end {
            self.skim.at += 1;
            return Ok(false);
        }
        if !std::mem::take(&mut self.first) {
            self.skim.take(b',')?;
        }
        Ok(true)
    }
}

impl<'de> MapAccess<'de> for Members<'_, 'de> {
    type Error = Unread;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unread> {
        if self.next(b'}')? { seed.deserialize(&mut *self.skim).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Unread> {
        self.skim.take(b':')?;
        seed.deserialize(&mut *self.skim)
    }
}

impl<'de> SeqAccess<'de> for Members<'_, 'de> {
    type Error = Unread;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unread> {
        if self.next(b']')? { seed.deserialize(&mut *self.skim).map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::rewrite::pod::{Annotations, Text};

    /// What a review has: texts, lists, objects within objects, a flag, and fields that nobody asks for.
    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Taken<'a> {
        #[serde(borrow)]
        text: Option<Text<'a>>,
        #[serde(borrow)]
        list: Option<Vec<Taken<'a>>>,
        #[serde(borrow)]
        inner: Option<Box<Taken<'a>>>,
        flag: Option<bool>,
        #[serde(borrow)]
        annotations: Option<Annotations<'a>>,
    }

    fn read(text: &[u8]) -> (Option<String>, Option<String>) {
        let told = |value: Taken<'_>| format!("{value:?}");
        (from_slice::<Taken<'_>>(text).ok().map(told), serde_json::from_slice::<Taken<'_>>(text).ok().map(told))
    }

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,70}",
            "\\PC{0,20}",
            "[\\\\\"{}\\[\\],:]{0,70}",
            "\\\\{60,70}\"?",
            Just(String::new()),
            Just(crate::rewrite::ORIGINAL_IMAGES.to_owned()),
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaves = prop_oneof![
            texts().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(Value::Null),
        ];
        leaves.prop_recursive(6, 60, 8, |inner| {
            let key = prop_oneof![
                3 => prop::sample::select(vec!["text", "list", "inner", "flag", "annotations"]).prop_map(str::to_owned),
                1 => texts(),
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Objects that mostly have what [`Taken`] wants.
    fn fitting() -> impl Strategy<Value = Value> {
        let object = |text, list: Vec<Value>, inner: Value, flag: bool, annotations, other| {
            let mut object =
                serde_json::json!({"other": other, "text": text, "flag": flag, "annotations": annotations});
            if !list.is_empty() {
                object["list"] = list.into();
            }
            object["inner"] = inner;
            object
        };
        let annotations = || prop::collection::hash_map(texts(), texts(), 0..4);
        let leaf = (texts(), any::<bool>(), annotations(), values());
        let leaf = leaf.prop_map(move |(text, flag, map, other)| object(text, vec![], Value::Null, flag, map, other));
        leaf.prop_recursive(4, 20, 3, move |inner| {
            let parts =
                (texts(), prop::collection::vec(inner.clone(), 0..3), inner, any::<bool>(), annotations(), values());
            parts.prop_map(move |(text, list, inner, flag, map, other)| object(text, list, inner, flag, map, other))
        })
    }

    proptest! {
        #[test]
        fn what_fits_is_read_as_serde_json_reads_it(value in fitting()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let (ours, theirs) = read(text.as_bytes());
                prop_assert!(theirs.is_some());
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn what_is_well_formed_is_read_alike_or_not_at_all(value in values()) {
            let (ours, theirs) = read(value.to_string().as_bytes());
            if ours.is_some() {
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn what_is_spoilt_never_panics(value in fitting(), at: prop::sample::Index, to: Option<u8>) {
            let mut text = value.to_string().into_bytes();
            let at = at.index(text.len());
            match to {
                Some(byte) => text[at] = byte,
                None => text.truncate(at),
            }
            let (ours, theirs) = read(&text);
            if theirs.is_some() && ours.is_some() {
                prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn an_unread_part_of_any_length_ends_where_it_ends() {
        for length in 0..200 {
            for filling in ["x", "\\\\", "\\\"", "[]{}", "é"] {
                let filling = filling.repeat(length);
                let text = format!(r#"{{"a":[["{filling}"],{{"b":"{filling}"}}],"c":"{filling}","text":"found"}}"#);
                assert_eq!(from_slice::<Taken<'_>>(text.as_bytes()).unwrap().text.as_deref(), Some("found"));
            }
        }
        for unended in ["", "{", "[", r#"{"a":["#, r#"{"a":["]"#, r#"{"a":"#, r#"{"a":1"#, r#"{"a":1}}"#] {
            assert_eq!(from_slice::<Taken<'_>>(unended.as_bytes()).unwrap_err(), Unread, "{unended}");
        }
    }
}
