//! `plan --apply`: one reconcile of the controller for each resource, then a second comparison.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{report::PlanEntry, subjects};
use crate::{
    api::{ConditionType, ProxyProject, Reason, Registry, ReplicationRule, condition},
    controller::{Preview, PreviewResult, ReconciledKind, Reconciler, Reconcilers, preview::AT_ONCE},
    plan::Action,
    standalone::MemoryBackend,
};

/// The result of one reconcile.
struct AppliedResource {
    /// What Harbor accepted.
    accepted: Vec<String>,
    /// Why the reconcile is incomplete.
    failure: Option<PreviewResult>,
}

/// By kind and name.
type Results = BTreeMap<(String, String), AppliedResource>;

/// Applies the plan, and returns what is left of it.
pub(super) async fn apply(world: &MemoryBackend, kinds: &Reconcilers, planned: Vec<Preview>) -> Vec<PlanEntry> {
    let mut results = Results::new();
    let hand = ApplyRun { world, kinds, planned: &planned };
    hand.apply_all::<Registry>(&mut results, |status| &status.conditions).await;
    hand.apply_all::<ProxyProject>(&mut results, |status| &status.conditions).await;
    hand.apply_all::<ReplicationRule>(&mut results, |status| &status.conditions).await;
    let after = kinds.preview(&subjects(world), Timestamp::now()).await;
    let mut after: BTreeMap<_, _> = after.into_iter().map(|seen| ((seen.kind, seen.name), seen.verdict)).collect();
    let entry = |before: Preview| {
        let key = (before.kind.clone(), before.name.clone());
        let now = after.remove(&key);
        let (accepted, failure) = match results.remove(&key) {
            Some(result) => (result.accepted, result.failure),
            None => (Vec::new(), None),
        };
        let (done, unverified) =
            if is_done(&before.verdict, now.as_ref()) { (accepted, Vec::new()) } else { (Vec::new(), accepted) };
        // A refused resource was not tried, even if its change is possible now.
        let left = if before.verdict.is_refused() { None } else { failure.or(now) };
        PlanEntry { before, done, unverified, left }
    };
    planned.into_iter().map(entry).collect()
}

struct ApplyRun<'a> {
    world: &'a MemoryBackend,
    kinds: &'a Reconcilers,
    planned: &'a [Preview],
}

impl ApplyRun<'_> {
    async fn apply_all<K: ReconciledKind>(&self, results: &mut Results, conditions: fn(&K::Status) -> &[Condition])
    where
        Reconcilers: Reconciler<K>,
    {
        let kind = K::kind(&());
        let wanted = self.planned.iter().filter(|preview| preview.kind == kind && is_to_do(preview));
        let reconciled: Vec<_> = stream::iter(wanted)
            .map(|preview| async {
                let object = self.world.get::<K>(&preview.name)?;
                let outcome = self.kinds.reconcile(object.as_ref(), Timestamp::now()).await;
                let ready = condition::find(conditions(&outcome.status), ConditionType::Ready);
                let failure = ready.filter(|ready| ready.status == "False").map(|ready| PreviewResult::Refused {
                    reason: ready.reason.clone(),
                    message: ready.message.clone(),
                });
                let notes = outcome.notes.into_iter().filter(|note| !note.warning && is_accepted(note.reason));
                let accepted = notes.map(|note| note.message).collect();
                self.world.set_status::<K>(&preview.name, outcome.status).ok()?;
                Some(((preview.kind.clone(), preview.name.clone()), AppliedResource { accepted, failure }))
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        results.extend(reconciled.into_iter().flatten());
    }
}

/// Whether an Event of this reason reports a request that Harbor accepted. Others report what is waited for.
fn is_accepted(reason: Reason) -> bool {
    matches!(reason, Reason::Reconciled | Reason::ExecutionStarted)
}

/// Returns whether the second comparison confirms an accepted request: Harbor matches the spec, or has an object that it did not
/// have before.
fn is_done(before: &PreviewResult, now: Option<&PreviewResult>) -> bool {
    let creates = |verdict: &PreviewResult| match verdict {
        PreviewResult::Compared { difference, .. } => difference.action == Action::Create,
        PreviewResult::Idle(_) | PreviewResult::Refused { .. } => false,
    };
    match now {
        Some(PreviewResult::Refused { .. }) | None => false,
        Some(now) => !now.differs() || creates(before) && !creates(now),
    }
}

/// A Registry is reconciled even without differences: the secret in Harbor cannot be compared, so it is sent.
fn is_to_do(preview: &Preview) -> bool {
    match preview.verdict {
        PreviewResult::Compared { writes: true, .. } => preview.verdict.differs() || preview.kind == "Registry",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Difference, Drift};

    fn compared(action: Action) -> PreviewResult {
        let drift = Drift { field: "url".to_owned(), have: "a".to_owned(), want: "b".to_owned() };
        let drift = if matches!(action, Action::Change | Action::Adopt) { vec![drift] } else { Vec::new() };
        PreviewResult::Compared {
            difference: Difference { action, object: "registry a".to_owned(), drift },
            writes: true,
        }
    }

    #[test]
    fn is_done_believes_the_look_afterwards_and_no_answer_of_harbor() {
        let refused =
            || PreviewResult::Refused { reason: Reason::HarborUnreachable.to_string(), message: "away".to_owned() };
        let table = [
            (Action::Create, Some(compared(Action::Nothing)), true),
            (Action::Create, Some(compared(Action::Change)), true),
            (Action::Create, Some(compared(Action::Create)), false),
            (Action::Create, Some(refused()), false),
            (Action::Create, None, false),
            (Action::Change, Some(compared(Action::Nothing)), true),
            (Action::Change, Some(compared(Action::Change)), false),
            (Action::Change, Some(compared(Action::Create)), false),
            (Action::Change, Some(PreviewResult::Idle("suspended".to_owned())), true),
            (Action::Adopt, Some(compared(Action::Adopt)), false),
            (Action::Nothing, Some(compared(Action::Nothing)), true),
        ];
        for (before, now, done) in table {
            assert_eq!(is_done(&compared(before), now.as_ref()), done, "{before:?} {now:?}");
        }
    }

    #[test]
    fn is_accepted_takes_what_is_waited_for_as_nothing_done() {
        for (reason, accepted) in [
            (Reason::Reconciled, true),
            (Reason::ExecutionStarted, true),
            (Reason::RegistryNotReady, false),
            (Reason::InstanceNotReady, false),
            (Reason::Healthy, false),
        ] {
            assert_eq!(is_accepted(reason), accepted, "{reason}");
        }
    }
}
