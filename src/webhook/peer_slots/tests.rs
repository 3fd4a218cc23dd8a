use std::sync::atomic::{AtomicBool, Ordering};

use super::{Arc, Duration, Instant, NoSlot, Peer, PeerSlots, SlotCapacity, SlotHolder, SlotWait};

struct Guest {
    peer: Peer,
    since: Option<Instant>,
    /// Whether a lighter peer may evict it although it is not idle.
    yields: bool,
    evicted: AtomicBool,
}

impl SlotHolder for Guest {
    fn peer(&self) -> Peer {
        self.peer
    }
    fn idle_since(&self) -> Option<Instant> {
        self.since
    }
    fn yields_since(&self) -> Option<Instant> {
        self.since.or_else(|| self.yields.then(Instant::now))
    }
    fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
    }
}

fn guest(peer: u8, idle_for: Option<u64>) -> Arc<Guest> {
    guest_that(false, peer, idle_for)
}

fn guest_that(yields: bool, peer: u8, idle_for: Option<u64>) -> Arc<Guest> {
    let since = idle_for.map(|seconds| Instant::now() + Duration::from_secs(1000 - seconds));
    Arc::new(Guest { peer: Peer::of([10, 0, 0, peer].into()), since, yields, evicted: AtomicBool::new(false) })
}

const ONE: SlotCapacity = SlotCapacity { total: 1, peer: 1 };

fn evicted(guests: &[Arc<Guest>]) -> Vec<usize> {
    let evicted = |guest: &&Arc<Guest>| guest.evicted.load(Ordering::Relaxed);
    guests.iter().enumerate().filter(|(_, guest)| evicted(guest)).map(|(index, _)| index).collect()
}

/// Each row: the guests (peer, idle seconds) in order, which of them are evicted, and whether the last is admitted.
#[test]
fn a_newcomer_takes_the_place_of_the_idlest_of_the_heaviest_peer() {
    type Row<'a> = (&'a str, SlotCapacity, &'a [(u8, Option<u64>)], &'a [usize], Result<(), NoSlot>);
    let rows: [Row<'_>; 8] = [
        ("room is left", SlotCapacity { total: 3, peer: 3 }, &[(1, Some(9)), (1, Some(8))], &[], Ok(())),
        (
            "the idlest of the same peer",
            SlotCapacity { total: 9, peer: 2 },
            &[(1, Some(3)), (1, Some(7)), (1, Some(0))],
            &[1],
            Ok(()),
        ),
        (
            "of the heaviest, not the idlest of all",
            SlotCapacity { total: 3, peer: 3 },
            &[(1, Some(9)), (2, Some(1)), (2, Some(2)), (3, Some(0))],
            &[2],
            Ok(()),
        ),
        ("busy ones stay", SlotCapacity { total: 2, peer: 2 }, &[(1, None), (1, Some(1)), (2, Some(0))], &[1], Ok(())),
        (
            "all are busy",
            SlotCapacity { total: 2, peer: 2 },
            &[(1, None), (1, None), (2, Some(0))],
            &[],
            Err(NoSlot::All),
        ),
        (
            "no light peer pays for a heavy one",
            SlotCapacity { total: 3, peer: 3 },
            &[(1, Some(9)), (2, None), (2, None), (2, Some(0))],
            &[],
            Err(NoSlot::Peer),
        ),
        (
            "its own peer is at its limit and busy",
            SlotCapacity { total: 9, peer: 1 },
            &[(1, None), (2, Some(5)), (1, Some(0))],
            &[],
            Err(NoSlot::Peer),
        ),
        (
            "as before, where no connection at all can be evicted",
            SlotCapacity { total: 9, peer: 1 },
            &[(1, None), (2, None), (1, Some(0))],
            &[],
            Err(NoSlot::Peer),
        ),
    ];
    for (what, room, row, expected, admitted) in rows {
        let places = PeerSlots::new(room);
        let guests: Vec<_> = row.iter().map(|(peer, idle)| guest(*peer, *idle)).collect();
        let held: Vec<_> = guests.iter().map(|guest| places.admit(Arc::clone(guest), 1)).collect();
        assert_eq!(evicted(&guests), expected, "{what}");
        assert_eq!(held.last().unwrap().as_ref().map(drop).map_err(|full| *full), admitted, "{what}");
    }
}

#[test]
fn what_is_dropped_is_free_again_also_after_an_eviction() {
    let places = PeerSlots::new(SlotCapacity { total: 10, peer: 10 });
    let (first, _) = places.admit(guest(1, Some(1)), 6).unwrap();
    let (second, evicted) = places.admit(guest(2, Some(1)), 6).unwrap();
    assert_eq!(evicted, 1);
    drop(first);
    assert_eq!(places.taken.lock().sum, 6);
    drop(second);
    let taken = places.taken.lock();
    assert_eq!((taken.sum, taken.peers.len(), taken.occupants.len()), (0, 0, 0));
}

#[tokio::test]
async fn peer_slots_let_a_few_wait_and_refuse_the_rest_immediately() {
    let places = PeerSlots::new(SlotCapacity { total: 1, peer: 1 });
    let (held, _) = places.admit(guest(1, None), 1).unwrap();
    let patience = Duration::from_secs(20);
    let waiting = tokio::spawn({
        let places = Arc::clone(&places);
        async move { places.admit_within(guest(2, None), 1, ONE, patience).await.is_ok() }
    });
    while places.waiting.lock().sum == 0 {
        tokio::task::yield_now().await;
    }
    assert!(places.admit_within(guest(3, None), 1, ONE, patience).await.is_err());
    drop(held);
    assert!(waiting.await.unwrap());
    // A peer that waits already leaves the other waiting slots to others.
    let waiting = SlotWait::begin(&places.waiting, guest(1, None).peer(), SlotCapacity { total: 9, peer: 1 });
    assert_eq!(waiting.as_ref().err(), None);
    let again = SlotWait::begin(&places.waiting, guest(1, None).peer(), SlotCapacity { total: 9, peer: 1 });
    assert_eq!(again.err(), Some(NoSlot::Peer));
    assert!(SlotWait::begin(&places.waiting, guest(2, None).peer(), SlotCapacity { total: 9, peer: 1 }).is_ok());
    drop(waiting);
    assert!(places.admit_within(guest(3, None), 2, ONE, Duration::from_millis(20)).await.is_err());
}

#[test]
fn what_still_arrives_of_the_heaviest_peer_makes_room_for_a_lighter_one_and_for_no_other() {
    let places = PeerSlots::new(SlotCapacity { total: 8, peer: 4 });
    let heavy: Vec<_> = (0..8).map(|index| guest_that(true, 1 + index / 4, None)).collect();
    let held: Vec<_> = heavy.iter().map(|guest| places.admit(Arc::clone(guest), 1).unwrap()).collect();
    assert!(places.admit(guest_that(true, 1, None), 1).is_err(), "its own peer is at its limit");
    assert!(evicted(&heavy).is_empty());
    let light = places.admit(guest_that(true, 3, None), 2).unwrap();
    assert_eq!((light.1, evicted(&heavy).len()), (2, 2));
    drop(held);
}

#[test]
fn an_occupant_grows_into_free_room_or_that_of_heavier_peers_and_never_evicts_itself() {
    let places = PeerSlots::new(SlotCapacity { total: 8, peer: 5 });
    let (growing, heavy) = (guest_that(true, 1, Some(9)), guest_that(true, 2, None));
    let (mine, _) = places.admit(Arc::clone(&growing), 1).unwrap();
    let theirs = places.admit(Arc::clone(&heavy), 5).unwrap();
    assert_eq!((mine.grow(2), mine.grow(1)), (Ok(()), Ok(())));
    assert_eq!((evicted(&[growing, heavy]), places.taken.lock().sum), (vec![1], 4));
    assert_eq!(mine.grow(2), Err(NoSlot::Peer));
    drop((mine, theirs));
    assert_eq!(places.taken.lock().sum, 0);
}

#[test]
fn peer_is_identified_by_address_or_ipv6_64() {
    let of = |text: &str| Peer::of(text.parse().unwrap());
    assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
}
