//! The order of steps, and a simulation: leaders that are killed, paused and wrong by minutes, kubelets and API servers that
//! lag, users who delete and damage objects. At every moment, every API server trusts the certificate of every replica.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::tls::issue::{Authority, Issued};
use crate::tls::secret_format::{SecretData, leaf_data, read_leaf, recover};

const NAME: &str = "harbor-pilot-webhook.harbor-pilot.svc";

fn policy() -> RotationPolicy {
    RotationPolicy {
        leaf: SignedDuration::from_hours(90 * 24),
        authority: SignedDuration::from_hours(730 * 24),
        names: vec![NAME.to_owned()],
    }
}

fn beginning() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn after(days: i64) -> Timestamp {
    beginning() + SignedDuration::from_hours(24 * days)
}

/// The observed state of one reconcile, for tests to change.
struct Look {
    authorities: StoredState<AuthoritySet>,
    leaf: StoredState<X509>,
    salvaged: Vec<X509>,
    bundles: Vec<CaBundle>,
    replicas: Replicas,
}

impl Look {
    /// A valid CA and certificate, in use everywhere.
    fn settled() -> Self {
        let authority = Authority::new("test", Validity::starting(beginning(), policy().authority)).unwrap();
        let issued = authority.issue(&policy().names, Validity::starting(beginning(), policy().leaf)).unwrap();
        let authorities = AuthoritySet::read(&AuthoritySet::data(&authority, &[]));
        let leaf = read_leaf(&leaf_data(&issued, &authority));
        let StoredState::Held(held) = &authorities else { panic!("{authorities:?}") };
        Self {
            bundles: vec![bundle(held.all())],
            salvaged: held.all(),
            authorities,
            leaf,
            replicas: Replicas::NotAsked,
        }
    }

    fn next(&self, memory: &mut RotationMemory, now: Timestamp, elapsed: u64) -> RotationPlan {
        let Self { authorities, leaf, salvaged, bundles, replicas } = self;
        let seen = RotationState { authorities, leaf, salvaged, bundles, replicas };
        next(memory, &seen, &policy(), now, Duration::from_secs(elapsed))
    }

    fn step(&self, now: Timestamp) -> RotationAction {
        self.next(&mut RotationMemory::default(), now, 0).step
    }
}

fn bundle(trusted: Vec<X509>) -> CaBundle {
    CaBundle { entry: "test".to_owned(), trusted, kept_by: None }
}

fn replica(shows: Result<X509, String>, serving: bool) -> Replica {
    Replica { address: "10.0.0.1:8443".to_owned(), serving, shows }
}

fn held<T: Clone>(kept: &StoredState<T>) -> T {
    let StoredState::Held(held) = kept else { panic!("it is not held") };
    held.clone()
}

#[test]
fn nothing_is_done_until_two_thirds_of_the_life_of_the_certificate_are_over() {
    let look = Look::settled();
    for day in [0, 1, 59] {
        assert_eq!(look.step(after(day)), RotationAction::Wait, "day {day}");
    }
    for day in [60, 89, 91] {
        let RotationAction::NewLeaf { validity, .. } = look.step(after(day)) else { panic!("day {day}") };
        assert_eq!(validity, Validity::starting(after(day), policy().leaf));
    }
}

#[test]
fn a_certificate_that_is_not_yet_valid_is_replaced() {
    let mut look = Look::settled();
    let authority = held(&look.authorities).authority().unwrap();
    for (day, due) in [(0, false), (1, true)] {
        let issued = Validity::starting(after(day), policy().leaf);
        look.leaf = read_leaf(&leaf_data(&authority.issue(&policy().names, issued).unwrap(), &authority));
        let step = look.step(beginning());
        assert_eq!(matches!(step, RotationAction::NewLeaf { .. }), due, "day {day}: {step:?}");
    }
}

#[test]
fn an_authority_is_replaced_before_two_thirds_of_its_life_are_over_or_a_certificate_would_outlive_it() {
    let mut look = Look::settled();
    for (day, due) in [(420, false), (487, true), (729, true), (800, true)] {
        let issued = Validity::starting(after(day), policy().leaf);
        let authority = held(&look.authorities).authority().unwrap();
        look.leaf = read_leaf(&leaf_data(&authority.issue(&policy().names, issued).unwrap(), &authority));
        let step = look.step(after(day));
        assert_eq!(matches!(step, RotationAction::NewAuthority { .. }), due, "day {day}: {step:?}");
    }
}

#[test]
fn rotation_skips_secrets_of_others_and_reissues_damaged_ones() {
    let settled = Look::settled();
    let current = held(&settled.authorities).current;
    let not_ours = || StoredState::NotOurs("it is not".to_owned());
    let stands = RotationAction::Stand("it is not".to_owned());
    assert_eq!(
        Look { authorities: StoredState::NotOurs("it is not".to_owned()), ..Look::settled() }.step(after(1)),
        stands
    );
    assert_eq!(Look { leaf: not_ours(), authorities: StoredState::Missing, ..Look::settled() }.step(after(1)), stands);
    let claimed = CaBundle { kept_by: Some("it is not".to_owned()), ..bundle(vec![]) };
    assert_eq!(Look { bundles: vec![claimed], ..Look::settled() }.step(after(1)), stands);

    for authorities in [StoredState::Missing, StoredState::Damaged("it is torn".to_owned())] {
        let salvaged = vec![current.clone(), current.clone()];
        let step = Look { authorities, salvaged, ..Look::settled() }.step(after(1));
        let RotationAction::NewAuthority { previous, .. } = step else { panic!("{step:?}") };
        assert_eq!(previous, std::slice::from_ref(&current));
    }
    let damaged = Look {
        leaf: StoredState::Damaged("it is torn".to_owned()),
        replicas: Replicas::Known(vec![]),
        ..Look::settled()
    };
    assert!(matches!(damaged.step(after(1)), RotationAction::NewLeaf { .. }));
    let step = Look::settled().step(beginning() - SignedDuration::from_hours(2));
    assert!(matches!(&step, RotationAction::Stand(why) if why.contains("the local clock says")), "{step:?}");
}

#[test]
fn rotation_restores_a_removed_ca_bundle_and_keeps_other_cas_while_in_use() {
    let (settled, other) = (Look::settled(), Look::settled());
    let (ours, theirs) = (held(&settled.authorities).current, held(&other.authorities).current);
    let emptied = Look { bundles: vec![bundle(vec![ours.clone()]), bundle(vec![])], ..Look::settled() };
    let step = Look { authorities: settled.authorities.clone(), leaf: settled.leaf.clone(), ..emptied }.step(after(1));
    assert_eq!(step, RotationAction::Publish(vec![(1, vec![ours.clone()])]));

    let mut look = Look { bundles: vec![bundle(vec![theirs.clone()])], ..settled };
    assert_eq!(look.step(after(1)), RotationAction::Publish(vec![(0, vec![ours.clone(), theirs.clone()])]));
    look.bundles = vec![bundle(vec![theirs, ours.clone()])];
    let new = held(&look.leaf);
    for (shows, serving, goes_on) in [
        (Ok(held(&other.leaf)), false, false),
        (Err("refused".to_owned()), true, false),
        (Err("refused".to_owned()), false, true),
        (Ok(new), true, true),
    ] {
        look.replicas = Replicas::Known(vec![replica(shows, serving)]);
        let mut memory = RotationMemory::default();
        let first = look.next(&mut memory, after(1), 0);
        assert!(first.step == RotationAction::Wait && first.waits_for.is_some(), "{first:?}");
        assert_eq!(look.next(&mut memory, after(1), 599).step, RotationAction::Wait);
        let then = look.next(&mut memory, after(1), 600).step;
        assert_eq!(then == RotationAction::Publish(vec![(0, vec![ours.clone()])]), goes_on, "{then:?}");
    }
    look.replicas = Replicas::Unknown("forbidden".to_owned());
    let mut memory = RotationMemory::default();
    for elapsed in [0, 100_000] {
        assert_eq!(
            look.next(&mut memory, after(1), elapsed).step,
            RotationAction::Wait,
            "the served certificate is unknown"
        );
    }
}

#[test]
fn stored_state_is_classified_from_the_secret() {
    let [first, second] =
        ["a", "b"].map(|name| Authority::new(name, Validity::starting(beginning(), policy().authority)).unwrap());
    let good = AuthoritySet::data(&first, &[]);
    assert!(matches!(AuthoritySet::read(&good), StoredState::Held(_)));
    let other = AuthoritySet::data(&second, &[]);
    let leaf = first.issue(&policy().names, Validity::starting(beginning(), policy().leaf)).unwrap();
    let leaf = leaf_data(&leaf, &first);
    let with = |data: &SecretData, key: &str, bytes: &[u8]| {
        let mut data = data.clone();
        data.insert(key.to_owned(), bytes.to_vec());
        data
    };
    for (data, why) in [
        (SecretData::new(), "`ca.crt` is missing or empty"),
        (with(&good, "ca.key", b""), "`ca.key` is missing or empty"),
        (with(&good, "ca.key", b"x"), "`ca.key` has no private key"),
        (with(&good, "ca.key", &[0xff]), "`ca.key` is not UTF-8"),
        (with(&good, "ca.crt", b"x"), "`ca.crt` must have exactly one certificate"),
        (with(&good, "ca.crt", &other["ca.crt"]), "`ca.crt` and `ca.key` do not match"),
        (with(&good, "ca.crt", &leaf["tls.crt"]), "is not a CA certificate"),
        (
            with(&good, "previous.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "previous.crt",
        ),
    ] {
        let read = AuthoritySet::read(&data);
        assert!(matches!(&read, StoredState::Damaged(reported) if reported.contains(why)), "{why}: {read:?}");
        assert!(!format!("{read:?}").contains("PRIVATE KEY"));
    }
    assert!(matches!(read_leaf(&leaf), StoredState::Held(_)));
    for (key, bytes) in [("tls.crt", &b""[..]), ("tls.key", b"x"), ("tls.crt", &other["ca.crt"])] {
        let read = read_leaf(&with(&leaf, key, bytes));
        assert!(matches!(read, StoredState::Damaged(_)), "{key}: {read:?}");
    }
    assert_eq!(recover(&with(&good, "ca.key", b"x")).len(), 1);
}

/// An object of the API server: its version and what is in it.
type Stored<T> = Option<(u64, T)>;

struct World {
    now: Timestamp,
    since: Duration,
    version: u64,
    authority: Stored<SecretData>,
    leaf: Stored<SecretData>,
    configurations: Vec<(u64, Vec<Vec<X509>>)>,
    servers: Vec<ApiServer>,
    replicas: Vec<Pod>,
    chains: HashMap<(Vec<u8>, Vec<u8>), bool>,
}

/// Has its own clock, and its own cached state.
struct ApiServer {
    skew: SignedDuration,
    lag: Duration,
    /// By configuration: the certificates that each entry trusts, and whether a user has just emptied it.
    trusts: Vec<(Vec<Vec<X509>>, bool)>,
    news: Vec<(Duration, usize, Vec<Vec<X509>>, bool)>,
}

struct Pod {
    serves: Option<X509>,
    listed_at: Duration,
    ends_at: Option<Duration>,
    files: Vec<(Duration, SecretData)>,
}

/// A controller in the middle of a reconcile: the state that it has read.
#[derive(Default)]
struct Leader {
    skew: SignedDuration,
    created_at: Duration,
    memory: RotationMemory,
    leaf: Option<Stored<SecretData>>,
    configurations: Option<Vec<(u64, Vec<Vec<X509>>)>>,
    authority: Option<Stored<SecretData>>,
    rests_until: Duration,
}

impl World {
    fn new(skews: [i64; 2]) -> Self {
        let server = |skew, lag| ApiServer {
            skew: SignedDuration::from_secs(skew),
            lag: Duration::from_secs(lag),
            trusts: vec![(vec![vec![]], false), (vec![vec![]; 2], false)],
            news: Vec::new(),
        };
        Self {
            now: beginning(),
            since: Duration::ZERO,
            version: 0,
            authority: None,
            leaf: None,
            configurations: vec![(0, vec![vec![]]), (0, vec![vec![]; 2])],
            servers: vec![server(skews[0], 0), server(skews[1], 7)],
            replicas: Vec::new(),
            chains: HashMap::new(),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.since + time;
        while self.since < end {
            let news = self.servers.iter().flat_map(|server| server.news.iter().map(|news| news.0));
            let files = self.replicas.iter().flat_map(|pod| pod.files.iter().map(|file| file.0));
            let ends = self.replicas.iter().filter_map(|pod| pod.ends_at);
            let soonest = news.chain(files).chain(ends).filter(|due| *due > self.since).min();
            let then = soonest.unwrap_or(end).min(end);
            self.now += SignedDuration::try_from(then - self.since).unwrap();
            self.since = then;
            self.settle();
        }
        self.settle();
    }

    /// Delivers the changes that are due; then all parts must match.
    fn settle(&mut self) {
        let since = self.since;
        for server in &mut self.servers {
            server.news.retain(|(due, which, trusts, emptied)| {
                if *due <= since {
                    server.trusts[*which] = (trusts.clone(), *emptied);
                }
                *due > since
            });
        }
        self.replicas.retain(|pod| pod.ends_at.is_none_or(|end| end > since));
        for pod in &mut self.replicas {
            pod.files.retain(|(due, data)| {
                if *due <= since
                    && let StoredState::Held(leaf) = read_leaf(data)
                {
                    pod.serves = Some(leaf);
                }
                *due > since
            });
        }
        self.check();
    }

    fn check(&mut self) {
        for pod in self.replicas.iter().filter(|pod| pod.listed_at <= self.since) {
            let Some(leaf) = &pod.serves else { continue };
            for server in &self.servers {
                let at = self.now + server.skew;
                for bundle in server.trusts.iter().filter(|(_, emptied)| !emptied).flat_map(|(trusts, _)| trusts) {
                    let chains = bundle.iter().filter(|authority| authority.validity().holds(at)).any(|authority| {
                        let key = (leaf.public_key().to_vec(), authority.public_key().to_vec());
                        *self.chains.entry(key).or_insert_with(|| {
                            leaf.is_trusted_as(NAME, std::slice::from_ref(authority), leaf.validity().from + BACKDATED)
                        })
                    });
                    assert!(chains && leaf.validity().holds(at), "at {at}: {leaf:?} is not trusted by {bundle:?}");
                }
            }
        }
    }

    fn stored(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn write_leaf(&mut self, data: SecretData) {
        let version = self.stored();
        self.leaf = Some((version, data.clone()));
        for (place, pod) in self.replicas.iter_mut().enumerate() {
            let lag = Duration::from_secs(37 * place as u64 % 80);
            pod.files.push((self.since + lag, data.clone()));
        }
    }

    fn write_bundles(&mut self, which: usize, bundles: Vec<Vec<X509>>, emptied: bool) {
        let version = self.stored();
        self.configurations[which] = (version, bundles.clone());
        for server in &mut self.servers {
            server.news.push((self.since + server.lag, which, bundles.clone(), emptied));
        }
        self.settle();
    }

    fn new_pod(&mut self, starts_in: u64) {
        let Some((_, data)) = &self.leaf else { return };
        let StoredState::Held(leaf) = read_leaf(data) else { return };
        if self.replicas.len() < 4 {
            let listed_at = self.since + Duration::from_secs(starts_in);
            self.replicas.push(Pod { serves: Some(leaf), listed_at, ends_at: None, files: Vec::new() });
        }
    }

    fn is_settled(&self) -> bool {
        let Some((_, data)) = &self.authority else { return false };
        let StoredState::Held(authorities) = AuthoritySet::read(data) else { return false };
        let bundles = self.configurations.iter().flat_map(|(_, bundles)| bundles);
        let emptied = self
            .servers
            .iter()
            .any(|server| !server.news.is_empty() || server.trusts.iter().any(|(_, emptied)| *emptied));
        authorities.previous.is_empty()
            && bundles.into_iter().all(|bundle| *bundle == [authorities.current.clone()])
            && self
                .replicas
                .iter()
                .all(|pod| pod.serves.as_ref().is_some_and(|leaf| leaf.is_issued_by(&authorities.current)))
            && !emptied
    }
}

impl Leader {
    fn new(skew: i64, world: &World) -> Self {
        Self { skew: SignedDuration::from_secs(skew), created_at: world.since, ..Self::default() }
    }

    /// One request: a read, or the write that follows from the reads.
    fn request(&mut self, world: &mut World) {
        if world.since < self.rests_until {
            return;
        }
        if self.leaf.is_none() {
            self.leaf = Some(world.leaf.clone());
        } else if self.configurations.is_none() {
            self.configurations = Some(world.configurations.clone());
        } else if self.authority.is_none() {
            self.authority = Some(world.authority.clone());
        } else {
            self.act(world);
        }
    }

    fn act(&mut self, world: &mut World) {
        let (leaf, authority) = (self.leaf.take().unwrap(), self.authority.take().unwrap());
        let configurations = self.configurations.take().unwrap();
        let read = |stored: &Stored<SecretData>| stored.as_ref().map(|(_, data)| data.clone());
        let authorities = read(&authority).map_or(StoredState::Missing, |data| AuthoritySet::read(&data));
        let kept_leaf = read(&leaf).map_or(StoredState::Missing, |data| read_leaf(&data));
        let salvaged: Vec<X509> = [read(&authority), read(&leaf)].iter().flatten().flat_map(recover).collect();
        let places: Vec<(usize, usize)> =
            (0..2).flat_map(|which| (0..=which).map(move |entry| (which, entry))).collect();
        let bundles: Vec<CaBundle> =
            places.iter().map(|(which, entry)| bundle(configurations[*which].1[*entry].clone())).collect();
        let listed = world.replicas.iter().filter(|pod| pod.listed_at <= world.since);
        let shown = listed.map(|pod| replica(pod.serves.clone().ok_or_else(|| "refused".to_owned()), true));
        let replicas = Replicas::Known(shown.collect());
        let seen = RotationState {
            authorities: &authorities,
            leaf: &kept_leaf,
            salvaged: &salvaged,
            bundles: &bundles,
            replicas: &replicas,
        };
        let now = world.now + self.skew;
        let elapsed = world.since - self.created_at;
        let RotationPlan { step, look_again, .. } = next(&mut self.memory, &seen, &policy(), now, elapsed);
        // The controller reads more often; this is the harder case.
        self.rests_until = world.since + if look_again == LOOK { LOOK * 8 } else { look_again };
        let same = |a: &Stored<SecretData>, b: &Stored<SecretData>| a.as_ref().map(|a| a.0) == b.as_ref().map(|b| b.0);
        match step {
            RotationAction::Wait => {}
            RotationAction::Stand(why) => panic!("{why}"),
            RotationAction::NewAuthority { previous, .. } if same(&world.authority, &authority) => {
                let name = format!("test {now}");
                let new = Authority::new(&name, Validity::starting(now, policy().authority)).unwrap();
                world.authority = Some((world.stored(), AuthoritySet::data(&new, &previous)));
            }
            RotationAction::Drop { keep, .. } if same(&world.authority, &authority) => {
                world.authority = Some((world.stored(), held(&authorities).keeping(&keep)));
            }
            RotationAction::NewLeaf { validity, .. } if same(&world.leaf, &leaf) => {
                let authority = held(&authorities).authority().unwrap();
                let issued: Issued = authority.issue(&policy().names, validity).unwrap();
                world.write_leaf(leaf_data(&issued, &authority));
            }
            RotationAction::Publish(wanted) => {
                let wanted: BTreeMap<usize, Vec<X509>> = wanted.into_iter().collect();
                for (which, (version, read)) in configurations.iter().enumerate() {
                    let entries = places.iter().enumerate().filter(|(_, place)| place.0 == which);
                    let new = entries.map(|(place, _)| wanted.get(&place).unwrap_or(&bundles[place].trusted).clone());
                    let new: Vec<Vec<X509>> = new.collect();
                    if new != *read && world.configurations[which].0 == *version {
                        world.write_bundles(which, new, false);
                    }
                }
            }
            // Another process was faster.
            _ => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Happening {
    /// The leader makes this number of requests.
    Works(u8),
    Seconds(u16),
    Days(u8),
    /// The leader is killed; the next has another clock.
    Killed(i64),
    /// The leader pauses in a reconcile, another takes over, and the first continues before it notices.
    Halted(i64, u8),
    PodStarts(u8),
    PodEnds(u8),
    AuthorityDeleted,
    AuthorityDamaged,
    LeafDeleted,
    LeafDamaged,
    Emptied(bool),
}

fn skew() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(-600), Just(600), -600_i64..600]
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        10 => (1_u8..12).prop_map(Works),
        10 => (0_u16..200).prop_map(Seconds),
        3 => (1_u8..15).prop_map(Days),
        4 => skew().prop_map(Killed),
        3 => (skew(), 1_u8..60).prop_map(|(skew, seconds)| Halted(skew, seconds)),
        4 => (0_u8..60).prop_map(PodStarts),
        2 => any::<u8>().prop_map(PodEnds),
        1 => Just(AuthorityDeleted),
        1 => Just(AuthorityDamaged),
        1 => Just(LeafDeleted),
        1 => Just(LeafDamaged),
        1 => any::<bool>().prop_map(Emptied),
    ]
}

/// Lets the leader work without faults for a while.
fn quietly(world: &mut World, leader: &mut Leader, seconds: u64) {
    let end = world.since + Duration::from_secs(seconds);
    while world.since < end {
        leader.request(world);
        let rest = leader.rests_until.saturating_sub(world.since).max(Duration::from_millis(20));
        world.pass(rest.min(end - world.since));
    }
}

fn live(happenings: Vec<Happening>, skews: [i64; 2], first: i64) {
    let mut world = World::new(skews);
    let mut leader = Leader::new(first, &world);
    quietly(&mut world, &mut leader, 15);
    assert!(
        matches!(&world.leaf, Some((_, data)) if matches!(read_leaf(data), StoredState::Held(_))),
        "nothing was issued"
    );
    world.new_pod(0);
    for happening in happenings {
        let emptied = world
            .servers
            .iter()
            .any(|server| server.trusts.iter().any(|(_, emptied)| *emptied) || server.news.iter().any(|news| news.3));
        match happening {
            Happening::Works(requests) => {
                for _ in 0..requests {
                    leader.request(&mut world);
                    world.pass(Duration::from_millis(150));
                }
            }
            Happening::Seconds(seconds) => world.pass(Duration::from_secs(seconds.into())),
            Happening::Days(days) => {
                quietly(&mut world, &mut leader, 60);
                world.pass(Duration::from_secs(u64::from(days) * 24 * 3600));
                quietly(&mut world, &mut leader, 60);
            }
            Happening::Killed(skew) => leader = Leader::new(skew, &world),
            Happening::Halted(skew, seconds) => {
                let mut halted = std::mem::replace(&mut leader, Leader::new(skew, &world));
                quietly(&mut world, &mut leader, seconds.into());
                for _ in 0..4 {
                    halted.request(&mut world);
                    world.settle();
                }
            }
            Happening::PodStarts(seconds) => world.new_pod(seconds.into()),
            Happening::PodEnds(which) => {
                let end = world.since + Duration::from_secs(30);
                let place = usize::from(which) % world.replicas.len().max(1);
                if let Some(pod) = world.replicas.get_mut(place) {
                    pod.ends_at.get_or_insert(end);
                }
            }
            Happening::AuthorityDeleted if !emptied => world.authority = None,
            Happening::AuthorityDamaged if !emptied => {
                let version = world.stored();
                if let Some((stored, data)) = &mut world.authority {
                    *stored = version;
                    data.insert("ca.key".to_owned(), b"torn".to_vec());
                }
            }
            Happening::LeafDeleted => world.leaf = None,
            Happening::LeafDamaged => {
                if let Some((_, mut data)) = world.leaf.clone() {
                    data.insert("tls.key".to_owned(), b"torn".to_vec());
                    world.write_leaf(data);
                }
            }
            Happening::Emptied(which) if world.is_settled() => {
                let which = usize::from(which);
                world.write_bundles(which, vec![vec![]; which + 1], true);
            }
            _ => {}
        }
    }
    quietly(&mut world, &mut leader, 1800);
    assert!(world.is_settled(), "{:?} {:?}", world.authority.map(|stored| stored.0), world.configurations);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_replica_is_trusted_at_every_moment(
        happenings in prop::collection::vec(happening(), 1..40),
        skews in [skew(), skew()],
        first in skew(),
    ) {
        live(happenings, skews, first);
    }
}

#[test]
fn three_years_pass_without_a_gap_by_clocks_that_are_ten_minutes_off() {
    for (skews, first) in [([0, 0], 0), ([600, -600], 600), ([600, -600], -600)] {
        let pods = [Happening::PodStarts(5), Happening::PodStarts(30)];
        let years = (0..80).map(|_| Happening::Days(14));
        live(pods.into_iter().chain(years).collect(), skews, first);
    }
}
