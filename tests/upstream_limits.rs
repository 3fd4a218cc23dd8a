//! What an upstream refuses is heard by all of its images, what its Registry allows is kept to, and a restart forgets neither.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::{sync::Arc, time::Duration};

use harbor_double::{Failure, Harbor, Image, Upstream};
use harbor_pilot::{
    active_config::ActiveConfig,
    api::{CachedImage, ConditionType, ProxyProject, Reason, Registry, condition},
    controller::{Reconciler, Reconcilers, cached_image::CachedImageReconciler},
    prewarm::PrewarmTiming,
};
use k8s_openapi::jiff::Timestamp;
use kube::api::Preconditions;
use serde_json::{Value, json};
use support::Site;

/// An upstream with its Registry and ProxyProject, and images of it.
struct Place<'s> {
    site: &'s Site,
    name: String,
    upstream: Upstream,
}

impl<'s> Place<'s> {
    async fn new(site: &'s Site, name: &str, images: usize, limit: Option<Value>) -> Self {
        let (name, upstream) = (site.name(name), Upstream::builder().start().await);
        let mut spec = json!({"type": "docker-registry", "url": upstream.url()});
        if let Some(limit) = limit {
            spec["pullLimit"] = limit;
        }
        site.apply::<Registry>(&name, spec);
        site.apply::<ProxyProject>(
            &name,
            json!({"registryRef": {"name": name}, "rewrite": {"matches": [upstream.host()]}}),
        );
        let ready = site.reconcile::<Registry>(&name).await.ready();
        assert_eq!(ready, "True Reconciled");
        assert_eq!(site.reconcile::<ProxyProject>(&name).await.ready(), "True Reconciled");
        for number in 0..images {
            upstream.push_image("app", &number.to_string(), &Image::single("linux", "amd64").seed(&number.to_string()));
        }
        let place = Self { site, name, upstream };
        (0..images).for_each(|number| place.want(number));
        place
    }

    fn image(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn want(&self, number: usize) {
        let spec = json!({"image": format!("{}/app:{number}", self.upstream.host())});
        let mut image: CachedImage = serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage",
            "metadata": {"name": self.image(number)}, "spec": spec,
        }))
        .unwrap();
        image.metadata.generation = Some(1);
        self.site.world.create_object(image, Timestamp::now()).unwrap();
    }

    /// Two looks at each image, as a controller would take them: one says that it begins, one pulls.
    async fn look(&self, images: &CachedImageReconciler, numbers: std::ops::Range<usize>) -> Vec<String> {
        let mut ready = Vec::new();
        for number in numbers {
            let name = self.image(number);
            for _ in 0..2 {
                let object = self.site.world.get::<CachedImage>(&name).unwrap();
                let outcome = images.reconcile(object.as_ref(), Timestamp::now()).await;
                self.site.world.set_status::<CachedImage>(&name, outcome.status).unwrap();
            }
            ready.push(self.reason(number));
        }
        ready
    }

    fn reason(&self, number: usize) -> String {
        let object = self.site.world.get::<CachedImage>(&self.image(number)).unwrap();
        let status = object.status.as_ref().unwrap();
        condition::find(&status.conditions, ConditionType::Ready).unwrap().reason.clone()
    }

    fn registry(&self) -> Arc<Registry> {
        self.site.world.get::<Registry>(&self.name).unwrap()
    }

    fn manifests_asked(&self) -> usize {
        self.upstream.log().iter().filter(|request| request.path.contains("/manifests/")).count()
    }

    async fn end(self) {
        let Self { site, name, .. } = self;
        for number in 0..20 {
            let (image, any) = (format!("{name}-{number}"), Preconditions::default());
            site.world.delete_object::<CachedImage>(&image, &any, Timestamp::now()).ok();
        }
        site.clean(&[&name]).await;
    }
}

/// What warms images in a process.
fn warmer(site: &Site, kinds: &Reconcilers) -> CachedImageReconciler {
    let in_force = ActiveConfig::default();
    in_force.recompile(&site.world.all::<ProxyProject>(), std::collections::BTreeSet::new());
    let timing = PrewarmTiming::paced(Duration::from_millis(200));
    CachedImageReconciler::new(kinds.directory.clone(), kinds.instances.clone(), in_force.rules, timing, None)
}

#[tokio::test]
async fn one_refusal_pauses_all_images_of_the_upstream_and_no_other_and_a_restart_goes_on_waiting() {
    let site = Site::start().await;
    let limited = Place::new(&site, "limited", 10, None).await;
    let free = Place::new(&site, "free", 1, None).await;
    limited.upstream.fail_next("/manifests/", 1000, &Failure::TooManyRequests(None));
    let images = warmer(&site, &site.kinds);
    assert_eq!(limited.look(&images, 0..1).await, ["RateLimited"]);
    let asked = limited.manifests_asked();
    assert!(asked >= 1);
    assert_eq!(limited.look(&images, 1..10).await, ["RateLimited"; 9]);
    assert_eq!(limited.manifests_asked(), asked, "the first answer was for all");
    assert_eq!(free.look(&images, 0..1).await, ["Verifying"]);

    let seen = site.reconcile::<Registry>(&limited.name).await;
    assert_eq!(seen.ready(), "True Reconciled", "it is as specified nevertheless");
    let told: Vec<_> = seen.0.notes.iter().filter(|note| note.warning && note.reason == Reason::RateLimited).collect();
    assert_eq!(told.len(), 1, "{:?}", seen.0.notes);
    let pulls = limited.registry().status.clone().unwrap().pulls.unwrap();
    let pause = pulls.paused_until.unwrap().0.duration_since(Timestamp::now()).as_secs();
    assert!((30..=60).contains(&pause), "{pause} s");
    assert!(site.reconcile::<Registry>(&limited.name).await.0.notes.is_empty(), "told once");

    limited.upstream.clear_failures();
    let after = site.restarted();
    let images = warmer(&site, &after);
    let before: Vec<_> = (0..10).map(|number| site.world.get::<CachedImage>(&limited.image(number)).unwrap()).collect();
    limited.look(&images, 0..10).await;
    limited.want(10);
    assert_eq!(limited.look(&images, 10..11).await, ["RateLimited"], "also what is new");
    assert_eq!(limited.manifests_asked(), asked);
    for (number, before) in before.iter().enumerate() {
        let now = site.world.get::<CachedImage>(&limited.image(number)).unwrap();
        assert_eq!(now.status, before.status, "nothing is written while nothing changes");
    }
    limited.end().await;
    free.end().await;
}

#[tokio::test]
async fn pull_limit_survives_a_restart_and_a_higher_one_applies_immediately() {
    let site = Site::start().await;
    // An image may cost two manifests, an index and its child; these cost one each in the end.
    let place = Place::new(&site, "few", 6, Some(json!({"manifests": 4, "per": "6h"}))).await;
    let images = warmer(&site, &site.kinds);
    let reasons = place.look(&images, 0..6).await;
    assert_eq!(reasons, ["Verifying", "Verifying", "Verifying", "RateLimited", "RateLimited", "RateLimited"]);
    let object = site.world.get::<CachedImage>(&place.image(3)).unwrap();
    let ready = condition::find(&object.status.as_ref().unwrap().conditions, ConditionType::Ready).unwrap().clone();
    assert!(ready.message.contains("spec.pullLimit of its Registry is used up: 3 of 4 manifests"), "{}", ready.message);
    site.reconcile::<Registry>(&place.name).await;
    assert_eq!(place.registry().status.clone().unwrap().pulls.unwrap().manifests, Some(3));

    place.upstream.clear_log();
    place.look(&warmer(&site, &site.restarted()), 3..6).await;
    assert_eq!(place.manifests_asked(), 0);

    let spec =
        json!({"type": "docker-registry", "url": place.upstream.url(), "pullLimit": {"manifests": 100, "per": "6h"}});
    site.apply::<Registry>(&place.name, spec);
    assert_eq!(place.look(&images, 3..6).await, ["Verifying"; 3]);
    place.end().await;
}

#[tokio::test]
async fn images_of_one_upstream_that_break_off_hold_up_none_of_another() {
    // As Harbor answers cold layers up to 2.15, and after it.
    for builder in [Harbor::builder().speed(100.0), Harbor::builder().speed(100.0).announces_blobs()] {
        let site = Site::with(builder).await;
        let bad = Place::new(&site, "bad", 3, None).await;
        let good = Place::new(&site, "good", 8, None).await;
        bad.upstream.fail_next("/blobs/", 100_000, &Failure::CutShort);
        let images = warmer(&site, &site.kinds);
        assert_eq!(bad.look(&images, 0..3).await, ["PullFailed"; 3]);
        assert_eq!(good.look(&images, 0..8).await, ["Verifying"; 8]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(good.look(&images, 0..8).await, ["Warm"; 8]);
        bad.end().await;
        good.end().await;
    }
}
