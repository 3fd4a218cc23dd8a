//! A bounded queue that is fair between the owners of its items: one lane for each owner, served round-robin.
//!
//! Pure. Owners are namespaces for prewarm requests, and peers for reviews. When the queue is full, the owner with the most
//! items loses its newest one. An owner that floods the queue takes no room from others.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Items by owner, in FIFO order within each owner.
#[derive(Debug)]
pub struct Fair<K, T> {
    lanes: HashMap<K, VecDeque<T>>,
    /// Owners with items; the next one to serve is at the front.
    turns: VecDeque<K>,
    len: usize,
    most: usize,
}

/// The result of [`Fair::push`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed<T> {
    /// The item is queued.
    Queued,
    /// The item is queued and replaces this item of the owner with the most items.
    Displaced(T),
    /// The queue is full, and no other owner has more items.
    Full(T),
}

impl<K: Eq + Hash + Clone, T> Fair<K, T> {
    /// Creates an empty queue for at most `most` items.
    pub fn new(most: usize) -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), len: 0, most: most.max(1) }
    }

    /// Returns the number of queued items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of queued items of an owner.
    pub fn count(&self, owner: &K) -> usize {
        self.lanes.get(owner).map_or(0, VecDeque::len)
    }

    /// Returns whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item of an owner.
    pub fn push(&mut self, owner: K, item: T) -> Pushed<T> {
        let displaced = if self.len < self.most {
            None
        } else {
            match self.displace(&owner) {
                Some(displaced) => Some(displaced),
                None => return Pushed::Full(item),
            }
        };
        match self.lanes.get_mut(&owner) {
            Some(lane) => lane.push_back(item),
            None => {
                self.turns.push_back(owner.clone());
                self.lanes.insert(owner, VecDeque::from([item]));
            }
        }
        self.len += 1;
        displaced.map_or(Pushed::Queued, Pushed::Displaced)
    }

    /// Takes the next item of the owner that was served least recently, among those for which `may` returns true.
    pub fn take(&mut self, mut may: impl FnMut(&K) -> bool) -> Option<T> {
        for _ in 0..self.turns.len() {
            let owner = self.turns.pop_front()?;
            if !may(&owner) {
                self.turns.push_back(owner);
                continue;
            }
            let lane = self.lanes.get_mut(&owner)?;
            let item = lane.pop_front();
            if lane.is_empty() {
                self.lanes.remove(&owner);
            } else {
                self.turns.push_back(owner);
            }
            self.len = self.len.saturating_sub(1);
            return item;
        }
        None
    }

    /// Takes the newest item of the owner with the most, unless `owner` with one more item would have as many.
    fn displace(&mut self, owner: &K) -> Option<T> {
        let own = self.count(owner);
        let longest = self.lanes.values_mut().max_by_key(|lane| lane.len())?;
        let item = if longest.len() > own + 1 { longest.pop_back() } else { None }?;
        self.len = self.len.saturating_sub(1);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(fair: &mut Fair<&str, u32>) -> Vec<u32> {
        std::iter::from_fn(|| fair.take(|_| true)).collect()
    }

    #[test]
    fn fair_serves_namespaces_in_turn_and_each_in_its_order() {
        let mut fair = Fair::new(100);
        for item in 0..5 {
            assert_eq!(fair.push("flood", item), Pushed::Queued);
        }
        fair.push("shop", 100);
        fair.push("bank", 200);
        fair.push("bank", 201);
        assert_eq!(drain(&mut fair), [0, 100, 200, 1, 201, 2, 3, 4]);
        assert!(fair.is_empty() && fair.lanes.is_empty() && fair.turns.is_empty());
    }

    #[test]
    fn fair_passes_over_a_namespace_that_may_not_be_served_and_keeps_its_items() {
        let mut fair = Fair::new(100);
        for item in 0..3 {
            fair.push("flood", item);
        }
        fair.push("shop", 100);
        assert_eq!(fair.take(|namespace| *namespace != "flood"), Some(100));
        assert_eq!(fair.take(|namespace| *namespace != "flood"), None);
        assert_eq!(drain(&mut fair), [0, 1, 2]);
    }

    #[test]
    fn fair_takes_room_from_the_namespace_with_the_most_and_never_from_a_smaller_one() {
        let mut fair = Fair::new(4);
        for item in 0..4 {
            fair.push("flood", item);
        }
        assert_eq!(fair.push("flood", 4), Pushed::Full(4));
        assert_eq!(fair.push("shop", 100), Pushed::Displaced(3));
        assert_eq!(fair.push("shop", 101), Pushed::Displaced(2));
        assert_eq!(fair.push("shop", 102), Pushed::Full(102), "both have as many");
        assert_eq!(fair.push("flood", 5), Pushed::Full(5));
        assert_eq!(drain(&mut fair), [0, 100, 1, 101]);
    }

    #[test]
    fn fair_serves_a_small_namespace_after_one_item_of_each_other_one_whatever_they_push() {
        for floods in [1_u32, 3, 10] {
            let mut fair = Fair::<String, u32>::new(1000);
            for item in 0..5000 {
                fair.push(format!("flood-{}", item % floods), item);
            }
            assert_eq!(fair.len(), 1000);
            assert!(!matches!(fair.push("shop".into(), 9999), Pushed::Full(_)));
            let before = std::iter::from_fn(|| fair.take(|_| true)).position(|item| item == 9999).unwrap();
            assert!(before <= floods as usize, "{before} items before that of the small namespace");
        }
    }
}
