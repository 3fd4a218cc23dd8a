//! Deletes CachedImages that we created when no workload requested them within their lifetime, and those beyond the caps.
//!
//! When an image was missed, it also lists all objects that name images again, so that no image is lost permanently. It
//! deletes nothing before a complete list of these objects, and deletes each CachedImage only in the version that was
//! checked.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::{
    ResourceExt,
    api::Preconditions,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, sleep, sleep_until},
};

use super::{
    backend::{Backend, Error},
    image_usage::ImageUsage,
    quota::Quota,
    shared_watch::{SharedWatch, WatchChange},
};
use crate::{
    api::{CachedImage, Interval, RewriteRuleStatus, condition::since},
    controller::cached_image::lifetime_of,
    image::ImageRef,
    prewarm::{
        expiry::{self, EXPIRE_AFTER, ExpiryCandidate, ExpiryCause, choose, is_any_due},
        queue::Order,
    },
    rewrite::PrewarmTarget,
    telemetry::controller::ExpiryCauseLabel,
};

/// Fraction of the shortest lifetime between two sweeps.
const LOOKS: u32 = 24;
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(600);
/// Interval of the check for images that were missed or found no room.
const CHECK: Duration = Duration::from_secs(2);
/// Minimum interval between sweeps that images beyond the caps cause.
const URGENT: Duration = Duration::from_secs(30);
/// Delay before a resync for missed images. It doubles while images still find no room.
const RESYNC: Duration = Duration::from_secs(10);
const LONGEST_RESYNC: Duration = Duration::from_secs(600);
/// Changes of rules within this time are handled together.
const TOGETHER: Duration = Duration::from_secs(5);
/// A request this recent before the deletion of its CachedImage may have relied on it.
const JUST_NOW: Duration = Duration::from_secs(30);

/// Limits the number of CachedImages.
pub(super) struct ExpiryLoop<B> {
    pub(super) usage: Arc<ImageUsage>,
    pub(super) quota: Arc<Quota<B>>,
    /// Notified when ProxyProjects change.
    pub(super) changed: Arc<Notify>,
}

impl<B: Backend> ExpiryLoop<B> {
    /// Runs until dropped. `changes` are the changes of CachedImages.
    pub(super) async fn run(&self, changes: &SharedWatch<CachedImage>) {
        tokio::join!(self.watch_over(), self.enqueue_again(changes));
    }

    async fn watch_over(&self) {
        let mut rules = self.rules();
        let mut next = Instant::now() + self.pause();
        let mut resync = Resync::default();
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = sleep_until(next) => {
                    if self.expire_once(Timestamp::now()).await {
                        resync.due_at(Instant::now());
                    }
                    next = Instant::now() + self.pause();
                }
                _ = check.tick() => {
                    if self.quota.refused() > 0 || self.records().len() > self.quota.caps.total {
                        next = next.min(Instant::now() + URGENT);
                    }
                    // `|` does not short-circuit: both flags have to be taken.
                    let missed = self.usage.take_missed() | self.quota.take_missed();
                    if resync.is_due(missed, Instant::now())
                        && let Err(error) = self.list_sources(&HashSet::new()).await
                    {
                        tracing::warn!(%error, "missed images are listed again later");
                        self.quota.miss();
                    }
                }
                () = self.changed.notified() => {
                    sleep(TOGETHER).await;
                    // The shortest lifetime may have changed.
                    next = next.min(Instant::now() + self.pause());
                    let now = self.rules();
                    if now == rules {
                        continue;
                    }
                    // With the new rules, existing objects may need other images.
                    match self.list_sources(&HashSet::new()).await {
                        Ok(_) => rules = now,
                        Err(error) => {
                            tracing::warn!(%error, "listing the images of new rules again");
                            self.changed.notify_one();
                        }
                    }
                }
            }
        }
    }

    /// Deletes everything that is due, once. Returns whether images that found no room may find some now.
    async fn expire_once(&self, now: Timestamp) -> bool {
        let caps = &self.quota.caps;
        let wanted = self.quota.take_refused();
        let records = self.records();
        if !is_any_due(&records, caps, wanted, now) {
            return false;
        }
        let images = records.iter().map(|record| record.image.clone()).collect();
        let in_use = match self.list_sources(&images).await {
            Ok(in_use) => in_use,
            Err(error) => {
                tracing::warn!(%error, "no CachedImage expires until the used images are known");
                return false;
            }
        };
        // Requests during the list have renewed some images.
        let records = self.records();
        let chosen = choose(&records, &in_use, caps, wanted, now);
        let (mut unused, mut too_many) = (0, 0);
        for (record, cause) in chosen {
            if self.delete(record, cause).await {
                match cause {
                    ExpiryCause::Unused => unused += 1,
                    ExpiryCause::TooMany => too_many += 1,
                }
            }
        }
        self.quota.metrics.count_expired(ExpiryCauseLabel::Unused, unused);
        self.quota.metrics.count_expired(ExpiryCauseLabel::TooMany, too_many);
        let left = records.len().saturating_sub(unused + too_many);
        tracing::info!(unused, too_many, in_use = in_use.len(), left, most = caps.total, "expired CachedImages");
        wanted > 0 && too_many > 0
    }

    async fn delete(&self, record: &ExpiryCandidate, cause: ExpiryCause) -> bool {
        let Some(image) = self.images().get(&ObjectRef::new(&record.name)) else { return false };
        if self.record(&image).as_ref() != Some(record) {
            return false;
        }
        let preconditions = Preconditions { uid: image.uid(), resource_version: image.resource_version() };
        match self.quota.directory.backend.delete(&record.name, preconditions).await {
            Ok(()) => {
                tracing::info!(name = record.name, image = record.image, last = %record.last, ?cause, "expired");
                true
            }
            Err(error) => {
                // A conflict or NotFound means: it changed meanwhile, or another client deleted it.
                if !error.is_conflict() && !error.is_not_found() {
                    tracing::warn!(%error, name = record.name, "retrying at the next check");
                }
                false
            }
        }
    }

    /// Enqueues an image again that was requested while its CachedImage was being deleted.
    async fn enqueue_again(&self, changes: &SharedWatch<CachedImage>) {
        let mut changes = changes.follow().boxed();
        while let Some(change) = changes.next().await {
            let WatchChange::One(image) = change else { continue };
            let gone = self.images().get(&ObjectRef::from_obj(image.as_ref())).is_none();
            if !gone || !expiry::is_ours(image.metadata.labels.as_ref()) {
                continue;
            }
            let Some(request) = self.usage.tracker.last(&image.spec.image) else { continue };
            let age = since(request.at, Timestamp::now());
            let project = image.status.as_ref().and_then(|status| status.proxy_project.as_deref());
            if let (true, Some(project), Ok(parsed)) = (age < JUST_NOW, project, ImageRef::parse(&image.spec.image)) {
                let namespace = request.namespaces.first().map(AsRef::as_ref).unwrap_or_default();
                self.usage.enqueue(
                    Order::Turn,
                    namespace,
                    &[PrewarmTarget { image: parsed, proxy_project: project.into() }],
                );
            }
        }
    }

    /// The CachedImages that may be deleted.
    fn records(&self) -> Vec<ExpiryCandidate> {
        self.images().state().iter().filter_map(|image| self.record(image)).collect()
    }

    async fn list_sources(&self, among: &HashSet<String>) -> Result<HashSet<String>, Error> {
        self.quota.directory.backend.images_in_use(&self.usage, among).await
    }

    fn images(&self) -> &Store<CachedImage> {
        &self.quota.directory.stores.images
    }

    fn record(&self, image: &CachedImage) -> Option<ExpiryCandidate> {
        lifetime_of(image, self.quota.directory.as_ref(), &self.usage.tracker)
    }

    fn pause(&self) -> Duration {
        let projects = self.quota.directory.stores.projects.state();
        let lifetimes = projects.iter().filter_map(|project| project.spec.prewarm.expire_after);
        let shortest = lifetimes.map(Interval::duration).min().unwrap_or(EXPIRE_AFTER);
        (shortest / LOOKS).clamp(OFTEN, SELDOM)
    }

    /// The rules that map images to projects.
    fn rules(&self) -> Vec<(String, Option<RewriteRuleStatus>)> {
        let mut rules: Vec<_> = self
            .quota
            .directory
            .stores
            .projects
            .state()
            .iter()
            .map(|project| (project.name_any(), project.active_rule().cloned()))
            .collect();
        rules.sort_by(|one, other| one.0.cmp(&other.0));
        rules
    }
}

/// Schedules the lists of all objects that name images, after images were missed.
#[derive(Debug, Default)]
struct Resync {
    due: Option<Instant>,
    last: Option<Instant>,
    pause: Duration,
}

impl Resync {
    /// Whether a resync is due now. The delay doubles while each resync misses images again, and resets after one that
    /// found room for all.
    fn is_due(&mut self, missed: bool, now: Instant) -> bool {
        if missed && self.due.is_none() {
            let relapsed = self.last.is_some_and(|last| now.saturating_duration_since(last) <= self.pause);
            self.pause = if relapsed { (self.pause * 2).min(LONGEST_RESYNC) } else { RESYNC };
            self.due = Some(now + self.pause);
        }
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
            self.last = Some(now);
        }
        due
    }

    /// Makes it due at this time at the latest.
    fn due_at(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use serde_json::json;

    use super::*;
    use crate::{
        active_config::ActiveConfig,
        controller::cached_image::cached_image_for,
        engine::{image_usage::due, quota},
        prewarm::{PrewarmRequest, expiry::ImageOrigin, quota::Caps},
        standalone::MemoryBackend,
    };

    #[tokio::test]
    async fn an_image_that_no_pod_asks_for_goes_after_its_time_and_one_of_a_manifest_stays() {
        let (backend, active) = (MemoryBackend::new(Vec::new()), ActiveConfig::default());
        let (directory, tracker) = (backend.directory(), Arc::<crate::prewarm::UsageTracker>::default());
        let quota = Quota {
            directory: directory.clone(),
            asked: tracker.clone(),
            caps: Caps::default(),
            metrics: crate::telemetry::controller::ControllerMetrics::unregistered(),
            state: quota::State::default(),
        };
        let images = directory.stores.images.clone();
        let (offers, _receiver) = crate::engine::run::prewarm_queue();
        let missed = AtomicBool::new(false);
        let usage = Arc::new(ImageUsage { active, tracker: tracker.clone(), images, offers, due: due().0, missed });
        let expiry = ExpiryLoop { usage, quota: Arc::new(quota), changed: Arc::default() };

        let at = |hour: i64| Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap();
        for image in ["h.example/hub/once:1", "h.example/hub/again:1"] {
            let (image, proxy_project) = (ImageRef::parse(image).unwrap(), "hub".to_owned());
            let offer = PrewarmRequest { image, proxy_project, namespace: "shop".to_owned() };
            backend.create_object(cached_image_for(&offer, ImageOrigin::Admission), at(0)).unwrap();
        }
        let spec = serde_json::from_value(json!({"image": "h.example/hub/mine:1"})).unwrap();
        backend.create_object(CachedImage::new("mine", spec), at(0)).unwrap();
        tracker.begin(at(0));
        tracker.record("h.example/hub/again:1", "shop", at(20));
        let left = || {
            let images = backend.all::<CachedImage>();
            let mut images: Vec<_> =
                images.iter().map(|image| image.spec.image.replace("h.example/hub/", "")).collect();
            images.sort();
            images
        };
        expiry.expire_once(at(23)).await;
        assert_eq!(left(), ["again:1", "mine:1", "once:1"]);
        expiry.expire_once(at(25)).await;
        assert_eq!(left(), ["again:1", "mine:1"]);
        expiry.expire_once(at(10_000)).await;
        assert_eq!(left(), ["mine:1"]);
    }

    #[test]
    fn resync_follows_what_was_missed_more_and_more_seldom_and_soon_again_after_a_rest() {
        let start = Instant::now();
        let run = |missed_until: u64, end: u64| {
            let mut resync = Resync::default();
            (0..end)
                .filter(|second| resync.is_due(*second < missed_until, start + Duration::from_secs(*second)))
                .collect()
        };
        let once: Vec<u64> = run(1, 1000);
        assert_eq!(once, [10]);
        let often: Vec<u64> = run(u64::MAX, 3600);
        assert_eq!(often[..4], [10, 31, 72, 153]);
        assert!(often.len() < 15, "{often:?}");
        let mut resync = Resync::default();
        assert!(!resync.is_due(false, start));
        resync.due_at(start);
        assert!(resync.is_due(false, start));
    }
}
