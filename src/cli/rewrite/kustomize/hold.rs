//! Images that stay because it is not clear whether an entry means them.

use std::path::Path;

use super::{Consequences, Entry, Seen, name_of, scope::Scope};

/// Holds all images that a Kustomization which cannot be read may build on, and those beside and below it: its entries may
/// mean them.
pub(super) fn reachable(files: &[Seen], scope: &Scope, done: &mut Consequences) {
    let Some(unreadable) = files.get(scope.file) else { return };
    let Some(directory) = unreadable.path.as_deref().and_then(Path::parent) else { return };
    for (index, file) in files.iter().enumerate() {
        let is_below = file.path.as_deref().is_some_and(|path| path.starts_with(directory));
        if is_below || scope.is_open || scope.files.contains(&index) {
            for image in &file.images {
                let why = format!("{} cannot be read, and may have an entry for it: mend it first", unreadable.name);
                done.held.insert((index, image.name.clone()), why);
            }
        }
    }
}

/// Holds what entries mean that are not rewritten: those of `imageTags`, and those with a regular expression or a tag as name.
pub(super) fn unclear(files: &[Seen], scope: &Scope, done: &mut Consequences) {
    let Some(own) = files.get(scope.file) else { return };
    let in_scope = || scope.files.iter().filter_map(|index| Some((*index, files.get(*index)?)));
    let images = || in_scope().flat_map(|(index, file)| file.images.iter().map(move |image| (index, &image.name)));
    for found in &own.kustomizations {
        for (index, name) in images().filter(|(_, name)| found.legacy.contains(name)) {
            let why = format!("{}: `imageTags` has it, which is not rewritten: rename the field to `images`", own.name);
            done.held.entry((index, name.clone())).or_insert(why);
        }
        for Entry { name: entry, line, .. } in found.entries.iter().filter(|entry| !is_plain(&entry.name)) {
            // Of a name with a tag it is known what it means.
            let is_tagged = is_plain(name_of(entry));
            for (index, name) in images().filter(|(_, name)| !is_tagged || *name == name_of(entry)) {
                let what = "the entry of `images` for";
                let why = format!("{}:{line}: {what} {entry} has no plain name, and may mean it", own.name);
                done.held.entry((index, name.clone())).or_insert(why);
            }
        }
    }
}

/// Whether a name of an entry means itself alone: kustomize takes it as a regular expression.
fn is_plain(name: &str) -> bool {
    name_of(name) == name && crate::image::ImageRef::parse(name).is_ok()
}
