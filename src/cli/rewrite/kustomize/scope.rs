//! The files that the entries of a Kustomization change.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use super::Seen;

/// The files that the entries of a Kustomization change.
pub(super) struct Scope {
    pub(super) file: usize,
    pub(super) files: BTreeSet<usize>,
    /// A part that is not known.
    pub(super) missing: Option<String>,
    /// Whether it may include any file: one of its Kustomizations cannot be read.
    pub(super) is_open: bool,
}

impl Scope {
    /// The scope of the Kustomizations of a file.
    pub(super) fn of(files: &[Seen], by_path: &BTreeMap<&Path, usize>, file: usize) -> Self {
        let mut scope = Self { file, files: BTreeSet::new(), missing: None, is_open: false };
        extend(files, by_path, file, &mut scope);
        let is_component = |index: &usize| {
            files.get(*index).is_some_and(|file| file.kustomizations.iter().any(|found| found.is_component))
        };
        let is_unreadable = files.get(file).is_some_and(|file| file.unreadable);
        if is_component(&file) || is_unreadable {
            // A Component changes the files of its users. An unreadable file may be one.
            let users: Vec<usize> = (0..files.len()).filter(|user| uses(files, by_path, *user, file)).collect();
            if users.is_empty() && !is_unreadable {
                scope.missing.get_or_insert_with(|| "the Kustomizations that use it".to_owned());
            }
            users.into_iter().for_each(|user| extend(files, by_path, user, &mut scope));
        }
        scope
    }
}

fn uses(files: &[Seen], by_path: &BTreeMap<&Path, usize>, user: usize, component: usize) -> bool {
    let Some(file) = files.get(user) else { return false };
    let all = file.kustomizations.iter().flat_map(|found| &found.named.components);
    all.into_iter().any(|text| find(file, by_path, text) == Some(component))
}

fn extend(files: &[Seen], by_path: &BTreeMap<&Path, usize>, index: usize, scope: &mut Scope) {
    let Some(file) = files.get(index) else { return };
    if !scope.files.insert(index) {
        return;
    }
    if file.unreadable {
        scope.missing.get_or_insert_with(|| file.name.clone());
        scope.is_open |= file.may_build_on.is_none();
        for text in file.may_build_on.iter().flatten() {
            match find(file, by_path, text) {
                Some(other) => extend(files, by_path, other, scope),
                // It may have a Kustomization that uses any file.
                None => scope.is_open |= resolved(file, text).is_some_and(|path| path.is_dir()),
            }
        }
    }
    for found in &file.kustomizations {
        if let Some(makes) = found.makes {
            scope.missing.get_or_insert_with(|| format!("the output of its `{makes}`"));
        }
        for text in found.builds_on.iter().chain(&found.named.components) {
            match find(file, by_path, text) {
                Some(other) => extend(files, by_path, other, scope),
                None => {
                    scope.missing.get_or_insert_with(|| text.clone());
                }
            }
        }
    }
}

/// The file of the input that a Kustomization refers to, or the Kustomization of the directory that it refers to.
pub(super) fn find(file: &Seen, by_path: &BTreeMap<&Path, usize>, text: &str) -> Option<usize> {
    let path = resolved(file, text)?;
    let in_directory = crate::cli::kustomization::KUSTOMIZATIONS.iter().map(|name| path.join(name));
    std::iter::once(path.clone()).chain(in_directory).find_map(|path| by_path.get(path.as_path()).copied())
}

/// The target of a path in a file. Files are compared by the targets of symbolic links.
fn resolved(file: &Seen, text: &str) -> Option<PathBuf> {
    let path = file.path.as_deref()?.parent()?.join(text);
    Some(path.canonicalize().unwrap_or_else(|_| normal(&path)))
}

/// Removes `.` and `..` without reading the file system.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
