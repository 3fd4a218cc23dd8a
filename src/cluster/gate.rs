//! Slots for CachedImages that are warmed: given to namespaces in turn.
//!
//! The work queue of a controller has one order for all. Here an image without a slot ends its reconcile at once, waits in the lane
//! of its namespace, and is reconciled again when it is invited.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, stream};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::mpsc;

use crate::{
    api::CachedImage,
    prewarm::{lifetime::REQUESTED_BY, turns::Turns},
};

/// Invitations on their way: there are no more of them than slots.
const ON_THE_WAY: usize = 1024;
/// An image that waits asks again after this time, should its invitation be lost.
pub(super) const WAIT: Duration = Duration::from_secs(60);
/// Reconciles beyond the slots: they only find that there is none.
pub(super) const SPARE: u16 = 4;

/// The slots.
pub(super) struct Gate {
    turns: Mutex<Turns>,
    invited: mpsc::Sender<String>,
}

/// Whether a reconcile may begin.
pub(super) enum Entry {
    /// It may, and needs no slot.
    Free,
    /// It may, with this slot.
    Slot(#[expect(dead_code, reason = "dropping it gives it back")] Slot),
    /// It may not yet.
    Later,
}

/// A slot. Dropping it gives it back.
pub(super) struct Slot {
    gate: Arc<Gate>,
    namespace: String,
}

/// A gate with so many slots, and the images that are to be reconciled because a slot is free.
pub(super) fn gate(slots: u16) -> (Arc<Gate>, impl Stream<Item = ObjectRef<CachedImage>> + Send + 'static) {
    let (invited, receiver) = mpsc::channel(ON_THE_WAY);
    let names = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<String>| {
        let name = receiver.recv().await?;
        Some((ObjectRef::new(&name), receiver))
    });
    (Arc::new(Gate { turns: Mutex::new(Turns::new(slots.into())), invited }), names)
}

impl Gate {
    /// A slot for an image, if one is free. One that is being deleted needs none.
    pub(super) fn enter(self: &Arc<Self>, image: &CachedImage) -> Entry {
        if image.metadata.deletion_timestamp.is_some() {
            return Entry::Free;
        }
        let namespace = image.annotations().get(REQUESTED_BY).cloned().unwrap_or_default();
        let mut turns = self.turns();
        let entered = turns.enter(&namespace, &image.name_any(), Instant::now());
        self.invite(&mut turns);
        if entered { Entry::Slot(Slot { gate: Arc::clone(self), namespace }) } else { Entry::Later }
    }

    fn invite(&self, turns: &mut Turns) {
        while let Some(name) = turns.invite(Instant::now()) {
            // One that is lost here asks again.
            self.invited.try_send(name).ok();
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut turns = self.gate.turns();
        turns.leave(&self.namespace);
        self.gate.invite(&mut turns);
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use serde_json::json;

    use super::*;

    fn image(namespace: &str, name: &str) -> CachedImage {
        let object = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage", "metadata": {"name": name,
            "annotations": {REQUESTED_BY: namespace}}, "spec": {"image": "h.example/hub/a:1"}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn gate_invites_the_image_of_a_small_namespace_when_the_next_slot_is_free() {
        let (gate, invited) = gate(2);
        let mut invited = Box::pin(invited);
        let mut slots: Vec<Entry> =
            (0..1000).map(|number| gate.enter(&image("flood", &format!("flood-{number}")))).collect();
        slots.retain(|entry| matches!(entry, Entry::Slot(_)));
        assert_eq!(slots.len(), 2);
        slots.push(gate.enter(&image("shop", "shop")));
        assert!(matches!(slots.last(), Some(Entry::Slot(_))));
        assert!(matches!(gate.enter(&image("bank", "bank")), Entry::Later));
        assert!(invited.next().now_or_never().is_none());
        slots.remove(0);
        assert_eq!(invited.next().now_or_never().unwrap().unwrap().name, "bank");
        assert!(matches!(gate.enter(&image("bank", "bank")), Entry::Slot(_)));
    }
}
