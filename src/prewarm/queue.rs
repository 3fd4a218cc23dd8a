//! The bounded hand-over from admission to prewarming: offered, never awaited.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::image::ImageRef;

/// One image that a Pod is about to need from Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The image as the kubelet will ask for it, at Harbor's pull host.
    pub image: ImageRef,
    /// Name of the ProxyProject resource whose rule made or owns the image.
    pub proxy_project: String,
    /// Namespace of the Pod, kept for the record of who asked.
    pub namespace: String,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits to be taken.
    Queued,
    /// The same image was offered a short while ago.
    Duplicate,
    /// The queue was full, or nobody takes any more. The image may be offered again.
    Dropped,
}

/// How many offers met which fate since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Fate::Queued`].
    pub queued: u64,
    /// [`Fate::Duplicate`].
    pub duplicate: u64,
    /// [`Fate::Dropped`].
    pub dropped: u64,
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Offers that wait at once.
    pub waiting: usize,
    /// Images that are remembered, in each of two generations.
    pub remembered: usize,
    /// How long an image is remembered at least, unless memory is full; at most twice as long.
    pub remembered_for: Duration,
}

impl Default for Bounds {
    /// 1,024 waiting, twice 4,096 remembered for ten to twenty minutes: about 2 MiB.
    fn default() -> Self {
        Self { waiting: 1024, remembered: 4096, remembered_for: Duration::from_secs(600) }
    }
}

/// The sending side. Clones share the queue and its memory.
#[derive(Debug, Clone)]
pub struct Offers {
    sender: mpsc::Sender<Offer>,
    shared: Arc<Shared>,
}

/// The receiving side.
#[derive(Debug)]
pub struct OfferReceiver {
    receiver: mpsc::Receiver<Offer>,
    shared: Arc<Shared>,
}

/// A queue of offers.
pub fn queue(bounds: Bounds) -> (Offers, OfferReceiver) {
    let (sender, receiver) = mpsc::channel(bounds.waiting.max(1));
    let shared = Arc::new(Shared {
        memory: Mutex::new(Memory { bounds, recent: HashSet::new(), older: HashSet::new(), turned: Instant::now() }),
        queued: AtomicU64::new(0),
        duplicate: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    (Offers { sender, shared: Arc::clone(&shared) }, OfferReceiver { receiver, shared })
}

impl Offers {
    /// Offers an image. Returns at once, whatever the state of the queue.
    pub fn offer(&self, offer: Offer) -> Fate {
        let fate = self.decide(offer, Instant::now());
        let count = match fate {
            Fate::Queued => &self.shared.queued,
            Fate::Duplicate => &self.shared.duplicate,
            Fate::Dropped => &self.shared.dropped,
        };
        count.fetch_add(1, Ordering::Relaxed);
        fate
    }

    /// What became of all offers so far.
    pub fn counts(&self) -> Counts {
        Counts {
            queued: self.shared.queued.load(Ordering::Relaxed),
            duplicate: self.shared.duplicate.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    fn decide(&self, offer: Offer, now: Instant) -> Fate {
        let Ok(mut memory) = self.shared.memory.lock() else { return Fate::Dropped };
        if memory.knows(&offer.image, now) {
            return Fate::Duplicate;
        }
        let image = offer.image.clone();
        // What is dropped is not remembered, so that the next Pod offers it anew.
        match self.sender.try_send(offer) {
            Ok(()) => {
                memory.remember(image, now);
                Fate::Queued
            }
            Err(_) => Fate::Dropped,
        }
    }
}

impl OfferReceiver {
    /// The next offer; `None` once every sender is gone and the queue is empty.
    pub async fn next(&mut self) -> Option<Offer> {
        self.receiver.recv().await
    }

    /// Forgets an image that could not be passed on, so that the next offer of it counts.
    pub fn forget(&self, image: &ImageRef) {
        if let Ok(mut memory) = self.shared.memory.lock() {
            memory.recent.remove(image);
            memory.older.remove(image);
        }
    }
}

#[derive(Debug)]
struct Shared {
    memory: Mutex<Memory>,
    queued: AtomicU64,
    duplicate: AtomicU64,
    dropped: AtomicU64,
}

/// Two generations: the older one is dropped whole, so that forgetting costs nothing per image.
#[derive(Debug)]
struct Memory {
    bounds: Bounds,
    recent: HashSet<ImageRef>,
    older: HashSet<ImageRef>,
    turned: Instant,
}

impl Memory {
    fn knows(&mut self, image: &ImageRef, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.turned);
        if age >= self.bounds.remembered_for * 2 {
            self.older.clear();
            self.recent.clear();
            self.turned = now;
        } else if age >= self.bounds.remembered_for {
            self.turn(now);
        }
        self.recent.contains(image) || self.older.contains(image)
    }

    fn remember(&mut self, image: ImageRef, now: Instant) {
        if self.recent.len() >= self.bounds.remembered {
            self.turn(now);
        }
        self.recent.insert(image);
    }

    fn turn(&mut self, now: Instant) {
        self.older = std::mem::take(&mut self.recent);
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(image: &str) -> Offer {
        let image = ImageRef::parse(image).unwrap();
        Offer { image, proxy_project: "hub".to_owned(), namespace: "default".to_owned() }
    }

    fn bounds(waiting: usize, remembered: usize) -> Bounds {
        Bounds { waiting, remembered, remembered_for: Duration::from_secs(60) }
    }

    #[tokio::test]
    async fn a_thousand_pods_of_one_image_make_one_offer() {
        let (offers, mut receiver) = queue(Bounds::default());
        for _ in 0..1000 {
            offers.clone().offer(offer("harbor.example.com/hub/library/nginx:1.27"));
        }
        assert_eq!(offers.counts(), Counts { queued: 1, duplicate: 999, dropped: 0 });
        assert_eq!(receiver.next().await.unwrap().image.tag(), Some("1.27"));
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_takes_the_image_later() {
        let (offers, mut receiver) = queue(bounds(2, 16));
        let fates: Vec<_> = ["a", "b", "c", "c"].iter().map(|name| offers.offer(offer(name))).collect();
        assert_eq!(fates, [Fate::Queued, Fate::Queued, Fate::Dropped, Fate::Dropped]);
        receiver.receiver.try_recv().unwrap();
        assert_eq!(offers.offer(offer("c")), Fate::Queued);
        drop(receiver);
        assert_eq!(offers.offer(offer("d")), Fate::Dropped);
    }

    #[test]
    fn an_image_counts_again_after_its_time_or_when_it_could_not_be_passed_on() {
        let (offers, receiver) = queue(bounds(16, 16));
        let start = Instant::now();
        let at = |seconds| offers.decide(offer("nginx"), start + Duration::from_secs(seconds));
        assert_eq!([at(1), at(59), at(100)], [Fate::Queued, Fate::Duplicate, Fate::Duplicate]);
        assert_eq!(at(200), Fate::Queued);
        receiver.forget(&offer("nginx").image);
        assert_eq!(at(201), Fate::Queued);
    }

    #[test]
    fn memory_is_bounded_whatever_is_offered() {
        let (offers, _receiver) = queue(bounds(10_000, 100));
        for number in 0..5000 {
            assert_eq!(offers.offer(offer(&format!("app:{number}"))), Fate::Queued);
        }
        let memory = offers.shared.memory.lock().unwrap();
        assert!(memory.recent.len() + memory.older.len() <= 200);
    }
}
