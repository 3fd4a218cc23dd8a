//! The requests for images: recorded for existing CachedImages, enqueued for new ones.
//!
//! In: the images that Pods and workloads need from Harbor. Out: records in [`UsageTracker`], and prewarm requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::mpsc;

use crate::{
    active_config::ActiveConfig,
    api::CachedImage,
    prewarm::{
        UsageTracker, expiry,
        name::cached_image_name,
        queue::{EnqueueResult, Order, PrewarmQueue, PrewarmRequest},
    },
    rewrite::PrewarmTarget,
};

/// Maximum number of CachedImages that wait for a reconcile because their recorded requests are outdated. Beyond it, the
/// next request enqueues them.
const DUE: usize = 256;

/// A channel: [`ImageUsage`] sends the CachedImages to reconcile, and the stream yields them.
pub fn due() -> (mpsc::Sender<String>, impl Stream<Item = ObjectRef<CachedImage>> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(DUE);
    (sender, names(receiver))
}

/// The CachedImages of the names that arrive.
pub(super) fn names(
    mut receiver: mpsc::Receiver<String>,
) -> impl Stream<Item = ObjectRef<CachedImage>> + Send + 'static {
    stream::poll_fn(move |context| receiver.poll_recv(context)).map(|name| ObjectRef::new(&name))
}

/// Records who needs which image, and enqueues images without a CachedImage.
pub struct ImageUsage {
    /// The active rules and the labels of namespaces.
    pub active: ActiveConfig,
    /// The last requests by image.
    pub tracker: Arc<UsageTracker>,
    /// The CachedImages.
    pub images: Store<CachedImage>,
    /// The queue of images without a CachedImage.
    pub offers: PrewarmQueue,
    /// Names of CachedImages to reconcile now.
    pub due: mpsc::Sender<String>,
    /// Whether an image could not be enqueued.
    pub missed: AtomicBool,
}

impl ImageUsage {
    /// Records that an object in the namespace needs these images.
    pub fn record(&self, namespace: &str, wanted: &[PrewarmTarget]) {
        let now = Timestamp::now();
        for PrewarmTarget { image, .. } in wanted {
            self.tracker.record(image.as_str(), namespace, now);
            let known = self.images.get(&ObjectRef::new(&cached_image_name(image)));
            if let Some(known) = known.filter(|known| expiry::is_due(known, now)) {
                self.due.try_send(known.name_any()).ok();
            }
        }
    }

    /// Enqueues the images that have no CachedImage yet. Never waits: an image that does not fit counts as missed, see
    /// `take_missed`.
    pub fn enqueue(&self, order: Order, namespace: &str, wanted: &[PrewarmTarget]) {
        for PrewarmTarget { image, proxy_project } in wanted {
            let known = self.images.get(&ObjectRef::new(&cached_image_name(image))).is_some();
            if !known && !self.active.manual.load().contains(&**proxy_project) {
                let (image, proxy_project, namespace) =
                    (image.clone(), proxy_project.to_string(), namespace.to_owned());
                let fate = self.offers.offer_in(order, PrewarmRequest { image, proxy_project, namespace });
                if matches!(fate, EnqueueResult::Dropped | EnqueueResult::Limited) {
                    self.missed.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether an image could not be enqueued since the last call.
    pub(super) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;
    use crate::{
        image::ImageRef,
        prewarm::queue::{PrewarmReceiver, QueueBounds, queue},
    };

    const NGINX: &str = "harbor.corp/hub/library/nginx:1";

    /// With CachedImages of these images, and a Manual project `byhand`.
    fn usage(known: &[&str], bounds: QueueBounds) -> (ImageUsage, PrewarmReceiver) {
        let project = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": "byhand"},
            "spec": {"registryRef": {"name": "byhand"}, "prewarm": {"mode": "Manual"}}});
        let active = ActiveConfig::default();
        active.recompile(&[Arc::new(serde_json::from_value(project).unwrap())], std::collections::BTreeSet::new());
        let (images, mut writer) = reflector::store();
        for image in known {
            let name = cached_image_name(&ImageRef::parse(image).unwrap());
            let spec = serde_json::from_value(json!({"image": image})).unwrap();
            writer.apply_watcher_event(&Event::Apply(CachedImage::new(&name, spec)));
        }
        let (offers, receiver) = queue(bounds);
        let (tracker, missed) = (Arc::default(), AtomicBool::new(false));
        (ImageUsage { active, tracker, images, offers, due: due().0, missed }, receiver)
    }

    fn target(image: &str, project: &str) -> PrewarmTarget {
        PrewarmTarget { image: ImageRef::parse(image).unwrap(), proxy_project: project.into() }
    }

    #[tokio::test]
    async fn a_request_is_written_down_at_once_when_the_last_one_was_written_long_ago() {
        let (mut usage, _offered) = usage(&[], QueueBounds::default());
        let (due, names) = due();
        usage.due = due;
        let mut names = Box::pin(names);
        let (images, mut writer) = reflector::store();
        for (name, ago) in [("old", 7 * 3600), ("new", 5 * 3600)] {
            let last = Timestamp::from_second(Timestamp::now().as_second() - ago).unwrap();
            let expires = last.checked_add(expiry::EXPIRE_AFTER).unwrap();
            let image = format!("harbor.corp/hub/{name}:1");
            let object = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage",
                "metadata": {"name": cached_image_name(&ImageRef::parse(&image).unwrap())}, "spec": {"image": image},
                "status": {"lastRequestedAt": last, "expiresAt": expires}});
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value(object).unwrap()));
        }
        usage.images = images;
        for name in ["new", "old"] {
            usage.record("shop", &[target(&format!("harbor.corp/hub/{name}:1"), "hub")]);
        }
        drop(usage);
        let due: Vec<_> = names.by_ref().map(|name| name.name).collect().await;
        assert_eq!(due, [cached_image_name(&ImageRef::parse("harbor.corp/hub/old:1").unwrap())]);
    }

    #[test]
    fn usage_misses_what_finds_no_room_and_says_so_once() {
        let (usage, _receiver) = usage(&[], QueueBounds { waiting: 2, ..QueueBounds::default() });
        let wanted = |number: usize| target(&format!("harbor.corp/hub/app:{number}"), "hub");
        usage.enqueue(Order::Turn, "shop", &[wanted(1), wanted(2)]);
        assert!(!usage.take_missed());
        usage.enqueue(Order::Turn, "shop", &[wanted(3)]);
        assert!(usage.take_missed() && !usage.take_missed());
    }

    #[tokio::test]
    async fn what_has_a_cached_image_is_noted_and_only_what_has_none_is_offered_and_nothing_by_hand() {
        let (usage, mut offered) = usage(&[NGINX], QueueBounds::default());
        let images = [(NGINX, "hub"), ("harbor.corp/hub/new:1", "hub"), ("harbor.corp/byhand/app:1", "byhand")];
        let wanted = images.map(|(image, project)| target(image, project));
        usage.record("shop", &wanted);
        usage.enqueue(Order::Turn, "shop", &wanted);
        for (image, _) in images {
            assert_eq!(usage.tracker.last(image).unwrap().namespaces[0].as_ref(), "shop", "{image}");
        }
        drop(usage);
        let offer = offered.next().await.unwrap();
        assert_eq!((offer.image.as_str(), offer.proxy_project.as_str()), ("harbor.corp/hub/new:1", "hub"));
        assert!(offered.next().await.is_none());
    }
}
