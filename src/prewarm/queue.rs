//! The bounded queue between admission, watches and prewarming: callers enqueue images without waiting.
//!
//! Namespaces are served round-robin, each at its own rate, so one that floods the queue delays only itself.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::namespace_limit::{NamespaceBuckets, NamespaceLimit};
use crate::{
    fair::{Fair, Pushed},
    image::ImageRef,
};

/// While all waiting namespaces have used up their rate, the queue checks again after this time.
const PACE: Duration = Duration::from_millis(100);

/// A prewarm request: one image that a Pod is about to need from Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrewarmRequest {
    /// The image as the kubelet will request it, at Harbor's pull host.
    pub image: ImageRef,
    /// Name of the ProxyProject resource whose rule rewrote the image, or to which the image belongs.
    pub proxy_project: String,
    /// Namespace of the Pod, stored as the requester.
    pub namespace: String,
}

/// The result of a prewarm request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnqueueResult {
    /// The image is enqueued.
    Queued,
    /// The same image was requested recently.
    Duplicate,
    /// The namespace has brought too many new images. The image may be requested again.
    Limited,
    /// The queue was full, or its receiver has ended. The image may be requested again.
    Dropped,
}

/// When an image is taken from the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In the turn of its namespace.
    Turn,
    /// After all images of [`Order::Turn`].
    Last,
}

/// Counts of prewarm requests by result, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EnqueueCounts {
    /// [`EnqueueResult::Queued`].
    pub queued: u64,
    /// [`EnqueueResult::Duplicate`].
    pub duplicate: u64,
    /// [`EnqueueResult::Limited`].
    pub limited: u64,
    /// [`EnqueueResult::Dropped`].
    pub dropped: u64,
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueBounds {
    /// Maximum number of waiting requests, of each [`Order`]. Above it, the namespace with the most loses its newest.
    pub waiting: usize,
    /// Maximum number of remembered images, in each of two generations.
    pub remembered: usize,
    /// Minimum time that an image is remembered, unless memory is full; at most twice as long.
    pub remembered_for: Duration,
    /// New images that each namespace may bring; `None`: any number.
    pub of_namespace: Option<NamespaceLimit>,
    /// Rate at which images of each namespace are taken; `None`: no limit. A namespace above the rate waits.
    pub pace: Option<NamespaceLimit>,
}

impl Default for QueueBounds {
    /// 1,024 waiting, twice 4,096 remembered for ten to twenty minutes: about 2 MiB. No limit and no rate for a namespace.
    fn default() -> Self {
        Self {
            waiting: 1024,
            remembered: 4096,
            remembered_for: Duration::from_secs(600),
            of_namespace: None,
            pace: None,
        }
    }
}

/// The sending side. Clones share the queue and its memory.
#[derive(Debug, Clone)]
pub struct PrewarmQueue {
    shared: Arc<QueueState>,
    _open: Arc<Open>,
}

/// The receiving side.
#[derive(Debug)]
pub struct PrewarmReceiver {
    shared: Arc<QueueState>,
}

/// Creates a queue of prewarm requests.
pub fn queue(bounds: QueueBounds) -> (PrewarmQueue, PrewarmReceiver) {
    let shared = Arc::new(QueueState {
        state: Mutex::new(State {
            turn: Fair::new(bounds.waiting),
            last: Fair::new(bounds.waiting),
            waiting: HashSet::new(),
            paces: bounds.pace.map(NamespaceBuckets::new),
            memory: RecentImages {
                bounds,
                recent: HashSet::new(),
                older: HashSet::new(),
                turned: Instant::now(),
                buckets: bounds.of_namespace.map(NamespaceBuckets::new),
            },
        }),
        changed: Notify::new(),
        ended: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        queued: AtomicU64::new(0),
        duplicate: AtomicU64::new(0),
        limited: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    let open = Arc::new(Open(Arc::clone(&shared)));
    (PrewarmQueue { shared: Arc::clone(&shared), _open: open }, PrewarmReceiver { shared })
}

impl PrewarmQueue {
    /// Enqueues an image. Never blocks.
    pub fn try_enqueue(&self, offer: PrewarmRequest) -> EnqueueResult {
        self.offer_in(Order::Turn, offer)
    }

    /// Enqueues an image in this order. Never blocks.
    pub fn offer_in(&self, order: Order, offer: PrewarmRequest) -> EnqueueResult {
        self.decide(order, offer, Instant::now())
    }

    /// Returns the number of waiting requests.
    pub fn waiting(&self) -> usize {
        let state = self.shared.state.lock();
        state.turn.len() + state.last.len()
    }

    /// Returns the counts by result. A waiting request that lost its room to another namespace also counts as dropped.
    pub fn counts(&self) -> EnqueueCounts {
        EnqueueCounts {
            queued: self.shared.queued.load(Ordering::Relaxed),
            duplicate: self.shared.duplicate.load(Ordering::Relaxed),
            limited: self.shared.limited.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }

    fn decide(&self, order: Order, offer: PrewarmRequest, now: Instant) -> EnqueueResult {
        if self.shared.closed.load(Ordering::Relaxed) {
            self.shared.count(EnqueueResult::Dropped);
            return EnqueueResult::Dropped;
        }
        let (fate, displaced) = self.shared.state.lock().push(order, offer, now);
        self.shared.count(fate);
        if displaced {
            self.shared.count(EnqueueResult::Dropped);
        }
        if fate == EnqueueResult::Queued {
            self.shared.changed.notify_one();
        }
        fate
    }
}

impl PrewarmReceiver {
    /// Waits for the next request; `None` once all senders are dropped and the queue is empty.
    pub async fn next(&mut self) -> Option<PrewarmRequest> {
        loop {
            // In this order, so that a request that was enqueued before the last sender was dropped is found.
            let ended = self.shared.ended.load(Ordering::Acquire);
            let (offer, waits) = self.shared.state.lock().take(Instant::now());
            match (offer, waits) {
                (Some(offer), _) => return Some(offer),
                (None, false) if ended => return None,
                (None, false) => self.shared.changed.notified().await,
                (None, true) => drop(tokio::time::timeout(PACE, self.shared.changed.notified()).await),
            }
        }
    }

    /// Forgets an image that could not be processed, so that the next request for it counts.
    pub fn forget(&self, image: &ImageRef) {
        let mut state = self.shared.state.lock();
        state.memory.recent.remove(image);
        state.memory.older.remove(image);
    }
}

impl Drop for PrewarmReceiver {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

/// Notifies the receiver that the last sender is dropped.
#[derive(Debug)]
struct Open(Arc<QueueState>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }
}

#[derive(Debug)]
struct QueueState {
    state: Mutex<State>,
    changed: Notify,
    /// The last sender is dropped.
    ended: AtomicBool,
    /// The receiver is dropped.
    closed: AtomicBool,
    queued: AtomicU64,
    duplicate: AtomicU64,
    limited: AtomicU64,
    dropped: AtomicU64,
}

impl QueueState {
    fn count(&self, fate: EnqueueResult) {
        let count = match fate {
            EnqueueResult::Queued => &self.queued,
            EnqueueResult::Duplicate => &self.duplicate,
            EnqueueResult::Limited => &self.limited,
            EnqueueResult::Dropped => &self.dropped,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The waiting requests, and the remembered images.
#[derive(Debug)]
struct State {
    turn: Fair<Arc<str>, PrewarmRequest>,
    last: Fair<Arc<str>, PrewarmRequest>,
    /// The images of both queues.
    waiting: HashSet<ImageRef>,
    paces: Option<NamespaceBuckets>,
    memory: RecentImages,
}

impl State {
    /// Also returns whether another request lost its room.
    fn push(&mut self, order: Order, offer: PrewarmRequest, now: Instant) -> (EnqueueResult, bool) {
        if self.waiting.contains(&offer.image) || self.memory.knows(&offer.image, now) {
            return (EnqueueResult::Duplicate, false);
        }
        if self.memory.buckets.as_mut().is_some_and(|buckets| !buckets.take(&offer.namespace, now)) {
            return (EnqueueResult::Limited, false);
        }
        let (image, namespace) = (offer.image.clone(), offer.namespace.as_str().into());
        let queue = match order {
            Order::Turn => &mut self.turn,
            Order::Last => &mut self.last,
        };
        // A dropped image is not remembered, so that the next Pod requests it again.
        let displaced = match queue.push(namespace, offer) {
            Pushed::Queued => None,
            Pushed::Displaced(displaced) => Some(displaced),
            Pushed::Full(_) => return (EnqueueResult::Dropped, false),
        };
        self.waiting.insert(image);
        if let Some(displaced) = &displaced {
            self.waiting.remove(&displaced.image);
        }
        (EnqueueResult::Queued, displaced.is_some())
    }

    /// Returns the next request, and whether any waits for the rate of its namespace.
    fn take(&mut self, now: Instant) -> (Option<PrewarmRequest>, bool) {
        let Self { turn, last, waiting, paces, memory } = self;
        let mut may = |namespace: &Arc<str>| paces.as_mut().is_none_or(|paces| paces.take(namespace, now));
        let offer = turn.take(&mut may).or_else(|| last.take(&mut may));
        if let Some(offer) = &offer {
            waiting.remove(&offer.image);
            memory.remember(offer.image.clone(), now);
        }
        (offer, !waiting.is_empty())
    }
}

/// Two generations: the older one is dropped as a whole, so that forgetting costs nothing per image.
#[derive(Debug)]
struct RecentImages {
    bounds: QueueBounds,
    recent: HashSet<ImageRef>,
    older: HashSet<ImageRef>,
    turned: Instant,
    buckets: Option<NamespaceBuckets>,
}

impl RecentImages {
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

    fn offer(image: &str) -> PrewarmRequest {
        let image = ImageRef::parse(image).unwrap();
        PrewarmRequest { image, proxy_project: "hub".to_owned(), namespace: "default".to_owned() }
    }

    fn bounds(waiting: usize, remembered: usize) -> QueueBounds {
        QueueBounds { waiting, remembered, remembered_for: Duration::from_secs(60), ..QueueBounds::default() }
    }

    #[tokio::test]
    async fn a_thousand_pods_of_one_image_make_one_offer() {
        let (offers, mut receiver) = queue(QueueBounds::default());
        for _ in 0..1000 {
            offers.clone().try_enqueue(offer("harbor.example.com/hub/library/nginx:1.27"));
        }
        assert_eq!(offers.counts(), EnqueueCounts { queued: 1, duplicate: 999, ..EnqueueCounts::default() });
        assert_eq!(receiver.next().await.unwrap().image.tag(), Some("1.27"));
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_takes_the_image_later() {
        let (offers, receiver) = queue(bounds(2, 16));
        let fates: Vec<_> = ["a", "b", "c", "c"].iter().map(|name| offers.try_enqueue(offer(name))).collect();
        assert_eq!(
            fates,
            [EnqueueResult::Queued, EnqueueResult::Queued, EnqueueResult::Dropped, EnqueueResult::Dropped]
        );
        receiver.shared.state.lock().take(Instant::now()).0.unwrap();
        assert_eq!(offers.try_enqueue(offer("c")), EnqueueResult::Queued);
        drop(receiver);
        assert_eq!(offers.try_enqueue(offer("d")), EnqueueResult::Dropped);
    }

    #[test]
    fn an_image_counts_again_after_its_time_or_when_it_could_not_be_passed_on() {
        let (offers, receiver) = queue(bounds(16, 16));
        let start = Instant::now();
        let at = |seconds| offers.decide(Order::Turn, offer("nginx"), start + Duration::from_secs(seconds));
        let take_at = |seconds| receiver.shared.state.lock().take(start + Duration::from_secs(seconds)).0;
        assert_eq!([at(1), at(59)], [EnqueueResult::Queued, EnqueueResult::Duplicate]);
        assert!(take_at(59).is_some());
        assert_eq!(at(100), EnqueueResult::Duplicate);
        assert_eq!([at(200), at(1000)], [EnqueueResult::Queued, EnqueueResult::Duplicate], "it waits");
        assert!(take_at(200).is_some());
        receiver.forget(&offer("nginx").image);
        assert_eq!(at(201), EnqueueResult::Queued);
    }

    #[test]
    fn memory_is_bounded_whatever_is_offered() {
        let (offers, receiver) = queue(bounds(1000, 100));
        for number in 0..5000 {
            offers.try_enqueue(offer(&format!("app:{number}")));
            if number % 2 == 0 {
                receiver.shared.state.lock().take(Instant::now());
            }
        }
        let state = receiver.shared.state.lock();
        assert_eq!((state.turn.len(), state.waiting.len()), (1000, 1000));
        assert!(state.memory.recent.len() + state.memory.older.len() <= 200);
    }

    #[test]
    fn one_namespace_brings_so_many_new_images_and_no_more_and_takes_nothing_from_others() {
        let limit = NamespaceLimit { burst: 5, per_second: 0.001 };
        let (offers, _receiver) = queue(QueueBounds { of_namespace: Some(limit), ..QueueBounds::default() });
        for number in 0..50 {
            offers.try_enqueue(of("greedy", &format!("app:{number}")));
        }
        for _ in 0..50 {
            offers.try_enqueue(of("greedy", "app:0"));
        }
        assert_eq!(offers.counts(), EnqueueCounts { queued: 5, limited: 45, duplicate: 50, dropped: 0 });
        assert_eq!(
            offers.try_enqueue(of("other", "app:49")),
            EnqueueResult::Queued,
            "what was refused is not remembered"
        );
    }

    #[tokio::test]
    async fn an_overflow_of_a_hundred_times_the_queue_is_bounded_counted_and_each_image_taken_once() {
        const ROOM: usize = 16;
        let (offers, mut receiver) = queue(bounds(ROOM, 4096));
        for _ in 0..2 {
            for number in 0..ROOM * 100 {
                offers.try_enqueue(offer(&format!("app:{number}")));
            }
        }
        let room = u64::try_from(ROOM).unwrap();
        let dropped = room * 99 * 2;
        assert_eq!(offers.counts(), EnqueueCounts { queued: room, duplicate: room, dropped, limited: 0 });
        let mut taken = HashSet::new();
        for _ in 0..ROOM {
            assert!(taken.insert(receiver.next().await.unwrap().image));
        }
        assert_eq!(offers.try_enqueue(offer("app:1000")), EnqueueResult::Queued, "there is room again");
    }

    fn of(namespace: &str, image: &str) -> PrewarmRequest {
        PrewarmRequest { namespace: namespace.to_owned(), ..offer(image) }
    }

    #[tokio::test]
    async fn queue_lets_a_namespace_that_floods_it_delay_no_other() {
        let pace = NamespaceLimit { burst: 5, per_second: 0.001 };
        let (offers, mut receiver) = queue(QueueBounds { pace: Some(pace), ..bounds(100, 4096) });
        for number in 0..3000 {
            offers.try_enqueue(of(["one", "two"][number % 2], &format!("nope:{number}")));
        }
        assert_eq!(
            offers.try_enqueue(of("shop", "nginx:1")),
            EnqueueResult::Queued,
            "a small namespace always has room"
        );
        let mut taken = Vec::new();
        for _ in 0..11 {
            taken.push(receiver.next().await.unwrap().namespace);
        }
        assert!(taken[..3].contains(&"shop".to_owned()), "{taken:?}");
        let more = tokio::time::timeout(PACE * 3, receiver.next()).await;
        assert!(more.is_err(), "the pace of both namespaces is used up");
        offers.try_enqueue(of("bank", "nginx:2"));
        assert_eq!(receiver.next().await.unwrap().namespace, "bank");
        assert!(offers.waiting() <= 100);
    }

    #[tokio::test]
    async fn queue_loses_nothing_that_waits_for_the_pace_of_its_namespace() {
        let pace = NamespaceLimit { burst: 1, per_second: 100.0 };
        let (offers, mut receiver) = queue(QueueBounds { pace: Some(pace), ..bounds(100, 4096) });
        for number in 0..20 {
            offers.try_enqueue(offer(&format!("app:{number}")));
        }
        drop(offers);
        let mut taken = HashSet::new();
        while let Some(offer) = receiver.next().await {
            assert!(taken.insert(offer.image));
        }
        assert_eq!(taken.len(), 20);
    }

    #[tokio::test]
    async fn queue_takes_images_of_order_last_after_all_others() {
        let (offers, mut receiver) = queue(bounds(100, 4096));
        for number in 0..10 {
            offers.offer_in(Order::Last, of("flood", &format!("nope:{number}")));
        }
        offers.offer_in(Order::Last, of("shop", "last:1"));
        offers.try_enqueue(of("flood", "app:1"));
        offers.try_enqueue(of("shop", "app:2"));
        drop(offers);
        let mut taken = Vec::new();
        while let Some(offer) = receiver.next().await {
            taken.push(offer.image.to_string());
        }
        assert_eq!(taken.len(), 13);
        for (image, position) in [("app:1", 0), ("app:2", 1), ("last:1", 3)] {
            assert!(taken[position].ends_with(image), "{taken:?}");
        }
    }
}
