//! How Harbor writes an index into its own store: parsed, cut down to the children that it has, and serialised anew.
//! Only bytes that already look like that keep their digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::image::{DOCKER_LIST, OCI_INDEX, OCI_MANIFEST};

/// Serialises an index of these descriptors: 3 spaces, and the order of the fields below.
pub(crate) fn serialise(media_type: &str, manifests: &[Value]) -> Bytes {
    let manifests = manifests.iter().filter_map(|value| serde_json::from_value(value.clone()).ok()).collect();
    write(&Index { schema_version: 2, media_type: media_type.to_owned(), manifests })
}

/// The children that an index names, in its order. Empty for what is not an index.
pub(crate) fn children(bytes: &[u8]) -> Vec<Descriptor> {
    serde_json::from_slice::<Index>(bytes).map(|index| index.manifests).unwrap_or_default()
}

/// What Harbor stores of an index when it has the children that `has` says: media type and bytes, or nothing for none.
pub(crate) fn trimmed(children: &[Descriptor], has: impl Fn(&str) -> bool) -> Option<(&'static str, Bytes)> {
    let kept: Vec<Descriptor> = children.iter().filter(|child| has(&child.digest)).cloned().collect();
    let media_type = if kept.first()?.media_type == OCI_MANIFEST { OCI_INDEX } else { DOCKER_LIST };
    Some((media_type, write(&Index { schema_version: 2, media_type: media_type.to_owned(), manifests: kept })))
}

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    manifests: Vec<Descriptor>,
}

/// One child of an index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType")]
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) digest: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

/// The platform of a child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    os_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

fn write(index: &Index) -> Bytes {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing plain structures to memory cannot fail.
    drop(index.serialize(&mut serializer));
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn child(media_type: &str, size: u64) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "0".repeat(64)), "size": size,
            "platform": {"architecture": "amd64", "os": "linux"}})
    }

    #[test]
    fn an_index_is_as_long_as_the_one_that_harbor_was_seen_to_write() {
        let docker = crate::image::DOCKER_MANIFEST;
        assert_eq!(serialise(OCI_INDEX, &[child(OCI_MANIFEST, 578), child(OCI_MANIFEST, 578)]).len(), 703);
        assert_eq!(serialise(OCI_INDEX, &[child(OCI_MANIFEST, 578)]).len(), 405);
        assert_eq!(serialise(DOCKER_LIST, &[child(docker, 606), child(docker, 606)]).len(), 741);
        assert_eq!(serialise(DOCKER_LIST, &[child(docker, 606)]).len(), 433);
    }

    #[test]
    fn what_harbor_wrote_it_writes_again_byte_for_byte() {
        let bytes = serialise(OCI_INDEX, &[child(OCI_MANIFEST, 1), child(OCI_MANIFEST, 2)]);
        let again = trimmed(&children(&bytes), |_| true).expect("children are there");
        assert_eq!(again, (OCI_INDEX, bytes));
    }
}
