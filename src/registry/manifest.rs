//! Manifests and indexes: read once, bounded, and checked before they lead to further requests.

use oci_client::manifest::{
    IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE, IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, ImageIndexEntry, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageIndex, OciImageManifest,
};
use serde::Deserialize;

use super::digest::Digest;
use crate::api::Platform;

/// Maximum size of a manifest in bytes: the limit of registries and container runtimes.
pub const MAX_BYTES: usize = 4 << 20;
/// Maximum number of layers of one image. Container runtimes stop at 127.
pub const MAX_LAYERS: usize = 4096;
/// Maximum number of children of one index.
pub const MAX_CHILDREN: usize = 1024;
/// `Accept` header of every request for a manifest: Harbor answers 404 for a cached manifest whose type is missing here.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

const FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
const ATTESTATION: &str = "vnd.docker.reference.type";
const DESCRIBES: &str = "vnd.docker.reference.digest";

/// The content that a reference leads to.
#[derive(Debug, Clone, PartialEq)]
pub enum Manifest {
    /// A list of manifests, one for each platform.
    Index(Index),
    /// One image, or an artifact of another kind.
    Image(ImageManifest),
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// All children, including attestations.
    pub children: Vec<IndexChild>,
}

/// One child of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexChild {
    /// Digest of the child's manifest.
    pub digest: Digest,
    /// Its platform; `None` if the index states none.
    pub platform: Option<Platform>,
    /// Whether it describes another child (an attestation, `unknown/unknown`) and runs nowhere.
    pub attestation: bool,
    /// Digest of the child that an attestation describes; `None` if it names none.
    pub describes: Option<String>,
    /// Whether it is itself an index.
    pub index: bool,
}

/// One image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageManifest {
    /// The image's config, or its counterpart in an artifact.
    pub config: Descriptor,
    /// The layers that a registry holds.
    pub layers: Vec<Descriptor>,
    /// Foreign layers, which are hosted at other addresses because of their licence. Few registries hold them.
    pub foreign: Vec<Descriptor>,
}

/// A blob and its size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Digest of the content.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

impl Manifest {
    /// Parses a manifest. `content_type` is the header of the answer, used if the body names no type.
    ///
    /// # Errors
    /// A sentence that states what is wrong.
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, String> {
        let outline: Outline = serde_json::from_slice(body).map_err(|error| format!("not a manifest: {error}"))?;
        if outline.schema_version != 2 {
            return Err(format!("schema version {} is not supported, only 2 is", outline.schema_version));
        }
        let content_type = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
        let index = match outline.media_type.as_deref().or(content_type) {
            Some(OCI_IMAGE_INDEX_MEDIA_TYPE | IMAGE_MANIFEST_LIST_MEDIA_TYPE) => true,
            Some(OCI_IMAGE_MEDIA_TYPE | IMAGE_MANIFEST_MEDIA_TYPE) => false,
            other => return Err(format!("media type `{}` is not supported", other.unwrap_or_default())),
        };
        // Counted before any entry is stored: a list of small entries takes many times its own size.
        let (children, layers) = (count(&outline.manifests), count(&outline.layers));
        if children > MAX_CHILDREN {
            return Err(format!("{children} children exceed the maximum of {MAX_CHILDREN}"));
        }
        if layers > MAX_LAYERS {
            return Err(format!("{layers} layers exceed the maximum of {MAX_LAYERS}"));
        }
        // A document with both would mean one thing here and another to the runtime.
        if outline.manifests.is_some() && outline.layers.is_some() {
            return Err("it is both an index and an image".to_owned());
        }
        if index { Index::parse(body).map(Self::Index) } else { ImageManifest::parse(body).map(Self::Image) }
    }
}

impl Index {
    fn parse(body: &[u8]) -> Result<Self, String> {
        let index: OciImageIndex = serde_json::from_slice(body).map_err(|error| format!("not an index: {error}"))?;
        let children = index.manifests.iter().map(child).collect::<Result<_, _>>()?;
        Ok(Self { children })
    }
}

impl ImageManifest {
    fn parse(body: &[u8]) -> Result<Self, String> {
        let image: OciImageManifest = serde_json::from_slice(body).map_err(|error| format!("not an image: {error}"))?;
        let (foreign, layers): (Vec<_>, Vec<_>) = image.layers.iter().partition(|layer| is_foreign(layer));
        let layers = layers.into_iter().map(descriptor).collect::<Result<_, _>>()?;
        let foreign = foreign.into_iter().map(descriptor).collect::<Result<_, _>>()?;
        Ok(Self { config: descriptor(&image.config)?, layers, foreign })
    }

    /// Returns config and layers, each blob once, without foreign layers.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let mut seen = std::collections::HashSet::new();
        std::iter::once(&self.config).chain(&self.layers).filter(|blob| seen.insert(&blob.digest)).cloned().collect()
    }

    /// Returns the size of config and layers in bytes, each blob once, as the manifest states it.
    pub fn bytes(&self) -> u64 {
        self.blobs().iter().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

/// The fields that distinguish the kinds of manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: i64,
    media_type: Option<String>,
    manifests: Option<ListLength>,
    layers: Option<ListLength>,
}

/// The length of a list whose entries are discarded.
struct ListLength(usize);

impl<'de> Deserialize<'de> for ListLength {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Ignored>::deserialize(deserializer).map(|list| Self(list.len()))
    }
}

/// Takes no memory, however many there are.
struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

fn count(list: &Option<ListLength>) -> usize {
    list.as_ref().map_or(0, |list| list.0)
}

fn child(entry: &ImageIndexEntry) -> Result<IndexChild, String> {
    let digest = entry.digest.parse::<Digest>().map_err(|error| error.to_string())?;
    let platform = entry.platform.as_ref();
    let (os, architecture) =
        platform.map_or_else(Default::default, |found| (found.os.to_string(), found.architecture.to_string()));
    let annotated = entry.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ATTESTATION));
    let attestation = annotated || (os == "unknown" && architecture == "unknown");
    let platform = platform
        .filter(|_| !os.is_empty() && !architecture.is_empty())
        .map(|found| Platform::new(&os, &architecture, found.variant.as_deref()));
    let describes = entry.annotations.as_ref().and_then(|annotations| annotations.get(DESCRIBES)).cloned();
    let index = [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE].contains(&entry.media_type.as_str());
    Ok(IndexChild { digest, platform, attestation, describes, index })
}

fn descriptor(raw: &OciDescriptor) -> Result<Descriptor, String> {
    let digest = raw.digest.parse::<Digest>().map_err(|error| error.to_string())?;
    let size = u64::try_from(raw.size).map_err(|_| format!("{digest} has the size {}", raw.size))?;
    Ok(Descriptor { digest, size })
}

fn is_foreign(layer: &OciDescriptor) -> bool {
    let kind = layer.media_type.as_str();
    layer.urls.as_ref().is_some_and(|urls| !urls.is_empty())
        || kind == FOREIGN_LAYER
        || kind == IMAGE_LAYER_NONDISTRIBUTABLE_MEDIA_TYPE
        || kind == IMAGE_LAYER_NONDISTRIBUTABLE_GZIP_MEDIA_TYPE
        || kind == "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(of: &str) -> String {
        Digest::of(of.as_bytes()).to_string()
    }

    fn blob(name: &str, size: i64) -> Value {
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(name), "size": size})
    }

    fn image_of(layers: &[Value]) -> Value {
        image(layers)
    }

    fn image(layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_IMAGE_MEDIA_TYPE, "config": blob("config", 7), "layers": layers})
    }

    fn parse(value: &Value) -> Result<Manifest, String> {
        Manifest::parse(None, value.to_string().as_bytes())
    }

    #[test]
    fn an_image_counts_each_blob_once_and_leaves_foreign_layers_out() {
        let mut foreign = blob("windows", 1_000_000);
        foreign["mediaType"] = json!(FOREIGN_LAYER);
        foreign["urls"] = json!(["http://169.254.169.254/"]);
        let Manifest::Image(image) = parse(&image(&[blob("a", 100), blob("a", 100), blob("b", 1), foreign])).unwrap()
        else {
            panic!("an index")
        };
        assert_eq!((image.layers.len(), image.blobs().len(), image.bytes()), (3, 3, 108));
        assert_eq!(image.foreign.iter().map(|layer| layer.size).collect::<Vec<_>>(), [1_000_000]);
        let mut addressed = blob("elsewhere", 5);
        addressed["urls"] = json!(["https://example.com/layer"]);
        let Manifest::Image(image) = parse(&image_of(&[addressed])).unwrap() else { panic!("an index") };
        assert_eq!((image.layers.len(), image.foreign.len()), (0, 1), "an address makes it foreign, whatever its type");
    }

    #[test]
    fn manifest_children_keep_their_platform_and_attestations_are_recognized() {
        let entry = |name: &str, platform: Value, annotations: Value| {
            json!({"mediaType": OCI_IMAGE_MEDIA_TYPE,
            "digest": digest(name), "size": 1, "platform": platform, "annotations": annotations})
        };
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("v7", json!({"os": "linux", "architecture": "arm", "variant": "v7"}), Value::Null),
            entry("odd", json!({"os": "plan9", "architecture": "mips"}), Value::Null),
            entry("none", Value::Null, Value::Null),
            entry("unknown", json!({"os": "unknown", "architecture": "unknown"}), Value::Null),
            entry("annotated", json!({"os": "linux", "architecture": "amd64"}),
                json!({"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest("v7")})),
            {"mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE, "digest": digest("inner"), "size": 1},
        ]});
        let parsed = Manifest::parse(Some(IMAGE_MANIFEST_LIST_MEDIA_TYPE), index.to_string().as_bytes()).unwrap();
        let Manifest::Index(index) = parsed else { panic!("an image") };
        let found: Vec<_> = index
            .children
            .iter()
            .map(|child| (child.platform.as_ref().map(ToString::to_string), child.attestation))
            .collect();
        let linux = |text: &str| Some(text.to_owned());
        assert_eq!(found[..3], [(linux("linux/arm/v7"), false), (linux("plan9/mips"), false), (None, false)]);
        assert!(found[3].1 && found[4].1);
        assert_eq!(index.children[4].describes, Some(digest("v7")));
        let inner: Vec<_> = index.children.iter().map(|child| child.index).collect();
        assert_eq!(inner, [false, false, false, false, false, true]);
    }

    #[test]
    fn what_a_runtime_could_read_in_another_way_is_refused() {
        let mut both = image(&[blob("a", 1)]);
        both["manifests"] = json!([]);
        let many: Vec<_> = (0..=MAX_LAYERS).map(|_| blob("a", 1)).collect();
        let cases = [
            ("index and image", both, "both an index and an image"),
            ("negative size", image(&[blob("a", -1)]), "size -1"),
            ("too many layers", image(&many), "exceed the maximum"),
            ("schema 1", json!({"schemaVersion": 1, "mediaType": OCI_IMAGE_MEDIA_TYPE}), "schema version 1"),
            ("another type", json!({"schemaVersion": 2, "mediaType": "text/plain"}), "text/plain"),
            ("no type at all", json!({"schemaVersion": 2}), "not supported"),
            ("no JSON", json!("<html>"), "not a manifest"),
        ];
        for (name, value, expected) in cases {
            let error = parse(&value).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let mut odd = image(&[]);
        odd["config"]["digest"] = json!("sha256:../../secret");
        assert!(parse(&odd).unwrap_err().contains("not a digest"));
    }
}
