//! The fields of a Pod that rewriting needs, borrowed from the request. All other fields are skipped unread.

use std::borrow::Cow;
use std::ops::Deref;

use super::limits::{MAX_ANNOTATIONS, MAX_CONTAINERS, MAX_LABELS, MAX_PULL_SECRETS, MAX_VOLUMES};
use crate::json_scan::{Fields, Read, Scanner, Unread, fields};

/// Annotation of a Pod with names of containers and volumes, separated by commas, whose images are not modified.
pub const KEEP_IMAGES: &str = "harbor-pilot.dev/keep-images";
/// Key of the annotation that admission writes: original images by `containers/NAME`, `initContainers/NAME`,
/// `ephemeralContainers/NAME` and `volumes/NAME`, only for changed images.
pub const ORIGINAL_IMAGES: &str = "harbor-pilot.dev/original-images";
/// The annotation that marks the mirror of a static Pod (Kubernetes' `kubernetes.io/config.mirror`).
const MIRROR: &str = "kubernetes.io/config.mirror";
const TOO_MANY_CONTAINERS: &str = "the Pod has more than 16384 containers";

/// A core/v1 Pod.
#[derive(Debug, Default)]
pub struct Pod<'a> {
    /// `metadata`.
    pub metadata: Option<Metadata<'a>>,
    /// `spec`.
    pub spec: Option<Spec<'a>>,
}

/// `metadata` of a Pod.
#[derive(Debug, Default)]
pub struct Metadata<'a> {
    /// `name`; often still absent at admission.
    pub name: Option<JsonStr<'a>>,
    /// `generateName`, which controllers set instead of a name.
    pub generate_name: Option<JsonStr<'a>>,
    /// `namespace`.
    pub namespace: Option<JsonStr<'a>>,
    /// `labels`.
    pub labels: Option<Labels<'a>>,
    /// `annotations`.
    pub annotations: Option<Annotations<'a>>,
}

/// `metadata.labels` of a Pod, sorted by key for binary search.
#[derive(Debug, Default)]
pub struct Labels<'a> {
    sorted: Vec<(JsonStr<'a>, JsonStr<'a>)>,
    /// Whether there were more than [`MAX_LABELS`].
    is_cut: bool,
}

/// `metadata.annotations` of a Pod: the known ones, and the size of the others.
#[derive(Debug, Default)]
pub struct Annotations<'a> {
    /// The value of [`ORIGINAL_IMAGES`].
    pub originals: Option<JsonStr<'a>>,
    /// The value of [`KEEP_IMAGES`].
    pub keep_images: Option<JsonStr<'a>>,
    /// Whether the Pod is the mirror of a static Pod, which must stay as the kubelet wrote it.
    pub mirror: bool,
    /// Bytes of all other keys and values together.
    pub other_bytes: usize,
}

/// `spec` of a Pod.
#[derive(Debug, Default)]
pub struct Spec<'a> {
    /// `containers`.
    pub containers: Option<Vec<Container<'a>>>,
    /// `initContainers`.
    pub init_containers: Option<Vec<Container<'a>>>,
    /// `ephemeralContainers`.
    pub ephemeral_containers: Option<Vec<Container<'a>>>,
    /// `volumes`.
    pub volumes: Option<Vec<Volume<'a>>>,
    /// `imagePullSecrets`.
    pub image_pull_secrets: Option<Vec<PullSecret<'a>>>,
    /// The limit that a list exceeded. The elements above the limit are dropped.
    pub cut: Option<&'static str>,
    /// The raw JSON of the lists that hold images; `None` for a Pod that was not parsed from JSON.
    pub texts: Option<Texts<'a>>,
}

/// The complete raw JSON of each list that holds images, including elements above the limits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Texts<'a> {
    containers: Option<&'a [u8]>,
    init_containers: Option<&'a [u8]>,
    ephemeral_containers: Option<&'a [u8]>,
    volumes: Option<&'a [u8]>,
}

/// A LocalObjectReference to a Secret.
#[derive(Debug, Default)]
pub struct PullSecret<'a> {
    /// `name`.
    pub name: Option<JsonStr<'a>>,
}

/// A container of any of the three kinds.
#[derive(Debug, Default)]
pub struct Container<'a> {
    /// `name`.
    pub name: Option<JsonStr<'a>>,
    /// `image`.
    pub image: Option<JsonStr<'a>>,
    /// `imagePullPolicy`.
    pub pull_policy: Option<PullPolicy>,
}

/// A volume.
#[derive(Debug, Default)]
pub struct Volume<'a> {
    /// `name`.
    pub name: Option<JsonStr<'a>>,
    /// `image`, of image volumes.
    pub image: Option<ImageVolume<'a>>,
}

/// The source of an image volume.
#[derive(Debug, Default)]
pub struct ImageVolume<'a> {
    /// `reference`.
    pub reference: Option<JsonStr<'a>>,
    /// `pullPolicy`.
    pub pull_policy: Option<PullPolicy>,
}

/// When a kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// `Never`: the image must be on the node, under this exact name.
    Never,
    /// `Always` or `IfNotPresent`.
    Pulls,
}

/// A text of the request: borrowed unless it has escapes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JsonStr<'a>(pub Cow<'a, str>);

/// The field of a Pod that holds an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageLocation {
    /// `spec.containers[].image`.
    Containers,
    /// `spec.initContainers[].image`.
    InitContainers,
    /// `spec.ephemeralContainers[].image`.
    EphemeralContainers,
    /// `spec.volumes[].image.reference`.
    Volumes,
}

/// One image of a Pod.
#[derive(Debug, Clone, Copy)]
pub struct ImageField<'p> {
    /// The list of the image.
    pub kind: ImageLocation,
    /// The index in that list.
    pub index: usize,
    /// Name of the container or volume; empty when absent.
    pub name: &'p str,
    /// The image as the request has it.
    pub image: &'p str,
    /// Whether the pull policy is `Never`.
    pub is_never_pulled: bool,
}

impl<'a> Pod<'a> {
    /// Returns the images of one list, without absent and empty ones.
    pub fn slots(&self, kind: ImageLocation) -> impl Iterator<Item = ImageField<'_>> {
        let length = if kind == ImageLocation::Volumes { self.volumes().len() } else { self.containers(kind).len() };
        (0..length).filter_map(move |index| self.slot(kind, index))
    }

    /// Returns the image of one position; `None` when it is absent or empty.
    pub fn slot(&self, kind: ImageLocation, index: usize) -> Option<ImageField<'_>> {
        let (name, image, policy) = if kind == ImageLocation::Volumes {
            let volume = self.volumes().get(index)?;
            let image = volume.image.as_ref()?;
            (&volume.name, image.reference.as_deref()?, image.pull_policy)
        } else {
            let container = self.containers(kind).get(index)?;
            (&container.name, container.image.as_deref()?, container.pull_policy)
        };
        let name = name.as_deref().unwrap_or_default();
        let is_never_pulled = policy == Some(PullPolicy::Never);
        (!image.is_empty()).then_some(ImageField { kind, index, name, image, is_never_pulled })
    }

    /// Returns the limit that the Pod exceeds, if any. Such a Pod is not checked further.
    pub fn excess(&self) -> Option<&'static str> {
        let labels = self.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        if labels.is_some_and(|labels| labels.is_cut) {
            return Some("the Pod has more than 4096 labels");
        }
        let own = self.annotations().is_some_and(|annotations| annotations.own_bytes() > MAX_ANNOTATIONS);
        if own {
            return Some("the annotations harbor-pilot.dev/* of the Pod have more than 256 KiB");
        }
        let spec = self.spec.as_ref()?;
        let lists = [ImageLocation::Containers, ImageLocation::InitContainers, ImageLocation::EphemeralContainers];
        let containers = lists.into_iter().map(|kind| self.containers(kind).len()).sum::<usize>();
        spec.cut.or((containers > MAX_CONTAINERS).then_some(TOO_MANY_CONTAINERS))
    }

    /// Returns whether all lists that hold images are equal byte for byte, including elements above the limits. The API
    /// server writes both objects of a review in the same way, so lists differ only where one was changed.
    pub fn has_the_lists_of(&self, other: &Self) -> bool {
        let texts = |pod: &Self| pod.spec.as_ref().and_then(|spec| spec.texts);
        texts(self).is_some() && texts(self) == texts(other)
    }

    /// Returns the annotations, if there are any.
    pub fn annotations(&self) -> Option<&Annotations<'a>> {
        self.metadata.as_ref()?.annotations.as_ref()
    }

    /// Returns the value of our own annotation.
    pub fn originals(&self) -> Option<&str> {
        self.annotations()?.originals.as_deref()
    }

    /// Returns the labels.
    pub fn labels(&self) -> &[(JsonStr<'a>, JsonStr<'a>)] {
        let labels = self.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        labels.map_or(&[], |labels| labels)
    }

    /// Returns `spec.imagePullSecrets`.
    pub fn pull_secrets(&self) -> &[PullSecret<'a>] {
        self.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default()
    }

    fn containers(&self, kind: ImageLocation) -> &[Container<'a>] {
        let list = self.spec.as_ref().and_then(|spec| match kind {
            ImageLocation::Containers => spec.containers.as_deref(),
            ImageLocation::InitContainers => spec.init_containers.as_deref(),
            ImageLocation::EphemeralContainers => spec.ephemeral_containers.as_deref(),
            ImageLocation::Volumes => None,
        });
        list.unwrap_or_default()
    }

    fn volumes(&self) -> &[Volume<'a>] {
        self.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
    }
}

impl ImageLocation {
    /// All kinds, in the order of evaluation.
    pub const ALL: [Self; 4] = [Self::Containers, Self::InitContainers, Self::EphemeralContainers, Self::Volumes];

    /// Returns the field of `spec`; the annotation uses the same name.
    pub fn field(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
            Self::Volumes => "volumes",
        }
    }

    /// Returns the path from an element of the list to its image, as a JSON Pointer.
    pub fn image_pointer(self) -> &'static str {
        if self == Self::Volumes { "/image/reference" } else { "/image" }
    }

    /// Returns the noun for one element of the list.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Containers => "container",
            Self::InitContainers => "init container",
            Self::EphemeralContainers => "ephemeral container",
            Self::Volumes => "volume",
        }
    }
}

impl Deref for JsonStr<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

fields!(Pod<'a> { b"metadata" => metadata, b"spec" => spec });
fields!(Metadata<'a> {
    b"name" => name,
    b"generateName" => generate_name,
    b"namespace" => namespace,
    b"labels" => labels,
    b"annotations" => annotations
});

impl<'a> Fields<'a> for Spec<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        let texts = self.texts.get_or_insert_default();
        let (is_cut, limit) = match name {
            b"containers" => {
                let is_cut = take_list(scanner, &mut self.containers, MAX_CONTAINERS, &mut texts.containers)?;
                (is_cut, TOO_MANY_CONTAINERS)
            }
            b"initContainers" => {
                let is_cut = take_list(scanner, &mut self.init_containers, MAX_CONTAINERS, &mut texts.init_containers)?;
                (is_cut, TOO_MANY_CONTAINERS)
            }
            b"ephemeralContainers" => {
                let (list, text) = (&mut self.ephemeral_containers, &mut texts.ephemeral_containers);
                (take_list(scanner, list, MAX_CONTAINERS, text)?, TOO_MANY_CONTAINERS)
            }
            b"volumes" => {
                let is_cut = take_list(scanner, &mut self.volumes, MAX_VOLUMES, &mut texts.volumes)?;
                (is_cut, "the Pod has more than 16384 volumes")
            }
            b"imagePullSecrets" => {
                let is_cut = scanner.list(&mut self.image_pull_secrets, MAX_PULL_SECRETS)?;
                (is_cut, "the Pod has more than 4096 image pull secrets")
            }
            _ => return scanner.skip(),
        };
        if is_cut {
            self.cut = Some(limit);
        }
        Ok(())
    }
}

/// Reads a list and its text. Returns whether the list has more than `most` elements.
fn take_list<'a, T: Read<'a>>(
    scanner: &mut Scanner<'a>,
    list: &mut Option<Vec<T>>,
    most: usize,
    text: &mut Option<&'a [u8]>,
) -> Result<bool, Unread> {
    let (is_cut, taken) = scanner.with_text(|scanner| scanner.list(list, most))?;
    *text = Some(taken);
    Ok(is_cut)
}

fields!(Container<'a> { b"name" => name, b"image" => image, b"imagePullPolicy" => pull_policy });
fields!(Volume<'a> { b"name" => name, b"image" => image });
fields!(ImageVolume<'a> { b"reference" => reference, b"pullPolicy" => pull_policy });

impl<'a> Read<'a> for PullPolicy {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        scanner.take_text().map(|text| if text == "Never" { Self::Never } else { Self::Pulls })
    }
}

fields!(PullSecret<'a> { b"name" => name });

impl<'a> Read<'a> for JsonStr<'a> {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        scanner.take_text().map(Self)
    }
}

impl<'a> Read<'a> for Labels<'a> {
    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Unread> {
        let (mut labels, mut is_cut) = (Vec::new(), false);
        scanner.object(|key, scanner| {
            if labels.len() < MAX_LABELS {
                labels.push((JsonStr::of_key(key)?, take_value(scanner)?));
                return Ok(());
            }
            is_cut = true;
            scanner.skip()
        })?;
        Ok(Self { is_cut, ..Self::new(labels) })
    }
}

impl<'a> Labels<'a> {
    /// Sorts labels. Of several with the same key the last counts, as in Kubernetes.
    pub fn new(mut labels: Vec<(JsonStr<'a>, JsonStr<'a>)>) -> Self {
        if !labels.is_sorted_by(|(one, _), (other, _)| **one < **other) {
            labels.reverse();
            labels.sort_by(|(one, _), (other, _)| one.cmp(other));
            labels.dedup_by(|(one, _), (other, _)| **one == **other);
        }
        Self { sorted: labels, is_cut: false }
    }
}

impl<'a> Deref for Labels<'a> {
    type Target = [(JsonStr<'a>, JsonStr<'a>)];

    fn deref(&self) -> &Self::Target {
        &self.sorted
    }
}

impl Annotations<'_> {
    fn own_bytes(&self) -> usize {
        [&self.originals, &self.keep_images].into_iter().flatten().map(|text| text.len()).sum()
    }
}

impl<'a> Fields<'a> for Annotations<'a> {
    fn field(&mut self, name: &[u8], scanner: &mut Scanner<'a>) -> Result<(), Unread> {
        if name == ORIGINAL_IMAGES.as_bytes() {
            self.originals = Some(take_value(scanner)?);
            return Ok(());
        }
        self.mirror |= name == MIRROR.as_bytes();
        let value = take_value(scanner)?;
        self.other_bytes += name.len() + value.len();
        if name == KEEP_IMAGES.as_bytes() {
            self.keep_images = Some(value);
        }
        Ok(())
    }
}

/// Reads the value of a label or an annotation; `null` is an empty value.
fn take_value<'a>(scanner: &mut Scanner<'a>) -> Result<JsonStr<'a>, Unread> {
    if scanner.take_null() { Ok(JsonStr(Cow::Borrowed(""))) } else { JsonStr::read(scanner) }
}

impl<'a> JsonStr<'a> {
    fn of_key(key: Cow<'a, [u8]>) -> Result<Self, Unread> {
        match key {
            Cow::Borrowed(key) => std::str::from_utf8(key).map(|key| Self(Cow::Borrowed(key))).map_err(|_| Unread),
            Cow::Owned(key) => String::from_utf8(key).map(|key| Self(Cow::Owned(key))).map_err(|_| Unread),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn annotations_are_ours_and_the_bytes_of_all_others(
            ours: Option<String>,
            others in prop::collection::hash_map("[ -~]{1,8}|\\PC{1,4}", prop::option::of("[ -~]{0,8}|\\PC{0,4}"), 0..4),
        ) {
            let mut all: HashMap<&str, Option<&str>> = others.iter().map(|(k, v)| (&**k, v.as_deref())).collect();
            if let Some(ours) = &ours {
                all.insert(ORIGINAL_IMAGES, Some(ours));
            }
            let text = serde_json::to_string(&all).unwrap();
            let read: Annotations<'_> = crate::json_scan::read(text.as_bytes()).unwrap();
            prop_assert_eq!(read.originals.as_deref(), ours.as_deref());
            let bytes: usize = others.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, String::len)).sum();
            prop_assert_eq!(read.other_bytes, bytes);
        }
    }
    fn pod(text: &str) -> Pod<'_> {
        crate::json_scan::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn pod_keeps_no_more_of_a_list_than_its_limit_and_says_so() {
        let many = |element: &str, count: usize| vec![element; count].join(",");
        for (text, expected) in [
            (format!(r#"{{"spec":{{"containers":[{}],"volumes":[]}}}}"#, many("{}", MAX_CONTAINERS)), None),
            (format!(r#"{{"spec":{{"containers":[{}],"x":1}}}}"#, many("{}", MAX_CONTAINERS + 1)), Some("containers")),
            (
                format!(
                    r#"{{"spec":{{"containers":[{}],"initContainers":[{}]}}}}"#,
                    many(r#"{"name":"]}"}"#, MAX_CONTAINERS / 2),
                    many("{}", MAX_CONTAINERS / 2 + 1)
                ),
                Some("containers"),
            ),
            (format!(r#"{{"spec":{{"volumes":[{}]}}}}"#, many("{}", 2 * MAX_VOLUMES)), Some("volumes")),
            (
                format!(r#"{{"spec":{{"imagePullSecrets":[{}]}}}}"#, many("{}", MAX_PULL_SECRETS + 1)),
                Some("pull secrets"),
            ),
        ] {
            let pod = pod(&text);
            assert!(
                pod.containers(ImageLocation::Containers).len() <= MAX_CONTAINERS && pod.volumes().len() <= MAX_VOLUMES
            );
            assert_eq!(pod.excess().map(|excess| excess.ends_with(expected.unwrap())), expected.map(|_| true));
        }
        let labels: Vec<_> = (0..=MAX_LABELS).map(|index| format!(r#""{index}":"""#)).collect();
        let text = format!(r#"{{"metadata":{{"labels":{{{}}}}}}}"#, labels.join(","));
        let pod = pod(&text);
        assert_eq!((pod.labels().len(), pod.excess()), (MAX_LABELS, Some("the Pod has more than 4096 labels")));
    }

    #[test]
    fn excess_names_annotations_of_ours_that_kubernetes_would_refuse() {
        for (bytes, expected) in [(MAX_ANNOTATIONS, false), (MAX_ANNOTATIONS + 1, true)] {
            let text = format!(r#"{{"metadata":{{"annotations":{{"{KEEP_IMAGES}":"{}"}}}}}}"#, "a".repeat(bytes));
            assert_eq!(pod(&text).excess().is_some(), expected);
        }
    }

    #[test]
    fn labels_are_found_by_key_in_any_order_and_the_last_of_several_counts() {
        let text = r#"{"metadata":{"labels":{"b":"1","a":"2","b":"3","c":null}}}"#;
        let pod = pod(text);
        let found: Vec<_> = pod.labels().iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, [("a", "2"), ("b", "3"), ("c", "")]);
    }

    #[test]
    fn slot_says_whether_the_kubelet_never_pulls_its_image() {
        let text = r#"{"spec":{"containers":[{"image":"a","imagePullPolicy":"Never"},{"image":"b","imagePullPolicy":"Always"},{"image":"c"}],
            "volumes":[{"image":{"reference":"d","pullPolicy":"Never"}},{"image":{"pullPolicy":"IfNotPresent","reference":"e"}}]}}"#;
        let pod = pod(text);
        let never: Vec<_> =
            ImageLocation::ALL.into_iter().flat_map(|kind| pod.slots(kind)).map(|slot| slot.is_never_pulled).collect();
        assert_eq!(never, [true, false, false, true, false]);
    }
}
