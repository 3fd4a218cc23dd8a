//! Decides whether the name of an entry of `images` changes with its images.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

use super::{
    Consequences, Entry, Seen, SeenImage, lists, name_of,
    scope::{self, Scope},
};

/// Renames an entry, or holds its images.
pub(super) fn decide(
    files: &[Seen],
    by_path: &BTreeMap<&Path, usize>,
    scope: &Scope,
    entry: &Entry,
    done: &mut Consequences,
) {
    let Some(own) = files.get(scope.file) else { return };
    let mut becomes: BTreeSet<Option<&str>> = BTreeSet::new();
    let mut in_text = false;
    for index in &scope.files {
        let Some(file) = files.get(*index) else { continue };
        let is_held = done.held.contains_key(&(*index, entry.name.clone()));
        // In its own file it selects the images that earlier entries set.
        let is_before = |image: &&SeenImage| image.is_new_name && image.at < entry.at;
        let in_scope = file.images.iter().filter(|image| *index != scope.file || is_before(image));
        let meant = in_scope.filter(|image| image.name == entry.name);
        becomes.extend(meant.map(|image| image.new.as_deref().filter(|_| !is_held)));
        let inline = file.kustomizations.iter().any(|found| names_image(&found.inline, &entry.name));
        in_text |= inline || names_image(&file.texts, &entry.name);
    }
    let mut new = becomes.iter().flatten();
    let (first, another) = (new.next(), new.next());
    let Some(first) = first else { return hold_newcomers(files, scope, entry, done) };
    let taken = others_named(files, scope, entry, first, done);
    let why = if own.outside {
        Some("is not on the command line: add it, so that both change together".to_owned())
    } else if let Some(missing) = &scope.missing {
        Some(format!("uses {missing}, which cannot be read and may contain it"))
    } else if in_text {
        Some("has a patch or another text with this image, which is not rewritten".to_owned())
    } else if let Some(what) = configured(files, by_path, scope, &entry.name) {
        Some(what)
    } else if let Some(what) = lists::unclaimed(files, scope, &entry.name) {
        Some(format!("also selects an image of {what}, which is not rewritten"))
    } else if another.is_some() || becomes.contains(&None) {
        Some("selects several images of this name that get different new names".to_owned())
    } else if let Some((_, name)) = taken.first() {
        Some(format!("would also select {name}: both have the name {first} at Harbor; write both images the same way"))
    } else {
        None
    };
    let Some(why) = why else {
        done.renamed.insert((scope.file, entry.at.0, entry.at.1), (*first).to_owned());
        return;
    };
    for index in &scope.files {
        let why = format!("{}:{}: the entry of `images` for {} {why}", own.name, entry.line, entry.name);
        done.held.entry((*index, entry.name.clone())).or_insert(why);
    }
}

/// Why the name cannot change: a file of `configurations` adds a field that contains the name and is not rewritten.
fn configured(files: &[Seen], by_path: &BTreeMap<&Path, usize>, scope: &Scope, name: &str) -> Option<String> {
    let own = files.get(scope.file)?;
    for text in own.kustomizations.iter().flat_map(|found| &found.named.configurations) {
        let Some(file) = scope::find(own, by_path, text).and_then(|index| files.get(index)) else {
            return Some(format!("has `configurations` of {text}, which cannot be read and may add more fields"));
        };
        let fields = file.documents.iter().filter_map(|document| document.get("images")?.as_array()).flatten();
        for field in fields {
            let path = field.get("path").and_then(Value::as_str).unwrap_or_default();
            let kind = field.get("kind").and_then(Value::as_str);
            if scope.files.iter().filter_map(|index| files.get(*index)).any(|file| is_at(file, kind, path, name)) {
                let what = kind.unwrap_or("objects");
                return Some(format!("also selects {path} of {what} ({text}), which is not rewritten"));
            }
        }
    }
    None
}

/// Returns whether an object of a kind has the image in a field of `configurations` where it is not certain to be an image.
fn is_at(file: &Seen, kind: Option<&str>, path: &str, name: &str) -> bool {
    let is_kind = |object: &&Value| kind.is_none_or(|kind| object.get("kind").and_then(Value::as_str) == Some(kind));
    let items = |document: &Value| document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let listed: Vec<Value> = file.documents.iter().flat_map(items).collect();
    let keys: Vec<&str> = path.trim_matches('/').split('/').map(|key| key.trim_end_matches("[]")).collect();
    let is_there = |image: &&SeenImage| {
        let steps = image.place.split(['.', '[']).filter(|step| !step.ends_with(']'));
        steps.collect::<Vec<_>>().ends_with(&keys)
    };
    let is_known = |object: &Value| {
        let kind = object.get("kind").and_then(Value::as_str);
        let of_kind = file.images.iter().filter(|image| kind == Some(image.kind.as_str()) && image.name == name);
        of_kind.filter(is_there).any(|image| image.new.is_some())
    };
    let objects = file.documents.iter().chain(&listed).filter(is_kind);
    objects.into_iter().any(|object| !is_known(object) && holds(object, &keys, name))
}

fn holds(value: &Value, keys: &[&str], name: &str) -> bool {
    match (value, keys.split_first()) {
        (Value::Array(items), _) => items.iter().any(|item| holds(item, keys, name)),
        (Value::String(text), None) => name_of(text) == name,
        (value, Some((key, rest))) => value.get(key).is_some_and(|below| holds(below, rest, name)),
        _ => false,
    }
}

/// An entry that keeps its name must not select images that get this name.
fn hold_newcomers(files: &[Seen], scope: &Scope, entry: &Entry, done: &mut Consequences) {
    let name = files.get(scope.file).map_or("", |file| &file.name);
    for found in others_named(files, scope, entry, &entry.name, done) {
        let why = format!("{name}:{}: the entry of `images` for {} would also select it", entry.line, entry.name);
        done.held.entry(found).or_insert(why);
    }
}

/// Images in scope, by file and name, that the entry does not select and that have, or get, this name.
fn others_named(files: &[Seen], scope: &Scope, entry: &Entry, name: &str, done: &Consequences) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for index in &scope.files {
        for image in files.get(*index).iter().flat_map(|file| &file.images) {
            let is_later = *index == scope.file && !(image.is_new_name && image.at < entry.at);
            let key = (*index, image.name.clone());
            let new = image.new.as_deref().filter(|_| !done.held.contains_key(&key)).unwrap_or(&image.name);
            if image.name != entry.name && new == name && !is_later {
                found.push(key);
            }
        }
    }
    found
}

/// Returns whether a text contains an image of exactly this name.
fn names_image(text: &str, name: &str) -> bool {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
    let bytes = text.as_bytes();
    text.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let after = bytes.get(at + name.len());
        !before.is_some_and(of_name) && !after.is_some_and(of_name)
    })
}
