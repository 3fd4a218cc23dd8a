//! Lists of containers, as kustomize handles them: it changes `image` in every `containers` and `initContainers`, at any depth of
//! any object except CRDs. Some of these are not certain to be images, and those are not rewritten.

use serde_json::Value;

use super::{Seen, SeenImage, name_of, scope::Scope};

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// An object in scope with an image of this name that an entry of `images` changes and that is not rewritten.
pub(super) fn unclaimed(files: &[Seen], scope: &Scope, name: &str) -> Option<String> {
    for file in scope.files.iter().filter_map(|index| files.get(*index)) {
        for (index, document) in file.documents.iter().enumerate() {
            let is_claimed =
                |image: &&SeenImage| image.document == index + 1 && image.name == name && is_in_list(&image.place);
            if count(document, name) > file.images.iter().filter(is_claimed).count() {
                let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
                let kind = text(document.get("kind"));
                let own = text(document.get("metadata").and_then(|metadata| metadata.get("name")));
                return Some(format!("{kind} {own} in {}", file.name));
            }
        }
    }
    None
}

/// Number of images of this name in lists of containers. The depth of a document is limited when it is read.
fn count(value: &Value, name: &str) -> usize {
    match value {
        Value::Object(fields) if fields.get("kind").and_then(Value::as_str) == Some("CustomResourceDefinition") => 0,
        Value::Object(fields) => fields.iter().map(|(key, below)| of_list(key, below, name) + count(below, name)).sum(),
        Value::Array(items) => items.iter().map(|item| count(item, name)).sum(),
        _ => 0,
    }
}

fn of_list(key: &str, value: &Value, name: &str) -> usize {
    let items = value.as_array().filter(|_| LISTS.contains(&key)).into_iter().flatten();
    let images = items.filter_map(|item| item.get("image").and_then(Value::as_str));
    images.filter(|image| name_of(image) == name).count()
}

/// Returns whether a field is an image in such a list: `spec.containers[0].image`.
fn is_in_list(place: &str) -> bool {
    let list = place.strip_suffix("].image").and_then(|place| place.rsplit_once('['));
    list.and_then(|(list, _)| list.rsplit('.').next()).is_some_and(|list| LISTS.contains(&list))
}
