//! The images that Pods and workloads need from Harbor: recorded for existing CachedImages, enqueued for new ones.
//!
//! In: existing Pods, and the templates of workloads whose Pods do not exist yet. Out: records in [`Asked`], and prewarm
//! requests. Keeps nothing of a Pod.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures::{Stream, stream};
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::mpsc;

use super::{admitted_namespaces::AdmittedNamespaces, log_limit::LogLimit, templates};
use crate::{
    active_config::ActiveConfig,
    api::CachedImage,
    image::ImageRef,
    prewarm::{
        UsageTracker, expiry,
        name::cached_image_name,
        queue::{EnqueueResult, Order, PrewarmQueue, PrewarmRequest},
    },
    rewrite::{Namespaces, PodChange, PodScope, PrewarmTarget, RuleDecision, Rules, decide, limits::MAX_WARMED},
};

/// Maximum number of CachedImages that wait for a reconcile because their recorded requests are outdated. Beyond it, the
/// next request enqueues them.
const DUE: usize = 256;

/// A channel: [`Demand`] sends the CachedImages to reconcile, and the stream yields them.
pub(super) fn due() -> (mpsc::Sender<String>, impl Stream<Item = ObjectRef<CachedImage>> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(DUE);
    let names = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<String>| {
        let name = receiver.recv().await?;
        Some((ObjectRef::new(&name), receiver))
    });
    (sender, names)
}

/// Records who needs which image, and enqueues images without a CachedImage.
pub(super) struct ImageUsage {
    pub(super) in_force: ActiveConfig,
    pub(super) asked: Arc<UsageTracker>,
    pub(super) images: Store<CachedImage>,
    pub(super) offers: PrewarmQueue,
    /// Names of CachedImages to reconcile now.
    pub(super) due: mpsc::Sender<String>,
    /// Namespaces whose workloads count: admission does not rewrite Pods of others.
    pub(super) admitted: AdmittedNamespaces,
    /// Limits warnings about Pods and workloads with too many images.
    pub(super) warned: LogLimit,
    /// Whether an image could not be enqueued.
    pub(super) missed: AtomicBool,
}

impl ImageUsage {
    /// The images of a Pod that the kubelet pulls through Harbor, or that are only warmed (`rewrite.mode: Disabled`).
    pub(super) fn of_pod(&self, pod: &Pod) -> Vec<PrewarmTarget> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = templates::labels(&pod.metadata);
        let (rules, namespaces) = (self.in_force.rules.load(), self.in_force.namespaces.load());
        let subject = PodScope { namespace, namespace_labels: namespaces.labels(namespace), labels: &labels };
        let images = pod.spec.iter().flat_map(images);
        self.first(&pod.metadata, images.filter_map(|image| wanted(&rules, image, &subject)))
    }

    /// The images that Pods of a template will need, mapped as admission will map them.
    pub(super) fn of_template(&self, owner: &ObjectMeta, template: &PodTemplateSpec) -> Vec<PrewarmTarget> {
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        let (rules, namespaces) = (self.in_force.rules.load(), self.in_force.namespaces.load());
        if !self.admitted.contains(namespace, namespaces.labels(namespace)) {
            return Vec::new();
        }
        self.first(owner, predicted(&rules, &namespaces, namespace, template).into_iter())
    }

    /// The first [`MAX_WARMED`] distinct images of one Pod or workload.
    fn first(&self, owner: &ObjectMeta, all: impl Iterator<Item = PrewarmTarget>) -> Vec<PrewarmTarget> {
        let mut known = HashSet::new();
        let mut distinct = all.filter(|wanted| known.insert(wanted.image.clone()));
        let first = distinct.by_ref().take(MAX_WARMED).collect();
        if distinct.next().is_some() {
            let (namespace, name) = (owner.namespace.as_deref().unwrap_or_default(), owner.name.as_deref());
            if self.warned.is_due(namespace, Instant::now()) {
                tracing::warn!(namespace, name, most = MAX_WARMED, "too many images: only the first are prewarmed");
            }
        }
        first
    }

    /// Records that an object in the namespace needs these images.
    pub(super) fn record(&self, namespace: &str, wanted: &[PrewarmTarget]) {
        let now = Timestamp::now();
        for PrewarmTarget { image, .. } in wanted {
            self.asked.record(image.as_str(), namespace, now);
            let known = self.images.get(&ObjectRef::new(&cached_image_name(image)));
            if let Some(known) = known.filter(|known| expiry::is_due(known, now)) {
                self.due.try_send(known.name_any()).ok();
            }
        }
    }

    /// Enqueues the images that have no CachedImage yet. Never waits: an image that does not fit counts as missed, see
    /// [`Self::take_missed`].
    pub(super) fn enqueue(&self, order: Order, namespace: &str, wanted: &[PrewarmTarget]) {
        for PrewarmTarget { image, proxy_project } in wanted {
            let known = self.images.get(&ObjectRef::new(&cached_image_name(image))).is_some();
            if !known && !self.in_force.manual.load().contains(&**proxy_project) {
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

/// The images of a Pod as its spec names them, normalized to full references.
pub(super) fn named(pod: &Pod) -> HashSet<String> {
    let named = pod.spec.iter().flat_map(images).filter_map(|image| ImageRef::parse(image).ok());
    named.map(|image| image.to_string()).collect()
}

/// An image of an existing Pod. `None` when a rule would rewrite it but did not: the node pulls it from the upstream.
fn wanted(rules: &Rules, image: &str, subject: &PodScope<'_>) -> Option<PrewarmTarget> {
    let image = ImageRef::parse(image).ok()?;
    match rules.find(&image, subject) {
        RuleDecision::AlreadyAtHarbor { rule: Some(rule) } => {
            Some(PrewarmTarget { image: rule.canonical(&image), proxy_project: Arc::clone(rule.name()) })
        }
        RuleDecision::Mapped { image, rule } => Some(PrewarmTarget { image, proxy_project: Arc::clone(rule.name()) }),
        _ => None,
    }
}

fn predicted(
    rules: &Rules,
    namespaces: &Namespaces,
    namespace: &str,
    template: &PodTemplateSpec,
) -> Vec<PrewarmTarget> {
    let pod = templates::pod(template);
    let subject = PodScope { namespace, namespace_labels: namespaces.labels(namespace), labels: pod.labels() };
    decide(PodChange::Create { pod: &pod }, rules, &subject).into_wanted()
}

fn images(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.containers.iter().filter_map(|container| container.image.as_deref());
    let init = spec.init_containers.iter().flatten().filter_map(|container| container.image.as_deref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|container| container.image.as_deref());
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    containers.chain(init).chain(ephemeral).chain(volumes)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use kube::runtime::reflector;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::ProxyProject,
        prewarm::queue::{PrewarmReceiver, QueueBounds, queue},
    };

    /// Projects `hub` (docker.io, for namespaces of team shop), `ecr` (mapped only), `off` (suspended) and `byhand`
    /// (Manual), and a namespace of team shop.
    fn demand(known: &[&str]) -> (ImageUsage, PrewarmReceiver) {
        let shop = json!({"namespaceSelector": {"matchLabels": {"team": "shop"}}});
        let projects = [
            project("hub", "docker.io", shop, json!({})),
            project("ecr", "ecr.example", json!({"mode": "Disabled"}), json!({})),
            project("off", "off.example", json!({}), json!({"suspend": true})),
            project("byhand", "byhand.example", json!({}), json!({"prewarm": {"mode": "Manual"}})),
        ];
        let in_force = ActiveConfig::default();
        in_force.recompile(&projects, std::collections::BTreeSet::new());
        let labels = [("team".to_owned(), "shop".to_owned())].into();
        in_force.namespaces.store(Arc::new([("shop".to_owned(), labels)].into_iter().collect()));
        let (images, mut writer) = reflector::store();
        for image in known {
            let name = cached_image_name(&ImageRef::parse(image).unwrap());
            let spec = serde_json::from_value(json!({"image": image})).unwrap();
            writer.apply_watcher_event(&kube::runtime::watcher::Event::Apply(CachedImage::new(&name, spec)));
        }
        let (offers, receiver) = queue(QueueBounds::default());
        let admitted = AdmittedNamespaces::all_but_system("harbor-pilot").unwrap();
        let (warned, missed) = (LogLimit::default(), AtomicBool::new(false));
        (
            ImageUsage { in_force, asked: Arc::default(), images, offers, due: due().0, admitted, warned, missed },
            receiver,
        )
    }

    fn project(name: &str, matched: &str, terms: Value, spec: Value) -> Arc<ProxyProject> {
        let mut rule = json!({"matches": [matched], "host": "harbor.corp", "project": name,
                              "target": format!("harbor.corp/{name}"), "generation": 1});
        let mut whole = json!({"registryRef": {"name": name}});
        for (into, from) in [(&mut rule, terms), (&mut whole, spec)] {
            into.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
        }
        let object = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": name},
            "spec": whole, "status": {"rewrite": rule}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[tokio::test]
    async fn image_usage_writes_a_request_immediately_after_a_long_pause() {
        let (mut demand, _offered) = demand(&[]);
        let (due, names) = due();
        demand.due = due;
        let mut names = Box::pin(names);
        let (images, mut writer) = reflector::store();
        for (name, ago) in [("old", 7 * 3600), ("new", 5 * 3600)] {
            let last = Timestamp::from_second(Timestamp::now().as_second() - ago).unwrap();
            let expires = last.checked_add(expiry::EXPIRE_AFTER).unwrap();
            let image = format!("harbor.corp/hub/{name}:1");
            let object = json!({"apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "CachedImage",
                "metadata": {"name": cached_image_name(&ImageRef::parse(&image).unwrap())}, "spec": {"image": image},
                "status": {"lastRequestedAt": last, "expiresAt": expires}});
            writer.apply_watcher_event(&kube::runtime::watcher::Event::Apply(serde_json::from_value(object).unwrap()));
        }
        demand.images = images;
        for name in ["new", "old"] {
            let pod = json!({"metadata": {"namespace": "shop"}, "spec": {"containers": [{"name": "a",
                "image": format!("harbor.corp/hub/{name}:1")}]}});
            demand.record("shop", &demand.of_pod(&serde_json::from_value(pod).unwrap()));
        }
        drop(demand);
        let told: Vec<_> = names.by_ref().map(|name| name.name).collect().await;
        assert_eq!(told, [cached_image_name(&ImageRef::parse("harbor.corp/hub/old:1").unwrap())]);
    }

    fn text(wanted: &[PrewarmTarget]) -> Vec<String> {
        wanted.iter().map(|wanted| wanted.image.to_string()).collect()
    }

    const NGINX: &str = "harbor.corp/hub/library/nginx:1";

    #[test]
    fn of_a_pod_that_is_there_counts_what_comes_from_harbor_or_is_mapped_and_not_what_passed_admission_by() {
        let (demand, _offered) = demand(&[]);
        let table = [
            (NGINX, vec![NGINX]),
            ("HARBOR.corp:443/hub/library/nginx:1", vec![NGINX]),
            ("nginx:1", vec![]),
            ("ecr.example/app:1", vec!["harbor.corp/ecr/app:1"]),
            ("off.example/app:1", vec![]),
            ("harbor.corp/off/app:1", vec![]),
            ("harbor.corp/other/app:1", vec![]),
            ("quay.io/app:1", vec![]),
            ("not an image", vec![]),
        ];
        for (image, expected) in table {
            let pod =
                json!({"metadata": {"namespace": "shop"}, "spec": {"containers": [{"name": "a", "image": image}]}});
            assert_eq!(text(&demand.of_pod(&serde_json::from_value(pod).unwrap())), expected, "{image}");
        }
        let places = json!({"metadata": {"namespace": "shop"}, "spec": {
            "containers": [{"name": "a", "image": "harbor.corp/hub/a:1"}],
            "initContainers": [{"name": "b", "image": "harbor.corp/hub/b:1"}],
            "ephemeralContainers": [{"name": "c", "image": "harbor.corp/hub/c:1"}],
            "volumes": [{"name": "d", "image": {"reference": "harbor.corp/hub/d:1"}}]}});
        let found = text(&demand.of_pod(&serde_json::from_value(places).unwrap()));
        assert_eq!(found, ["a", "b", "c", "d"].map(|name| format!("harbor.corp/hub/{name}:1")));
    }

    #[test]
    fn a_template_needs_what_its_pods_will_be_rewritten_to() {
        let (demand, _offered) = demand(&[]);
        let keep = json!({"annotations": {"harbor-pilot.dev/keep-images": "a"}});
        let table = [
            ("shop", "nginx:1", json!({}), vec![NGINX]),
            ("shop", NGINX, json!({}), vec![NGINX]),
            ("shop", "ecr.example/app:1", json!({}), vec!["harbor.corp/ecr/app:1"]),
            ("shop", "off.example/app:1", json!({}), vec![]),
            ("shop", "nginx:1", keep, vec![]),
            ("bank", "nginx:1", json!({}), vec![]),
            ("kube-system", "ecr.example/app:1", json!({}), vec![]),
            ("harbor-pilot", "ecr.example/app:1", json!({}), vec![]),
        ];
        for (namespace, image, metadata, expected) in table {
            let owner = serde_json::from_value(json!({"namespace": namespace})).unwrap();
            let template = json!({"metadata": metadata, "spec": {"containers": [{"name": "a", "image": image}]}});
            let template = serde_json::from_value(template).unwrap();
            assert_eq!(text(&demand.of_template(&owner, &template)), expected, "{namespace} {image}");
        }
    }

    #[test]
    fn a_template_where_the_webhook_selects_nothing_needs_nothing() {
        let selectors = [
            (
                json!({"matchExpressions": [{"key": crate::rewrite::NAMESPACE_NAME, "operator": "NotIn", "values": ["harbor"]}]}),
                [0, 1, 1],
            ),
            (json!({"matchLabels": {"team": "shop"}}), [0, 1, 0]),
            (json!({}), [1, 1, 1]),
        ];
        for (selector, expected) in selectors {
            let (mut demand, _offered) = demand(&[]);
            demand.admitted = AdmittedNamespaces::new(&serde_json::from_value(selector.clone()).unwrap()).unwrap();
            let template = json!({"spec": {"containers": [{"name": "a", "image": "ecr.example/app:1"}]}});
            let template: PodTemplateSpec = serde_json::from_value(template).unwrap();
            let found = ["harbor", "shop", "bank"].map(|namespace| {
                let owner = serde_json::from_value(json!({"namespace": namespace})).unwrap();
                demand.of_template(&owner, &template).len()
            });
            assert_eq!(found, expected, "{selector}");
        }
    }

    #[test]
    fn demand_takes_the_first_images_of_one_workload_and_each_once() {
        let (demand, _offered) = demand(&[]);
        for (count, expected) in [(1, 1), (MAX_WARMED, MAX_WARMED), (3 * MAX_WARMED, MAX_WARMED)] {
            let containers: Vec<_> = (0..count * 2)
                .map(|number| json!({"name": "a", "image": format!("ecr.example/app:{}", number % count)}))
                .collect();
            let template = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
            let owner = serde_json::from_value(json!({"namespace": "shop", "name": "many"})).unwrap();
            assert_eq!(demand.of_template(&owner, &template).len(), expected);
            let pod = json!({"metadata": {"namespace": "shop"}, "spec": {"containers": containers}});
            assert_eq!(demand.of_pod(&serde_json::from_value(pod).unwrap()).len(), expected);
        }
    }

    #[test]
    fn demand_misses_what_finds_no_room_and_says_so_once() {
        let (mut demand, _offered) = demand(&[]);
        let (offers, _receiver) = queue(QueueBounds { waiting: 2, ..QueueBounds::default() });
        demand.offers = offers;
        let wanted = |number: usize| {
            let image = ImageRef::parse(&format!("harbor.corp/hub/app:{number}")).unwrap();
            PrewarmTarget { image, proxy_project: "hub".into() }
        };
        demand.enqueue(Order::Turn, "shop", &[wanted(1), wanted(2)]);
        assert!(!demand.take_missed());
        demand.enqueue(Order::Turn, "shop", &[wanted(3)]);
        assert!(demand.take_missed() && !demand.take_missed());
    }

    #[tokio::test]
    async fn image_usage_enqueues_only_images_without_a_cached_image() {
        let (demand, mut offered) = demand(&[NGINX]);
        let images = [NGINX, "harbor.corp/hub/new:1", "harbor.corp/byhand/app:1"];
        let containers: Vec<_> = images.iter().map(|image| json!({"name": "a", "image": image})).collect();
        let pod = json!({"metadata": {"namespace": "shop"}, "spec": {"containers": containers}});
        let wanted = demand.of_pod(&serde_json::from_value(pod).unwrap());
        demand.record("shop", &wanted);
        demand.enqueue(Order::Turn, "shop", &wanted);
        for image in images {
            assert_eq!(demand.asked.last(image).unwrap().namespaces[0].as_ref(), "shop", "{image}");
        }
        drop(demand);
        let offer = offered.next().await.unwrap();
        assert_eq!((offer.image.as_str(), offer.proxy_project.as_str()), ("harbor.corp/hub/new:1", "hub"));
        assert!(offered.next().await.is_none());
    }
}
