//! What `--apply` does: the controller's own reconcile, once for each resource; then another look.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{report::Entry, subjects};
use crate::{
    api::{ConditionType, ProxyProject, Registry, ReplicationRule, condition},
    controller::{Kinds, Preview, Reconciler, Verdict, preview::AT_ONCE},
    standalone::{Kept, World},
};

/// What one reconcile came to.
struct Reconciled {
    /// What was done.
    done: Vec<String>,
    /// Why not all could be done.
    failure: Option<Verdict>,
}

/// By kind and name.
type Results = BTreeMap<(String, String), Reconciled>;

/// Carries the plan out, and says what is left of it.
pub(super) async fn apply(world: &World, kinds: &Kinds, planned: Vec<Preview>) -> Vec<Entry> {
    let mut results = Results::new();
    let hand = Hand { world, kinds, planned: &planned };
    hand.carry_out::<Registry>(&mut results, |status| &status.conditions).await;
    hand.carry_out::<ProxyProject>(&mut results, |status| &status.conditions).await;
    hand.carry_out::<ReplicationRule>(&mut results, |status| &status.conditions).await;
    let after = kinds.preview(&subjects(world), Timestamp::now()).await;
    let mut after: BTreeMap<_, _> = after.into_iter().map(|seen| ((seen.kind, seen.name), seen.verdict)).collect();
    let entry = |before: Preview| {
        let key = (before.kind.clone(), before.name.clone());
        let now = after.remove(&key);
        let (done, failure) = match results.remove(&key) {
            Some(result) => (result.done, result.failure),
            None => (Vec::new(), None),
        };
        // What was refused was not tried, whatever has become possible meanwhile.
        let left = if before.verdict.is_refused() { None } else { failure.or(now) };
        Entry { before, done, left }
    };
    planned.into_iter().map(entry).collect()
}

struct Hand<'a> {
    world: &'a World,
    kinds: &'a Kinds,
    planned: &'a [Preview],
}

impl Hand<'_> {
    async fn carry_out<K: Kept>(&self, results: &mut Results, conditions: fn(&K::Status) -> &[Condition])
    where
        Kinds: Reconciler<K>,
    {
        let kind = K::kind(&());
        let wanted = self.planned.iter().filter(|preview| preview.kind == kind && is_to_do(preview));
        let reconciled: Vec<_> = stream::iter(wanted)
            .map(|preview| async {
                let object = self.world.get::<K>(&preview.name)?;
                let outcome = self.kinds.reconcile(object.as_ref(), Timestamp::now()).await;
                let ready = condition::find(conditions(&outcome.status), ConditionType::Ready);
                let failure = ready
                    .filter(|ready| ready.status == "False")
                    .map(|ready| Verdict::Refused { reason: ready.reason.clone(), message: ready.message.clone() });
                let done = outcome.notes.into_iter().filter(|note| !note.warning).map(|note| note.message).collect();
                self.world.set_status::<K>(&preview.name, outcome.status);
                Some(((preview.kind.clone(), preview.name.clone()), Reconciled { done, failure }))
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        results.extend(reconciled.into_iter().flatten());
    }
}

/// A Registry is looked at even where nothing differs: the secret that Harbor has cannot be compared, and is sent.
fn is_to_do(preview: &Preview) -> bool {
    match preview.verdict {
        Verdict::Compared { writes: true, .. } => preview.verdict.differs() || preview.kind == "Registry",
        _ => false,
    }
}
