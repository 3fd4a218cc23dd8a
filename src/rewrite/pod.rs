//! What of a Pod matters for rewriting, borrowed from the request: all other fields are skipped unread.

use std::borrow::Cow;
use std::ops::Deref;

use super::exempt::KEEP_IMAGES;
use super::record::ORIGINAL_IMAGES;
use crate::skim::{Fields, Read, Skim, Unread};

/// The annotation that marks the mirror of a static Pod (Kubernetes' `kubernetes.io/config.mirror`).
const MIRROR: &str = "kubernetes.io/config.mirror";

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
    pub name: Option<Text<'a>>,
    /// `generateName`, what controllers set instead.
    pub generate_name: Option<Text<'a>>,
    /// `namespace`.
    pub namespace: Option<Text<'a>>,
    /// `labels`.
    pub labels: Option<Labels<'a>>,
    /// `annotations`.
    pub annotations: Option<Annotations<'a>>,
}

/// `metadata.labels` of a Pod, in the order in which they were sent.
#[derive(Debug, Default)]
pub struct Labels<'a>(pub Vec<(Text<'a>, Text<'a>)>);

/// `metadata.annotations` of a Pod, without those of others.
#[derive(Debug, Default)]
pub struct Annotations<'a> {
    /// The value of [`ORIGINAL_IMAGES`].
    pub originals: Option<Text<'a>>,
    /// The value of [`KEEP_IMAGES`].
    pub keep_images: Option<Text<'a>>,
    /// Whether this is the mirror of a static Pod, which must stay as the kubelet wrote it.
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
}

/// A LocalObjectReference to a Secret.
#[derive(Debug, Default)]
pub struct PullSecret<'a> {
    /// `name`.
    pub name: Option<Text<'a>>,
}

/// A container of any of the three kinds.
#[derive(Debug, Default)]
pub struct Container<'a> {
    /// `name`.
    pub name: Option<Text<'a>>,
    /// `image`.
    pub image: Option<Text<'a>>,
}

/// A volume.
#[derive(Debug, Default)]
pub struct Volume<'a> {
    /// `name`.
    pub name: Option<Text<'a>>,
    /// `image`, of image volumes.
    pub image: Option<ImageVolume<'a>>,
}

/// The source of an image volume.
#[derive(Debug, Default)]
pub struct ImageVolume<'a> {
    /// `reference`.
    pub reference: Option<Text<'a>>,
}

/// A text of the request: borrowed unless it has escapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text<'a>(pub Cow<'a, str>);

/// Where in a Pod an image stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
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
pub struct Slot<'p> {
    /// The list that it stands in.
    pub kind: Kind,
    /// Its index there.
    pub index: usize,
    /// Name of the container or volume; empty when absent.
    pub name: &'p str,
    /// The image as it was sent.
    pub image: &'p str,
}

impl<'a> Pod<'a> {
    /// The images of one list, without absent and empty ones.
    pub fn slots(&self, kind: Kind) -> impl Iterator<Item = Slot<'_>> {
        let length = if kind == Kind::Volumes { self.volumes().len() } else { self.containers(kind).len() };
        (0..length).filter_map(move |index| self.slot(kind, index))
    }

    /// The image at one place; `None` when it is absent or empty.
    pub fn slot(&self, kind: Kind, index: usize) -> Option<Slot<'_>> {
        let (name, image) = if kind == Kind::Volumes {
            let volume = self.volumes().get(index)?;
            (&volume.name, volume.image.as_ref()?.reference.as_deref()?)
        } else {
            let container = self.containers(kind).get(index)?;
            (&container.name, container.image.as_deref()?)
        };
        (!image.is_empty()).then_some(Slot { kind, index, name: name.as_deref().unwrap_or_default(), image })
    }

    /// The annotations, if there are any.
    pub fn annotations(&self) -> Option<&Annotations<'a>> {
        self.metadata.as_ref()?.annotations.as_ref()
    }

    /// The value of our own annotation.
    pub fn originals(&self) -> Option<&str> {
        self.annotations()?.originals.as_deref()
    }

    /// The labels.
    pub fn labels(&self) -> &[(Text<'a>, Text<'a>)] {
        let labels = self.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        labels.map_or(&[], |labels| &labels.0)
    }

    /// `spec.imagePullSecrets`.
    pub fn pull_secrets(&self) -> &[PullSecret<'a>] {
        self.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default()
    }

    fn containers(&self, kind: Kind) -> &[Container<'a>] {
        let list = self.spec.as_ref().and_then(|spec| match kind {
            Kind::Containers => spec.containers.as_deref(),
            Kind::InitContainers => spec.init_containers.as_deref(),
            Kind::EphemeralContainers => spec.ephemeral_containers.as_deref(),
            Kind::Volumes => None,
        });
        list.unwrap_or_default()
    }

    fn volumes(&self) -> &[Volume<'a>] {
        self.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
    }
}

impl Kind {
    /// All kinds, in the order in which they are looked at.
    pub const ALL: [Self; 4] = [Self::Containers, Self::InitContainers, Self::EphemeralContainers, Self::Volumes];

    /// The field of `spec`, which is also how the annotation calls it.
    pub fn field(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
            Self::Volumes => "volumes",
        }
    }

    /// The path from an element of the list to its image, as a JSON Pointer.
    pub fn image_pointer(self) -> &'static str {
        if self == Self::Volumes { "/image/reference" } else { "/image" }
    }

    /// What people call one element of the list.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Containers => "container",
            Self::InitContainers => "init container",
            Self::EphemeralContainers => "ephemeral container",
            Self::Volumes => "volume",
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'a> Fields<'a> for Pod<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        match name {
            b"metadata" => skim.field(&mut self.metadata),
            b"spec" => skim.field(&mut self.spec),
            _ => skim.skip(),
        }
    }
}

impl<'a> Fields<'a> for Metadata<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        match name {
            b"name" => skim.field(&mut self.name),
            b"generateName" => skim.field(&mut self.generate_name),
            b"namespace" => skim.field(&mut self.namespace),
            b"labels" => skim.field(&mut self.labels),
            b"annotations" => skim.field(&mut self.annotations),
            _ => skim.skip(),
        }
    }
}

impl<'a> Fields<'a> for Spec<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        match name {
            b"containers" => skim.field(&mut self.containers),
            b"initContainers" => skim.field(&mut self.init_containers),
            b"ephemeralContainers" => skim.field(&mut self.ephemeral_containers),
            b"volumes" => skim.field(&mut self.volumes),
            b"imagePullSecrets" => skim.field(&mut self.image_pull_secrets),
            _ => skim.skip(),
        }
    }
}

impl<'a> Fields<'a> for Container<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        match name {
            b"name" => skim.field(&mut self.name),
            b"image" => skim.field(&mut self.image),
            _ => skim.skip(),
        }
    }
}

impl<'a> Fields<'a> for Volume<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        match name {
            b"name" => skim.field(&mut self.name),
            b"image" => skim.field(&mut self.image),
            _ => skim.skip(),
        }
    }
}

impl<'a> Fields<'a> for ImageVolume<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        if name == b"reference" { skim.field(&mut self.reference) } else { skim.skip() }
    }
}

impl<'a> Fields<'a> for PullSecret<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        if name == b"name" { skim.field(&mut self.name) } else { skim.skip() }
    }
}

impl<'a> Read<'a> for Text<'a> {
    fn read(skim: &mut Skim<'a>) -> Result<Self, Unread> {
        skim.take_text().map(Self)
    }
}

impl<'a> Read<'a> for Labels<'a> {
    fn read(skim: &mut Skim<'a>) -> Result<Self, Unread> {
        let mut labels = Vec::new();
        skim.object(|key, skim| {
            labels.push((Text::of_key(key)?, take_value(skim)?));
            Ok(())
        })?;
        Ok(Self(labels))
    }
}

impl<'a> Fields<'a> for Annotations<'a> {
    fn field(&mut self, name: &[u8], skim: &mut Skim<'a>) -> Result<(), Unread> {
        if name == ORIGINAL_IMAGES.as_bytes() {
            self.originals = Some(take_value(skim)?);
            return Ok(());
        }
        self.mirror |= name == MIRROR.as_bytes();
        let value = take_value(skim)?;
        self.other_bytes += name.len() + value.len();
        if name == KEEP_IMAGES.as_bytes() {
            self.keep_images = Some(value);
        }
        Ok(())
    }
}

/// The value of a label or an annotation, of which `null` is an empty one.
fn take_value<'a>(skim: &mut Skim<'a>) -> Result<Text<'a>, Unread> {
    if skim.take_null() { Ok(Text(Cow::Borrowed(""))) } else { Text::read(skim) }
}

impl<'a> Text<'a> {
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
            let read: Annotations<'_> = crate::skim::read(text.as_bytes()).unwrap();
            prop_assert_eq!(read.originals.as_deref(), ours.as_deref());
            let bytes: usize = others.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, String::len)).sum();
            prop_assert_eq!(read.other_bytes, bytes);
        }
    }
}
