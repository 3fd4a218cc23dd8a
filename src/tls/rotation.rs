//! Which step brings the webhook's certificates forward, so that whatever a replica serves is trusted by every webhook
//! configuration at every moment.
//!
//! In: what the two Secrets, the webhook configurations and the replicas have now. Out: one step, after which the caller looks
//! again. All of it is read anew each time, so whoever leads next goes on where the last one was killed. What takes effect later
//! elsewhere (API servers that learn of an authority, kubelets that bring a certificate) is waited for by [`Memory`], by a clock
//! that nobody sets; a new leader waits anew.
//!
//! ```text
//! new authority beside the old ──▶ in every caBundle ──(settled)──▶ certificate of the new ──▶ served by every replica
//!        (the old key is gone)                                             ──(for the overlap)──▶ old authority dropped
//! ```

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::issue::{BACKDATED, Validity};
use super::kept::{Authorities, Kept};
use super::x509::X509;

/// How often to look, whatever there is to wait for: what somebody took away is back after so long.
pub const LOOK: Duration = Duration::from_secs(5);

/// What shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a certificate of the webhook is valid. It is renewed when two thirds of that are over.
    pub leaf: SignedDuration,
    /// How long an authority is valid; at least four times as long.
    pub authority: SignedDuration,
    /// The names that clients know the webhook by.
    pub names: Vec<String>,
}

/// What there is.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Of the Secret of the authority.
    pub authorities: &'a Kept<Authorities>,
    /// Of the Secret of the webhook.
    pub leaf: &'a Kept<X509>,
    /// Authorities that can be made out in either Secret, whatever else is damaged.
    pub salvaged: &'a [X509],
    /// What each entry of the webhook configurations trusts, as far as it calls our Service.
    pub bundles: &'a [Bundle],
    /// What is served.
    pub replicas: &'a Replicas,
}

/// The `caBundle` of one entry of a webhook configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose it is, such as `MutatingWebhookConfiguration harbor-pilot, mutate.harbor-pilot.dev`.
    pub entry: String,
    /// The certificates in it; none where it is absent or cannot be read.
    pub trusted: Vec<X509>,
    /// Who else keeps it, if that is known: then nothing is written.
    pub kept_by: Option<String>,
}

/// What the replicas of the webhook serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicas {
    /// It was not looked, because nothing depends on it: see [`depends_on_replicas`].
    NotAsked,
    /// It cannot be known which there are, and why.
    Unknown(String),
    /// All that there are.
    Known(Vec<Replica>),
}

/// One address of the webhook's Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Where.
    pub address: String,
    /// Whether anybody may be sent there: it is ready, or it is ending and serves on.
    pub serving: bool,
    /// The certificate that it shows, or why none could be seen.
    pub shows: Result<X509, String>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for now.
    Wait,
    /// Nothing until a person has looked at it.
    Stand(String),
    /// Make an authority that certifies from now on. The others are trusted still.
    NewAuthority {
        /// Why.
        because: String,
        /// Those that are trusted beside it.
        previous: Vec<X509>,
    },
    /// Write these `caBundle`s, each by its place in [`Seen::bundles`].
    Publish(Vec<(usize, Vec<X509>)>),
    /// Certify the webhook anew.
    NewLeaf {
        /// Why.
        because: String,
        /// When the certificate is valid.
        validity: Validity,
    },
    /// Trust, of the previous authorities, these alone.
    Drop {
        /// Why.
        because: String,
        /// Those that are kept.
        keep: Vec<X509>,
    },
}

/// A step, and what comes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// What to do now.
    pub step: Step,
    /// What keeps the rotation from going on, if anything does.
    pub waits_for: Option<String>,
    /// How long to wait before looking again. After a step that was done: not at all.
    pub look_again: Duration,
}

/// Since when this process has seen what takes time to have its effect elsewhere.
#[derive(Debug, Default)]
pub struct Memory {
    published: Steady,
    taken_over: Steady,
}

#[derive(Debug, Default)]
struct Steady(Option<(Vec<X509>, Duration)>);

impl Policy {
    /// From the moment on which every `caBundle` has an authority: how long API servers may take to go by it.
    fn settle(&self) -> Duration {
        self.thousandth().min(Duration::from_secs(10))
    }

    /// From the moment on which every replica shows the new certificate: how long others may still turn up with the old.
    fn overlap(&self) -> Duration {
        self.thousandth().min(Duration::from_secs(600))
    }

    fn thousandth(&self) -> Duration {
        (self.leaf.unsigned_abs() / 1000).max(Duration::from_secs(1))
    }
}

/// Whether the next step depends on what replicas serve: while anything but the current authority is trusted or in use.
pub fn depends_on_replicas(authorities: &Kept<Authorities>, leaf: &Kept<X509>, bundles: &[Bundle]) -> bool {
    let (Kept::Held(authorities), Kept::Held(leaf)) = (authorities, leaf) else { return true };
    let only_current = |bundle: &Bundle| bundle.trusted.iter().all(|one| *one == authorities.current);
    !authorities.previous.is_empty() || !leaf.is_issued_by(&authorities.current) || !bundles.iter().all(only_current)
}

/// The next step at `now`. `elapsed` is the time since the process started, by a clock that is never set.
pub fn next(memory: &mut Memory, seen: &Seen<'_>, policy: &Policy, now: Timestamp, elapsed: Duration) -> Next {
    let authorities = match (seen.authorities, seen.leaf) {
        (Kept::NotOurs(why), _) | (_, Kept::NotOurs(why)) => return do_now(Step::Stand(why.clone())),
        (Kept::Missing, _) => return new_authority("there is none", seen.salvaged, now),
        (Kept::Damaged(why), _) => return new_authority(why, seen.salvaged, now),
        (Kept::Held(authorities), _) => authorities,
    };
    let current = &authorities.current;
    if now < current.validity().from {
        let from = current.validity().from;
        return do_now(Step::Stand(format!("it is {now} by the clock here, and the authority is valid from {from}")));
    }
    if let Some(why) = seen.bundles.iter().find_map(|bundle| bundle.kept_by.clone()) {
        return do_now(Step::Stand(why));
    }
    let all = authorities.all();
    let published = seen.bundles.iter().all(|bundle| all.iter().all(|one| bundle.trusted.contains(one)));
    let published_for = memory.published.lasts(published.then_some(&all), elapsed);
    let behind = behind(seen.replicas, current);
    let taken_over = behind.is_none().then_some(std::slice::from_ref(current));
    let taken_over_for = memory.taken_over.lasts(taken_over, elapsed);

    let wanted = leaf_wanted(seen.leaf, current, policy, now);
    let certify = |because: String| {
        let validity = Validity::starting(now, policy.leaf);
        let until = validity.until.min(current.validity().until);
        do_now(Step::NewLeaf { because, validity: Validity { until, ..validity } })
    };
    if let Some(Wanted { because, trusted_already: true }) = wanted {
        return certify(because);
    }
    if let Some(because) = authority_due(current, policy, now) {
        return new_authority(&because, &all, now);
    }
    if !published {
        return do_now(Step::Publish(bundles(seen.bundles, &all, false, now)));
    }
    if let Some(Wanted { because, .. }) = wanted {
        let nobody_serves = matches!(seen.replicas, Replicas::Known(replicas) if replicas.is_empty());
        let settled = if nobody_serves { Duration::ZERO } else { policy.settle() };
        return match settled.checked_sub(published_for) {
            None | Some(Duration::ZERO) => certify(because),
            Some(rest) => wait(rest, Some("API servers learn of the new authority".to_owned())),
        };
    }
    let keep: Vec<X509> = authorities.previous.iter().filter(|one| !is_over(one, now)).cloned().collect();
    if keep.len() < authorities.previous.len() {
        return do_now(Step::Drop { because: "it is no longer valid".to_owned(), keep });
    }
    if !depends_on_replicas(seen.authorities, seen.leaf, seen.bundles) {
        return wait(LOOK, None);
    }
    match policy.overlap().checked_sub(taken_over_for) {
        _ if behind.is_some() => wait(LOOK, behind),
        Some(rest) if !rest.is_zero() => wait(rest, Some("replicas that start with the old certificate".to_owned())),
        _ if !authorities.previous.is_empty() => {
            do_now(Step::Drop { because: "every replica serves the new certificate".to_owned(), keep: Vec::new() })
        }
        _ => do_now(Step::Publish(bundles(seen.bundles, &all, true, now))),
    }
}

impl Steady {
    /// How long this has been so without a break; zero if it is not.
    fn lasts(&mut self, what: Option<&(impl AsRef<[X509]> + ?Sized)>, elapsed: Duration) -> Duration {
        let since = match (what.map(AsRef::as_ref), self.0.take()) {
            (None, _) => return Duration::ZERO,
            (Some(what), Some((before, since))) if before == what => self.0.insert((before, since)).1,
            (Some(what), _) => self.0.insert((what.to_vec(), elapsed)).1,
        };
        elapsed.saturating_sub(since)
    }
}

/// Why there has to be another certificate.
struct Wanted {
    because: String,
    /// The one that there is comes from the same authority: nobody has to learn anything first.
    trusted_already: bool,
}

fn leaf_wanted(leaf: &Kept<X509>, current: &X509, policy: &Policy, now: Timestamp) -> Option<Wanted> {
    let wanted = |because: String, trusted_already| Some(Wanted { because, trusted_already });
    let leaf = match leaf {
        Kept::Held(leaf) => leaf,
        Kept::Damaged(why) => return wanted(why.clone(), false),
        Kept::Missing | Kept::NotOurs(_) => return wanted("there is none".to_owned(), false),
    };
    if !leaf.is_issued_by(current) {
        return wanted("it is of another authority".to_owned(), false);
    }
    if let Some(name) = policy.names.iter().find(|name| !leaf.names().contains(name)) {
        return wanted(format!("it is not for {name}"), true);
    }
    let Validity { from, until } = leaf.validity();
    if now < from {
        return wanted(format!("it is not valid before {from}"), true);
    }
    if now >= before(until, life(leaf) / 3) {
        return wanted(format!("it is valid until {until}"), true);
    }
    if lasts_too_long(leaf, policy.leaf, now) {
        return wanted(format!("it is valid until {until}, longer than it should be"), true);
    }
    None
}

/// Before two thirds of its life are over, and so early that a certificate of the webhook, and one more, still fit into it.
fn authority_due(current: &X509, policy: &Policy, now: Timestamp) -> Option<String> {
    let until = current.validity().until;
    if now >= before(until, (life(current) / 3).max(policy.leaf * 2)) {
        return Some(format!("it is valid until {until}"));
    }
    lasts_too_long(current, policy.authority, now)
        .then(|| format!("it is valid until {until}, longer than it should be"))
}

/// How long it is valid from the moment that it was issued.
fn life(certificate: &X509) -> SignedDuration {
    let Validity { from, until } = certificate.validity();
    let whole = until.duration_since(from);
    if whole > BACKDATED { whole - BACKDATED } else { whole }
}

/// Whether somebody has made the time shorter since. Clocks that differ by minutes are no reason.
fn lasts_too_long(certificate: &X509, wanted: SignedDuration, now: Timestamp) -> bool {
    certificate.validity().until.duration_since(now) > wanted + wanted / 4
}

/// Whether nobody takes it for valid any more, by whatever clock.
fn is_over(certificate: &X509, now: Timestamp) -> bool {
    now.duration_since(certificate.validity().until) > BACKDATED
}

fn before(moment: Timestamp, time: SignedDuration) -> Timestamp {
    moment.checked_sub(time).unwrap_or(Timestamp::MIN)
}

fn new_authority(because: &str, trusted: &[X509], now: Timestamp) -> Next {
    let mut previous: Vec<X509> = Vec::new();
    for one in trusted.iter().filter(|one| !is_over(one, now)) {
        if !previous.contains(one) {
            previous.push(one.clone());
        }
    }
    do_now(Step::NewAuthority { because: because.to_owned(), previous })
}

/// What has to be written, by place. Unless `exact`, what somebody else put there stays while replicas may still need it.
fn bundles(bundles: &[Bundle], all: &[X509], exact: bool, now: Timestamp) -> Vec<(usize, Vec<X509>)> {
    let differs = |bundle: &Bundle, wanted: &[X509]| {
        bundle.trusted.len() != wanted.len() || !wanted.iter().all(|one| bundle.trusted.contains(one))
    };
    let wanted = |bundle: &Bundle| {
        let others = bundle.trusted.iter().filter(|one| !exact && !all.contains(one) && !is_over(one, now));
        all.iter().chain(others).cloned().collect::<Vec<_>>()
    };
    let each = bundles.iter().enumerate().map(|(place, bundle)| (place, bundle, wanted(bundle)));
    each.filter(|(_, bundle, wanted)| differs(bundle, wanted)).map(|(place, _, wanted)| (place, wanted)).collect()
}

/// Why the previous authorities are still needed.
fn behind(replicas: &Replicas, current: &X509) -> Option<String> {
    let replicas = match replicas {
        Replicas::NotAsked => return Some("it is not known what replicas serve".to_owned()),
        Replicas::Unknown(why) => return Some(format!("it is not known what replicas serve: {why}")),
        Replicas::Known(replicas) => replicas,
    };
    replicas.iter().find_map(|Replica { address, serving, shows }| match shows {
        Ok(leaf) if leaf.is_issued_by(current) => None,
        Ok(_) => Some(format!("{address} serves the old certificate")),
        // What is neither ready nor ending serves nobody, and starts with the files of today.
        Err(_) if !serving => None,
        Err(why) => Some(format!("it is not known what {address} serves: {why}")),
    })
}

fn do_now(step: Step) -> Next {
    let look_again = if matches!(step, Step::Stand(_)) { LOOK } else { Duration::ZERO };
    Next { step, waits_for: None, look_again }
}

fn wait(rest: Duration, waits_for: Option<String>) -> Next {
    Next { step: Step::Wait, waits_for, look_again: rest.clamp(Duration::from_millis(100), LOOK) }
}

#[cfg(test)]
mod tests;
