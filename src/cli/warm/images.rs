//! Which images are prewarmed: from arguments and manifests to targets at Harbor, each image once.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;

use crate::{
    api::{CachedImage, GROUP, HarborInstance, Platform, Reason, cached_image::Require},
    cli::{
        input::{Files, Input},
        listing,
        sources::Sources,
        templates::TemplateAdmission,
    },
    image::{ImageRef, is_same_host},
    manifests::{ManifestText, Template},
    reconcile::ReconcileError,
    rewrite::{PodMutation, PodScope, RuleDecision, Rules},
    standalone,
};

/// An image to prewarm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RequestedImage {
    /// Its name as given, and its object in a manifest. Of the first mention.
    pub(super) named: String,
    /// Its target at Harbor, or why it has none.
    pub(super) place: Result<ImageTarget, ReconcileError>,
    /// Platforms of its own.
    pub(super) platforms: Vec<Platform>,
    /// Whether it is also prewarmed for the default platforms of its target.
    pub(super) usual: bool,
    /// What to wait for.
    pub(super) require: Require,
}

/// An image at Harbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageTarget {
    pub(super) image: ImageRef,
    /// Name of the HarborInstance.
    pub(super) instance: String,
    /// Name of the ProxyProject that manages the project of the image, if any.
    pub(super) project: Option<String>,
}

impl RequestedImage {
    fn usual(named: String, place: Result<ImageTarget, ReconcileError>) -> Self {
        Self { named, place, platforms: Vec::new(), usual: true, require: Require::default() }
    }
}

/// Collects the images.
pub(super) struct ImageFinder<'a> {
    sources: &'a Sources,
    rules: &'a Rules,
    found: BTreeMap<String, RequestedImage>,
    /// Keys in order of the first mention.
    order: Vec<String>,
}

impl<'a> ImageFinder<'a> {
    /// With active rules and known HarborInstances.
    pub(super) fn new(sources: &'a Sources, rules: &'a Rules) -> Self {
        Self { sources, rules, found: BTreeMap::new(), order: Vec::new() }
    }

    /// An image as a Pod names it, or at Harbor.
    pub(super) fn named(&mut self, image: &str) {
        let place = self.of_anyone(image);
        self.add(RequestedImage::usual(image.to_owned(), place));
    }

    /// Adds the images of manifests: of Pods and kinds that create Pods, as admission would map them, and of CachedImages.
    /// Returns how many other texts name images of mapped hosts.
    ///
    /// # Errors
    /// If a text is not a manifest, or a template is not a Pod.
    pub(super) fn manifests(&mut self, files: &Files, namespace: Option<&str>) -> anyhow::Result<usize> {
        let admission = TemplateAdmission::new(self.rules, self.sources, namespace, &files.namespaces);
        for input in &files.inputs {
            let manifests = &files.parse(input)?;
            // Entries of Kustomizations are parts of images.
            for template in manifests.templates().iter().filter(|template| !template.object.is_kustomization()) {
                let found = admission.admit(&input.name, template, |subject, outcome| {
                    self.of_template(&input.name, template, subject, outcome)
                })?;
                found.into_iter().for_each(|wanted| self.add(wanted));
            }
            for cached in cached_images(input, manifests)? {
                let named = format!("{} (CachedImage {})", cached.spec.image, name_of(&cached));
                let place = self.of_anyone(&cached.spec.image);
                let (platforms, require) = (cached.spec.platforms, cached.spec.require);
                self.add(RequestedImage { named, place, usual: platforms.is_empty(), platforms, require });
            }
        }
        let what_happens = "is not prewarmed: it is not certain that this is an image";
        listing::tell_mentions(files, self.rules, what_happens, false)
    }

    /// Returns the images in order of their first mention.
    pub(super) fn into_wanted(mut self) -> Vec<RequestedImage> {
        self.order.iter().filter_map(|key| self.found.remove(key)).collect()
    }

    fn add(&mut self, wanted: RequestedImage) {
        let key = match &wanted.place {
            Ok(place) => place.image.to_string(),
            Err(_) => wanted.named.clone(),
        };
        let Some(known) = self.found.get_mut(&key) else {
            self.order.push(key.clone());
            self.found.insert(key, wanted);
            return;
        };
        known.usual |= wanted.usual;
        let new = wanted.platforms.into_iter().filter(|platform| !known.platforms.contains(platform));
        let new: Vec<Platform> = new.collect();
        known.platforms.extend(new);
        if known.require == Require::Online {
            known.require = wanted.require;
        }
    }

    fn of_anyone(&self, text: &str) -> Result<ImageTarget, ReconcileError> {
        let image = parse(text)?;
        self.place(&image, self.rules.find_for_anyone(&image))
    }

    fn of_template(
        &self,
        file: &str,
        template: &Template,
        subject: &PodScope<'_>,
        outcome: &PodMutation<'_>,
    ) -> Vec<RequestedImage> {
        let images = template.images.iter();
        let wanted = images.map(|found| {
            let place = parse(&found.image).and_then(|image| match self.rules.find(&image, subject) {
                RuleDecision::Rewritten { .. } if outcome.image(found.list, found.index).is_none() => {
                    let message = "the Pod is exempt: it pulls the image from the upstream";
                    Err(ReconcileError::stalled(Reason::NotProxied, message))
                }
                decision => self.place(&image, decision),
            });
            RequestedImage::usual(format!("{} ({}, {file}:{})", found.image, template.object, found.line), place)
        });
        wanted.collect()
    }

    fn place(&self, image: &ImageRef, decision: RuleDecision<'_>) -> Result<ImageTarget, ReconcileError> {
        let (at_harbor, rule) = match decision {
            RuleDecision::Rewritten { image, rule } | RuleDecision::Mapped { image, rule } => (image, rule),
            RuleDecision::AlreadyAtHarbor { rule: Some(rule) } => (rule.canonical(image), rule),
            RuleDecision::TooLong { rule } => {
                let message = format!("its repository in {} would be longer than 255 characters", rule.name());
                return Err(ReconcileError::stalled(Reason::InvalidImage, message));
            }
            RuleDecision::AlreadyAtHarbor { rule: None } | RuleDecision::NoRule | RuleDecision::Unavailable { .. } => {
                return self.unmanaged(image);
            }
        };
        let mut projects = self.sources.projects.iter();
        let project = projects.find(|project| project.metadata.name.as_deref() == Some(&**rule.name()));
        let instance = project.map_or("default", |project| project.spec.harbor_ref.name.as_str());
        Ok(ImageTarget { image: at_harbor, instance: instance.to_owned(), project: Some(rule.name().to_string()) })
    }

    /// An image that no rule matches may be at a known Harbor.
    fn unmanaged(&self, image: &ImageRef) -> Result<ImageTarget, ReconcileError> {
        let at = |instance: &&HarborInstance| is_same_host(instance.spec.effective_pull_host(), image.host());
        if let Some(instance) = self.sources.instances.iter().find(at) {
            let instance = instance.metadata.name.clone().unwrap_or_default();
            return Ok(ImageTarget { image: image.clone(), instance, project: None });
        }
        let hosts = self.sources.instances.iter().map(|instance| instance.spec.effective_pull_host());
        let hosts = hosts.collect::<Vec<_>>().join(", ");
        let message = match (self.rules.is_empty(), hosts.is_empty()) {
            (true, false) => format!("there are no rules, and the image is not at {hosts}: use its name there, or set --rules"),
            _ => "no active ProxyProject maps it, so Pods do not pull it through Harbor: create one for its host, or see \
                  `harbor-pilot explain`"
                .to_owned(),
        };
        Err(ReconcileError::stalled(Reason::NotProxied, message))
    }
}

fn parse(text: &str) -> Result<ImageRef, ReconcileError> {
    ImageRef::parse(text)
        .map_err(|error| ReconcileError::stalled(Reason::InvalidImage, format!("this is not an image: {error}")))
}

fn name_of(image: &CachedImage) -> &str {
    image.metadata.name.as_deref().unwrap_or_default()
}

/// The CachedImages of a text, validated as the API server does; other objects are skipped.
fn cached_images(input: &Input, manifests: &ManifestText<'_>) -> anyhow::Result<Vec<CachedImage>> {
    const KIND: &str = "CachedImage";
    if !input.text.contains(KIND) {
        return Ok(Vec::new());
    }
    let strangers = manifests.foreign_documents();
    let objects = manifests.documents().enumerate().filter(|(index, _)| !strangers.contains(&(index + 1)));
    let mut own = Vec::new();
    for (_, object) in objects {
        collect(object, KIND, &mut own);
    }
    let texts: Vec<String> = own.iter().map(Value::to_string).collect();
    let file = std::path::Path::new(&input.name);
    let read = standalone::parse(texts.iter().map(|text| (file, text.as_str()))).context("a CachedImage")?;
    Ok(read.images)
}

/// Objects of one of our kinds, also within Lists.
fn collect(object: Value, kind: &str, found: &mut Vec<Value>) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("kind") == kind && text("apiVersion").split('/').next() == Some(GROUP) {
        found.push(object);
    } else if let Value::Object(mut fields) = object
        && let Some(Value::Array(items)) = fields.remove("items")
    {
        items.into_iter().for_each(|item| collect(item, kind, found));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{api::ProxyProject, manifests::KindTable};

    fn sources() -> Sources {
        let instance = json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "HarborInstance", "metadata": {"name": "corp"},
            "spec": {"url": "https://harbor.corp", "credentialsSecretRef": {"name": "harbor"}},
        });
        let project: ProxyProject = serde_json::from_value(json!({
            "apiVersion": "harbor-pilot.dev/v1alpha1", "kind": "ProxyProject", "metadata": {"name": "hub"},
            "spec": {"harborRef": {"name": "corp"}, "registryRef": {"name": "hub"}},
            "status": {"rewrite": {
                "matches": ["docker.io"], "host": "harbor.corp", "project": "hub", "target": "harbor.corp/hub", "generation": 1,
                "exclude": ["docker.io/secret/*"],
            }},
        }))
        .unwrap();
        let mut sources = Sources::of(serde_json::from_value(instance).unwrap());
        sources.projects.push(project);
        sources
    }

    fn found(images: &[&str], text: &str) -> Vec<RequestedImage> {
        let sources = sources();
        let rules = crate::rewrite::active_rules(&sources.projects, |_| false);
        let mut finder = ImageFinder::new(&sources, &rules);
        images.iter().for_each(|image| finder.named(image));
        let input = Input { name: "all.yaml".to_owned(), file: None, text: text.to_owned() };
        finder.manifests(&Files::of(vec![input], KindTable::default()), None).unwrap();
        finder.into_wanted()
    }

    /// `at-harbor by project`, or the reason.
    fn reported(wanted: &RequestedImage) -> String {
        match &wanted.place {
            Ok(place) => format!("{} by {}", place.image, place.project.as_deref().unwrap_or(&place.instance)),
            Err(nowhere) => nowhere.reason.to_string(),
        }
    }

    #[test]
    fn an_image_is_found_by_the_rules_or_where_it_is_at_harbor() {
        for (image, expected) in [
            ("nginx:1", "harbor.corp/hub/library/nginx:1 by hub"),
            ("harbor.corp/hub/library/nginx:1", "harbor.corp/hub/library/nginx:1 by hub"),
            ("harbor.corp/other/app:1", "harbor.corp/other/app:1 by corp"),
            ("HARBOR.corp/other/app:1", "HARBOR.corp/other/app:1 by corp"),
            ("ghcr.io/acme/app:1", "NotProxied"),
            ("secret/app:1", "NotProxied"),
            ("not an image", "InvalidImage"),
        ] {
            assert_eq!(reported(&found(&[image], "")[0]), expected, "{image}");
        }
    }

    #[test]
    fn manifests_name_images_of_workloads_lists_and_cached_images_each_once() {
        let text = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      initContainers: [{name: init, image: busybox:1}]
      containers: [{name: main, image: nginx:1}]
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: 'docker.io/library/nginx:1'}]}}
- apiVersion: harbor-pilot.dev/v1alpha1
  kind: CachedImage
  metadata: {name: nginx}
  spec: {image: 'nginx:1', platforms: [linux/arm64], require: OfflineByTag}
---
apiVersion: v1
kind: Pod
metadata: {name: own, annotations: {}}
spec: {containers: [{name: c, image: 'ghcr.io/acme/app:1'}]}
";
        let found = found(&["nginx:1"], text);
        let lines: Vec<String> = found.iter().map(reported).collect();
        assert_eq!(
            lines,
            ["harbor.corp/hub/library/nginx:1 by hub", "harbor.corp/hub/library/busybox:1 by hub", "NotProxied"]
        );
        assert_eq!((found[0].named.as_str(), found[0].require), ("nginx:1", Require::OfflineByTag));
        assert_eq!(
            (found[0].platforms.as_slice(), found[0].usual),
            (["linux/arm64".parse().unwrap()].as_slice(), true)
        );
        assert!(found[2].named.starts_with("ghcr.io/acme/app:1 (Pod own, all.yaml:"), "{}", found[2].named);
    }

    #[test]
    fn a_cached_image_that_the_api_server_would_refuse_is_refused() {
        let sources = sources();
        let rules = Rules::default();
        let text =
            "apiVersion: harbor-pilot.dev/v1alpha1\nkind: CachedImage\nmetadata: {name: x}\nspec: {imge: nginx}\n";
        let input = Input { name: "all.yaml".to_owned(), file: None, text: text.to_owned() };
        let error = ImageFinder::new(&sources, &rules)
            .manifests(&Files::of(vec![input], KindTable::default()), None)
            .unwrap_err();
        assert!(format!("{error:#}").contains("spec.imge"), "{error:#}");
    }
}
