//! Counts the HTTP/2 frames that a client sends, before they are handled. Pure.
//!
//! A frame of 9 bytes may cost the server work for each stream of the connection. Clients need few such frames for each
//! request, so this limits the number of frames without a request.

use std::time::Duration;

use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream (RFC 9113, section 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// The smallest full DATA frame, in bytes. A smaller one is the last of a body, or the client could have avoided it.
const FULL_DATA: usize = 256;
/// A large frame without a body counts as one more frame for each of these bytes.
const UNIT: usize = 1024;

/// Frames that a new connection may send without a request.
const AT_FIRST: usize = 256;
/// The largest budget of frames.
const MOST: usize = 512;
/// Frames that each request adds to the budget: WINDOW_UPDATE, RST_STREAM, small DATA.
const PER_REQUEST: usize = 8;
/// Written bytes that add one frame to the budget. Go's client sends up to two WINDOW_UPDATE for each 4 KiB that it reads.
const WRITTEN_PER_FRAME: usize = 1024;
const PER_SECOND: usize = 32;
/// SETTINGS frames of a new connection. Each costs work for each stream, and clients need one, and one for each of ours.
const SETTINGS_AT_FIRST: usize = 16;
/// SETTINGS frames that each second adds. Requests add none.
const SETTINGS_PER_SECOND: usize = 1;

/// The client has sent more frames than its requests need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client sends frames without requests")]
pub(super) struct TooMany;

/// The frame budget of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    state: State,
    /// Whether a block of headers is incomplete.
    in_headers: bool,
    left: usize,
    settings: usize,
    refilled: Instant,
    written: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The number of bytes that matched the connection preface.
    Preface(usize),
    /// HTTP/1: frames are not counted.
    Http1,
    Head([u8; HEAD], usize),
    /// The bytes left of a frame, and whether it ends a block of headers.
    Payload(usize, bool),
}

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Preface(0),
            in_headers: false,
            left: AT_FIRST,
            settings: SETTINGS_AT_FIRST,
            refilled: now,
            written: 0,
        }
    }

    /// Whether the beginning of incomplete headers is held.
    pub(super) fn in_headers(&self) -> bool {
        self.in_headers
    }

    /// Counts the bytes that the client sent.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), TooMany> {
        while !bytes.is_empty() {
            match self.state {
                State::Http1 => return Ok(()),
                State::Preface(matched) => {
                    let expected = PREFACE.get(matched..).unwrap_or_default();
                    let length = expected.len().min(bytes.len());
                    let (found, rest) = bytes.split_at(length);
                    self.state = match expected.strip_prefix(found) {
                        Some([]) => State::Head([0; HEAD], 0),
                        Some(_) => State::Preface(matched + length),
                        None => State::Http1,
                    };
                    bytes = rest;
                }
                State::Head(mut head, filled) => {
                    let (found, rest) = bytes.split_at(bytes.len().min(HEAD - filled));
                    head.iter_mut().skip(filled).zip(found).for_each(|(to, from)| *to = *from);
                    bytes = rest;
                    self.state = State::Head(head, filled + found.len());
                    if filled + found.len() == HEAD {
                        self.begin(head, now)?;
                    }
                }
                State::Payload(length, ends) => {
                    let (found, rest) = bytes.split_at(bytes.len().min(length));
                    bytes = rest;
                    self.pass(length - found.len(), ends);
                }
            }
        }
        Ok(())
    }

    /// Counts the bytes that the client received.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        self.allow(self.written / WRITTEN_PER_FRAME);
        self.written %= WRITTEN_PER_FRAME;
    }

    fn begin(&mut self, head: [u8; HEAD], now: Instant) -> Result<(), TooMany> {
        let [high, middle, low, kind, flags, ..] = head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let ends = matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0;
        self.in_headers |= kind == HEADERS;
        match kind {
            HEADERS => self.allow(PER_REQUEST),
            // The limits on the headers of a request bound the bytes of these. A charge would let a tenant with large headers
            // close the API server's connection.
            DATA | CONTINUATION if length >= FULL_DATA => {}
            SETTINGS => {
                if self.settings == 0 {
                    self.refill(now);
                }
                self.settings = self.settings.checked_sub(1).ok_or(TooMany)?;
                self.charge(1, now)?;
            }
            _ => self.charge(1 + length / UNIT, now)?,
        }
        self.pass(length, ends);
        Ok(())
    }

    fn pass(&mut self, left: usize, ends_headers: bool) {
        if left > 0 {
            self.state = State::Payload(left, ends_headers);
            return;
        }
        self.in_headers &= !ends_headers;
        self.state = State::Head([0; HEAD], 0);
    }

    fn allow(&mut self, more: usize) {
        self.left = self.left.saturating_add(more).min(MOST);
    }

    fn charge(&mut self, cost: usize, now: Instant) -> Result<(), TooMany> {
        if self.left < cost {
            self.refill(now);
        }
        self.left = self.left.checked_sub(cost).ok_or(TooMany)?;
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        self.refilled += Duration::from_secs(seconds);
        let seconds = usize::try_from(seconds).unwrap_or(MOST);
        self.allow(seconds.saturating_mul(PER_SECOND));
        let settings = self.settings.saturating_add(seconds.saturating_mul(SETTINGS_PER_SECOND));
        self.settings = settings.min(SETTINGS_AT_FIRST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [.., high, middle, low] = length.to_be_bytes();
        [vec![high, middle, low, kind, flags, 0, 0, 0, 1], vec![0; length]].concat()
    }

    fn begun() -> (Frames, Instant) {
        let now = Instant::now();
        let mut frames = Frames::new(now);
        frames.read(PREFACE, now).unwrap();
        (frames, now)
    }

    #[test]
    fn frames_without_requests_are_bounded_whatever_their_type() {
        for (name, unit) in [
            ("SETTINGS", frame(4, 0, 6)),
            ("PING", frame(6, 0, 8)),
            ("WINDOW_UPDATE", frame(8, 0, 4)),
            ("RST_STREAM", frame(3, 0, 4)),
            ("empty DATA", frame(0, 0, 0)),
            ("DATA of a byte", frame(0, 0, 1)),
            ("no known type", frame(77, 0, 0)),
            ("a large frame of no known type", frame(77, 0, 16_000)),
        ] {
            let (mut frames, now) = begun();
            let refused = (0..10_000).find(|_| frames.read(&unit, now).is_err());
            assert!(refused.is_some_and(|count| count <= AT_FIRST), "{name}: {refused:?}");
        }
    }

    #[test]
    fn frames_of_settings_are_bounded_whatever_requests_come_with_them() {
        let (mut frames, mut now) = begun();
        let unit = [frame(1, 5, 40), frame(4, 0, 6)].concat();
        let refused = (0..10_000).find(|_| frames.read(&unit, now).is_err());
        assert_eq!(refused, Some(SETTINGS_AT_FIRST));
        let (mut frames, _) = begun();
        for _ in 0..1000 {
            now += Duration::from_secs(1);
            frames.read(&unit, now).unwrap();
        }
    }

    #[test]
    fn frames_of_large_headers_are_those_of_requests() {
        let (mut frames, now) = begun();
        for _ in 0..10_000 {
            frames.read(&[frame(1, 0, 16_384), frame(9, 4, 10_000), frame(0, 1, 20_000)].concat(), now).unwrap();
        }
        let refused = (0..10_000).find(|_| frames.read(&frame(9, 0, 1), now).is_err());
        assert!(refused.is_some_and(|count| count <= MOST), "small ones are bounded: {refused:?}");
    }

    #[test]
    fn frames_of_requests_and_time_and_answers_are_allowed() {
        let (mut frames, mut now) = begun();
        for _ in 0..10_000 {
            let request = [frame(1, 4, 40), frame(0, 0, 16_000), frame(0, 1, 0), frame(8, 0, 4), frame(3, 0, 4)];
            frames.read(&request.concat(), now).unwrap();
        }
        for _ in 0..10_000 {
            frames.wrote(4096);
            frames.read(&[frame(8, 0, 4), frame(8, 0, 4)].concat(), now).unwrap();
        }
        for _ in 0..10_000 {
            now += Duration::from_secs(1);
            frames.read(&frame(6, 0, 8).repeat(PER_SECOND), now).unwrap();
        }
    }

    #[test]
    fn frames_are_found_wherever_reads_end() {
        let bytes = [PREFACE.to_vec(), frame(1, 0, 300), frame(9, 0, 7), frame(9, 4, 2), frame(4, 0, 6)].concat();
        for size in [1, 2, 7, 9, 100, 1000] {
            let (now, mut opened) = (Instant::now(), 0);
            let mut frames = Frames::new(now);
            for piece in bytes.chunks(size) {
                frames.read(piece, now).unwrap();
                opened += usize::from(frames.in_headers());
            }
            assert_eq!(frames.left, AT_FIRST + PER_REQUEST - 3, "in pieces of {size}");
            assert_eq!((frames.in_headers(), opened > 0), (false, size < 1000), "in pieces of {size}");
        }
    }

    #[test]
    fn bytes_of_http_1_are_no_frames() {
        let now = Instant::now();
        let mut frames = Frames::new(now);
        for piece in [&b"P"[..], b"OST / HTTP/1.1\r\n\r\n", &[0; 100_000]] {
            frames.read(piece, now).unwrap();
        }
        assert!(!frames.in_headers());
    }
}
