//! Conditions that follow kstatus, with a fixed list of types and reasons.
//!
//! `Reconciling` and `Stalled` exist only while they are true (kstatus: "abnormal-true" conditions), so that `kubectl wait`, Argo
//! CD and Flux read the status of our resources without configuration.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// An enum whose variants have their names as text, in both directions: the one table of these texts.
macro_rules! named {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident,)+ }) => {
        $(#[$about])*
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every variant.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The text in a status.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::api::condition::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|name| name.as_str() == text).ok_or($crate::api::condition::UnknownName)
            }
        }
    };
}
pub(super) use named;

/// The text is not a name of the enum. Another version of this project, or another client, wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown name")]
pub struct UnknownName;

named! {
/// The condition types of this project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionType {
    /// The object in Harbor matches the spec.
    Ready,
    /// A change is in progress (kstatus); absent otherwise.
    Reconciling,
    /// The resource needs a change by a user (kstatus); absent otherwise.
    Stalled,
    /// Harbor differs from the spec and is not changed (`managementPolicy: ObserveOnly`).
    Drifted,
    /// Harbor refuses to delete the object. The message names the cause.
    DeletionBlocked,
    /// A match of the project's rule belongs to an older project, or can never apply; absent otherwise.
    RewriteConflict,
    /// The image can be pulled by its tag while the upstream is down.
    OfflineByTag,
    /// The image can be pulled by its upstream digest while the upstream is down.
    OfflineByDigest,
    /// Harbor stores a requested manifest and refuses to serve it; absent otherwise.
    PullBlocked,
}
}

named! {
/// The reason of a condition or an Event: machine-readable, from a fixed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Harbor matches the spec.
    Reconciled,
    /// Harbor answers, and its components are healthy.
    Healthy,
    /// Harbor answers, and one of its components is not healthy.
    Degraded,
    /// A change is in progress.
    Progressing,
    /// `spec.suspend` is set.
    Suspended,
    /// Harbor differs from the spec, and the policy is `ObserveOnly`.
    Drifted,
    /// A field of the spec is invalid. The message names the field and the cause.
    InvalidSpec,
    /// The HarborInstance does not allow Registries at this host.
    HostNotAllowed,
    /// The HarborInstance does not exist.
    InstanceNotFound,
    /// The HarborInstance is not ready.
    InstanceNotReady,
    /// The Registry does not exist.
    RegistryNotFound,
    /// The Registry exists, and Harbor has not accepted it yet.
    RegistryNotReady,
    /// The operator's namespace has no Secret of that name.
    SecretNotFound,
    /// The Secret lacks a required key.
    SecretInvalid,
    /// Harbor did not answer.
    HarborUnreachable,
    /// Harbor refused our credentials (401).
    HarborUnauthorized,
    /// Our user or robot account lacks a permission in Harbor (403).
    HarborForbidden,
    /// Harbor refused the request as invalid (4xx).
    HarborRefused,
    /// Harbor failed (5xx), or its response was invalid.
    HarborError,
    /// The upstream answers without our credentials and not with them.
    CredentialsRejected,
    /// Harbor cannot use the upstream: it is unreachable, or refuses the credentials.
    UpstreamUnhealthy,
    /// Harbor has an object of this name without our marker.
    AdoptionRequired,
    /// Another resource owns the object of this name.
    NameConflict,
    /// The spec requires a change that Harbor cannot make.
    Immutable,
    /// Another object in Harbor uses this object.
    InUse,
    /// The object still holds data.
    NotEmpty,
    /// An execution of a replication policy started.
    ExecutionStarted,
    /// An execution of a replication policy failed.
    ExecutionFailed,
    /// Vulnerability prevention blocks the replication of images.
    BlockedByScan,
    /// An older project has the same match.
    MatchConflict,
    /// The match names the host of Harbor itself.
    MatchIsHarborHost,
    /// The image was not reconciled yet.
    Pending,
    /// Harbor stores every requested manifest and blob.
    Warm,
    /// The image is being fetched through Harbor.
    Pulling,
    /// The image was fetched, and Harbor has not stored all of it yet.
    Verifying,
    /// The image does not belong to a managed proxy project.
    NotProxied,
    /// The image does not parse as an image reference.
    InvalidImage,
    /// The upstream has no such image.
    ImageNotFound,
    /// The image has no child manifest for a requested platform.
    PlatformMissing,
    /// No node has reported its platform yet.
    PlatformsUnknown,
    /// The upstream limits our request rate.
    RateLimited,
    /// The pull failed with an error that is retried.
    PullFailed,
    /// Harbor refused to serve the image (policy, quota or rights).
    PullBlocked,
    /// Harbor did not store all of the image in time.
    StoreTimeout,
    /// Harbor serves the tag from its store.
    Tagged,
    /// Harbor has no tag for the stored image yet.
    Untagged,
    /// Harbor stores the upstream's manifest byte for byte.
    DigestStored,
    /// Harbor stores the index under another digest: it serializes indexes again, and drops children that it has not cached.
    IndexDigestChanged,
    /// Harbor cached the index under another tag before, and does not add this tag: pull by digest.
    PullByDigest,
    /// The index lists another index, which Harbor does not store unchanged: pull each platform by its digest.
    NestedIndex,
    /// A layer is not in a registry, so Harbor never stores the manifest.
    ForeignLayer,
    /// Harbor refuses to serve the image because of the vulnerabilities that its scan found.
    VulnerabilitiesFound,
    /// Harbor refuses to serve the image until it is scanned, and no scan is running.
    NotScanned,
    /// Harbor refuses to serve the image until the running scan is done.
    Scanning,
    /// Harbor refuses to serve the image because its scan failed.
    ScanFailed,
    /// Harbor refuses to serve the image until it is scanned, and the project has no scanner.
    NoScanner,
    /// An Event: the controller created a CA for the webhook.
    AuthorityIssued,
    /// An Event: the webhook configurations trust another set of CAs.
    AuthorityPublished,
    /// An Event: the webhook has a new serving certificate.
    CertificateIssued,
    /// An Event: a CA that is no longer used was removed.
    AuthorityDropped,
    /// An Event: the controller cannot maintain the certificates.
    CertificatesNotKept,
}
}

impl Reason {
    /// Returns whether Harbor is unreachable: it does not answer, or fails. The one list of these reasons.
    pub fn means_unreachable(self) -> bool {
        match self {
            Self::HarborUnreachable | Self::HarborError => true,
            Self::Reconciled | Self::Healthy | Self::Degraded | Self::Progressing | Self::Suspended => false,
            Self::Drifted | Self::InvalidSpec | Self::HostNotAllowed | Self::AdoptionRequired => false,
            Self::InstanceNotFound | Self::InstanceNotReady | Self::RegistryNotFound | Self::RegistryNotReady => false,
            Self::SecretNotFound | Self::SecretInvalid | Self::CredentialsRejected | Self::UpstreamUnhealthy => false,
            Self::HarborUnauthorized | Self::HarborForbidden | Self::HarborRefused | Self::NameConflict => false,
            Self::Immutable | Self::InUse | Self::NotEmpty | Self::ExecutionStarted | Self::ExecutionFailed => false,
            Self::BlockedByScan | Self::MatchConflict | Self::MatchIsHarborHost | Self::Pending | Self::Warm => false,
            Self::Pulling | Self::Verifying | Self::NotProxied | Self::InvalidImage | Self::ImageNotFound => false,
            Self::PlatformMissing | Self::PlatformsUnknown | Self::RateLimited | Self::PullFailed => false,
            Self::PullBlocked | Self::StoreTimeout | Self::Tagged | Self::Untagged | Self::DigestStored => false,
            Self::IndexDigestChanged | Self::PullByDigest | Self::NestedIndex | Self::ForeignLayer => false,
            Self::VulnerabilitiesFound | Self::NotScanned | Self::Scanning | Self::ScanFailed | Self::NoScanner => {
                false
            }
            Self::AuthorityIssued | Self::AuthorityPublished | Self::AuthorityDropped => false,
            Self::CertificateIssued | Self::CertificatesNotKept => false,
        }
    }

    /// Returns whether requests would do harm while a HarborInstance has this reason: prolong an outage, lock the account, or
    /// use up a rate limit.
    pub fn forbids_requests(self) -> bool {
        self.means_unreachable() || matches!(self, Self::HarborUnauthorized | Self::RateLimited)
    }
}

/// The conditions of one resource while its status is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions {
    /// Starts from the conditions in status. `generation` is the `metadata.generation` of the reconciled object.
    pub fn from_status(list: &[Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self { list: list.to_vec(), generation, now }
    }

    /// Sets a condition. `lastTransitionTime` changes only with the status.
    pub fn set(&mut self, kind: ConditionType, status: bool, reason: Reason, message: impl Into<String>) {
        self.put(kind, if status { "True" } else { "False" }, reason, message.into());
    }

    /// Sets a condition to `Unknown`.
    pub fn set_unknown(&mut self, kind: ConditionType, reason: Reason, message: impl Into<String>) {
        self.put(kind, "Unknown", reason, message.into());
    }

    /// Removes a condition.
    pub fn remove(&mut self, kind: ConditionType) {
        self.list.retain(|condition| condition.type_ != kind.as_str());
    }

    /// Sets Ready, and removes Reconciling and Stalled.
    pub fn ready(&mut self, reason: Reason, message: impl Into<String>) {
        self.set(ConditionType::Ready, true, reason, message);
        self.remove(ConditionType::Reconciling);
        self.remove(ConditionType::Stalled);
    }

    /// Sets Ready to false: work is in progress or retried, and no user action is needed.
    pub fn progressing(&mut self, reason: Reason, message: impl Into<String>) {
        let message = message.into();
        self.set(ConditionType::Ready, false, reason, message.clone());
        self.set(ConditionType::Reconciling, true, reason, message);
        self.remove(ConditionType::Stalled);
    }

    /// Sets Ready to false until a user changes something.
    pub fn stalled(&mut self, reason: Reason, message: impl Into<String>) {
        let message = message.into();
        self.set(ConditionType::Ready, false, reason, message.clone());
        self.set(ConditionType::Stalled, true, reason, message);
        self.remove(ConditionType::Reconciling);
    }

    /// Returns the list for `status.conditions`.
    pub fn into_list(self) -> Vec<Condition> {
        self.list
    }

    fn put(&mut self, kind: ConditionType, status: &str, reason: Reason, message: String) {
        let mut next = Condition {
            type_: kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.to_string(),
            message: bounded(message),
            observed_generation: self.generation,
            last_transition_time: Time(whole_seconds(self.now)),
        };
        match self.list.iter_mut().find(|condition| condition.type_ == next.type_) {
            Some(old) => {
                if old.status == next.status {
                    next.last_transition_time = old.last_transition_time.clone();
                }
                *old = next;
            }
            None => self.list.push(next),
        }
    }
}

/// Returns whether the condition `kind` of the list is `True`.
pub fn is_true(list: &[Condition], kind: ConditionType) -> bool {
    list.iter().any(|condition| condition.type_ == kind.as_str() && condition.status == "True")
}

/// Returns the condition `kind` of the list.
pub fn find(list: &[Condition], kind: ConditionType) -> Option<&Condition> {
    list.iter().find(|condition| condition.type_ == kind.as_str())
}

/// The reason of the condition `kind`; `None` without that condition, or for a reason that this version does not know.
pub fn reason(list: &[Condition], kind: ConditionType) -> Option<Reason> {
    find(list, kind)?.reason.parse().ok()
}

/// The reason of the condition `kind` while it is `False`.
pub fn reason_if_false(list: &[Condition], kind: ConditionType) -> Option<Reason> {
    find(list, kind).filter(|condition| condition.status == "False")?.reason.parse().ok()
}

/// `metav1.Time` keeps whole seconds; with a fraction, the stored value would differ.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Returns the time from `earlier` to `later`; zero if `later` is before `earlier`.
pub fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

/// `metav1.Condition` allows 32,768 bytes; a shorter message is easier to read.
fn bounded(mut message: String) -> String {
    const LIMIT: usize = 1024;
    if message.len() > LIMIT {
        let end = message.char_indices().map(|(at, _)| at).take_while(|at| *at <= LIMIT).last().unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn every_reason_and_type_reads_back_from_its_text_which_is_camel_case() {
        let reasons = Reason::ALL.iter().map(|reason| (reason.as_str(), reason.as_str().parse() == Ok(*reason)));
        let types = ConditionType::ALL.iter().map(|kind| (kind.as_str(), kind.as_str().parse() == Ok(*kind)));
        for (text, reads_back) in reasons.chain(types) {
            assert!(reads_back, "{text}");
            assert!(text.starts_with(|first: char| first.is_ascii_uppercase()), "{text}");
            assert!(text.chars().all(|character| character.is_ascii_alphanumeric()), "{text}");
        }
        assert_eq!("SomethingElse".parse::<Reason>(), Err(UnknownName));
    }

    #[test]
    fn a_reason_is_known_only_of_a_condition_that_is_there_with_a_name_of_ours() {
        let mut conditions = Conditions::from_status(&[], None, at(1));
        conditions.ready(Reason::Warm, "stored");
        let mut list = conditions.into_list();
        assert_eq!(reason(&list, ConditionType::Ready), Some(Reason::Warm));
        assert_eq!(reason_if_false(&list, ConditionType::Ready), None);
        assert_eq!(reason(&list, ConditionType::Stalled), None);
        list[0].reason = "SomethingElse".to_owned();
        assert_eq!(reason(&list, ConditionType::Ready), None);
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut first = Conditions::from_status(&[], Some(1), at(100));
        first.ready(Reason::Reconciled, "as specified");
        let mut second = Conditions::from_status(&first.into_list(), Some(2), at(200));
        second.ready(Reason::Reconciled, "as specified, again");
        let list = second.into_list();
        let ready = find(&list, ConditionType::Ready).unwrap();
        assert_eq!((ready.last_transition_time.0, ready.observed_generation), (at(100), Some(2)));
        let mut third = Conditions::from_status(&list, Some(2), at(300));
        third.stalled(Reason::AdoptionRequired, "owned by another system");
        assert_eq!(find(&third.into_list(), ConditionType::Ready).unwrap().last_transition_time.0, at(300));
    }

    #[test]
    fn reconciling_and_stalled_are_present_only_while_true() {
        let mut conditions = Conditions::from_status(&[], None, at(1));
        conditions.progressing(Reason::Pulling, "fetching");
        conditions.stalled(Reason::InvalidImage, "not an image");
        let list = conditions.clone().into_list();
        assert!(is_true(&list, ConditionType::Stalled) && find(&list, ConditionType::Reconciling).is_none());
        conditions.ready(Reason::Warm, "stored");
        let list = conditions.into_list();
        assert!(find(&list, ConditionType::Stalled).is_none() && find(&list, ConditionType::Reconciling).is_none());
    }

    #[test]
    fn a_message_without_end_is_cut_at_a_character() {
        let mut conditions = Conditions::from_status(&[], None, at(1));
        conditions.ready(Reason::Warm, "ü".repeat(5000));
        let message = &conditions.into_list()[0].message;
        assert!(message.len() < 1100 && message.ends_with('…'));
    }
}
