//! Chooses the CachedImages to evict when there are too many.
//!
//! Pure.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::ExpiryCandidate;
use crate::prewarm::quota::{Caps, owners};

/// At most a cap divided by this number is freed at once.
const ROOM: usize = 10;

/// The records of a namespace that may be evicted; the first to evict is last.
#[derive(Default)]
struct Lot<'r> {
    left: usize,
    idle: Vec<&'r ExpiryCandidate>,
    used: Vec<&'r ExpiryCandidate>,
}

/// Returns how much room to free below a cap for images that found none.
pub(super) fn room(cap: usize, wanted: usize) -> usize {
    wanted.min((cap / ROOM).max(1)).min(cap)
}

/// Returns whether a namespace has more images than its cap, or found no room for more.
pub(super) fn is_any_namespace_over(records: &[ExpiryCandidate], caps: &Caps, wanted: usize) -> bool {
    let target = caps.of_namespace.saturating_sub(room(caps.of_namespace, wanted));
    if records.len() <= target {
        return false;
    }
    let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for owner in owners(records.iter().map(|record| record.namespaces.as_slice())) {
        *counts.entry(owner).or_default() += 1;
    }
    counts.values().any(|count| *count > target)
}

/// Returns the records above the caps, and as many unused ones as `wanted` below them.
pub(super) fn beyond<'r>(
    records: &[&'r ExpiryCandidate],
    in_use: &HashSet<String>,
    caps: &Caps,
    wanted: usize,
    settled: impl Fn(&ExpiryCandidate) -> bool,
) -> Vec<&'r ExpiryCandidate> {
    let mut lots = lots(records, in_use, settled);
    let mut gone = Vec::new();
    let target = caps.of_namespace.saturating_sub(room(caps.of_namespace, wanted));
    for lot in lots.values_mut() {
        while lot.left > target {
            let Some(record) = lot.pop(lot.left > caps.of_namespace) else { break };
            gone.push(record);
        }
    }
    let mut left: usize = lots.values().map(|lot| lot.left).sum();
    let target = caps.total.saturating_sub(room(caps.total, wanted));
    let share = target / lots.len().max(1);
    while left > target {
        let Some(record) = pop_of_largest(&mut lots, share, left > caps.total) else { break };
        gone.push(record);
        left -= 1;
    }
    gone
}

fn lots<'r>(
    records: &[&'r ExpiryCandidate],
    in_use: &HashSet<String>,
    settled: impl Fn(&ExpiryCandidate) -> bool,
) -> BTreeMap<Arc<str>, Lot<'r>> {
    let mut lots: BTreeMap<Arc<str>, Lot<'r>> = BTreeMap::new();
    let owners = owners(records.iter().map(|record| record.namespaces.as_slice()));
    for (record, owner) in records.iter().zip(owners) {
        let lot = lots.entry(owner).or_default();
        lot.left += 1;
        if in_use.contains(&record.image) {
            lot.used.push(record);
        } else if settled(record) {
            lot.idle.push(record);
        }
    }
    for lot in lots.values_mut() {
        lot.idle
            .sort_by(|one, other| (other.refused, other.last, &other.name).cmp(&(one.refused, one.last, &one.name)));
        lot.used.sort_by(|one, other| (other.worth(), &other.name).cmp(&(one.worth(), &one.name)));
    }
    lots
}

impl<'r> Lot<'r> {
    /// Takes the next record to evict; a used one only if `must`.
    fn pop(&mut self, must: bool) -> Option<&'r ExpiryCandidate> {
        let record = self.idle.pop().or_else(|| if must { self.used.pop() } else { None })?;
        self.left -= 1;
        Some(record)
    }
}

/// Takes the next record of the largest namespace above its share: an unused one, else a used one if `must`.
fn pop_of_largest<'r>(lots: &mut BTreeMap<Arc<str>, Lot<'r>>, share: usize, must: bool) -> Option<&'r ExpiryCandidate> {
    let mut largest = |used: bool| {
        let has = |lot: &&mut Lot<'_>| lot.left > share && !(if used { &lot.used } else { &lot.idle }).is_empty();
        lots.values_mut().filter(has).max_by_key(|lot| lot.left)?.pop(used)
    };
    largest(false).or_else(|| if must { largest(true) } else { None })
}
