//! The Lease in a simulated world: clocks that go wrong, requests that are lost, late or doubled, processes that halt and
//! die.

use std::{cmp::Reverse, collections::BTreeMap, collections::BTreeSet};

use proptest::prelude::*;

use super::*;
use k8s_openapi::jiff::SignedDuration;

const MILLIS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLIS;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wall() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn candidate(identity: &str) -> Election {
    Election::new("harbor-pilot", "harbor-pilot-controller", identity, LeaseTiming::default())
}

/// The Lease as the API server stores it.
fn stored(lease: &Lease, version: u64) -> Lease {
    let mut lease = lease.clone();
    lease.metadata.resource_version = Some(version.to_string());
    lease
}

fn spec(step: ElectionAction) -> LeaseSpec {
    match step {
        ElectionAction::Create(lease) | ElectionAction::Replace(lease) => lease.spec.unwrap(),
        step => panic!("{step:?}"),
    }
}

fn leader() -> Election {
    let mut election = candidate("a");
    assert_eq!(election.next(at(0), wall()), ElectionAction::Read);
    election.read(None, at(0));
    let ElectionAction::Create(lease) = election.next(at(0), wall()) else { panic!("the first one creates it") };
    election.written(stored(&lease, 1), at(0), at(1));
    election
}

#[test]
fn the_lease_reads_as_that_of_other_controllers() {
    let mut a = leader();
    assert_eq!((a.until(), a.holder()), (Some(at(10)), "a"));
    let renewed = spec(a.next(at(2), wall() + Duration::from_secs(2)));
    assert_eq!(renewed.holder_identity.as_deref(), Some("a"));
    assert_eq!((renewed.lease_duration_seconds, renewed.lease_transitions), (Some(15), Some(0)));
    assert_eq!(renewed.acquire_time, Some(MicroTime(wall())));
    assert_eq!(renewed.renew_time, Some(MicroTime(wall() + Duration::from_secs(2))));

    let released = a.released(wall()).unwrap();
    assert_eq!(released.metadata.resource_version.as_deref(), Some("1"), "guarded by the version");
    let released_spec = released.spec.clone().unwrap();
    assert_eq!(
        (released_spec.holder_identity.as_deref(), released_spec.lease_duration_seconds),
        (Some(""), Some(1)),
        "free at once"
    );
    let mut b = candidate("b");
    b.read(Some(stored(&released, 2)), at(0));
    let taken = b.next(at(0), wall());
    let ElectionAction::Replace(lease) = &taken else { panic!("{taken:?}") };
    assert_eq!(lease.metadata.resource_version.as_deref(), Some("2"));
    assert_eq!(spec(taken).lease_transitions, Some(1));
    a.stale();
    assert_eq!(a.next(at(3), wall()), ElectionAction::Read);
}

#[test]
fn another_leads_only_when_it_has_seen_no_change_for_as_long_as_the_holder_stated() {
    let mut held = stored(&leader().released(wall()).unwrap(), 7);
    let spec = held.spec.as_mut().unwrap();
    (spec.holder_identity, spec.lease_duration_seconds) = (Some("x".to_owned()), Some(30));
    // Long ago by the other's clock, which decides nothing.
    spec.renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH));
    let mut b = candidate("b");
    for (version, from) in [(7, 0), (8, 29)] {
        for second in [from, from + 1, from + 29] {
            b.stale();
            assert_eq!(b.next(at(second), wall()), ElectionAction::Read);
            b.read(Some(stored(&held, version)), at(second));
            assert_eq!(b.next(at(second), wall()), ElectionAction::Wait, "{second}");
        }
    }
    b.read(Some(stored(&held, 8)), at(59));
    assert!(matches!(b.next(at(59), wall()), ElectionAction::Replace(_)));
}

#[test]
fn a_leader_that_cannot_renew_in_time_has_lost_whatever_comes_later() {
    let mut late = leader();
    assert!(matches!(late.next(Duration::from_millis(9999), wall()), ElectionAction::Replace(_)));
    assert_eq!(late.next(at(10), wall()), ElectionAction::Lost(LeaseLoss::Late));
    // The answer to a renewal that began in time.
    let lease = late.released(wall()).unwrap();
    late.written(stored(&lease, 9), at(9), at(11));
    assert_eq!(late.next(at(11), wall()), ElectionAction::Lost(LeaseLoss::Late));

    let mut robbed = leader();
    let mut other = stored(&robbed.released(wall()).unwrap(), 2);
    other.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
    robbed.stale();
    robbed.read(Some(other), at(3));
    assert_eq!(robbed.next(at(3), wall()), ElectionAction::Lost(LeaseLoss::Taken("b".to_owned())));
}

#[test]
fn a_lease_that_is_deleted_is_put_back_by_the_leader_and_by_others_once_it_may_have_ended() {
    let mut a = leader();
    a.stale();
    a.read(None, at(5));
    assert!(matches!(a.next(at(5), wall()), ElectionAction::Create(_)));
    let mut b = candidate("b");
    b.read(Some(stored(&a.first(wall()), 1)), at(0));
    b.read(None, at(5));
    assert_eq!(b.next(at(19), wall()), ElectionAction::Wait);
    b.read(None, at(20));
    assert!(matches!(b.next(at(20), wall()), ElectionAction::Create(_)));
}

#[test]
fn times_that_would_let_two_lead_are_refused() {
    let timing = |lease, renew, retry| {
        let [lease, renew, retry] = [lease, renew, retry].map(Duration::from_millis);
        LeaseTiming { lease, renew, retry }.check()
    };
    assert_eq!(LeaseTiming::default().check(), Ok(LeaseTiming::default()));
    assert_eq!(timing(12_000, 10_000, 2000), Err(BadTiming::Lease));
    assert_eq!(timing(15_000, 3000, 2000), Err(BadTiming::Renew));
    assert_eq!(timing(1500, 100, 10), Err(BadTiming::Renew));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn never_do_two_write_at_one_time(seed in any::<u64>(), trouble in 0..=10_u64) {
        let mut world = World::new(seed, trouble);
        world.run(150 * SECOND);
        world.trouble = 0;
        let end = world.now + 60 * SECOND;
        world.run(end);
        let leads = world.processes.values().filter(|process| process.holds(world.now)).count();
        prop_assert_eq!(leads, 1, "once all is well again one replica leads");
        prop_assert!(world.writes > 100, "{} writes", world.writes);
    }
}

#[test]
fn without_trouble_one_leads_on_and_when_it_dies_the_next_one_leads_in_the_time_of_a_lease() {
    for seed in 0..40 {
        let mut world = World::new(seed, 0);
        world.run(100 * SECOND);
        assert_eq!(world.tenures.len(), 1, "seed {seed}: {:?}", world.tenures);
        let leader = world.last_writer.unwrap();
        world.processes.remove(&leader);
        let killed = world.now;
        while world.last_writer == Some(leader) {
            assert!(world.step(u64::MAX));
        }
        let took = Duration::from_nanos(world.now - killed);
        // 15 s by a clock that may be 15 % slow, a pause of up to 2.4 s, and requests of up to 0.2 s.
        assert!(took < Duration::from_secs(21), "seed {seed}: {took:?}");
    }
}

/// A process of the simulation. Its times are those of its own clock.
struct Process {
    election: Election,
    pace: f64,
    origin: f64,
    skew: i64,
    until: Duration,
    /// It does nothing until then.
    halted: u64,
    cut_off: u64,
    /// The request whose answer it waits for.
    waiting: Option<u64>,
    started: Duration,
}

impl Process {
    fn clock(&self, now: u64) -> Duration {
        Duration::from_nanos((now as f64 * self.pace + self.origin) as u64)
    }

    /// The time at which its clock has advanced by `time`.
    fn after(&self, now: u64, time: Duration) -> u64 {
        now + (time.as_nanos() as f64 / self.pace) as u64
    }

    fn wall(&self, now: u64) -> Timestamp {
        wall() + SignedDuration::from_nanos(now as i64) + SignedDuration::from_secs(self.skew)
    }

    fn holds(&self, now: u64) -> bool {
        self.clock(now) < self.until
    }
}

#[derive(Debug, Clone)]
enum Request {
    Read,
    Create(Box<Lease>),
    Replace(Box<Lease>),
}

#[derive(Debug, Clone)]
enum Event {
    Start,
    /// The loop of the election continues.
    Turn,
    /// A request arrives at the API server.
    Arrive(u64, Request),
    /// Its answer arrives at the process.
    Answer(u64, Result<Option<Box<Lease>>, ()>),
    GiveUp(u64),
    /// A leader does some work.
    Work,
    Misfortune,
}

/// The simulation: an API server with one Lease, processes, and pending events.
struct World {
    random: u64,
    trouble: u64,
    now: u64,
    events: BTreeMap<(Reverse<u64>, u64), (u64, Event)>,
    numbers: u64,
    lease: Option<Lease>,
    version: u64,
    deleted: u64,
    processes: BTreeMap<u64, Process>,
    last_writer: Option<u64>,
    tenures: Vec<u64>,
    ended: BTreeSet<u64>,
    writes: u64,
}

impl World {
    fn new(seed: u64, trouble: u64) -> Self {
        let mut world = Self {
            random: seed,
            trouble,
            now: 0,
            events: BTreeMap::new(),
            numbers: 0,
            lease: None,
            version: 0,
            deleted: 0,
            processes: BTreeMap::new(),
            last_writer: None,
            tenures: Vec::new(),
            ended: BTreeSet::new(),
            writes: 0,
        };
        for _ in 0..3 {
            let wait = world.below(2 * SECOND);
            world.plan(wait, 0, Event::Start);
        }
        world.plan(SECOND, 0, Event::Misfortune);
        world
    }

    fn run(&mut self, end: u64) {
        while self.step(end) {}
        self.now = end;
    }

    /// Runs one event; `false` when there is none before `end`.
    fn step(&mut self, end: u64) -> bool {
        let Some(entry) = self.events.last_entry() else { return false };
        let time = entry.key().0.0;
        if time > end {
            return false;
        }
        let (process, event) = entry.remove();
        self.now = time;
        self.happen(process, event);
        true
    }

    fn happen(&mut self, id: u64, event: Event) {
        match event {
            Event::Start => return self.start(),
            Event::Misfortune => return self.misfortune(),
            // A request in transit arrives, whatever happened to its sender.
            Event::Arrive(number, request) => return self.arrive(id, number, request),
            _ => {}
        }
        let now = self.now;
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.halted > now {
            // Events that wait for a halted process arrive in any order when it wakes.
            let wait = process.halted - now + self.below(2 * MILLIS);
            return self.plan(wait, id, event);
        }
        match event {
            Event::Turn => self.turn(id),
            Event::Answer(number, answer) if process.waiting == Some(number) => {
                process.waiting = None;
                let clock = process.clock(now);
                match answer {
                    Ok(found) if process.started == Duration::MAX => {
                        process.election.read(found.map(|lease| *lease), clock);
                        self.turn(id);
                    }
                    Ok(lease) => {
                        process.election.written(*lease.unwrap(), process.started, clock);
                        process.until = process.election.until().unwrap();
                        self.pause(id);
                    }
                    Err(()) => {
                        process.election.stale();
                        self.pause(id);
                    }
                }
            }
            Event::GiveUp(number) if process.waiting == Some(number) => {
                process.waiting = None;
                process.election.stale();
                self.turn(id);
            }
            Event::Work => {
                if process.holds(now) {
                    self.write(id);
                }
                let wait = 20 * MILLIS + self.below(300 * MILLIS);
                self.plan(wait, id, Event::Work);
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        // A process that knows of no Lease cannot distinguish a deleted Lease from one that never existed.
        if self.lease.is_none() && self.deleted > 0 && self.now < self.deleted + 25 * SECOND {
            return self.plan(25 * SECOND, 0, Event::Start);
        }
        self.numbers += 1;
        let id = self.numbers;
        let process = Process {
            election: candidate(&format!("process-{id}")),
            pace: 0.85 + self.below(300) as f64 / 1000.0,
            origin: self.below(1000 * SECOND) as f64,
            skew: self.below(1200) as i64 - 600,
            until: Duration::ZERO,
            halted: 0,
            cut_off: 0,
            waiting: None,
            started: Duration::MAX,
        };
        self.processes.insert(id, process);
        self.plan(0, id, Event::Turn);
        self.plan(0, id, Event::Work);
    }

    /// Carries out a step of the process's election.
    fn turn(&mut self, id: u64) {
        let now = self.now;
        let (clock, wall) = (self.processes[&id].clock(now), self.processes[&id].wall(now));
        let process = self.processes.get_mut(&id).unwrap();
        let (request, started) = match process.election.next(clock, wall) {
            ElectionAction::Read => (Request::Read, Duration::MAX),
            ElectionAction::Create(lease) => (Request::Create(lease), clock),
            ElectionAction::Replace(lease) => (Request::Replace(lease), clock),
            ElectionAction::Wait => {
                process.election.stale();
                return self.pause(id);
            }
            ElectionAction::Lost(_) => return self.die(id),
        };
        process.started = started;
        let give_up = process.after(now, process.election.timing.renew / 2) - now;
        let cut_off = process.cut_off > now;
        self.numbers += 1;
        let number = self.numbers;
        self.processes.get_mut(&id).unwrap().waiting = Some(number);
        self.plan(give_up, id, Event::GiveUp(number));
        let way = self.way();
        if !cut_off && !self.chance(1) {
            self.plan(way, id, Event::Arrive(number, request.clone()));
        }
        if self.chance(1) {
            let again = way + self.below(20 * SECOND);
            self.plan(again, id, Event::Arrive(number, request));
        }
    }

    fn arrive(&mut self, id: u64, number: u64, request: Request) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let answer = match (request, &self.lease) {
            (Request::Read, lease) => Ok(lease.clone().map(Box::new)),
            (Request::Create(lease), None) => Ok(self.store(&lease)),
            (Request::Replace(lease), Some(found)) if version(&lease) == version(found) => Ok(self.store(&lease)),
            _ => Err(()),
        };
        let cut_off = self.processes.get(&id).is_none_or(|process| process.cut_off > self.now);
        let way = self.way();
        if !cut_off && !self.chance(1) {
            self.plan(way, id, Event::Answer(number, answer));
        }
    }

    fn store(&mut self, lease: &Lease) -> Option<Box<Lease>> {
        self.version += 1;
        self.lease = Some(stored(lease, self.version));
        self.lease.clone().map(Box::new)
    }

    fn pause(&mut self, id: u64) {
        let jitter = self.below(1000) as f64 / 1000.0;
        let process = &self.processes[&id];
        let wait = process.after(self.now, process.election.timing.pause(jitter)) - self.now;
        self.plan(wait, id, Event::Turn);
    }

    fn die(&mut self, id: u64) {
        self.processes.remove(&id);
        let wait = self.below(5 * SECOND);
        self.plan(wait, 0, Event::Start);
    }

    /// A write of a leader: no other process may be about to write, and a process that another has followed never writes
    /// again.
    fn write(&mut self, id: u64) {
        let others: Vec<u64> = self
            .processes
            .iter()
            .filter(|(other, process)| **other != id && process.holds(self.now))
            .map(|(other, _)| *other)
            .collect();
        assert!(others.is_empty(), "{id} writes while {others:?} would, too");
        assert!(!self.ended.contains(&id), "{id} writes again after another did");
        if self.last_writer != Some(id) {
            self.ended.extend(self.last_writer);
            self.last_writer = Some(id);
            self.tenures.push(id);
        }
        self.writes += 1;
    }

    fn misfortune(&mut self) {
        let wait = 200 * MILLIS + self.below(4 * SECOND);
        self.plan(wait, 0, Event::Misfortune);
        if self.trouble == 0 {
            return;
        }
        let ids: Vec<u64> = self.processes.keys().copied().collect();
        let Some(&id) = ids.get(self.below(ids.len().max(1) as u64) as usize) else { return };
        let long = self.now + self.below(40 * SECOND);
        let short = self.now + self.below(4 * SECOND);
        let kind = self.below(8);
        let process = self.processes.get_mut(&id).unwrap();
        match kind {
            0 => process.halted = long,
            1 => process.halted = short,
            2 => process.cut_off = long,
            3 => process.cut_off = short,
            4 => self.die(id),
            5 => {
                // It shuts down cleanly: it writes nothing from here on.
                process.until = Duration::ZERO;
                let released = process.election.until().and_then(|_| process.election.released(wall()));
                if let Some(lease) = released {
                    let way = self.way();
                    self.plan(way, id, Event::Arrive(0, Request::Replace(lease)));
                }
                self.die(id);
            }
            6 => {
                // Another client annotates the Lease.
                if let Some(lease) = self.lease.clone() {
                    self.store(&lease);
                }
            }
            _ => {
                let all_know =
                    self.processes.values().all(|process| !matches!(process.election.known, ObservedLease::Nothing));
                let calm = self.now > self.deleted + 60 * SECOND;
                if all_know && calm && self.lease.take().is_some() {
                    self.deleted = self.now;
                }
            }
        }
    }

    /// Latency of a request or an answer.
    fn way(&mut self) -> u64 {
        if self.chance(2) { self.below(12 * SECOND) } else { MILLIS + self.below(100 * MILLIS) }
    }

    /// Whether a fault happens: at most `weight` times in 20.
    fn chance(&mut self, weight: u64) -> bool {
        self.below(200) < weight * self.trouble
    }

    fn plan(&mut self, wait: u64, id: u64, event: Event) {
        self.numbers += 1;
        self.events.insert((Reverse(self.now + wait), self.numbers), (id, event));
    }

    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
