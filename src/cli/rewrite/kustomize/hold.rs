//! Images that are not rewritten because an entry may select them.

use std::path::Path;

use serde_json::Value;

use super::{Consequences, Entry, Seen, name_of, scope::Scope};

/// Holds all images that an unreadable Kustomization may use, and those next to it and below it: its entries may select them.
pub(super) fn reachable(files: &[Seen], scope: &Scope, done: &mut Consequences) {
    let Some(unreadable) = files.get(scope.file) else { return };
    let Some(directory) = unreadable.path.as_deref().and_then(Path::parent) else { return };
    for (index, file) in files.iter().enumerate() {
        let is_below = file.path.as_deref().is_some_and(|path| path.starts_with(directory));
        if is_below || scope.is_open || scope.files.contains(&index) {
            for image in &file.images {
                let why = format!("{} cannot be read and may have an entry for it: fix it first", unreadable.name);
                done.held.insert((index, image.name.clone()), why);
            }
        }
    }
}

/// Holds images of entries that are not rewritten: entries of `imageTags`, and those whose name has a regular expression or a
/// tag.
pub(super) fn unclear(files: &[Seen], scope: &Scope, done: &mut Consequences) {
    let Some(own) = files.get(scope.file) else { return };
    let in_scope = || scope.files.iter().filter_map(|index| Some((*index, files.get(*index)?)));
    let images = || in_scope().flat_map(|(index, file)| file.images.iter().map(move |image| (index, &image.name)));
    for found in &own.kustomizations {
        for (index, name) in images().filter(|(_, name)| found.legacy.contains(name)) {
            let why =
                format!("{}: `imageTags` selects it and is not rewritten: rename the field to `images`", own.name);
            done.held.entry((index, name.clone())).or_insert(why);
        }
        for Entry { name: entry, line, .. } in found.entries.iter().filter(|entry| !is_plain(&entry.name)) {
            // A name with a tag selects known images.
            let is_tagged = is_plain(name_of(entry));
            for (index, name) in images().filter(|(_, name)| !is_tagged || *name == name_of(entry)) {
                let what = "the entry of `images` for";
                let why = format!("{}:{line}: {what} {entry} has no plain name and may select it", own.name);
                done.held.entry((index, name.clone())).or_insert(why);
            }
        }
    }
}

/// Returns whether a name of an entry matches only itself: kustomize uses it as a regular expression.
fn is_plain(name: &str) -> bool {
    name_of(name) == name && crate::image::ImageRef::parse(name).is_ok()
}

/// Holds images that a JSON Patch tests: `op: test` fails where the image has another name.
pub(super) fn tested(files: &[Seen], scope: &Scope, done: &mut Consequences) {
    let mut tested: Vec<(&str, &str)> = Vec::new();
    for file in scope.files.iter().filter_map(|index| files.get(*index)) {
        let patches = file.documents.iter().chain(file.kustomizations.iter().flat_map(|found| &found.patches));
        let operations = patches.filter_map(Value::as_array).flatten();
        for test in operations.filter(|operation| operation.get("op").and_then(Value::as_str) == Some("test")) {
            texts(test.get("value"), &mut |text| tested.push((&file.name, name_of(text))));
        }
    }
    for index in &scope.files {
        for image in files.get(*index).iter().flat_map(|file| &file.images) {
            if let Some((file, _)) = tested.iter().find(|(_, name)| *name == image.name) {
                let why = format!("{file}: a JSON Patch with `op: test` expects it and is not rewritten");
                done.held.entry((*index, image.name.clone())).or_insert(why);
            }
        }
    }
}

/// All texts of a value.
fn texts<'v>(value: Option<&'v Value>, take: &mut impl FnMut(&'v str)) {
    match value {
        Some(Value::String(text)) => take(text),
        Some(Value::Array(items)) => items.iter().for_each(|item| texts(Some(item), take)),
        Some(Value::Object(fields)) => fields.values().for_each(|field| texts(Some(field), take)),
        _ => {}
    }
}
