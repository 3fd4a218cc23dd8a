//! A bounded queue that is fair between namespaces: one lane for each namespace, served round-robin.
//!
//! Pure. When the queue is full, the namespace with the most items loses its newest one. A namespace that floods the queue
//! takes no room from others.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Items by namespace, in FIFO order within each namespace.
#[derive(Debug)]
pub struct Fair<T> {
    lanes: HashMap<Arc<str>, VecDeque<T>>,
    /// Namespaces with items; the next one to serve is at the front.
    turns: VecDeque<Arc<str>>,
    len: usize,
    most: usize,
}

/// The result of [`Fair::push`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed<T> {
    /// The item is queued.
    Queued,
    /// The item is queued and replaces this item of the namespace with the most items.
    Displaced(T),
    /// The queue is full, and no other namespace has more items.
    Full(T),
}

impl<T> Fair<T> {
    /// Creates an empty queue for at most `most` items.
    pub fn new(most: usize) -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), len: 0, most: most.max(1) }
    }

    /// Returns the number of queued items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item of a namespace.
    pub fn push(&mut self, namespace: &str, item: T) -> Pushed<T> {
        let displaced = if self.len < self.most {
            None
        } else {
            match self.displace(namespace) {
                Some(displaced) => Some(displaced),
                None => return Pushed::Full(item),
            }
        };
        match self.lanes.get_mut(namespace) {
            Some(lane) => lane.push_back(item),
            None => {
                let namespace: Arc<str> = namespace.into();
                self.turns.push_back(Arc::clone(&namespace));
                self.lanes.insert(namespace, VecDeque::from([item]));
            }
        }
        self.len += 1;
        displaced.map_or(Pushed::Queued, Pushed::Displaced)
    }

    /// Takes the next item of the namespace that was served least recently, among those for which `may` returns true.
    pub fn take(&mut self, mut may: impl FnMut(&str) -> bool) -> Option<T> {
        for _ in 0..self.turns.len() {
            let namespace = self.turns.pop_front()?;
            if !may(&namespace) {
                self.turns.push_back(namespace);
                continue;
            }
            let lane = self.lanes.get_mut(&namespace)?;
            let item = lane.pop_front();
            if lane.is_empty() {
                self.lanes.remove(&namespace);
            } else {
                self.turns.push_back(namespace);
            }
            self.len = self.len.saturating_sub(1);
            return item;
        }
        None
    }

    /// Takes the newest item of the largest namespace, unless `namespace` with one more item would be as large.
    fn displace(&mut self, namespace: &str) -> Option<T> {
        let own = self.lanes.get(namespace).map_or(0, VecDeque::len);
        let longest = self.lanes.iter().max_by_key(|(_, lane)| lane.len());
        let (longest, _) = longest.filter(|(_, lane)| lane.len() > own + 1)?;
        let longest = Arc::clone(longest);
        let item = self.lanes.get_mut(&longest)?.pop_back()?;
        self.len = self.len.saturating_sub(1);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(fair: &mut Fair<u32>) -> Vec<u32> {
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
        assert_eq!(fair.take(|namespace| namespace != "flood"), Some(100));
        assert_eq!(fair.take(|namespace| namespace != "flood"), None);
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
            let mut fair = Fair::new(1000);
            for item in 0..5000 {
                fair.push(&format!("flood-{}", item % floods), item);
            }
            assert_eq!(fair.len(), 1000);
            assert!(!matches!(fair.push("shop", 9999), Pushed::Full(_)));
            let before = drain(&mut fair).iter().position(|item| *item == 9999).unwrap();
            assert!(before <= floods as usize, "{before} items before that of the small namespace");
        }
    }
}
