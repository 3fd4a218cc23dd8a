//! The caps of CachedImages, checked before one is created. At a cap, another CachedImage may have to be deleted first.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::reflector::{ObjectRef, Store},
};

use super::{bounded, log_limit::LogLimit, resource_store::ClusterStore};
use crate::{
    api::CachedImage,
    controller::cached_image::lifetime_of,
    prewarm::{
        PrewarmRequest, UsageTracker,
        expiry::ExpiryCandidate,
        name::cached_image_name,
        quota::{Caps, Full, Ledger, Room, Worth},
    },
    telemetry::{
        controller::{ControllerMetrics, ExpiryCauseLabel},
        prewarm_queue::StoreOutcome,
    },
};

/// Decides whether one more CachedImage may be created.
pub struct Quota {
    pub(super) client: Client,
    pub(super) images: Store<CachedImage>,
    pub(super) directory: Arc<ClusterStore>,
    pub(super) asked: Arc<UsageTracker>,
    pub(super) caps: Caps,
    pub(super) metrics: ControllerMetrics,
    pub(super) state: State,
}

/// The counts of CachedImages.
#[derive(Default)]
pub struct State {
    ledger: Mutex<Ledger>,
    warned: LogLimit,
    refused: AtomicUsize,
    missed: AtomicBool,
}

impl Quota {
    /// Makes room for an image.
    ///
    /// # Errors
    /// Why there is no room. The image counts as missed until all objects that name images are listed again.
    pub(super) async fn make_room(&self, offer: &PrewarmRequest) -> Result<(), StoreOutcome> {
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
    pub(super) fn created(&self, offer: &PrewarmRequest) {
        let worth = Worth { refused: false, ready: false, last: Timestamp::now() };
        self.ledger().created(&offer.namespace, cached_image_name(&offer.image), worth, Instant::now());
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
        let mut ledger = self.ledger();
        let holdings = || {
            let images = self.images.state();
            let records = images.iter().filter_map(|image| lifetime_of(image, self.directory.as_ref(), &self.asked));
            records.map(ExpiryCandidate::holding).collect()
        };
        ledger.refresh(holdings, Instant::now());
        ledger.holdings().room(namespace, &self.caps)
    }

    async fn evict(&self, name: &str) -> bool {
        let uid = self.images.get(&ObjectRef::new(name)).and_then(|image| image.uid());
        let preconditions = Preconditions { uid, resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<CachedImage> = Api::all(self.client.clone());
        let deleted = match bounded("evicting a CachedImage", api.delete(name, &parameters)).await {
            Ok(_) => {
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
        self.ledger().deleted(name.to_owned(), Instant::now());
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

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.state.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
