//! A bound on concurrent work, first come, first served, that can change while it is in use.
//!
//! Not a semaphore of the runtime: that one cannot shrink while its permits are out.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Admits work up to its bound. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct ResizableSemaphore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None` is no bound.
    bound: Option<u64>,
    used: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    weight: u64,
    admit: oneshot::Sender<SemaphorePermit>,
}

/// A share of a gate; dropping it returns the share.
#[derive(Debug)]
pub struct SemaphorePermit {
    gate: ResizableSemaphore,
    weight: u64,
}

impl ResizableSemaphore {
    /// Creates a gate with this bound; `None` is no bound.
    pub fn new(bound: Option<u64>) -> Self {
        let inner = Inner { bound, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Changes the bound. Admitted work stays admitted; waiting work that now has room is admitted.
    pub fn set_bound(&self, bound: Option<u64>) {
        let mut inner = self.inner.lock();
        if inner.bound != bound {
            inner.bound = bound;
            let admitted = inner.admissible();
            drop(inner);
            self.admit(admitted);
        }
    }

    /// Waits for a share of that weight. Work heavier than the whole bound runs alone; no waiter overtakes another.
    pub async fn enter(&self, weight: u64) -> SemaphorePermit {
        let admitted = {
            let mut inner = self.inner.lock();
            if inner.waiting.is_empty() && inner.has_room(weight) {
                inner.used = inner.used.saturating_add(weight);
                return SemaphorePermit { gate: self.clone(), weight };
            }
            let (admit, admitted) = oneshot::channel();
            inner.waiting.push_back(Waiter { weight, admit });
            admitted
        };
        // The sender is dropped only with the gate, which lives as long as `self`.
        match admitted.await {
            Ok(pass) => pass,
            Err(_) => SemaphorePermit { gate: self.clone(), weight: 0 },
        }
    }

    /// Returns the weight that is admitted now.
    pub fn used(&self) -> u64 {
        self.inner.lock().used
    }

    /// Returns whether another clone of this gate exists.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    fn give_back(&self, weight: u64) {
        let mut inner = self.inner.lock();
        inner.used = inner.used.saturating_sub(weight);
        let admitted = inner.admissible();
        drop(inner);
        self.admit(admitted);
    }

    /// Outside the lock: a pass whose waiter is gone returns through [`Gate::give_back`].
    fn admit(&self, admitted: Vec<Waiter>) {
        for Waiter { weight, admit } in admitted {
            drop(admit.send(SemaphorePermit { gate: self.clone(), weight }));
        }
    }
}

impl Inner {
    fn has_room(&self, weight: u64) -> bool {
        self.used == 0 || self.bound.is_none_or(|bound| self.used.saturating_add(weight) <= bound)
    }

    /// Removes the waiters at the front that have room now, and counts them as admitted.
    fn admissible(&mut self) -> Vec<Waiter> {
        let mut admitted = Vec::new();
        while let Some(first) = self.waiting.pop_front() {
            if first.admit.is_closed() {
                continue;
            }
            if !self.has_room(first.weight) {
                self.waiting.push_front(first);
                break;
            }
            self.used = self.used.saturating_add(first.weight);
            admitted.push(first);
        }
        admitted
    }
}

impl Drop for SemaphorePermit {
    fn drop(&mut self) {
        self.gate.give_back(self.weight);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn as_much_goes_through_as_the_bound_allows_in_the_order_of_arrival() {
        let gate = ResizableSemaphore::new(Some(10));
        let first = gate.enter(6).await;
        let mut large = Box::pin(gate.enter(5));
        assert!((&mut large).now_or_never().is_none());
        let mut small = Box::pin(gate.enter(1));
        assert!((&mut small).now_or_never().is_none(), "it overtook, and the large one would wait permanently");
        drop(first);
        let (_large, _small) = (large.await, small.await);
        assert_eq!(gate.used(), 6);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_bound_goes_alone() {
        let gate = ResizableSemaphore::new(Some(10));
        let small = gate.enter(1).await;
        let mut huge = Box::pin(gate.enter(1000));
        assert!((&mut huge).now_or_never().is_none());
        drop(small);
        let huge = huge.await;
        assert!(gate.enter(1).now_or_never().is_none());
        drop(huge);
        assert!(gate.enter(1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn resizable_semaphore_can_be_resized_while_a_caller_waits() {
        let gate = ResizableSemaphore::new(Some(1));
        let (first, second) = (
            gate.enter(1).await,
            tokio::spawn({
                let gate = gate.clone();
                async move { gate.enter(1).await }
            }),
        );
        tokio::task::yield_now().await;
        gate.set_bound(Some(2));
        let second = second.await.unwrap();
        gate.set_bound(Some(1));
        drop(first);
        assert!(gate.enter(1).now_or_never().is_none(), "one is through, and one is the bound now");
        drop(second);
        let passes = [gate.enter(1).await];
        gate.set_bound(None);
        assert!(gate.enter(1000).now_or_never().is_some());
        drop(passes);
    }

    #[tokio::test]
    async fn resizable_semaphore_keeps_the_permit_of_a_cancelled_waiter() {
        let gate = ResizableSemaphore::new(Some(1));
        let first = gate.enter(1).await;
        for _ in 0..100 {
            assert!(tokio::time::timeout(Duration::ZERO, gate.enter(1)).await.is_err());
        }
        // A waiter that is admitted and dropped before it is polled.
        let mut unseen = Box::pin(gate.enter(1));
        assert!((&mut unseen).now_or_never().is_none());
        drop(first);
        drop(unseen);
        assert_eq!(gate.used(), 0);
        assert!(gate.enter(1).now_or_never().is_some());
    }
}
