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

use super::limit::{Buckets, Limit};
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
    /// Its namespace has brought too many new images. The image may be offered again.
    Limited,
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
    /// [`Fate::Limited`].
    pub limited: u64,
    /// [`Fate::Dropped`].
    pub dropped: u64,
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Offers that wait at once.
    pub waiting: usize,
    /// Images that are remembered, in each of two generations.
    pub remembered: usize,
    /// How long an image is remembered at least, unless memory is full; at most twice as long.
    pub remembered_for: Duration,
    /// New images that each namespace may bring; `None`: any number.
    pub of_namespace: Option<Limit>,
}

impl Default for Bounds {
    /// 1,024 waiting, twice 4,096 remembered for ten to twenty minutes: about 2 MiB. No limit for a namespace.
    fn default() -> Self {
        Self { waiting: 1024, remembered: 4096, remembered_for: Duration::from_secs(600), of_namespace: None }
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
        memory: Mutex::new(Memory {
            bounds,
            recent: HashSet::new(),
            older: HashSet::new(),
            turned: Instant::now(),
            buckets: bounds.of_namespace.map(Buckets::new),
        }),
        queued: AtomicU64::new(0),
        duplicate: AtomicU64::new(0),
        limited: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    (Offers { sender, shared: Arc::clone(&shared) }, OfferReceiver { receiver, shared })
}

impl Offers {
    /// Offers an image. Returns at once, whatever the state of the queue.
    pub fn offer(&self, offer: Offer) -> Fate {
        let fate = self.decide(offer, Instant::now());
        self.shared.count(fate);
        fate
    }

    /// Offers an image, and waits for room: for whoever has the time, and will not see the Pod again.
    pub async fn offer_patiently(&self, offer: Offer) -> Fate {
        let fate = match self.sender.reserve().await {
            Ok(room) => self.decide_with(offer, Instant::now(), |offer| {
                room.send(offer);
                true
            }),
            Err(_) => Fate::Dropped,
        };
        self.shared.count(fate);
        fate
    }

    /// Offers that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity().saturating_sub(self.sender.capacity())
    }

    /// What became of all offers so far.
    pub fn counts(&self) -> Counts {
        Counts {
            queued: self.shared.queued.load(Ordering::Relaxed),
            duplicate: self.shared.duplicate.load(Ordering::Relaxed),
            limited: self.shared.limited.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    fn decide(&self, offer: Offer, now: Instant) -> Fate {
        self.decide_with(offer, now, |offer| self.sender.try_send(offer).is_ok())
    }

    fn decide_with(&self, offer: Offer, now: Instant, send: impl FnOnce(Offer) -> bool) -> Fate {
        let Ok(mut memory) = self.shared.memory.lock() else { return Fate::Dropped };
        if memory.knows(&offer.image, now) {
            return Fate::Duplicate;
        }
        if memory.buckets.as_mut().is_some_and(|buckets| !buckets.take(&offer.namespace, now)) {
            return Fate::Limited;
        }
        let image = offer.image.clone();
        // What is dropped is not remembered, so that the next Pod offers it anew.
        if !send(offer) {
            return Fate::Dropped;
        }
        memory.remember(image, now);
        Fate::Queued
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
    limited: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    fn count(&self, fate: Fate) {
        let count = match fate {
            Fate::Queued => &self.queued,
            Fate::Duplicate => &self.duplicate,
            Fate::Limited => &self.limited,
            Fate::Dropped => &self.dropped,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two generations: the older one is dropped whole, so that forgetting costs nothing per image.
#[derive(Debug)]
struct Memory {
    bounds: Bounds,
    recent: HashSet<ImageRef>,
    older: HashSet<ImageRef>,
    turned: Instant,
    buckets: Option<Buckets>,
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
        Bounds { waiting, remembered, remembered_for: Duration::from_secs(60), of_namespace: None }
    }

    #[tokio::test]
    async fn a_thousand_pods_of_one_image_make_one_offer() {
        let (offers, mut receiver) = queue(Bounds::default());
        for _ in 0..1000 {
            offers.clone().offer(offer("harbor.example.com/hub/library/nginx:1.27"));
        }
        assert_eq!(offers.counts(), Counts { queued: 1, duplicate: 999, ..Counts::default() });
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

    #[test]
    fn one_namespace_brings_so_many_new_images_and_no_more_and_takes_nothing_from_others() {
        let limit = Limit { burst: 5, per_second: 0.001 };
        let (offers, _receiver) = queue(Bounds { of_namespace: Some(limit), ..Bounds::default() });
        let of = |namespace: &str, image: &str| Offer { namespace: namespace.to_owned(), ..offer(image) };
        for number in 0..50 {
            offers.offer(of("greedy", &format!("app:{number}")));
        }
        for _ in 0..50 {
            offers.offer(of("greedy", "app:0"));
        }
        assert_eq!(offers.counts(), Counts { queued: 5, limited: 45, duplicate: 50, dropped: 0 });
        assert_eq!(offers.offer(of("other", "app:49")), Fate::Queued, "what was refused is not remembered");
    }

    #[tokio::test]
    async fn an_overflow_of_a_hundred_times_the_queue_is_bounded_counted_and_each_image_taken_once() {
        const ROOM: usize = 16;
        let (offers, mut receiver) = queue(bounds(ROOM, 4096));
        for _ in 0..2 {
            for number in 0..ROOM * 100 {
                offers.offer(offer(&format!("app:{number}")));
            }
        }
        let room = u64::try_from(ROOM).unwrap();
        let dropped = room * 99 * 2;
        assert_eq!(offers.counts(), Counts { queued: room, duplicate: room, dropped, limited: 0 });
        let mut taken = HashSet::new();
        for _ in 0..ROOM {
            assert!(taken.insert(receiver.next().await.unwrap().image));
        }
        assert_eq!(offers.offer(offer("app:1000")), Fate::Queued, "there is room again");
    }

    #[tokio::test]
    async fn whoever_has_the_time_waits_for_room_and_loses_nothing() {
        let (offers, mut receiver) = queue(bounds(2, 4096));
        let patient = tokio::spawn(async move {
            for number in 0..100 {
                offers.offer_patiently(offer(&format!("app:{}", number % 50))).await;
            }
            offers.counts()
        });
        let mut taken = 0;
        while receiver.next().await.is_some() {
            taken += 1;
        }
        assert_eq!(patient.await.unwrap(), Counts { queued: 50, duplicate: 50, dropped: 0, limited: 0 });
        assert_eq!(taken, 50);
    }
}
