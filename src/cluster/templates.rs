//! A Pod template, as admission will see the Pods created from it.

use std::borrow::Cow;

use k8s_openapi::{
    api::core::v1::{Container as CoreContainer, PodTemplateSpec, Volume as CoreVolume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::rewrite::{
    KEEP_IMAGES,
    pod::{Annotations, Container, ImageVolume, JsonStr, Labels, Metadata, Pod, PullPolicy, Spec, Volume},
};

/// The parts of a template that matter for rewriting.
pub(super) fn pod(template: &PodTemplateSpec) -> Pod<'_> {
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    let keep_images = annotations.and_then(|annotations| annotations.get(KEEP_IMAGES)).map(|kept| text(kept));
    let metadata = Metadata {
        labels: template.metadata.as_ref().map(|metadata| Labels::new(labels(metadata))),
        annotations: Some(Annotations { keep_images, ..Annotations::default() }),
        ..Metadata::default()
    };
    let spec = template.spec.as_ref().map(|spec| Spec {
        containers: Some(spec.containers.iter().map(container).collect()),
        init_containers: Some(spec.init_containers.iter().flatten().map(container).collect()),
        volumes: Some(spec.volumes.iter().flatten().map(volume).collect()),
        ..Spec::default()
    });
    Pod { metadata: Some(metadata), spec }
}

/// The labels, in the form that selectors take.
pub(super) fn labels(metadata: &ObjectMeta) -> Vec<(JsonStr<'_>, JsonStr<'_>)> {
    metadata.labels.iter().flatten().map(|(key, value)| (text(key), text(value))).collect()
}

fn container(container: &CoreContainer) -> Container<'_> {
    let pull_policy = container.image_pull_policy.as_deref().map(pull_policy);
    Container { name: Some(text(&container.name)), image: container.image.as_deref().map(text), pull_policy }
}

fn volume(volume: &CoreVolume) -> Volume<'_> {
    let image = volume.image.as_ref();
    let image = image.map(|image| ImageVolume {
        reference: image.reference.as_deref().map(text),
        pull_policy: image.pull_policy.as_deref().map(pull_policy),
    });
    Volume { name: Some(text(&volume.name)), image }
}

fn pull_policy(text: &str) -> PullPolicy {
    if text == "Never" { PullPolicy::Never } else { PullPolicy::Pulls }
}

fn text(text: &str) -> JsonStr<'_> {
    JsonStr(Cow::Borrowed(text))
}
