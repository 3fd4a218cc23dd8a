//! One connection: its state, its memory, and the order to go on or to end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::peer_slots::{Peer, PeerSlot, SlotHolder};

/// An order to a connection. Stricter orders replace weaker ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum ConnectionOrder {
    /// Serves requests.
    Serve,
    /// Finishes its requests and accepts no new ones.
    Finish,
    /// As [`Order::Finish`], within moments: another connection has its slot.
    Leave,
    /// Closes at once.
    Close,
}

/// The state of a connection, shared by its task, the limits that count it, and its answers.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    began: Instant,
    /// The shortest wait of an unwritten answer, and half of the longest, after which the connection can be evicted.
    tick: Duration,
    http2: AtomicBool,
    /// Microseconds from `began` to the last request that was read completely; 0 before the first.
    asked: AtomicU64,
    /// Requests whose head has arrived.
    begun: AtomicUsize,
    /// Microseconds from `began` to the first part of incomplete headers; 0 if there are none.
    headers: AtomicU64,
    working: AtomicUsize,
    answers: UnwrittenResponses,
    order: AtomicU8,
    waker: AtomicWaker,
    seat: Mutex<ConnectionState>,
}

/// The limit that counts the connection.
#[derive(Debug)]
enum ConnectionState {
    Standing,
    Taken(#[allow(dead_code, reason = "given back when dropped")] PeerSlot<Connection>),
    /// The connection has ended; requests that it left behind take no slot.
    Ended,
}

/// Answers that are not written yet.
#[derive(Debug, Default)]
struct UnwrittenResponses {
    bytes: AtomicUsize,
    /// Microseconds from `began` to the last write, or to the first answer that waits for one.
    moved: AtomicU64,
    /// The number of answers in each of the last intervals: this finds a stalled answer without a list of all.
    intervals: [AtomicUsize; INTERVALS],
    /// The same for much shorter intervals.
    ticks: [AtomicUsize; TICKS],
}

const INTERVALS: usize = 4;
const TICKS: usize = 8;

impl Connection {
    /// Creates the state. `patience` is how long an answer may wait to be written before the connection counts as idle.
    pub(super) fn new(address: SocketAddr, patience: Duration) -> Self {
        Self {
            address,
            began: Instant::now(),
            tick: patience,
            http2: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            begun: AtomicUsize::new(0),
            headers: AtomicU64::new(0),
            working: AtomicUsize::new(0),
            answers: UnwrittenResponses::default(),
            order: AtomicU8::new(ConnectionOrder::Serve as u8),
            waker: AtomicWaker::new(),
            seat: Mutex::new(ConnectionState::Standing),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Records that the client chose HTTP/2.
    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Takes a slot, and frees the slot that the connection had.
    pub(super) fn take(&self, place: PeerSlot<Self>) {
        self.change(ConnectionState::Taken(place));
    }

    /// Frees the slot; the connection never takes another.
    pub(super) fn end(&self) {
        self.change(ConnectionState::Ended);
    }

    fn change(&self, seat: ConnectionState) {
        let mut held = self.seat.lock();
        let over = if matches!(*held, ConnectionState::Ended) { seat } else { std::mem::replace(&mut *held, seat) };
        drop(held);
        // Outside of the lock: the drop locks the slots.
        drop(over);
    }

    /// Whether the connection has not sent a complete request yet.
    pub(super) fn is_new(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == 0
    }

    /// Counts a request as begun until the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> StartedRequest {
        self.begun.fetch_add(1, Ordering::Relaxed);
        StartedRequest(Arc::clone(self))
    }

    /// Whether the connection has not sent the beginning of a request yet.
    pub(super) fn is_mute(&self) -> bool {
        self.is_new() && self.begun.load(Ordering::Relaxed) == 0
    }

    /// Records when the client sent a part of a request's headers; `None` once the headers are complete.
    pub(super) fn begin_headers(&self, now: Option<Instant>) {
        self.headers.store(now.map_or(0, |now| self.micros(now).max(1)), Ordering::Relaxed);
    }

    /// Returns the time since when headers are incomplete.
    pub(super) fn headers_since(&self) -> Option<Instant> {
        let micros = self.headers.load(Ordering::Relaxed);
        (micros > 0).then(|| self.began + Duration::from_micros(micros))
    }

    /// Records a request that was read completely. The connection is not idle until the result is dropped.
    pub(super) fn work(self: &Arc<Self>, now: Instant) -> RunningRequest {
        self.asked.store(self.micros(now).max(1), Ordering::Relaxed);
        self.working.fetch_add(1, Ordering::Relaxed);
        RunningRequest(Arc::clone(self))
    }

    /// Counts part of an answer until the result is dropped. `interval` is the longest time to write an answer.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize, interval: Duration, now: Instant) -> UnwrittenPart {
        let index = self.interval(interval, now) % INTERVALS;
        let held = &self.answers;
        if held.bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            held.moved.store(self.micros(now), Ordering::Relaxed);
        }
        held.intervals.get(index).inspect(|count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let tick = self.interval(self.tick, now) % TICKS;
        held.ticks.get(tick).inspect(|count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        UnwrittenPart { connection: Arc::clone(self), bytes, index, tick }
    }

    /// Whether an answer waits for a write so long that the connection may be evicted.
    fn is_stuck(&self, now: Instant) -> bool {
        if self.tick.is_zero() {
            return true;
        }
        let current = self.interval(self.tick, now);
        let recent = [current % TICKS, current.wrapping_sub(1) % TICKS];
        let mut old = self.answers.ticks.iter().enumerate().filter(|(tick, _)| !recent.contains(tick));
        old.any(|(_, count)| count.load(Ordering::Relaxed) > 0)
    }

    /// Whether an answer waits for a write longer than `interval`; true at the latest after twice that time.
    pub(super) fn is_stalled(&self, interval: Duration, now: Instant) -> bool {
        let Some(old) = self.interval(interval, now).checked_sub(2) else { return false };
        self.answers.intervals.get(old % INTERVALS).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// Returns the unwritten bytes, multiplied by the time since the last write.
    pub(super) fn unwritten_cost(&self, now: Instant) -> u128 {
        let bytes = self.answers.bytes.load(Ordering::Relaxed) as u128;
        let still = self.micros(now).saturating_sub(self.answers.moved.load(Ordering::Relaxed));
        bytes * u128::from(still.max(1))
    }

    /// Gives an order. A weaker order than the current one has no effect.
    pub(super) fn order(&self, order: ConnectionOrder) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8 {
            self.waker.wake();
        }
    }

    /// Returns the current order, and wakes `cx` when it changes.
    pub(super) fn ordered(&self, cx: &Context<'_>) -> ConnectionOrder {
        self.waker.register(cx.waker());
        self.current()
    }

    pub(super) fn current(&self) -> ConnectionOrder {
        match self.order.load(Ordering::Acquire) {
            0 => ConnectionOrder::Serve,
            1 => ConnectionOrder::Finish,
            2 => ConnectionOrder::Leave,
            _ => ConnectionOrder::Close,
        }
    }

    /// Waits for the order to close at once.
    pub(super) async fn closed(&self) {
        poll_fn(|cx| if self.ordered(cx) >= ConnectionOrder::Leave { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }

    fn interval(&self, length: Duration, now: Instant) -> usize {
        let length = length.as_micros().max(1);
        usize::try_from(now.saturating_duration_since(self.began).as_micros() / length).unwrap_or(usize::MAX)
    }
}

impl SlotHolder for Connection {
    fn peer(&self) -> Peer {
        Peer::of(self.address.ip())
    }

    /// Only requests count; pings do not.
    fn idle_since(&self) -> Option<Instant> {
        let writes = self.answers.bytes.load(Ordering::Relaxed) > 0 && !self.is_stuck(Instant::now());
        let busy = self.working.load(Ordering::Relaxed) > 0 || writes;
        (!busy).then(|| self.began + Duration::from_micros(self.asked.load(Ordering::Relaxed)))
    }

    /// A peer that holds less may evict a connection that still writes an answer: the connection has a moment to finish it.
    fn yields_since(&self) -> Option<Instant> {
        let works = self.working.load(Ordering::Relaxed) > 0;
        (!works).then(|| self.began + Duration::from_micros(self.asked.load(Ordering::Relaxed)))
    }

    fn evict(&self) {
        self.order(ConnectionOrder::Leave);
    }
}

/// A request that has begun.
#[derive(Debug)]
pub(super) struct StartedRequest(Arc<Connection>);

impl Drop for StartedRequest {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that was read and is being answered.
#[derive(Debug)]
pub(super) struct RunningRequest(Arc<Connection>);

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part of an answer that is not written yet.
#[derive(Debug)]
pub(super) struct UnwrittenPart {
    connection: Arc<Connection>,
    bytes: usize,
    index: usize,
    tick: usize,
}

impl Drop for UnwrittenPart {
    fn drop(&mut self) {
        let held = &self.connection.answers;
        held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        held.moved.store(self.connection.micros(Instant::now()), Ordering::Relaxed);
        for count in [held.intervals.get(self.index), held.ticks.get(self.tick)].into_iter().flatten() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::peer_slots::{PeerSlots, SlotCapacity};
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), LIMIT))
    }

    #[test]
    fn an_answer_is_stalled_after_its_time_whatever_else_is_written_meanwhile() {
        let connection = connection();
        let began = connection.began + LIMIT / 2;
        let stalled = connection.hold(10, LIMIT, began);
        let mut after = Duration::ZERO;
        while !connection.is_stalled(LIMIT, began + after) {
            drop(connection.hold(10, LIMIT, began + after));
            after += LIMIT / 10;
            assert!(after <= LIMIT * 2, "never");
        }
        assert!(after > LIMIT, "{after:?}");
        drop(stalled);
        assert!(!connection.is_stalled(LIMIT, began + after));
    }

    #[test]
    fn a_connection_is_idle_since_its_last_request_unless_it_works_or_has_something_to_write() {
        let connection = connection();
        assert!(connection.is_new());
        assert_eq!(connection.idle_since(), Some(connection.began));
        let asked = connection.began + Duration::from_millis(1);
        let working = connection.work(asked);
        assert!(!connection.is_new());
        assert_eq!(connection.idle_since(), None);
        let answer = connection.hold(10, LIMIT, asked);
        drop(working);
        assert_eq!(connection.idle_since(), None);
        assert!(connection.unwritten_cost(asked + LIMIT) > connection.unwritten_cost(asked));
        drop(answer);
        assert_eq!(connection.idle_since(), Some(asked));
        assert_eq!(connection.unwritten_cost(asked + LIMIT), 0);
    }

    #[test]
    fn a_connection_that_does_not_take_an_answer_is_idle_after_a_while_whatever_else_it_takes() {
        let connection = connection();
        let tick = connection.tick;
        let stuck = connection.hold(10, LIMIT, connection.began);
        let mut idle = Vec::new();
        for ticks in 0..TICKS as u32 {
            let now = connection.began + tick * ticks;
            drop(connection.hold(10, LIMIT, now));
            idle.push(connection.is_stuck(now));
        }
        assert_eq!(idle, [false, false, true, true, true, true, true, true]);
        drop(stuck);
        assert!(!connection.is_stuck(connection.began + LIMIT));
    }

    #[test]
    fn connection_with_an_unwritten_answer_is_evicted_for_a_peer_that_holds_less() {
        let room = SlotCapacity { total: 8, peer: 4 };
        let places = PeerSlots::new(room);
        let of = |peer: u8| Arc::new(Connection::new(([10, 0, 0, peer], 1).into(), LIMIT));
        let mut held = Vec::new();
        for index in 0..8 {
            let stuck = of(index % 2);
            drop(stuck.work(Instant::now()));
            let answer = stuck.hold(10, LIMIT, Instant::now());
            let (place, evicted) = places.admit(Arc::clone(&stuck), 1).unwrap();
            assert_eq!(evicted, 0);
            held.push((stuck, answer, place));
        }
        assert!(places.admit(of(1), 1).is_err(), "a peer at its own limit");
        let newcomer = of(2);
        let (_place, evicted) = places.admit(Arc::clone(&newcomer), 1).unwrap();
        let left = held.iter().filter(|(stuck, ..)| stuck.current() == ConnectionOrder::Leave).count();
        assert_eq!((evicted, left), (1, 1));
        // A connection whose request is under review keeps its slot.
        let all = held.iter().map(|(stuck, ..)| stuck).chain([&newcomer]);
        let working: Vec<_> = all.map(|connection| connection.work(Instant::now())).collect();
        assert!(places.admit(of(3), 1).is_err());
        drop(working);
    }

    #[test]
    fn orders_are_only_made_stricter() {
        let connection = connection();
        for (given, then) in [
            (ConnectionOrder::Leave, ConnectionOrder::Leave),
            (ConnectionOrder::Finish, ConnectionOrder::Leave),
            (ConnectionOrder::Close, ConnectionOrder::Close),
        ] {
            connection.order(given);
            assert_eq!(connection.current(), then);
        }
    }
}
