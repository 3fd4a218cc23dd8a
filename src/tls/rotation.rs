//! Computes the next step in the rotation of the webhook's certificates, so that at every moment every webhook configuration
//! trusts the certificate of every replica.
//!
//! In: the current state of the two Secrets, the webhook configurations and the replicas. Out: one step, after which the
//! caller reads the state again. The whole state is read each time, so a new leader continues where the last one was killed.
//! Some steps take effect later in other processes (API servers that load a CA, kubelets that update a certificate).
//! [`RotationMemory`] waits for these with a monotonic clock; a new leader starts these waits again.
//!
//! ```text
//! new CA beside the old ──▶ in every caBundle ──(settled)──▶ certificate of the new CA ──▶ served by every replica
//!        (the old key is deleted)                                     ──(for the overlap)──▶ old CA dropped
//! ```

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::issue::{BACKDATED, Validity};
use super::secret_format::{AuthoritySet, StoredState};
use super::x509::X509;

/// The longest interval between two reads of the state: the controller restores a deleted object after at most this time.
pub const LOOK: Duration = Duration::from_secs(5);

/// The desired certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationPolicy {
    /// The validity of a serving certificate. It is renewed after two thirds of that time.
    pub leaf: SignedDuration,
    /// The validity of a CA; at least four times that of a serving certificate.
    pub authority: SignedDuration,
    /// The names under which clients connect to the webhook.
    pub names: Vec<String>,
}

/// The observed state.
#[derive(Debug)]
pub struct RotationState<'a> {
    /// The Secret of the CA.
    pub authorities: &'a StoredState<AuthoritySet>,
    /// The Secret of the webhook.
    pub leaf: &'a StoredState<X509>,
    /// CAs that are readable in either Secret, even if other parts are damaged.
    pub salvaged: &'a [X509],
    /// The `caBundle` of each entry of the webhook configurations that calls our Service.
    pub bundles: &'a [CaBundle],
    /// The replicas and their certificates.
    pub replicas: &'a Replicas,
}

/// The `caBundle` of one entry of a webhook configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaBundle {
    /// The entry, such as `MutatingWebhookConfiguration harbor-pilot, mutate.harbor-pilot.dev`.
    pub entry: String,
    /// The certificates in it; empty if it is absent or cannot be read.
    pub trusted: Vec<X509>,
    /// Another manager of the bundle, if one is known. Then the controller does not write it.
    pub kept_by: Option<String>,
}

/// The certificates that the replicas of the webhook serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicas {
    /// Not read, because no step depends on it: see [`depends_on_replicas`].
    NotAsked,
    /// The list of replicas could not be read; the reason.
    Unknown(String),
    /// All replicas.
    Known(Vec<Replica>),
}

/// One address of the webhook's Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The address.
    pub address: String,
    /// Whether clients may connect to it: it is ready, or it terminates and still serves.
    pub serving: bool,
    /// The certificate that it serves, or why none could be read.
    pub shows: Result<X509, String>,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotationAction {
    /// Nothing to do now.
    Wait,
    /// Nothing to do until a user fixes this.
    Stand(String),
    /// Create a CA that issues certificates from now on. The others stay trusted.
    NewAuthority {
        /// Why.
        because: String,
        /// The CAs that stay trusted beside it.
        previous: Vec<X509>,
    },
    /// Write these `caBundle`s, each by its index in [`RotationState::bundles`].
    Publish(Vec<(usize, Vec<X509>)>),
    /// Issue a new serving certificate.
    NewLeaf {
        /// Why.
        because: String,
        /// The validity of the certificate.
        validity: Validity,
    },
    /// Remove all previous CAs but these from the trust.
    Drop {
        /// Why.
        because: String,
        /// The CAs to keep.
        keep: Vec<X509>,
    },
}

/// A step, and the wait after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationPlan {
    /// The step.
    pub step: RotationAction,
    /// What blocks the rotation, if anything does.
    pub waits_for: Option<String>,
    /// How long to wait before the next read. After a step that was done: zero.
    pub look_again: Duration,
}

/// Since when this process has seen changes that take effect later in other processes.
#[derive(Debug, Default)]
pub struct RotationMemory {
    published: Steady,
    taken_over: Steady,
}

#[derive(Debug, Default)]
struct Steady(Option<(Vec<X509>, Duration)>);

impl RotationPolicy {
    /// Returns the wait after every `caBundle` has a CA: API servers may need this time to load it.
    fn settle(&self) -> Duration {
        self.thousandth().min(Duration::from_secs(10))
    }

    /// Returns the wait after every replica serves the new certificate: others may still start with the old one in this time.
    fn overlap(&self) -> Duration {
        self.thousandth().min(Duration::from_secs(600))
    }

    fn thousandth(&self) -> Duration {
        (self.leaf.unsigned_abs() / 1000).max(Duration::from_secs(1))
    }
}

/// Returns whether the next step depends on the replicas: while a CA other than the current one is trusted or in use.
pub fn depends_on_replicas(
    authorities: &StoredState<AuthoritySet>,
    leaf: &StoredState<X509>,
    bundles: &[CaBundle],
) -> bool {
    let (StoredState::Held(authorities), StoredState::Held(leaf)) = (authorities, leaf) else { return true };
    let only_current = |bundle: &CaBundle| bundle.trusted.iter().all(|one| *one == authorities.current);
    !authorities.previous.is_empty() || !leaf.is_issued_by(&authorities.current) || !bundles.iter().all(only_current)
}

/// Returns the next step at `now`. `elapsed` is the time since the process started, from a monotonic clock.
pub fn next(
    memory: &mut RotationMemory,
    seen: &RotationState<'_>,
    policy: &RotationPolicy,
    now: Timestamp,
    elapsed: Duration,
) -> RotationPlan {
    let authorities = match (seen.authorities, seen.leaf) {
        (StoredState::NotOurs(why), _) | (_, StoredState::NotOurs(why)) => {
            return do_now(RotationAction::Stand(why.clone()));
        }
        (StoredState::Missing, _) => return new_authority("there is no CA", seen.salvaged, now),
        (StoredState::Damaged(why), _) => return new_authority(why, seen.salvaged, now),
        (StoredState::Held(authorities), _) => authorities,
    };
    let current = &authorities.current;
    if now < current.validity().from {
        let from = current.validity().from;
        return do_now(RotationAction::Stand(format!("the CA is valid from {from}, and the local clock says {now}")));
    }
    if let Some(why) = seen.bundles.iter().find_map(|bundle| bundle.kept_by.clone()) {
        return do_now(RotationAction::Stand(why));
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
        do_now(RotationAction::NewLeaf { because, validity: Validity { until, ..validity } })
    };
    if let Some(RenewalReason { because, trusted_already: true }) = wanted {
        return certify(because);
    }
    if let Some(because) = authority_due(current, policy, now) {
        return new_authority(&because, &all, now);
    }
    if !published {
        return do_now(RotationAction::Publish(bundles(seen.bundles, &all, false, now)));
    }
    if let Some(RenewalReason { because, .. }) = wanted {
        let nobody_serves = matches!(seen.replicas, Replicas::Known(replicas) if replicas.is_empty());
        let settled = if nobody_serves { Duration::ZERO } else { policy.settle() };
        return match settled.checked_sub(published_for) {
            None | Some(Duration::ZERO) => certify(because),
            Some(rest) => wait(rest, Some("API servers receive the new CA".to_owned())),
        };
    }
    let keep: Vec<X509> = authorities.previous.iter().filter(|one| !is_over(one, now)).cloned().collect();
    if keep.len() < authorities.previous.len() {
        return do_now(RotationAction::Drop { because: "it is no longer valid".to_owned(), keep });
    }
    if !depends_on_replicas(seen.authorities, seen.leaf, seen.bundles) {
        return wait(LOOK, None);
    }
    match policy.overlap().checked_sub(taken_over_for) {
        _ if behind.is_some() => wait(LOOK, behind),
        Some(rest) if !rest.is_zero() => wait(rest, Some("replicas may start with the old certificate".to_owned())),
        _ if !authorities.previous.is_empty() => do_now(RotationAction::Drop {
            because: "every replica serves the new certificate".to_owned(),
            keep: Vec::new(),
        }),
        _ => do_now(RotationAction::Publish(bundles(seen.bundles, &all, true, now))),
    }
}

impl Steady {
    /// Returns how long this state has lasted without a break; zero if it is not the current state.
    fn lasts(&mut self, what: Option<&(impl AsRef<[X509]> + ?Sized)>, elapsed: Duration) -> Duration {
        let since = match (what.map(AsRef::as_ref), self.0.take()) {
            (None, _) => return Duration::ZERO,
            (Some(what), Some((before, since))) if before == what => self.0.insert((before, since)).1,
            (Some(what), _) => self.0.insert((what.to_vec(), elapsed)).1,
        };
        elapsed.saturating_sub(since)
    }
}

/// The reason for a new certificate.
struct RenewalReason {
    because: String,
    /// Whether the same CA issued the current certificate: then no trust has to change first.
    trusted_already: bool,
}

fn leaf_wanted(
    leaf: &StoredState<X509>,
    current: &X509,
    policy: &RotationPolicy,
    now: Timestamp,
) -> Option<RenewalReason> {
    let wanted = |because: String, trusted_already| Some(RenewalReason { because, trusted_already });
    let leaf = match leaf {
        StoredState::Held(leaf) => leaf,
        StoredState::Damaged(why) => return wanted(why.clone(), false),
        StoredState::Missing | StoredState::NotOurs(_) => return wanted("there is no certificate".to_owned(), false),
    };
    if !leaf.is_issued_by(current) {
        return wanted("it was issued by another CA".to_owned(), false);
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
        return wanted(format!("it is valid until {until}, longer than its lifetime allows"), true);
    }
    None
}

/// Returns whether the CA is due: after two thirds of its validity, or earlier, so that a serving certificate and one more
/// still fit into it.
fn authority_due(current: &X509, policy: &RotationPolicy, now: Timestamp) -> Option<String> {
    let until = current.validity().until;
    if now >= before(until, (life(current) / 3).max(policy.leaf * 2)) {
        return Some(format!("it is valid until {until}"));
    }
    lasts_too_long(current, policy.authority, now)
        .then(|| format!("it is valid until {until}, longer than its lifetime allows"))
}

/// Returns the validity of a certificate from its issue.
fn life(certificate: &X509) -> SignedDuration {
    let Validity { from, until } = certificate.validity();
    let whole = until.duration_since(from);
    if whole > BACKDATED { whole - BACKDATED } else { whole }
}

/// Returns whether the configured validity is shorter now. A difference of minutes between clocks does not count.
fn lasts_too_long(certificate: &X509, wanted: SignedDuration, now: Timestamp) -> bool {
    certificate.validity().until.duration_since(now) > wanted + wanted / 4
}

/// Returns whether the certificate has expired by any clock.
fn is_over(certificate: &X509, now: Timestamp) -> bool {
    now.duration_since(certificate.validity().until) > BACKDATED
}

fn before(moment: Timestamp, time: SignedDuration) -> Timestamp {
    moment.checked_sub(time).unwrap_or(Timestamp::MIN)
}

fn new_authority(because: &str, trusted: &[X509], now: Timestamp) -> RotationPlan {
    let mut previous: Vec<X509> = Vec::new();
    for one in trusted.iter().filter(|one| !is_over(one, now)) {
        if !previous.contains(one) {
            previous.push(one.clone());
        }
    }
    do_now(RotationAction::NewAuthority { because: because.to_owned(), previous })
}

/// Returns the bundles to write, by index. Unless `exact`, foreign certificates stay while replicas may still need them.
fn bundles(bundles: &[CaBundle], all: &[X509], exact: bool, now: Timestamp) -> Vec<(usize, Vec<X509>)> {
    let differs = |bundle: &CaBundle, wanted: &[X509]| {
        bundle.trusted.len() != wanted.len() || !wanted.iter().all(|one| bundle.trusted.contains(one))
    };
    let wanted = |bundle: &CaBundle| {
        let others = bundle.trusted.iter().filter(|one| !exact && !all.contains(one) && !is_over(one, now));
        all.iter().chain(others).cloned().collect::<Vec<_>>()
    };
    let each = bundles.iter().enumerate().map(|(place, bundle)| (place, bundle, wanted(bundle)));
    each.filter(|(_, bundle, wanted)| differs(bundle, wanted)).map(|(place, _, wanted)| (place, wanted)).collect()
}

/// Returns why the previous CAs are still needed.
fn behind(replicas: &Replicas, current: &X509) -> Option<String> {
    let replicas = match replicas {
        Replicas::NotAsked => return Some("the certificates of the replicas are unknown".to_owned()),
        Replicas::Unknown(why) => return Some(format!("the certificates of the replicas are unknown: {why}")),
        Replicas::Known(replicas) => replicas,
    };
    replicas.iter().find_map(|Replica { address, serving, shows }| match shows {
        Ok(leaf) if leaf.is_issued_by(current) => None,
        Ok(_) => Some(format!("{address} serves the old certificate")),
        // A replica that is neither ready nor terminating serves no client, and starts with the current files.
        Err(_) if !serving => None,
        Err(why) => Some(format!("the certificate of {address} is unknown: {why}")),
    })
}

fn do_now(step: RotationAction) -> RotationPlan {
    let look_again = if matches!(step, RotationAction::Stand(_)) { LOOK } else { Duration::ZERO };
    RotationPlan { step, waits_for: None, look_again }
}

fn wait(rest: Duration, waits_for: Option<String>) -> RotationPlan {
    RotationPlan { step: RotationAction::Wait, waits_for, look_again: rest.clamp(Duration::from_millis(100), LOOK) }
}

#[cfg(test)]
mod tests;
