//! The images that Pods and workloads need from Harbor.
//!
//! In: existing Pods, and the templates of workloads whose Pods do not exist yet. Out: images at Harbor, and their
//! ProxyProjects. Keeps nothing of a Pod.

use std::{collections::HashSet, sync::Arc, time::Instant};

use k8s_openapi::{
    api::core::v1::{Pod, PodSpec, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{admitted_namespaces::AdmittedNamespaces, templates};
use crate::{
    active_config::ActiveConfig,
    engine::log_limit::LogLimit,
    image::ImageRef,
    rewrite::{Namespaces, PodChange, PodScope, PrewarmTarget, RuleDecision, Rules, decide, limits::MAX_WARMED},
};

/// Finds the images of Pods and workloads.
#[derive(Clone)]
pub(super) struct PodImages {
    /// Namespaces whose workloads count: admission does not rewrite Pods of others.
    pub(super) admitted: AdmittedNamespaces,
    /// Limits warnings about Pods and workloads with too many images.
    pub(super) warned: Arc<LogLimit>,
}

impl PodImages {
    /// The images of a Pod that the kubelet pulls through Harbor, or that are only warmed (`rewrite.mode: Disabled`).
    pub(super) fn of_pod(&self, active: &ActiveConfig, pod: &Pod) -> Vec<PrewarmTarget> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = templates::labels(&pod.metadata);
        let (rules, namespaces) = (active.rules.load(), active.namespaces.load());
        let subject = PodScope { namespace, namespace_labels: namespaces.labels(namespace), labels: &labels };
        let images = pod.spec.iter().flat_map(images);
        self.first(&pod.metadata, images.filter_map(|image| wanted(&rules, image, &subject)))
    }

    /// The images that Pods of a template will need, mapped as admission will map them.
    pub(super) fn of_template(
        &self,
        active: &ActiveConfig,
        owner: &ObjectMeta,
        template: &PodTemplateSpec,
    ) -> Vec<PrewarmTarget> {
        let namespace = owner.namespace.as_deref().unwrap_or_default();
        let (rules, namespaces) = (active.rules.load(), active.namespaces.load());
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
    use serde_json::{Value, json};

    use super::*;
    use crate::api::ProxyProject;

    /// Projects `hub` (docker.io, for namespaces of team shop), `ecr` (mapped only), `off` (suspended) and `byhand`
    /// (Manual), and a namespace of team shop.
    fn demand() -> Demand {
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
        let admitted = AdmittedNamespaces::all_but_system("harbor-pilot").unwrap();
        Demand { active: in_force, images: PodImages { admitted, warned: Arc::default() } }
    }

    struct Demand {
        active: ActiveConfig,
        images: PodImages,
    }

    impl Demand {
        fn of_pod(&self, pod: &Pod) -> Vec<PrewarmTarget> {
            self.images.of_pod(&self.active, pod)
        }

        fn of_template(&self, owner: &ObjectMeta, template: &PodTemplateSpec) -> Vec<PrewarmTarget> {
            self.images.of_template(&self.active, owner, template)
        }
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

    fn text(wanted: &[PrewarmTarget]) -> Vec<String> {
        wanted.iter().map(|wanted| wanted.image.to_string()).collect()
    }

    const NGINX: &str = "harbor.corp/hub/library/nginx:1";

    #[test]
    fn of_a_pod_that_is_there_counts_what_comes_from_harbor_or_is_mapped_and_not_what_passed_admission_by() {
        let demand = demand();
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
        let demand = demand();
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
            let mut demand = demand();
            demand.images.admitted =
                AdmittedNamespaces::new(&serde_json::from_value(selector.clone()).unwrap()).unwrap();
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
        let demand = demand();
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
}
