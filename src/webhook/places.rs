//! A limit that peers share: when it is full, a newcomer takes the place of the idlest of the peer that holds the most.
//!
//! A plain semaphore lets one peer hold all permits. Here a peer that holds much pays for it itself, and a peer that holds
//! little is always let in.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// One that has a place.
pub(super) trait Occupant: Send + Sync + 'static {
    /// Who it is counted for.
    fn peer(&self) -> Peer;
    /// Since when it is idle; `None` while it must not be evicted.
    fn idle_since(&self) -> Option<Instant>;
    /// Its place is another's now: it ends itself soon.
    fn evict(&self);
}

/// A client by its address. IPv6 hosts choose among the addresses of a /64, so that counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        const NETWORK: u128 = !(u64::MAX as u128);
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
            address => address,
        })
    }
}

/// How much there is to share, in units of the caller's choice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// For all.
    pub(super) total: usize,
    /// For one peer.
    pub(super) peer: usize,
}

/// The places.
pub(super) struct Places<T> {
    room: Room,
    taken: Mutex<Taken<T>>,
    waiting: AtomicUsize,
    freed: Notify,
}

struct Taken<T> {
    next: u64,
    sum: usize,
    peers: HashMap<Peer, usize>,
    occupants: HashMap<u64, (Arc<T>, usize)>,
}

/// There is no room, and no occupant to evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// For this peer, which holds its share. Others may still find room.
    Peer,
    /// For any peer.
    All,
}

/// A place; given back when dropped.
pub(super) struct Place<T: Occupant> {
    places: Arc<Places<T>>,
    id: u64,
}

impl<T: Occupant> Places<T> {
    pub(super) fn new(room: Room) -> Arc<Self> {
        let taken = Taken { next: 0, sum: 0, peers: HashMap::new(), occupants: HashMap::new() };
        Arc::new(Self { room, taken: Mutex::new(taken), waiting: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// A place for a newcomer, and how many were evicted for it.
    pub(super) fn admit(self: &Arc<Self>, newcomer: Arc<T>, size: usize) -> Result<(Place<T>, usize), Full> {
        let peer = newcomer.peer();
        let mut taken = self.lock();
        let mut evicted = 0;
        while taken.of(peer) + size > self.room.peer {
            taken.evict(|of, _| of == peer).ok_or(Full::Peer)?;
            evicted += 1;
        }
        while taken.sum + size > self.room.total {
            let mine = taken.of(peer) + size;
            // A peer that holds less than this one loses nothing.
            let evicted_one = taken.evict(|of, holds| of == peer || holds >= mine);
            evicted_one.ok_or_else(|| if taken.has_evictable() { Full::Peer } else { Full::All })?;
            evicted += 1;
        }
        let id = taken.next;
        taken.next += 1;
        taken.sum += size;
        *taken.peers.entry(peer).or_default() += size;
        taken.occupants.insert(id, (newcomer, size));
        drop(taken);
        Ok((Place { places: Arc::clone(self), id }, evicted))
    }

    /// As [`Places::admit`], waiting for room, unless `most` wait already.
    pub(super) async fn admit_within(
        self: &Arc<Self>,
        newcomer: Arc<T>,
        size: usize,
        most: usize,
        patience: Duration,
    ) -> Result<Place<T>, Full> {
        if let Ok((place, _)) = self.admit(Arc::clone(&newcomer), size) {
            return Ok(place);
        }
        let _waits = Waits::begin(&self.waiting, most)?;
        let admitted = async {
            loop {
                let freed = self.freed.notified();
                if let Ok((place, _)) = self.admit(Arc::clone(&newcomer), size) {
                    return place;
                }
                // Occupants also become evictable by age, of which nothing notifies.
                timeout(RETRY, freed).await.ok();
            }
        };
        timeout(patience, admitted).await.map_err(|_| Full::All)
    }

    /// Does something with each occupant.
    pub(super) fn each(&self, mut act: impl FnMut(&Arc<T>)) {
        self.lock().occupants.values().for_each(|(occupant, _)| act(occupant));
    }

    fn lock(&self) -> MutexGuard<'_, Taken<T>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const RETRY: Duration = Duration::from_millis(100);

impl<T: Occupant> Taken<T> {
    fn of(&self, peer: Peer) -> usize {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// Evicts the idlest occupant of the heaviest peer that `may` allows, given what that peer holds.
    fn evict(&mut self, may: impl Fn(Peer, usize) -> bool) -> Option<()> {
        let candidates = self.occupants.iter().filter_map(|(id, (occupant, _))| {
            let (peer, since) = (occupant.peer(), occupant.idle_since()?);
            let holds = self.of(peer);
            may(peer, holds).then_some((holds, std::cmp::Reverse(since), *id))
        });
        let (_, _, id) = candidates.max()?;
        self.remove(id)?.evict();
        Some(())
    }

    fn has_evictable(&self) -> bool {
        self.occupants.values().any(|(occupant, _)| occupant.idle_since().is_some())
    }

    fn remove(&mut self, id: u64) -> Option<Arc<T>> {
        let (occupant, size) = self.occupants.remove(&id)?;
        self.sum -= size;
        let peer = occupant.peer();
        if let Some(holds) = self.peers.get_mut(&peer) {
            *holds -= size;
            if *holds == 0 {
                self.peers.remove(&peer);
            }
        }
        Some(occupant)
    }
}

impl<T: Occupant> Drop for Place<T> {
    fn drop(&mut self) {
        let removed = self.places.lock().remove(self.id);
        if removed.is_some() && self.places.waiting.load(Ordering::Relaxed) > 0 {
            self.places.freed.notify_waiters();
        }
    }
}

struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize, most: usize) -> Result<Self, Full> {
        let waits = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) < most { Ok(waits) } else { Err(Full::All) }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> fmt::Debug for Places<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("room", &self.room).finish_non_exhaustive()
    }
}

impl<T: Occupant> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Guest {
        peer: Peer,
        since: Option<Instant>,
        evicted: AtomicBool,
    }

    impl Occupant for Guest {
        fn peer(&self) -> Peer {
            self.peer
        }
        fn idle_since(&self) -> Option<Instant> {
            self.since
        }
        fn evict(&self) {
            self.evicted.store(true, Ordering::Relaxed);
        }
    }

    fn guest(peer: u8, idle_for: Option<u64>) -> Arc<Guest> {
        let since = idle_for.map(|seconds| Instant::now() + Duration::from_secs(1000 - seconds));
        Arc::new(Guest { peer: Peer::of([10, 0, 0, peer].into()), since, evicted: AtomicBool::new(false) })
    }

    fn evicted(guests: &[Arc<Guest>]) -> Vec<usize> {
        let evicted = |guest: &&Arc<Guest>| guest.evicted.load(Ordering::Relaxed);
        guests.iter().enumerate().filter(|(_, guest)| evicted(guest)).map(|(index, _)| index).collect()
    }

    /// Who is evicted when each guest of a row (peer, idle seconds) comes in turn, and whether the last is let in.
    #[test]
    fn a_newcomer_takes_the_place_of_the_idlest_of_the_heaviest_peer() {
        type Row<'a> = (&'a str, Room, &'a [(u8, Option<u64>)], &'a [usize], Result<(), Full>);
        let rows: [Row<'_>; 8] = [
            ("room is left", Room { total: 3, peer: 3 }, &[(1, Some(9)), (1, Some(8))], &[], Ok(())),
            (
                "the idlest of the same peer",
                Room { total: 9, peer: 2 },
                &[(1, Some(3)), (1, Some(7)), (1, Some(0))],
                &[1],
                Ok(()),
            ),
            (
                "of the heaviest, not the idlest of all",
                Room { total: 3, peer: 3 },
                &[(1, Some(9)), (2, Some(1)), (2, Some(2)), (3, Some(0))],
                &[2],
                Ok(()),
            ),
            ("busy ones stay", Room { total: 2, peer: 2 }, &[(1, None), (1, Some(1)), (2, Some(0))], &[1], Ok(())),
            ("all are busy", Room { total: 2, peer: 2 }, &[(1, None), (1, None), (2, Some(0))], &[], Err(Full::All)),
            (
                "no light peer pays for a heavy one",
                Room { total: 3, peer: 3 },
                &[(1, Some(9)), (2, None), (2, None), (2, Some(0))],
                &[],
                Err(Full::Peer),
            ),
            (
                "its own peer is at its limit and busy",
                Room { total: 9, peer: 1 },
                &[(1, None), (2, Some(5)), (1, Some(0))],
                &[],
                Err(Full::Peer),
            ),
            (
                "as before, where no connection at all can be evicted",
                Room { total: 9, peer: 1 },
                &[(1, None), (2, None), (1, Some(0))],
                &[],
                Err(Full::Peer),
            ),
        ];
        for (what, room, row, expected, admitted) in rows {
            let places = Places::new(room);
            let guests: Vec<_> = row.iter().map(|(peer, idle)| guest(*peer, *idle)).collect();
            let held: Vec<_> = guests.iter().map(|guest| places.admit(Arc::clone(guest), 1)).collect();
            assert_eq!(evicted(&guests), expected, "{what}");
            assert_eq!(held.last().unwrap().as_ref().map(drop).map_err(|full| *full), admitted, "{what}");
        }
    }

    #[test]
    fn what_is_dropped_is_free_again_also_after_an_eviction() {
        let places = Places::new(Room { total: 10, peer: 10 });
        let (first, _) = places.admit(guest(1, Some(1)), 6).unwrap();
        let (second, evicted) = places.admit(guest(2, Some(1)), 6).unwrap();
        assert_eq!(evicted, 1);
        drop(first);
        assert_eq!(places.lock().sum, 6);
        drop(second);
        let taken = places.lock();
        assert_eq!((taken.sum, taken.peers.len(), taken.occupants.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_few_wait_for_room_and_the_rest_are_refused_at_once() {
        let places = Places::new(Room { total: 1, peer: 1 });
        let (held, _) = places.admit(guest(1, None), 1).unwrap();
        let patience = Duration::from_secs(20);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.admit_within(guest(2, None), 1, 1, patience).await.is_ok() }
        });
        while places.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(places.admit_within(guest(3, None), 1, 1, patience).await.is_err());
        drop(held);
        assert!(waiting.await.unwrap());
        assert!(places.admit_within(guest(3, None), 2, 1, Duration::from_millis(20)).await.is_err());
    }

    #[test]
    fn peers_are_told_apart_by_address_and_by_the_64_bits_of_their_network() {
        let of = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
