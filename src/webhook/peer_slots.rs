//! A limit that peers share: when it is full, a newcomer takes the slot of the idlest occupant of the peer that holds the
//! most.
//!
//! With a plain semaphore, one peer can hold all permits. Here a peer that holds many slots evicts its own occupants, and a
//! peer that holds few is always admitted.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// An occupant of a slot.
pub(super) trait SlotHolder: Send + Sync + 'static {
    /// The peer that it counts for.
    fn peer(&self) -> Peer;
    /// Returns since when it is idle; `None` while it must not be evicted.
    fn idle_since(&self) -> Option<Instant>;
    /// The same for a newcomer whose peer holds less than the peer of this occupant.
    fn yields_since(&self) -> Option<Instant> {
        self.idle_since()
    }
    /// Asks the occupant to end soon: its slot has a new occupant.
    fn evict(&self);
}

/// A client, identified by its address. An IPv6 host can choose any address of its /64, so a /64 counts as one.
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

/// The size of a limit, in units of the caller's choice.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotCapacity {
    /// For all peers together.
    pub(super) total: usize,
    /// For one peer.
    pub(super) peer: usize,
}

/// The slots of a limit.
pub(super) struct PeerSlots<T> {
    room: SlotCapacity,
    taken: Mutex<TakenSlots<T>>,
    waiting: Mutex<WaitCounts>,
    freed: Notify,
}

struct TakenSlots<T> {
    next: u64,
    sum: usize,
    peers: HashMap<Peer, usize>,
    occupants: HashMap<u64, (Arc<T>, usize)>,
}

/// The number of waiters, per peer and in total.
#[derive(Default)]
struct WaitCounts {
    sum: usize,
    peers: HashMap<Peer, usize>,
}

/// No free slot, and no occupant to evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// This peer holds its share. Other peers may still find a slot.
    Peer,
    /// No peer finds a slot.
    All,
}

/// A slot; freed when dropped.
pub(super) struct PeerSlot<T: SlotHolder> {
    places: Arc<PeerSlots<T>>,
    id: u64,
}

impl<T: SlotHolder> PeerSlots<T> {
    pub(super) fn new(room: SlotCapacity) -> Arc<Self> {
        let taken = TakenSlots { next: 0, sum: 0, peers: HashMap::new(), occupants: HashMap::new() };
        Arc::new(Self { room, taken: Mutex::new(taken), waiting: Mutex::default(), freed: Notify::new() })
    }

    /// Returns a slot for a newcomer, and the number of evicted occupants.
    pub(super) fn admit(self: &Arc<Self>, newcomer: Arc<T>, size: usize) -> Result<(PeerSlot<T>, usize), NoSlot> {
        let peer = newcomer.peer();
        let mut taken = self.taken.lock();
        let evicted = taken.make_room(self.room, peer, size, None)?;
        let id = taken.next;
        taken.next += 1;
        taken.sum += size;
        *taken.peers.entry(peer).or_default() += size;
        taken.occupants.insert(id, (newcomer, size));
        drop(taken);
        Ok((PeerSlot { places: Arc::clone(self), id }, evicted))
    }

    /// Waits for a slot as [`Places::admit`] gives one. Fails at once when as many wait as `most` allows.
    pub(super) async fn admit_within(
        self: &Arc<Self>,
        newcomer: Arc<T>,
        size: usize,
        most: SlotCapacity,
        patience: Duration,
    ) -> Result<PeerSlot<T>, NoSlot> {
        if let Ok((place, _)) = self.admit(Arc::clone(&newcomer), size) {
            return Ok(place);
        }
        let _waits = SlotWait::begin(&self.waiting, newcomer.peer(), most)?;
        let admitted = async {
            loop {
                let freed = self.freed.notified();
                if let Ok((place, _)) = self.admit(Arc::clone(&newcomer), size) {
                    return place;
                }
                // Occupants also become evictable with age, and no notification reports that.
                timeout(RETRY, freed).await.ok();
            }
        };
        timeout(patience, admitted).await.map_err(|_| NoSlot::All)
    }

    /// Calls `act` with each occupant.
    pub(super) fn each(&self, mut act: impl FnMut(&Arc<T>)) {
        self.taken.lock().occupants.values().for_each(|(occupant, _)| act(occupant));
    }
}

const RETRY: Duration = Duration::from_millis(100);

impl<T: SlotHolder> TakenSlots<T> {
    fn of(&self, peer: Peer) -> usize {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// Evicts until `size` more fit for a peer, and returns the number of evicted occupants. Never evicts `but`.
    fn make_room(&mut self, room: SlotCapacity, peer: Peer, size: usize, but: Option<u64>) -> Result<usize, NoSlot> {
        let mut evicted = 0;
        while self.of(peer) + size > room.peer {
            self.evict(but, |of, _, occupant| if of == peer { occupant.idle_since() } else { None })
                .ok_or(NoSlot::Peer)?;
            evicted += 1;
        }
        while self.sum + size > room.total {
            let mine = self.of(peer) + size;
            // A peer that holds less than this one loses nothing.
            let evicted_one = self.evict(but, |of, holds, occupant| match holds.cmp(&mine) {
                Ordering::Greater if of != peer => occupant.yields_since(),
                Ordering::Less if of != peer => None,
                _ => occupant.idle_since(),
            });
            evicted_one.ok_or_else(|| if self.has_evictable() { NoSlot::Peer } else { NoSlot::All })?;
            evicted += 1;
        }
        Ok(evicted)
    }

    /// Evicts the idlest occupant of the heaviest peer. `since` takes an occupant, its peer and the amount that the peer
    /// holds; it returns since when the occupant is idle, or `None` if it must stay.
    fn evict(&mut self, but: Option<u64>, since: impl Fn(Peer, usize, &T) -> Option<Instant>) -> Option<()> {
        let others = self.occupants.iter().filter(|(id, _)| Some(**id) != but);
        let candidates = others.filter_map(|(id, (occupant, _))| {
            let peer = occupant.peer();
            let holds = self.of(peer);
            since(peer, holds, occupant).map(|since| (holds, std::cmp::Reverse(since), *id))
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

impl<T: SlotHolder> PeerSlot<T> {
    /// Takes more for the same occupant. Never waits: it holds a share that others may wait for.
    pub(super) fn grow(&self, more: usize) -> Result<(), NoSlot> {
        let mut taken = self.places.taken.lock();
        let peer = taken.occupants.get(&self.id).map(|(occupant, _)| occupant.peer()).ok_or(NoSlot::Peer)?;
        taken.make_room(self.places.room, peer, more, Some(self.id))?;
        taken.sum += more;
        *taken.peers.entry(peer).or_default() += more;
        if let Some((_, size)) = taken.occupants.get_mut(&self.id) {
            *size += more;
        }
        Ok(())
    }
}

impl<T: SlotHolder> Drop for PeerSlot<T> {
    fn drop(&mut self) {
        let removed = self.places.taken.lock().remove(self.id);
        if removed.is_some() && self.places.waiting.lock().sum > 0 {
            self.places.freed.notify_waiters();
        }
    }
}

struct SlotWait<'a>(&'a Mutex<WaitCounts>, Peer);

impl<'a> SlotWait<'a> {
    fn begin(all: &'a Mutex<WaitCounts>, peer: Peer, most: SlotCapacity) -> Result<Self, NoSlot> {
        let mut waiting = all.lock();
        if waiting.sum >= most.total {
            return Err(NoSlot::All);
        }
        let of_peer = waiting.peers.entry(peer).or_default();
        if *of_peer >= most.peer {
            return Err(NoSlot::Peer);
        }
        *of_peer += 1;
        waiting.sum += 1;
        Ok(Self(all, peer))
    }
}

impl Drop for SlotWait<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.sum -= 1;
        if let Some(of_peer) = waiting.peers.get_mut(&self.1) {
            *of_peer -= 1;
            if *of_peer == 0 {
                waiting.peers.remove(&self.1);
            }
        }
    }
}

impl<T> fmt::Debug for PeerSlots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("room", &self.room).finish_non_exhaustive()
    }
}

impl<T: SlotHolder> fmt::Debug for PeerSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({})", self.id)
    }
}

#[cfg(test)]
mod tests;
