//! The lifetime of a CachedImage: managed ones are deleted after a time without a request, or when there are too many.
//!
//! Pure. A CachedImage that a user created is never deleted.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::{
    quota::{Caps, Holding, Worth},
    usage_tracker::{LastUse, REQUESTERS},
};
use crate::api::{
    CachedImage, CachedImageStatus,
    condition::{since, whole_seconds},
};

/// Label with the source of a managed CachedImage. A CachedImage without it belongs to a user.
pub const SOURCE: &str = "harbor-pilot.dev/source";
/// Annotation with the namespace of the first request.
pub const REQUESTED_BY: &str = "harbor-pilot.dev/requested-by";
/// Default lifetime of an image after its last request; a ProxyProject may override it.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A newer request is written to the status once it differs from the stored one by the lifetime divided by this number.
const COARSE: u32 = 4;
/// An image requested within this time, or within a quarter of its lifetime if that is shorter, is not evicted to make room: its
/// Pod may not be listed yet.
const GRACE: Duration = Duration::from_secs(60);
/// One in this many CachedImages may be an unused image that scans refused.
const REFUSED: usize = 5;

/// The source of a CachedImage: the value of [`SOURCE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageOrigin {
    /// A Pod at admission.
    Admission,
    /// A Pod or workload that the controller saw.
    Cluster,
}

impl ImageOrigin {
    /// Returns the value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Cluster => "cluster",
        }
    }
}

/// Returns whether the CachedImage is managed, so that it may be deleted.
pub fn is_ours(labels: Option<&BTreeMap<String, String>>) -> bool {
    let source = labels.and_then(|labels| labels.get(SOURCE));
    source.is_some_and(|source| {
        [ImageOrigin::Admission, ImageOrigin::Cluster].iter().any(|known| known.as_str() == source)
    })
}

/// Writes the requesters and the expiry into the next status of `cached`. It is coarse: a request changes an otherwise equal
/// status only after a quarter of the lifetime.
pub fn stamp(
    cached: &CachedImage,
    mut status: CachedImageStatus,
    asked: Option<&LastUse>,
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

/// The precision of the stored time of the last request; also the interval of the check for it.
pub fn coarse(expire_after: Duration) -> Duration {
    (expire_after / COARSE).max(Duration::from_secs(1))
}

/// Returns whether a request now must be written at once, because the stored one is older than allowed. A restart then loses
/// only requests within [`coarse`] of the stored ones.
pub fn is_due(cached: &CachedImage, now: Timestamp) -> bool {
    let Some(status) = &cached.status else { return false };
    let Some((last, expires)) = status.last_requested_at.as_ref().zip(status.expires_at.as_ref()) else { return false };
    since(last.0, now) >= coarse(since(last.0, expires.0))
}

/// Returns the latest possible time of the last request: the stored one, or the one recorded in memory since `begun`. Requests
/// after the stored one and before `begun` are lost; they came at most [`coarse`] later.
pub fn last_used(
    written: Timestamp,
    remembered: Option<Timestamp>,
    begun: Option<Timestamp>,
    expire_after: Duration,
) -> Timestamp {
    let latest = written.checked_add(coarse(expire_after)).unwrap_or(Timestamp::MAX);
    let forgotten = begun.map_or(latest, |begun| begun.min(latest));
    written.max(forgotten).max(remembered.unwrap_or(written))
}

/// A managed CachedImage that may be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiryCandidate {
    /// Its name.
    pub name: String,
    /// The image at Harbor.
    pub image: String,
    /// The namespaces that requested it: the first one, and the newest.
    pub namespaces: Vec<Arc<str>>,
    /// Time of the last request.
    pub last: Timestamp,
    /// Time of expiry.
    pub expires: Timestamp,
    /// The image is warm.
    pub ready: bool,
    /// Scans found that a policy refuses it.
    pub refused: bool,
}

impl ExpiryCandidate {
    /// Converts the record to one of the images of its namespace.
    pub fn holding(self) -> Holding {
        Holding { worth: self.worth(), name: self.name, namespaces: self.namespaces }
    }

    /// Returns the worth of the image in an eviction.
    pub(crate) fn worth(&self) -> Worth {
        Worth { refused: self.refused, ready: self.ready, last: self.last }
    }
}

/// Why a CachedImage is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryCause {
    /// It had no request during its lifetime.
    Unused,
    /// There are too many.
    TooMany,
}

/// Returns whether any record would be deleted if none of them was in use. `wanted` is the number of images that found no room.
pub fn is_any_due(records: &[ExpiryCandidate], caps: &Caps, wanted: usize, now: Timestamp) -> bool {
    let room = evict::room(caps.total, wanted);
    records.len() > caps.total.saturating_sub(room)
        || records.iter().any(|record| record.expires <= now)
        || evict::is_any_namespace_over(records, caps, wanted)
}

/// Returns the records to delete: those without a request during their lifetime, and those above the caps. `wanted` is the
/// number of images that found no room: as many unused ones are evicted, at most a tenth of all.
///
/// Above a cap the largest namespaces lose first, and namespaces within their share lose nothing. Unused images are evicted
/// before used ones. An unused image that scans refused is kept, so that it stays refused; at most a fifth of all may be such
/// images.
pub fn choose<'r>(
    records: &'r [ExpiryCandidate],
    in_use: &HashSet<String>,
    caps: &Caps,
    wanted: usize,
    now: Timestamp,
) -> Vec<(&'r ExpiryCandidate, ExpiryCause)> {
    let over = |record: &&ExpiryCandidate| !in_use.contains(&record.image) && record.expires <= now;
    let (unused, mut rest): (Vec<_>, Vec<_>) = records.iter().partition(over);
    let (mut refused, unused): (Vec<_>, Vec<_>) = unused.into_iter().partition(|record| record.refused);
    refused.sort_by(|one, other| (other.last, &other.name).cmp(&(one.last, &one.name)));
    let forgotten = refused.split_off(refused.len().min(caps.total / REFUSED));
    rest.extend(refused);
    let chosen = unused.into_iter().chain(forgotten).map(|record| (record, ExpiryCause::Unused));
    let too_many = evict::beyond(&rest, in_use, caps, wanted, |record| is_settled(record, now));
    chosen.chain(too_many.into_iter().map(|record| (record, ExpiryCause::TooMany))).collect()
}

/// Whether the last request is old enough that its Pod or workload is listed.
fn is_settled(record: &ExpiryCandidate, now: Timestamp) -> bool {
    since(record.last, now) >= GRACE.min(coarse(since(record.last, record.expires)))
}

/// Puts the namespaces of a request before the known ones.
fn merge(known: &mut Vec<String>, request: &LastUse) {
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
