//! Where a schema carries image references.
//!
//! In: an OpenAPI v3 document as the API server serves it, and the name of a schema. Out: the paths of all strings that
//! may name an image, found by their names, by the names above them, and by what their descriptions say.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// Paths end in one of these: what speaks of images and names none.
pub const NO_IMAGES: [&str; 7] = [
    // When to pull, not what.
    ".imagePullPolicy",
    ".volumes[].image.pullPolicy",
    // The name of a Secret.
    ".imagePullSecrets[].name",
    // A block device in a Ceph pool.
    ".volumes[].rbd.image",
    // Their defaults come out of the image, which others name.
    ".securityContext.supplementalGroupsPolicy",
    ".securityContext.windowsOptions.runAsUserName",
    ".workingDir",
];

/// Levels of nesting; Pods have about a dozen.
const MAX_DEPTH: usize = 64;

/// The paths below `root` of every string of the schema that may carry an image, without [`NO_IMAGES`]:
/// `spec.volumes[].image.reference`. A schema that refers to itself is followed once.
///
/// # Errors
/// When the document has no such schema or property, or refers to a schema that it has not.
pub fn image_fields(document: &Value, schema: &str, root: &str) -> Result<BTreeSet<String>> {
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let mut walk = Walk { schemas: schemas.context("the document has no schemas")?, found: BTreeSet::new() };
    let below = walk.named(schema)?.get("properties").and_then(|properties| properties.get(root));
    let below = below.with_context(|| format!("{schema} has no {root}"))?;
    walk.visit(below, Place { path: root.to_owned(), named: false, above: Vec::new() })?;
    walk.found.retain(|path| !NO_IMAGES.iter().any(|end| path.ends_with(end)));
    Ok(walk.found)
}

struct Walk<'d> {
    schemas: &'d Map<String, Value>,
    found: BTreeSet<String>,
}

/// Where the walk stands.
#[derive(Clone)]
struct Place<'d> {
    path: String,
    /// Whether a name or a description on the way speaks of an image.
    named: bool,
    /// The schemas that led here by reference.
    above: Vec<&'d str>,
}

impl<'d> Walk<'d> {
    fn named(&self, schema: &str) -> Result<&'d Value> {
        self.schemas.get(schema).with_context(|| format!("the document has no schema {schema}"))
    }

    fn visit(&mut self, schema: &'d Value, place: Place<'d>) -> Result<()> {
        if place.above.len() > MAX_DEPTH {
            bail!("{} is nested too deeply", place.path);
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let name = reference.rsplit('/').next().unwrap_or_default();
            if place.above.contains(&name) {
                return Ok(());
            }
            let mut next = place.clone();
            next.above.push(name);
            self.visit(self.named(name)?, next)?;
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.visit(part, place.clone())?;
            }
        }
        for (key, sign) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(element) = schema.get(key).filter(|element| element.is_object()) {
                self.visit(element, Place { path: place.path.clone() + sign, ..place.clone() })?;
            }
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{}.{name}", place.path);
            let named = place.named || name.to_lowercase().contains("image");
            self.visit(property, Place { path, named, above: place.above.clone() })?;
        }
        if schema.get("type").and_then(Value::as_str) == Some("string") && (place.named || speaks_of_images(schema)) {
            self.found.insert(place.path);
        }
        Ok(())
    }
}

fn speaks_of_images(schema: &Value) -> bool {
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_lowercase();
    let mut words = description.split(|c: char| !c.is_alphanumeric());
    words.any(|word| matches!(word, "image" | "images" | "artifact" | "artifacts" | "oci"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(container: Value, volume: Value) -> Value {
        json!({"components": {"schemas": {
            "Pod": {"type": "object", "properties": {
                "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}], "default": {}},
                "status": {"type": "object", "properties": {"image": {"type": "string"}}},
            }},
            "Spec": {"type": "object", "properties": {
                "containers": {"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/Container"}]}},
                "volumes": {"type": "array", "items": {"type": "object", "properties": volume}},
                "imagePullSecrets": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
                "nested": {"$ref": "#/components/schemas/Spec"},
            }},
            "Container": {"type": "object", "properties": container},
        }}})
    }

    fn found(container: Value, volume: Value) -> Vec<String> {
        image_fields(&document(container, volume), "Pod", "spec").unwrap().into_iter().collect()
    }

    #[test]
    fn a_new_field_is_found_by_its_name_by_the_names_above_it_or_by_its_description() {
        let string = || json!({"type": "string"});
        let reported = |text: &str| json!({"type": "string", "description": text});
        let container = || json!({"image": string(), "imagePullPolicy": string(), "name": string()});
        let volume =
            || json!({"image": {"type": "object", "properties": {"reference": string(), "pullPolicy": string()}}});
        let today = ["spec.containers[].image", "spec.volumes[].image.reference"];
        assert_eq!(found(container(), volume()), today);

        let table = [
            ("debugImage", string(), "debugImage"),
            ("images", json!({"type": "array", "items": string()}), "images[]"),
            ("imagesByArch", json!({"type": "object", "additionalProperties": string()}), "imagesByArch{}"),
            ("baseImage", json!({"properties": {"from": {"properties": {"ref": string()}}}}), "baseImage.from.ref"),
            ("rootfs", reported("Name of the OCI artifact to mount."), "rootfs"),
        ];
        for (name, schema, path) in table {
            let mut more = container();
            more[name] = schema;
            let fresh = format!("spec.containers[].{path}");
            let found = found(more, volume());
            assert!(found.len() == 3 && found.contains(&fresh), "{fresh} is not in {found:?}");
        }
    }

    #[test]
    fn a_document_that_cannot_be_followed_is_an_error_and_not_an_empty_answer() {
        for (schema, root) in [("Node", "spec"), ("Pod", "template")] {
            assert!(image_fields(&document(json!({}), json!({})), schema, root).is_err());
        }
        let dangling = document(json!({"x": {"$ref": "#/components/schemas/Gone"}}), json!({}));
        assert!(image_fields(&dangling, "Pod", "spec").unwrap_err().to_string().contains("Gone"));
        assert!(image_fields(&json!({}), "Pod", "spec").is_err());
    }
}
