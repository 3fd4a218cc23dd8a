//! Kustomizations and their files: an entry of `images` selects images by name, so its name must change with theirs. If that is
//! not possible for all of them, these images are not rewritten.

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

/// A file, reduced to the fields that matter for Kustomizations.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Name for messages.
    pub(super) name: String,
    /// Path; `None` for standard input.
    pub(super) path: Option<PathBuf>,
    pub(super) images: Vec<SeenImage>,
    pub(super) kustomizations: Vec<Kustomization>,
    /// Texts that are not objects, such as JSON Patches.
    pub(super) texts: String,
    /// All documents.
    pub(super) documents: Vec<Value>,
    /// Whether it is only read: it is not on the command line.
    pub(super) outside: bool,
    /// Whether it is a Kustomization that cannot be read here. `kubectl` may be able to read it.
    pub(super) unreadable: bool,
    /// For an unreadable Kustomization: the files that it may use. `None`: any file.
    pub(super) may_build_on: Option<Vec<String>>,
}

/// An image of a file, or a `newName` of a Kustomization.
#[derive(Debug)]
pub(super) struct SeenImage {
    /// Without tag and digest, as written.
    pub(super) name: String,
    /// The new name.
    pub(super) new: Option<String>,
    /// Template and image of the file that contain it.
    at: (usize, usize),
    /// Whether an entry of a Kustomization sets it.
    is_new_name: bool,
    /// The number of its document, from 1.
    document: usize,
    /// Kind and name of the object.
    kind: String,
    object: String,
    /// Its field in the document.
    place: String,
}

/// A Kustomization or Component.
#[derive(Debug, Default)]
pub(super) struct Kustomization {
    is_component: bool,
    entries: Vec<Entry>,
    /// Names in `imageTags`, the former name of `images`.
    legacy: Vec<String>,
    /// Files and directories that it uses.
    builds_on: Vec<String>,
    named: Named,
    /// Inline patches, as text and parsed.
    inline: String,
    patches: Vec<Value>,
    /// Its `replacements` and `vars`.
    replacements: Vec<Value>,
    vars: Vec<Value>,
    /// The prefixes and suffixes that it adds to the names of objects.
    name_prefix: String,
    name_suffix: String,
    /// Whether `transformers` may change names, too.
    has_transformers: bool,
    /// A field that generates objects from other files.
    makes: Option<&'static str>,
}

#[derive(Debug)]
struct Entry {
    /// Template and image of the file that contain the name.
    at: (usize, usize),
    name: String,
    line: usize,
}

/// The requirements of the Kustomizations.
#[derive(Debug, Default)]
pub(super) struct Consequences {
    /// New names of entries, by file, template and image.
    pub(super) renamed: BTreeMap<(usize, usize, usize), String>,
    /// Images that must not be rewritten, by file and name, with the reason.
    pub(super) held: BTreeMap<(usize, String), String>,
}
/// Decides for all files of the input together, and for files that were only read.
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
    // Each round holds at least one more image, or is the last one.
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

/// Returns an image without tag and digest.
pub(super) fn name_of(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name)
}
