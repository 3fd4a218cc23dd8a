//! Images with bytes that depend on nothing but their description: the same name gives the same digests in each run.
//! Layers are real gzipped tar archives of one file, so that a container runtime can unpack them.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::digest::{crc32, sha256};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// The platform of a manifest, as an index names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`, `windows`, or `unknown` for an attestation.
    pub os: String,
    /// `amd64`, `arm64`, …, or `unknown` for an attestation.
    pub architecture: String,
    /// `v8`, `v7`, …
    pub variant: Option<String>,
}

/// What to push: one manifest, or an index of several.
#[derive(Debug, Clone)]
pub struct Image {
    platforms: Vec<Platform>,
    index: bool,
    layers: Vec<usize>,
    docker: bool,
    canonical: bool,
    attestations: bool,
    nested: bool,
    foreign: Option<bool>,
    seed: String,
}

impl Image {
    /// One manifest without an index.
    #[must_use]
    pub fn single(os: &str, architecture: &str) -> Self {
        Self { index: false, ..Self::multi_arch([(os, architecture, None)]) }
    }

    /// An index with one manifest for each `(os, architecture, variant)`.
    #[must_use]
    pub fn multi_arch<'a>(platforms: impl IntoIterator<Item = (&'a str, &'a str, Option<&'a str>)>) -> Self {
        let platforms = platforms
            .into_iter()
            .map(|(os, architecture, variant)| Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.map(ToOwned::to_owned),
            })
            .collect();
        Self {
            platforms,
            index: true,
            layers: vec![1024, 2048],
            docker: false,
            canonical: false,
            attestations: false,
            nested: false,
            foreign: None,
            seed: String::new(),
        }
    }

    /// The bytes of the file in each layer (the blob is up to 2.2 KiB larger); default 1 KiB and 2 KiB.
    #[must_use]
    pub fn layers(mut self, sizes: impl IntoIterator<Item = usize>) -> Self {
        self.layers = sizes.into_iter().collect();
        self
    }

    /// Docker media types instead of OCI ones.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// The index is serialised as Harbor does it (indented by 3 spaces; mediaType, size, digest), so that it keeps its
    /// digest in Harbor's cache. The default is compact JSON, which does not.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        self.canonical = true;
        self
    }

    /// Each platform gets an attestation beside it, as BuildKit makes them: a child for `unknown/unknown`.
    #[must_use]
    pub fn with_attestations(mut self) -> Self {
        self.attestations = true;
        self
    }

    /// The index lists one index, and that one the platforms.
    #[must_use]
    pub fn nested(mut self) -> Self {
        self.nested = true;
        self
    }

    /// The lowest layer of each platform is a foreign one with an address of its own, as of Windows; `held`: the upstream holds
    /// it nevertheless.
    #[must_use]
    pub fn foreign_layer(mut self, held: bool) -> Self {
        self.foreign = Some(held);
        self
    }

    /// Other bytes under the same name and tag, for a tag that moves.
    #[must_use]
    pub fn seed(mut self, seed: &str) -> Self {
        self.seed = seed.to_owned();
        self
    }
}

/// A blob of a pushed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Bytes.
    pub size: usize,
}

/// A manifest of a pushed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// What it is for.
    pub platform: Platform,
    /// Digest of the manifest.
    pub digest: String,
    /// The image configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
}

impl Child {
    /// Configuration and layers: everything that a pull of this platform fetches beside the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// A pushed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the tag points to: the digest of the index, or of the one manifest.
    pub digest: String,
    /// Media type of that.
    pub media_type: String,
    /// Each manifest; a single image has one, with the digest of the image.
    pub children: Vec<Child>,
}

/// The bytes of an image, for the store of a registry.
pub(crate) struct Built {
    pub(crate) pushed: Pushed,
    pub(crate) manifests: Vec<(String, String, Bytes)>,
    pub(crate) blobs: Vec<(String, Bytes)>,
}

/// Builds the image that `name` (repository and tag) and its description say.
pub(crate) fn build(name: &str, image: &Image) -> Built {
    let mut built = Built {
        pushed: Pushed { digest: String::new(), media_type: String::new(), children: Vec::new() },
        manifests: Vec::new(),
        blobs: Vec::new(),
    };
    let mut descriptors = Vec::new();
    for platform in &image.platforms {
        let seed = format!("{name}|{}|{platform:?}", image.seed);
        descriptors.push(manifest(&mut built, image, platform, &seed));
    }
    if image.attestations {
        for described in descriptors.clone() {
            descriptors.push(attestation(&mut built, &described.1));
        }
    }
    if image.index {
        let media_type = if image.docker { DOCKER_LIST } else { OCI_INDEX };
        if image.nested {
            let bytes = index_bytes(media_type, &descriptors, image.canonical);
            let (digest, size) = (sha256(&bytes), bytes.len());
            built.manifests.push((digest.clone(), media_type.to_owned(), bytes));
            let inner = json!({"mediaType": media_type, "digest": digest, "size": size});
            descriptors = vec![(media_type.to_owned(), inner)];
        }
        let bytes = index_bytes(media_type, &descriptors, image.canonical);
        built.pushed.digest = sha256(&bytes);
        built.pushed.media_type = media_type.to_owned();
        built.manifests.push((built.pushed.digest.clone(), media_type.to_owned(), bytes));
    } else if let Some((media_type, descriptor)) = descriptors.first() {
        built.pushed.digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        built.pushed.media_type = media_type.clone();
    }
    built
}

fn manifest(built: &mut Built, image: &Image, platform: &Platform, seed: &str) -> (String, Value) {
    let (media_type, config_type, layer_type) = if image.docker {
        (
            DOCKER_MANIFEST,
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        )
    } else {
        (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
    };
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    for (number, size) in image.layers.iter().enumerate() {
        let tar = tar(&format!("layer-{number}"), &noise(&format!("{seed}|{number}"), *size));
        diff_ids.push(sha256(&tar));
        layers.push(built.add(gzip(&tar)));
    }
    let foreign = image.foreign.map(|held| {
        let bytes = gzip(&tar("foreign", &noise(&format!("{seed}|foreign"), 100)));
        let blob = Blob { digest: sha256(&bytes), size: bytes.len() };
        if held {
            built.add(bytes);
        }
        json!({"mediaType": FOREIGN_LAYER, "digest": blob.digest, "size": blob.size, "urls": ["http://127.0.0.1:9/layer"]})
    });
    let mut config = json!({
        "architecture": platform.architecture, "os": platform.os, "created": "2026-01-01T00:00:00Z", "history": [],
        "config": {"Env": ["A=b"], "Cmd": ["/x"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = json!(variant);
    }
    let config = built.add(Bytes::from(config.to_string()));
    let descriptor =
        |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size});
    let body = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": descriptor(config_type, &config),
        "layers": foreign.into_iter().chain(layers.iter().map(|layer| descriptor(layer_type, layer))).collect::<Vec<_>>(),
    });
    built.add_manifest(media_type, &body, platform.clone(), config, layers)
}

/// An in-toto statement about the manifest of the descriptor.
fn attestation(built: &mut Built, subject: &Value) -> (String, Value) {
    let about = subject["digest"].clone();
    let config = built.add(Bytes::from(
        json!({"architecture": "unknown", "os": "unknown", "about": about, "rootfs": {"type": "layers", "diff_ids": []}})
            .to_string(),
    ));
    let statement = built.add(Bytes::from(
        json!({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2", "subject": [about]})
            .to_string(),
    ));
    let body = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": statement.digest, "size": statement.size,
            "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}}],
    });
    let unknown = || "unknown".to_owned();
    let platform = Platform { os: unknown(), architecture: unknown(), variant: None };
    let (media_type, mut descriptor) = built.add_manifest(OCI_MANIFEST, &body, platform, config, vec![statement]);
    descriptor["annotations"] =
        json!({"vnd.docker.reference.digest": about, "vnd.docker.reference.type": "attestation-manifest"});
    (media_type, descriptor)
}

impl Built {
    fn add(&mut self, bytes: Bytes) -> Blob {
        let blob = Blob { digest: sha256(&bytes), size: bytes.len() };
        self.blobs.push((blob.digest.clone(), bytes));
        blob
    }

    fn add_manifest(
        &mut self,
        media_type: &str,
        body: &Value,
        platform: Platform,
        config: Blob,
        layers: Vec<Blob>,
    ) -> (String, Value) {
        let bytes = Bytes::from(body.to_string());
        let digest = sha256(&bytes);
        let mut named = json!({"architecture": platform.architecture, "os": platform.os});
        if let Some(variant) = &platform.variant {
            named["variant"] = json!(variant);
        }
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "platform": named});
        self.manifests.push((digest.clone(), media_type.to_owned(), bytes));
        self.pushed.children.push(Child { platform, digest, config, layers });
        (media_type.to_owned(), descriptor)
    }
}

fn index_bytes(media_type: &str, descriptors: &[(String, Value)], canonical: bool) -> Bytes {
    let manifests: Vec<Value> = descriptors.iter().map(|(_, descriptor)| descriptor.clone()).collect();
    if canonical {
        return crate::index::serialise(media_type, &manifests);
    }
    Bytes::from(json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).to_string())
}

/// Bytes that do not compress and depend on the seed alone.
fn noise(seed: &str, size: usize) -> Vec<u8> {
    let start = sha256(seed.as_bytes());
    let mut state = start
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A ustar archive of one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    let mut put = |at: usize, text: &str| {
        for (slot, byte) in header.iter_mut().skip(at).zip(text.bytes()) {
            *slot = byte;
        }
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (slot, byte) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *slot = byte;
    }
    header.extend_from_slice(content);
    // Small layers go without the end marker, which readers do not ask for, to stay below 2 KiB as blobs.
    let end = if content.len() > 512 { 1024 } else { 0 };
    header.resize(header.len().next_multiple_of(512) + end, 0);
    header
}

/// A gzip member with stored blocks (RFC 1951, 3.2.4): noise does not shrink anyway.
fn gzip(data: &[u8]) -> Bytes {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = data.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    Bytes::from(out)
}
