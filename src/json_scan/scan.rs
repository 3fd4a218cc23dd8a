//! Scans 16 and 32 bytes at a time.

use wide::u8x16;

use super::{Scanner, Unread};

impl Scanner<'_> {
    /// Returns the next byte that ends a string or begins an escape, and its position.
    #[inline(always)]
    pub(super) fn next_quote_or_backslash(&self) -> Option<(usize, u8)> {
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

    /// Skips an array or object.
    pub(super) fn skip_brackets(&mut self) -> Result<(), Unread> {
        self.skip_to_close(0)
    }

    /// Skips the rest of an array or object, from a position between two elements.
    pub(super) fn skip_rest(&mut self) -> Result<(), Unread> {
        self.skip_to_close(1)
    }

    /// Skips to the bracket that closes the outermost one; `depth` brackets are already open.
    fn skip_to_close(&mut self, mut depth: usize) -> Result<(), Unread> {
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

/// The positions of the significant characters in 32 bytes: a bit for each byte, the first the lowest.
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

/// The state between two blocks: whether the first ends inside a string, and whether it ends on a backslash that escapes.
#[derive(Default)]
struct Quotes {
    inside: u32,
    escaped: u32,
}

impl Quotes {
    /// Returns the bytes inside strings, including their opening quotes.
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

    /// Returns the bytes after a backslash that is not escaped itself. In a run of backslashes every other one is escaped: an
    /// addition carries through the runs that begin at odd positions, which separates the two kinds.
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

/// Returns a bit for each byte that equals `byte`.
#[inline(always)]
fn equal(block: u8x16, byte: u8) -> u8x16 {
    block.simd_eq(u8x16::splat(byte))
}
