//! Recognizes containers and Pod specs by their shape, in any kind.

use super::{
    Object,
    place::Step,
    value::{Data, Value},
};
use crate::image::reads_as_host;

/// Lists of a Pod spec that hold images.
pub(super) const POD_LISTS: [&str; 4] = ["containers", "initContainers", "ephemeralContainers", "volumes"];

/// Fields of a container beside its image. Other mappings with an `image` seldom have one of these.
const OF_CONTAINERS: [&str; 15] = [
    "args",
    "command",
    "env",
    "envFrom",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];
/// Fields that a container outside of a list must have: specs of other things have resources and ports, too.
const OF_CONTAINERS_ALONE: [&str; 6] = ["args", "command", "env", "envFrom", "imagePullPolicy", "volumeMounts"];

/// Fields that complete an `image` beside them: such an `image` is only a part of a name that a controller composes.
const COMPLETING: [&str; 6] = ["hub", "imageRegistry", "imageRepository", "registry", "repository", "version"];
/// Fields that complete an `image` without a host: another field may complete it, too.
const COMPLETING_SHORT: [&str; 3] = ["tag", "imageTag", "digest"];

/// Returns whether a mapping has containers, as a Pod spec has.
pub(super) fn has_containers(value: &Value) -> bool {
    POD_LISTS.iter().filter(|list| **list != "volumes").any(|list| {
        let items = value.get(list).and_then(Value::items).unwrap_or_default();
        !items.is_empty() && items.iter().all(|item| matches!(item.data, Data::Map(_)))
    })
}

/// Returns whether the place is that of the spec in a Pod template: `template.spec`, `podTemplates[0].spec`.
pub(super) fn is_template_spec(steps: &[Step<'_>]) -> bool {
    let mut keys = steps.iter().rev().filter_map(|step| match step {
        Step::Key(key) => Some(*key),
        Step::Item(_) => None,
    });
    steps.last() == Some(&Step::Key("spec"))
        && keys.next() == Some("spec")
        && keys.next().is_some_and(|key| key.contains("emplate"))
}

/// Returns whether a mapping is an OpenShift reference to a registry image: `from: {kind: DockerImage, name: nginx}`.
pub(super) fn is_docker_image(value: &Value, object: &Object, steps: &[Step<'_>]) -> bool {
    object.group().ends_with("openshift.io")
        && steps.last().is_some_and(|step| matches!(step, Step::Key("from" | "_from")))
        && value.get("kind").and_then(Value::text) == Some("DockerImage")
}

/// Returns whether a mapping is a container with an image.
pub(super) fn is_container(value: &Value, steps: &[Step<'_>]) -> bool {
    if value.get("image").is_none_or(|image| matches!(image.data, Data::List(_) | Data::Other(_)))
        || is_completed(value)
    {
        return false;
    }
    let has = |fields: &[&str]| fields.iter().any(|field| value.get(field).is_some());
    match steps {
        [.., Step::Key(list), Step::Item(_)] => ends_with(list, "containers") || has(&OF_CONTAINERS),
        [.., Step::Key(key)] => ends_with(key, "container") || has(&OF_CONTAINERS_ALONE),
        _ => false,
    }
}

/// Returns whether the `image` of a mapping is only a part of an image: `{repository: quay.io/org, image: app, version:
/// "1"}`.
fn is_completed(value: &Value) -> bool {
    let has = |fields: &[&str]| fields.iter().any(|field| value.get(field).is_some());
    let image = value.get("image").and_then(Value::text).unwrap_or_default();
    let has_host = image.split_once('/').is_some_and(|(first, _)| reads_as_host(first));
    has(&COMPLETING) || !has_host && has(&COMPLETING_SHORT)
}

/// Returns the key before the last one, which names the parent of the last one; for a list its own name.
pub(super) fn name_before<'v>(steps: &[Step<'v>]) -> &'v str {
    let keys = steps.iter().rev().filter_map(|step| match step {
        Step::Key(key) => Some(*key),
        Step::Item(_) => None,
    });
    keys.into_iter().find(|key| !matches!(*key, "image" | "spec")).unwrap_or("image")
}

fn ends_with(key: &str, ending: &str) -> bool {
    let start = key.len().checked_sub(ending.len());
    start.and_then(|start| key.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}
