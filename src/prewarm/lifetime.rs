//! How long a CachedImage lives: those that we made go when nothing has asked for them for a while, and when there are too many.
//!
//! Pure. One that a user made is never deleted by us.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    asked::{REQUESTERS, Request},
    quota::{Caps, Holding, Worth},
};
use crate::api::{
    CachedImage, CachedImageStatus,
    condition::{since, whole_seconds},
};

/// Label with where a CachedImage of ours came from. What has none is a user's.
pub const SOURCE: &str = "harbor-pilot.dev/source";
/// Annotation with the namespace that asked first.
pub const REQUESTED_BY: &str = "harbor-pilot.dev/requested-by";
/// How long an image lives after it was asked for, unless its project says otherwise.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A new request is written down once it is newer than what stands in status by this part of the lifetime.
const COARSE: u32 = 4;
/// What was asked for within this time, or a quarter of its lifetime, is not deleted for being one too many: its Pod may not be
/// listed yet.
const GRACE: Duration = Duration::from_secs(60);
/// The part of all CachedImages that may be unused ones that scans refused.
const REFUSED: usize = 5;

/// Where a CachedImage came from: the value of [`SOURCE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A Pod at admission.
    Admission,
    /// A Pod or a workload that the controller saw.
    Cluster,
}

impl Source {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Cluster => "cluster",
        }
    }
}

/// Whether we made it, so that we may delete it.
pub fn is_ours(labels: Option<&BTreeMap<String, String>>) -> bool {
    let source = labels.and_then(|labels| labels.get(SOURCE));
    source.is_some_and(|source| [Source::Admission, Source::Cluster].iter().any(|known| known.as_str() == source))
}

/// Writes down in the next status of `cached` who asked for it, and when it expires. Coarsely: a request changes a status that
/// would stay the same only once a quarter of its lifetime has passed.
pub fn stamp(
    cached: &CachedImage,
    mut status: CachedImageStatus,
    asked: Option<&Request>,
    expire_after: Duration,
) -> CachedImageStatus {
    let ours = is_ours(cached.metadata.labels.as_ref());
    let born = cached.metadata.creation_timestamp.as_ref().filter(|_| ours).map(|created| created.0);
    let last = status.last_requested_at.as_ref().map(|last| last.0).or(born);
    if status.last_requested_at.is_none() && ours {
        let first = cached.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REQUESTED_BY));
        status.requested_by = first.into_iter().cloned().collect();
    }
    status.last_requested_at = last.map(|last| Time(whole_seconds(last)));
    if let Some(request) = asked {
        let age = last.map(|last| since(last, request.at));
        let newer = age.is_none_or(|age| age >= Duration::from_secs(1));
        let changes_anyway = cached.status.as_ref() != Some(&status);
        if newer && (changes_anyway || age.is_none_or(|age| age >= coarse(expire_after))) {
            status.last_requested_at = Some(Time(whole_seconds(request.at)));
            merge(&mut status.requested_by, request);
        } else if changes_anyway {
            merge(&mut status.requested_by, request);
        }
    }
    let expires = status.last_requested_at.as_ref().filter(|_| ours);
    status.expires_at = expires.and_then(|last| last.0.checked_add(expire_after).ok()).map(Time);
    status
}

/// How exactly it is written down when an image was asked for last; also how often one is looked at for that.
pub fn coarse(expire_after: Duration) -> Duration {
    (expire_after / COARSE).max(Duration::from_secs(1))
}

/// Whether a request now is to be written down at once: what is written is older than it may be. A restart then forgets only
/// requests that came within [`coarse`] of those that are written.
pub fn is_due(cached: &CachedImage, now: Timestamp) -> bool {
    let Some(status) = &cached.status else { return false };
    let Some((last, expires)) = status.last_requested_at.as_ref().zip(status.expires_at.as_ref()) else { return false };
    since(last.0, now) >= coarse(since(last.0, expires.0))
}

/// When an image may have been asked for last: as it is written down, or as it is remembered since `begun`. What came before, and
/// after what is written, nobody remembers: it came by [`coarse`] later at most.
pub fn last_asked(
    written: Timestamp,
    remembered: Option<Timestamp>,
    begun: Option<Timestamp>,
    expire_after: Duration,
) -> Timestamp {
    let latest = written.checked_add(coarse(expire_after)).unwrap_or(Timestamp::MAX);
    let forgotten = begun.map_or(latest, |begun| begun.min(latest));
    written.max(forgotten).max(remembered.unwrap_or(written))
}

/// A CachedImage of ours that may have to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// The image at Harbor.
    pub image: String,
    /// The namespaces that asked for it: the first one, and the newest.
    pub namespaces: Vec<Arc<str>>,
    /// When it was asked for last.
    pub last: Timestamp,
    /// When its time is over.
    pub expires: Timestamp,
    /// It is warm.
    pub ready: bool,
    /// Scans found that a policy refuses it.
    pub refused: bool,
}

impl Record {
    /// As one of the images of its namespace.
    pub fn holding(self) -> Holding {
        let worth = Worth { refused: self.refused, ready: self.ready, last: self.last };
        Holding { name: self.name, namespaces: self.namespaces, worth }
    }
}

/// Why a CachedImage goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing asked for it.
    Unused,
    /// There are too many.
    TooMany,
}

/// Whether any of the records would have to go if none of them was in use. `wanted` images found no room.
pub fn is_any_due(records: &[Record], caps: &Caps, wanted: usize, now: Timestamp) -> bool {
    let room = evict::room(caps.total, wanted);
    records.len() > caps.total.saturating_sub(room)
        || records.iter().any(|record| record.expires <= now)
        || evict::is_any_namespace_over(records, caps, wanted)
}

/// Those that go: what nothing has asked for in time, and those beyond the caps. `wanted` images found no room: so many that are
/// not in use go, a tenth of all at most.
///
/// Beyond a cap the namespaces with the most images lose first, and those with no more than their share lose nothing. Images that
/// are not in use go before those that are. An image that scans refused is kept although nothing asks for it, so that it stays
/// refused; a fifth of all may be such images.
pub fn choose<'r>(
    records: &'r [Record],
    in_use: &HashSet<String>,
    caps: &Caps,
    wanted: usize,
    now: Timestamp,
) -> Vec<(&'r Record, Cause)> {
    let over = |record: &&Record| !in_use.contains(&record.image) && record.expires <= now;
    let (unused, mut rest): (Vec<_>, Vec<_>) = records.iter().partition(over);
    let (mut refused, unused): (Vec<_>, Vec<_>) = unused.into_iter().partition(|record| record.refused);
    refused.sort_by(|one, other| (other.last, &other.name).cmp(&(one.last, &one.name)));
    let forgotten = refused.split_off(refused.len().min(caps.total / REFUSED));
    rest.extend(refused);
    let chosen = unused.into_iter().chain(forgotten).map(|record| (record, Cause::Unused));
    let too_many = evict::beyond(&rest, in_use, caps, wanted, |record| is_settled(record, now));
    chosen.chain(too_many.into_iter().map(|record| (record, Cause::TooMany))).collect()
}

/// Whether it was asked for long enough ago, so that whatever uses it is listed.
fn is_settled(record: &Record, now: Timestamp) -> bool {
    since(record.last, now) >= GRACE.min(coarse(since(record.last, record.expires)))
}

/// Puts the namespaces of a request before those that are known.
fn merge(known: &mut Vec<String>, request: &Request) {
    let old = std::mem::take(known);
    known.extend(request.namespaces.iter().map(ToString::to_string));
    for name in old {
        if !known.contains(&name) {
            known.push(name);
        }
    }
    known.truncate(REQUESTERS);
}

mod evict;

#[cfg(test)]
mod tests;
