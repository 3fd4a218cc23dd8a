//! What of a Pod matters for rewriting, borrowed from the request: all other fields are skipped unread.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::exempt::KEEP_IMAGES;
use super::record::ORIGINAL_IMAGES;

/// The annotation that marks the mirror of a static Pod (Kubernetes' `kubernetes.io/config.mirror`).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A core/v1 Pod.
#[derive(Debug, Default, Deserialize)]
pub struct Pod<'a> {
    /// `metadata`.
    #[serde(default, borrow)]
    pub metadata: Option<Metadata<'a>>,
    /// `spec`.
    #[serde(default, borrow)]
    pub spec: Option<Spec<'a>>,
}

/// `metadata` of a Pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata<'a> {
    /// `name`; often still absent at admission.
    #[serde(default, borrow)]
    pub name: Option<Text<'a>>,
    /// `generateName`, what controllers set instead.
    #[serde(default, borrow)]
    pub generate_name: Option<Text<'a>>,
    /// `namespace`.
    #[serde(default, borrow)]
    pub namespace: Option<Text<'a>>,
    /// `labels`.
    #[serde(default, borrow)]
    pub labels: Option<Labels<'a>>,
    /// `annotations`.
    #[serde(default, borrow)]
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
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec<'a> {
    /// `containers`.
    #[serde(default, borrow)]
    pub containers: Option<Vec<Container<'a>>>,
    /// `initContainers`.
    #[serde(default, borrow)]
    pub init_containers: Option<Vec<Container<'a>>>,
    /// `ephemeralContainers`.
    #[serde(default, borrow)]
    pub ephemeral_containers: Option<Vec<Container<'a>>>,
    /// `volumes`.
    #[serde(default, borrow)]
    pub volumes: Option<Vec<Volume<'a>>>,
    /// `imagePullSecrets`.
    #[serde(default, borrow)]
    pub image_pull_secrets: Option<Vec<PullSecret<'a>>>,
}

/// A LocalObjectReference to a Secret.
#[derive(Debug, Default, Deserialize)]
pub struct PullSecret<'a> {
    /// `name`.
    #[serde(default, borrow)]
    pub name: Option<Text<'a>>,
}

/// A container of any of the three kinds.
#[derive(Debug, Default, Deserialize)]
pub struct Container<'a> {
    /// `name`.
    #[serde(default, borrow)]
    pub name: Option<Text<'a>>,
    /// `image`.
    #[serde(default, borrow)]
    pub image: Option<Text<'a>>,
}

/// A volume.
#[derive(Debug, Default, Deserialize)]
pub struct Volume<'a> {
    /// `name`.
    #[serde(default, borrow)]
    pub name: Option<Text<'a>>,
    /// `image`, of image volumes.
    #[serde(default, borrow)]
    pub image: Option<ImageVolume<'a>>,
}

/// The source of an image volume.
#[derive(Debug, Default, Deserialize)]
pub struct ImageVolume<'a> {
    /// `reference`.
    #[serde(default, borrow)]
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

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Reading)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Labels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Labels<'de>, M::Error> {
                let mut labels = Vec::new();
                while let Some((key, value)) = map.next_entry::<Text<'de>, Option<Text<'de>>>()? {
                    labels.push((key, value.unwrap_or_else(|| Text("".into()))));
                }
                Ok(Labels(labels))
            }
        }

        deserializer.deserialize_map(Reading)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Annotations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Annotations<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Annotations<'de>, M::Error> {
                let mut annotations = Annotations::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    if &*key == ORIGINAL_IMAGES {
                        annotations.originals = map.next_value::<Option<Text<'de>>>()?.or(Some(Text("".into())));
                        continue;
                    }
                    if &*key == KEEP_IMAGES {
                        annotations.keep_images = map.next_value::<Option<Text<'de>>>()?;
                        let length = annotations.keep_images.as_ref().map_or(0, |names| names.len());
                        annotations.other_bytes += key.len() + length;
                        continue;
                    }
                    annotations.mirror |= &*key == MIRROR;
                    annotations.other_bytes += key.len() + map.next_value::<Length>()?.0;
                }
                Ok(annotations)
            }
        }

        deserializer.deserialize_map(Reading)
    }
}

/// The length of a string in bytes, 0 of null: the text itself is not kept.
struct Length(usize);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Length;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Length, E> {
                Ok(Length(text.len()))
            }

            fn visit_unit<E: Error>(self) -> Result<Length, E> {
                Ok(Length(0))
            }
        }

        deserializer.deserialize_any(Reading)
    }
}
