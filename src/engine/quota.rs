//! The caps of CachedImages, checked before one is created. At a cap, another CachedImage may have to be deleted first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    ResourceExt,
    api::Preconditions,
    runtime::reflector::{ObjectRef, Store},
};
use parking_lot::Mutex;

use super::{backend::Backend, create_cached_images, log_limit::LogLimit, resource_store::ResourceStore};
use crate::{
    api::CachedImage,
    controller::cached_image::lifetime_of,
    prewarm::{
        PrewarmRequest, UsageTracker,
        expiry::{ExpiryCandidate, ImageOrigin},
        name::cached_image_name,
        quota::{Caps, Full, Ledger, Room, Worth},
    },
    telemetry::{
        controller::{ControllerMetrics, ExpiryCauseLabel},
        prewarm_queue::StoreOutcome,
    },
};

/// Decides whether one more CachedImage may be created.
pub(super) struct Quota<B> {
    pub(super) directory: Arc<ResourceStore<B>>,
    pub(super) asked: Arc<UsageTracker>,
    pub(super) caps: Caps,
    pub(super) metrics: ControllerMetrics,
    pub(super) state: State,
}

/// The counts of CachedImages.
#[derive(Default)]
pub(super) struct State {
    ledger: Mutex<Ledger>,
    warned: LogLimit,
    refused: AtomicUsize,
    missed: AtomicBool,
}

impl<B: Backend> Quota<B> {
    /// Creates the CachedImage of a prewarm request, if there is room. An image without one counts as missed until all
    /// objects that name images are listed again.
    pub(super) async fn create(&self, offer: &PrewarmRequest, source: ImageOrigin) -> StoreOutcome {
        if self.images().get(&ObjectRef::new(&cached_image_name(&offer.image))).is_some() {
            return StoreOutcome::Known;
        }
        if let Err(why) = self.make_room(offer).await {
            return why;
        }
        let outcome = create_cached_images::create(&self.directory.backend, offer, source).await;
        match outcome {
            StoreOutcome::Created => self.created(offer),
            StoreOutcome::Failed => self.miss(),
            StoreOutcome::Known | StoreOutcome::NamespaceFull | StoreOutcome::Full => {}
        }
        outcome
    }

    /// Makes room for an image.
    ///
    /// # Errors
    /// Why there is no room.
    async fn make_room(&self, offer: &PrewarmRequest) -> Result<(), StoreOutcome> {
        match self.room(&offer.namespace) {
            Room::Free => Ok(()),
            Room::InPlaceOf(name) => {
                if self.evict(&name).await {
                    return Ok(());
                }
                self.miss();
                Err(StoreOutcome::Failed)
            }
            Room::None(full) => {
                self.state.refused.fetch_add(1, Ordering::Relaxed);
                self.miss();
                self.warn(&offer.namespace, full);
                Err(match full {
                    Full::Namespace => StoreOutcome::NamespaceFull,
                    Full::Total => StoreOutcome::Full,
                })
            }
        }
    }

    /// Records that the CachedImage of an image was created.
    fn created(&self, offer: &PrewarmRequest) {
        let worth = Worth { refused: false, ready: false, last: Timestamp::now() };
        self.state.ledger.lock().created(&offer.namespace, cached_image_name(&offer.image), worth, Instant::now());
    }

    /// Records that the image of a Pod or a workload was not enqueued, or not stored.
    pub(super) fn miss(&self) {
        self.state.missed.store(true, Ordering::Relaxed);
    }

    /// Whether images were missed since the last call.
    pub(super) fn take_missed(&self) -> bool {
        self.state.missed.swap(false, Ordering::Relaxed)
    }

    /// How many images found no room since the last [`Self::take_refused`].
    pub(super) fn refused(&self) -> usize {
        self.state.refused.load(Ordering::Relaxed)
    }

    /// As [`Self::refused`], and resets the count to zero.
    pub(super) fn take_refused(&self) -> usize {
        self.state.refused.swap(0, Ordering::Relaxed)
    }

    fn room(&self, namespace: &str) -> Room {
        let mut ledger = self.state.ledger.lock();
        let holdings = || {
            let images = self.images().state();
            let records = images.iter().filter_map(|image| lifetime_of(image, self.directory.as_ref(), &self.asked));
            records.map(ExpiryCandidate::holding).collect()
        };
        ledger.refresh(holdings, Instant::now());
        ledger.holdings().room(namespace, &self.caps)
    }

    async fn evict(&self, name: &str) -> bool {
        let uid = self.images().get(&ObjectRef::new(name)).and_then(|image| image.uid());
        let preconditions = Preconditions { uid, resource_version: None };
        let deleted = match self.directory.backend.delete(name, preconditions).await {
            Ok(()) => {
                self.metrics.count_expired(ExpiryCauseLabel::TooMany, 1);
                tracing::info!(name, "evicted: another namespace has fewer images");
                true
            }
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                tracing::warn!(%error, name, "cannot evict a CachedImage; retrying");
                false
            }
        };
        // Recorded also when the deletion fails: the CachedImage is not chosen again for a while.
        self.state.ledger.lock().deleted(name.to_owned(), Instant::now());
        deleted
    }

    fn warn(&self, namespace: &str, full: Full) {
        if !self.state.warned.is_due(namespace, Instant::now()) {
            return;
        }
        let Caps { total, of_namespace } = self.caps;
        match full {
            Full::Namespace => tracing::warn!(
                namespace,
                most = of_namespace,
                "the namespace has its maximum of CachedImages: further images are not prewarmed \
                 (--max-cached-images-per-namespace)"
            ),
            Full::Total => tracing::warn!(
                namespace,
                most = total,
                "the maximum of CachedImages is reached, and no namespace has more than this one: its further images are not \
                 prewarmed (--max-cached-images)"
            ),
        }
    }

    fn images(&self) -> &Store<CachedImage> {
        &self.directory.stores.images
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image::ImageRef, standalone::MemoryBackend};

    #[tokio::test]
    async fn quota_holds_the_caps_and_evicts_from_the_namespace_with_the_most() {
        let backend = MemoryBackend::new(Vec::new());
        let caps = Caps { total: 30, of_namespace: 20 };
        let quota = Quota {
            directory: backend.directory(),
            asked: Arc::default(),
            caps,
            metrics: ControllerMetrics::unregistered(),
            state: State::default(),
        };
        let mut created = Vec::new();
        for (namespace, count) in [("flood", 100), ("other", 100), ("shop", 5)] {
            let mut found_room = 0;
            for number in 0..count {
                let image = ImageRef::parse(&format!("h.example/hub/{namespace}:{number}")).unwrap();
                let (proxy_project, namespace) = ("hub".to_owned(), namespace.to_owned());
                let offer = PrewarmRequest { image, proxy_project, namespace };
                let outcome = quota.create(&offer, ImageOrigin::Admission).await;
                found_room += usize::from(outcome == StoreOutcome::Created);
                assert!(backend.all::<CachedImage>().len() <= caps.total);
            }
            created.push(found_room);
        }
        assert_eq!(created, [20, 15, 5]);
        assert_eq!(backend.all::<CachedImage>().len(), caps.total);
    }
}
