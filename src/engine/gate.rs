//! Slots for CachedImages that are being warmed, given to namespaces in turn.
//!
//! A controller's work queue has one order for all objects. Here the reconcile of an image without a slot ends
//! immediately. The image waits in the lane of its namespace, and is reconciled again when it is invited.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::Stream;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::image_usage;
use crate::{
    api::CachedImage,
    prewarm::{expiry::REQUESTED_BY, turns::Turns},
};

/// Capacity of the invitation channel: there are never more invitations than slots.
const ON_THE_WAY: usize = 1024;
/// A waiting image tries again after this time, in case its invitation was lost.
pub(super) const WAIT: Duration = Duration::from_secs(60);
/// Concurrent reconciles beyond the slots: these only find that no slot is free.
pub(super) const SPARE: u16 = 4;

/// The slots.
pub(super) struct Gate {
    turns: Mutex<Turns>,
    invited: mpsc::Sender<String>,
}

/// Whether a reconcile may start.
pub(super) enum Entry {
    /// Start; needs no slot.
    Free,
    /// Start with this slot.
    Slot(#[expect(dead_code, reason = "dropping it gives it back")] Slot),
    /// Do not start yet.
    Later,
}

/// A slot. Dropping it frees it.
pub(super) struct Slot {
    gate: Arc<Gate>,
    namespace: String,
}

/// Creates a gate with this many slots, and a stream of the images to reconcile because a slot is free.
pub(super) fn gate(slots: u16) -> (Arc<Gate>, impl Stream<Item = ObjectRef<CachedImage>> + Send + 'static) {
    let (invited, receiver) = mpsc::channel(ON_THE_WAY);
    (Arc::new(Gate { turns: Mutex::new(Turns::new(slots.into())), invited }), image_usage::names(receiver))
}

impl Gate {
    /// Returns a slot for an image, if one is free. An image that is being deleted needs none.
    pub(super) fn enter(self: &Arc<Self>, image: &CachedImage) -> Entry {
        if image.metadata.deletion_timestamp.is_some() {
            return Entry::Free;
        }
        let namespace = image.annotations().get(REQUESTED_BY).cloned().unwrap_or_default();
        let mut turns = self.turns.lock();
        let entered = turns.enter(&namespace, &image.name_any(), Instant::now());
        self.invite(&mut turns);
        if entered { Entry::Slot(Slot { gate: Arc::clone(self), namespace }) } else { Entry::Later }
    }

    fn invite(&self, turns: &mut Turns) {
        while let Some(name) = turns.invite(Instant::now()) {
            // An image whose invitation is lost tries again after `WAIT`.
            self.invited.try_send(name).ok();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut turns = self.gate.turns.lock();
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
