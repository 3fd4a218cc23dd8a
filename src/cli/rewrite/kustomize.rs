//! Kustomizations and the files that they build on: an entry of `images` means images by name, so the name changes when
//! theirs does. Where that is not possible for all that an entry means, these images stay as they are.

mod entry;
mod hold;
mod lists;
mod read;
mod replacement;
mod scope;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use self::scope::Scope;
use crate::cli::kustomization::Named;

/// A file, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What people call it.
    pub(super) name: String,
    /// Where it is; `None` of standard input.
    pub(super) path: Option<PathBuf>,
    pub(super) images: Vec<SeenImage>,
    pub(super) kustomizations: Vec<Kustomization>,
    /// Texts that are no objects, such as patches by JSON Patch.
    pub(super) texts: String,
    /// All documents.
    pub(super) documents: Vec<Value>,
    /// Whether it is only looked at: the command was not given it.
    pub(super) outside: bool,
    /// Whether it is a Kustomization that cannot be read here: `kubectl` may read it.
    pub(super) unreadable: bool,
    /// Of one that cannot be read: what it may build on. `None`: anything.
    pub(super) may_build_on: Option<Vec<String>>,
}

/// An image of a file, or a `newName` of a Kustomization.
#[derive(Debug)]
pub(super) struct SeenImage {
    /// Without tag and digest, as written.
    pub(super) name: String,
    /// What the name is to become.
    pub(super) new: Option<String>,
    /// Template and image of the file that hold it.
    at: (usize, usize),
    /// Whether an entry of a Kustomization puts it there.
    is_new_name: bool,
    /// The document it stands in, counted from 1.
    document: usize,
    /// Kind and name of the object.
    kind: String,
    object: String,
    /// Where it stands in its document.
    place: String,
}

/// A Kustomization or Component.
#[derive(Debug, Default)]
pub(super) struct Kustomization {
    is_component: bool,
    entries: Vec<Entry>,
    /// Names in `imageTags`, which `images` were once.
    legacy: Vec<String>,
    /// Files and directories that it builds on.
    builds_on: Vec<String>,
    named: Named,
    /// Patches within it, as text and read.
    inline: String,
    patches: Vec<Value>,
    /// `replacements` and `vars` within it.
    replacements: Vec<Value>,
    vars: Vec<Value>,
    /// What it puts before and behind the names of objects.
    name_prefix: String,
    name_suffix: String,
    /// Whether `transformers` may change names, too.
    has_transformers: bool,
    /// A field that makes objects of something that is no manifest.
    makes: Option<&'static str>,
}

#[derive(Debug)]
struct Entry {
    /// Template and image of the file that hold the name.
    at: (usize, usize),
    name: String,
    line: usize,
}

/// What the Kustomizations need.
#[derive(Debug, Default)]
pub(super) struct Consequences {
    /// New names of entries, by file, template and image.
    pub(super) renamed: BTreeMap<(usize, usize, usize), String>,
    /// Images that have to stay, by file and name, and why.
    pub(super) held: BTreeMap<(usize, String), String>,
}
/// Decides for all files of the input together, and files beside them that were only looked at.
pub(super) fn consequences(files: &[Seen]) -> Consequences {
    let by_path: BTreeMap<&Path, usize> =
        files.iter().enumerate().filter_map(|(index, file)| Some((file.path.as_deref()?, index))).collect();
    let scopes: Vec<Scope> = files
        .iter()
        .enumerate()
        .filter(|(_, file)| !file.kustomizations.is_empty())
        .map(|(index, _)| Scope::of(files, &by_path, index))
        .collect();
    let mut done = Consequences::default();
    let unreadable = files.iter().enumerate().filter(|(_, file)| file.unreadable);
    unreadable.for_each(|(index, _)| hold::reachable(files, &Scope::of(files, &by_path, index), &mut done));
    for scope in &scopes {
        hold::unclear(files, scope, &mut done);
        hold::tested(files, scope, &mut done);
        replacement::hold(files, &by_path, scope, &mut done);
    }
    // Each round holds an image more at least, or is the last one.
    loop {
        let before = done.held.len();
        done.renamed.clear();
        for scope in &scopes {
            let file = files.get(scope.file);
            let entries = file.iter().flat_map(|file| &file.kustomizations).flat_map(|found| &found.entries);
            for entry in entries {
                entry::decide(files, &by_path, scope, entry, &mut done);
            }
        }
        if done.held.len() == before {
            return done;
        }
    }
}

/// An image without tag and digest.
pub(super) fn name_of(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name)
}
