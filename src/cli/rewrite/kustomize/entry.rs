//! Whether the name of an entry of `images` changes with the images that it means.

use std::collections::BTreeSet;

use super::{Consequences, Entry, Seen, SeenImage, scope::Scope};

/// Renames an entry, or holds the images that it means.
pub(super) fn decide(files: &[Seen], scope: &Scope, entry: &Entry, done: &mut Consequences) {
    let Some(own) = files.get(scope.file) else { return };
    let mut becomes: BTreeSet<Option<&str>> = BTreeSet::new();
    let mut in_text = false;
    for index in &scope.files {
        let Some(file) = files.get(*index) else { continue };
        let is_held = done.held.contains_key(&(*index, entry.name.clone()));
        // Of its own file it means what entries before it put there.
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
        Some("is not among the files: give it, too, so that both change together".to_owned())
    } else if let Some(missing) = &scope.missing {
        Some(format!("builds on {missing}, which is not among the files that can be read, and may have it, too"))
    } else if in_text {
        Some("has a patch or another text with this image, which is not rewritten".to_owned())
    } else if another.is_some() || becomes.contains(&None) {
        Some("means more images of this name, which do not all become the same".to_owned())
    } else if let Some((_, name)) = taken.first() {
        Some(format!("would mean {name}, too: both have the name {first} at Harbor; write the images out alike"))
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

/// An entry that keeps its name must not mean images that get this name now.
fn hold_newcomers(files: &[Seen], scope: &Scope, entry: &Entry, done: &mut Consequences) {
    let name = files.get(scope.file).map_or("", |file| &file.name);
    for found in others_named(files, scope, entry, &entry.name, done) {
        let why = format!("{name}:{}: the entry of `images` for {} would mean it, too", entry.line, entry.name);
        done.held.entry(found).or_insert(why);
    }
}

/// Images in scope, by file and name, that the entry does not mean and that have, or get, this name.
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

/// Whether a text has an image of this name: the name, with nothing of a name around it.
fn names_image(text: &str, name: &str) -> bool {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
    let bytes = text.as_bytes();
    text.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let after = bytes.get(at + name.len());
        !before.is_some_and(of_name) && !after.is_some_and(of_name)
    })
}
