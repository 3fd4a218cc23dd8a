//! Slots for images that are warmed at once, given to namespaces round-robin.
//!
//! Pure. An image without a slot does not occupy a worker: it waits here, and is invited when a slot is free. One additional
//! slot is kept for a namespace that has none, so that long pulls of one namespace block no other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::fair::{Fair, Pushed};

/// Maximum number of waiting images. One above it asks again later.
const WAITING: usize = 16_384;
/// Validity of an invitation: the image may have been deleted.
const INVITED: Duration = Duration::from_secs(5);

/// Slots, and the images that wait for one.
#[derive(Debug)]
pub struct Turns {
    slots: usize,
    running: HashMap<Arc<str>, usize>,
    taken: usize,
    waiting: Fair<Arc<str>, String>,
    queued: HashSet<String>,
    invited: HashMap<String, Instant>,
}

impl Turns {
    /// Creates `slots` slots for all namespaces.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: slots.max(1),
            running: HashMap::new(),
            taken: 0,
            waiting: Fair::new(WAITING),
            queued: HashSet::new(),
            invited: HashMap::new(),
        }
    }

    /// Takes a slot for an image of a namespace. If none is free, the image waits and is invited later.
    pub fn enter(&mut self, namespace: &str, name: &str, now: Instant) -> bool {
        self.invited.retain(|_, at| now.saturating_duration_since(*at) < INVITED);
        let invited = self.invited.remove(name).is_some();
        if self.queued.contains(name) || !self.may(namespace, invited) {
            self.wait(namespace, name);
            return false;
        }
        *self.running.entry(namespace.into()).or_default() += 1;
        self.taken += 1;
        true
    }

    /// Returns a slot of a namespace.
    pub fn leave(&mut self, namespace: &str) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(count) = self.running.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(namespace);
            }
        }
    }

    /// Returns the next image to invite, while a slot is free. Call it until it returns `None`.
    pub fn invite(&mut self, now: Instant) -> Option<String> {
        self.invited.retain(|_, at| now.saturating_duration_since(*at) < INVITED);
        let (taken, slots, running) = (self.taken + self.invited.len(), self.slots, &self.running);
        let name = self.waiting.take(|namespace| may_run(taken, slots, running.contains_key(namespace)))?;
        self.queued.remove(&name);
        self.invited.insert(name.clone(), now);
        Some(name)
    }

    fn may(&self, namespace: &str, invited: bool) -> bool {
        let runs = self.running.contains_key(namespace);
        // Waiting images come first.
        let first = invited || self.waiting.is_empty() || !runs;
        first && may_run(self.taken + self.invited.len(), self.slots, runs)
    }

    fn wait(&mut self, namespace: &str, name: &str) {
        if self.queued.contains(name) {
            return;
        }
        match self.waiting.push(namespace.into(), name.to_owned()) {
            Pushed::Queued => {}
            Pushed::Displaced(displaced) => drop(self.queued.remove(&displaced)),
            Pushed::Full(_) => return,
        }
        self.queued.insert(name.to_owned());
    }
}

/// Whether one more may run: in a slot, or, if its namespace runs none, in the additional one.
fn may_run(taken: usize, slots: usize, runs: bool) -> bool {
    taken < slots || (taken == slots && !runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each invited image enters. Returns those that did, in order.
    fn run(turns: &mut Turns, all: &mut Vec<(&str, String)>, now: Instant) -> Vec<String> {
        let mut entered = Vec::new();
        while let Some(name) = turns.invite(now) {
            let position = all.iter().position(|(_, known)| *known == name).unwrap();
            let (namespace, name) = all.remove(position);
            assert!(turns.enter(namespace, &name, now), "{name} was invited");
            entered.push(name);
        }
        entered
    }

    #[test]
    fn turns_give_a_slot_to_each_namespace_in_turn_and_never_more_than_there_are() {
        let now = Instant::now();
        let mut turns = Turns::new(4);
        let mut waiting: Vec<(&str, String)> = Vec::new();
        let mut entered = Vec::new();
        for number in 0..3000 {
            let name = format!("flood-{number}");
            if turns.enter("flood", &name, now) { entered.push(name) } else { waiting.push(("flood", name)) }
        }
        assert_eq!(entered, ["flood-0", "flood-1", "flood-2", "flood-3"]);
        assert!(turns.enter("shop", "shop-0", now), "the additional slot");
        for name in ["shop-1", "bank-0"] {
            assert!(!turns.enter(&name[..4], name, now));
            waiting.push((&name[..4], name.to_owned()));
        }
        assert!(run(&mut turns, &mut waiting, now).is_empty());
        turns.leave("flood");
        assert_eq!(run(&mut turns, &mut waiting, now), ["bank-0"], "it runs none");
        turns.leave("flood");
        turns.leave("flood");
        let next = run(&mut turns, &mut waiting, now);
        assert!(next.len() == 1 && turns.taken == 4, "{next:?}");
        turns.leave("shop");
        turns.leave("bank");
        let next = run(&mut turns, &mut waiting, now);
        assert!(next.contains(&"shop-1".to_owned()), "{next:?}");
        assert!(turns.taken <= 5);
    }

    #[test]
    fn turns_hold_a_slot_for_an_invited_image_until_it_expires() {
        let now = Instant::now();
        let mut turns = Turns::new(1);
        assert!(turns.enter("shop", "runs", now) && !turns.enter("shop", "waits", now));
        assert!(!turns.enter("shop", "waits", now), "it is known");
        turns.leave("shop");
        assert_eq!(turns.invite(now).as_deref(), Some("waits"));
        assert_eq!(turns.invite(now), None);
        let later = now + INVITED;
        assert_eq!(turns.invite(later), None);
        assert!(turns.invited.is_empty() && turns.queued.is_empty());
        assert!(turns.enter("shop", "late", later));
    }

    #[test]
    fn turns_forget_what_is_beyond_their_bound_and_take_it_when_it_asks_again() {
        let now = Instant::now();
        let mut turns = Turns::new(1);
        for number in 0..WAITING + 100 {
            turns.enter("flood", &number.to_string(), now);
        }
        assert_eq!((turns.queued.len(), turns.waiting.len()), (WAITING, WAITING));
        turns.enter("shop", "one", now);
        assert!(!turns.enter("shop", "two", now) && turns.queued.contains("two"));
        assert_eq!(turns.queued.len(), WAITING);
    }
}
