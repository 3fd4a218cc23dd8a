//! Recognizes containers and Pod specs by their shape, in any kind.

use super::{
    Object,
    field_path::PathSegment,
    value::{Value, ValueData},
};
use crate::image::reads_as_host;

/// Lists of a Pod spec that hold images.
pub(super) const POD_LISTS: [&str; 4] = ["containers", "initContainers", "ephemeralContainers", "volumes"];

/// Fields that a container has beside its image, each with the values that it takes there: other things have fields of these
/// names, too, and other values in them.
const OF_CONTAINERS: [(&str, Shape); 15] = [
    ("args", Shape::Texts),
    ("command", Shape::Texts),
    ("env", Shape::Mappings),
    ("envFrom", Shape::Mappings),
    ("imagePullPolicy", Shape::PullPolicy),
    ("lifecycle", Shape::Mapping),
    ("livenessProbe", Shape::Mapping),
    ("ports", Shape::SomeMappings),
    ("readinessProbe", Shape::Mapping),
    ("resources", Shape::Resources),
    ("securityContext", Shape::Mapping),
    ("startupProbe", Shape::Mapping),
    ("volumeDevices", Shape::SomeMappings),
    ("volumeMounts", Shape::Mappings),
    ("workingDir", Shape::Text),
];
/// Fields that a container outside of a list must have: specs of other things have resources and ports, too.
const OF_CONTAINERS_ALONE: [&str; 6] = ["args", "command", "env", "envFrom", "imagePullPolicy", "volumeMounts"];

/// Values that a field of a container takes.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Text,
    /// A list of texts.
    Texts,
    Mapping,
    /// A list of mappings.
    Mappings,
    /// A list of one mapping or more.
    SomeMappings,
    Resources,
    PullPolicy,
}

impl Shape {
    fn fits(self, value: &Value) -> bool {
        let is_mapping = |value: &Value| matches!(value.data, ValueData::Map(_));
        let items = |is_meant: &dyn Fn(&Value) -> bool| value.items().is_some_and(|items| items.iter().all(is_meant));
        match self {
            Self::Text => value.text().is_some(),
            Self::Texts => items(&|item| item.text().is_some()),
            Self::Mapping => is_mapping(value),
            Self::Mappings => items(&is_mapping),
            Self::SomeMappings => items(&is_mapping) && value.items() != Some(&[]),
            Self::Resources => {
                let is_known = |key: &Value| matches!(key.text(), Some("claims" | "limits" | "requests"));
                is_mapping(value) && value.entries().iter().all(|(key, _)| is_known(key))
            }
            Self::PullPolicy => matches!(value.text(), Some("Always" | "IfNotPresent" | "Never")),
        }
    }
}

/// Fields beside an `image` without a host that begin it: such an `image` is a part of a name, which a controller puts together.
const BEGINNING: [&str; 5] = ["hub", "imageRegistry", "imageRepository", "registry", "repository"];
/// Those that end an `image` without tag and digest and without a host: the field, or what stands elsewhere, completes it.
const ENDING: [&str; 3] = ["tag", "imageTag", "digest"];

/// Returns whether a mapping has containers, as a Pod spec has.
pub(super) fn has_containers(value: &Value) -> bool {
    POD_LISTS.iter().filter(|list| **list != "volumes").any(|list| {
        let items = value.get(list).and_then(Value::items).unwrap_or_default();
        !items.is_empty() && items.iter().all(|item| matches!(item.data, ValueData::Map(_)))
    })
}

/// Returns whether the place is that of the spec in a Pod template: `template.spec`, `podTemplates[0].spec`.
pub(super) fn is_template_spec(steps: &[PathSegment<'_>]) -> bool {
    let mut keys = steps.iter().rev().filter_map(|step| match step {
        PathSegment::Key(key) => Some(*key),
        PathSegment::Item(_) => None,
    });
    steps.last() == Some(&PathSegment::Key("spec"))
        && keys.next() == Some("spec")
        && keys.next().is_some_and(|key| key.contains("emplate"))
}

/// Returns whether a mapping is an OpenShift reference to a registry image: `from: {kind: DockerImage, name: nginx}`.
pub(super) fn is_docker_image(value: &Value, object: &Object, steps: &[PathSegment<'_>]) -> bool {
    object.group().ends_with("openshift.io")
        && steps.last().is_some_and(|step| matches!(step, PathSegment::Key("from" | "_from")))
        && value.get("kind").and_then(Value::text) == Some("DockerImage")
}

/// Returns whether a mapping is a container with an image.
pub(super) fn is_container(value: &Value, steps: &[PathSegment<'_>]) -> bool {
    if value.get("image").is_none_or(|image| matches!(image.data, ValueData::List(_) | ValueData::Other(_)))
        || is_completed(value)
    {
        return false;
    }
    let has = |field: &str, shape: Shape| value.get(field).is_some_and(|value| shape.fits(value));
    let has_any = || OF_CONTAINERS.iter().any(|(field, shape)| has(field, *shape));
    let is_alone = |field: &str| OF_CONTAINERS_ALONE.contains(&field);
    match steps {
        [.., PathSegment::Key(list), PathSegment::Item(_)] => ends_with(list, "containers") || has_any(),
        [.., PathSegment::Key(key)] if ends_with(key, "container") => has("name", Shape::Text) || has_any(),
        [.., PathSegment::Key(_)] => OF_CONTAINERS.iter().any(|(field, shape)| is_alone(field) && has(field, *shape)),
        _ => false,
    }
}

/// Returns whether the `image` of a mapping is only a part of an image: `{repository: quay.io/org, image: app, version:
/// "1"}`.
fn is_completed(value: &Value) -> bool {
    let has = |field: &str| value.get(field).is_some_and(says_something);
    let image = value.get("image").and_then(Value::text).unwrap_or_default();
    let begins = !has_host(image) && BEGINNING.into_iter().any(has);
    // Of an `image` with a host, a controller puts a tag behind the new name as behind the old one.
    let ends = !has_tag(image) && (has("version") || !has_host(image) && ENDING.into_iter().any(has));
    begins || ends
}

/// Whether a value is more than nothing: null, and what is empty, completes no image.
fn says_something(value: &Value) -> bool {
    match &value.data {
        ValueData::Text(text) => !text.trim().is_empty(),
        ValueData::Other(text) => !matches!(&**text, "" | "~" | "null" | "Null" | "NULL"),
        ValueData::List(items) => !items.is_empty(),
        ValueData::Map(entries) => !entries.is_empty(),
    }
}

/// Whether an image begins with a host.
pub(super) fn has_host(image: &str) -> bool {
    image.split_once('/').is_some_and(|(first, _)| reads_as_host(first))
}

/// Whether an image ends with a tag or a digest.
pub(super) fn has_tag(image: &str) -> bool {
    image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))
}

/// Returns the key before the last one, which names the parent of the last one; for a list its own name.
pub(super) fn name_before<'v>(steps: &[PathSegment<'v>]) -> &'v str {
    let keys = steps.iter().rev().filter_map(|step| match step {
        PathSegment::Key(key) => Some(*key),
        PathSegment::Item(_) => None,
    });
    keys.into_iter().find(|key| !matches!(*key, "image" | "spec")).unwrap_or("image")
}

fn ends_with(key: &str, ending: &str) -> bool {
    let start = key.len().checked_sub(ending.len());
    start.and_then(|start| key.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}
