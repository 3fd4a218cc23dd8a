//! The files that a Kustomization refers to.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifests::{KindTable, ManifestText};

/// Names of the files of kustomize.
pub(super) const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Files of a Kustomization, as it names them.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Files and directories of objects: `resources` and `bases`.
    pub(super) resources: Vec<String>,
    pub(super) components: Vec<String>,
    pub(super) patches: Vec<String>,
    /// Files of `replacements`.
    pub(super) replacements: Vec<String>,
    /// Files of `configurations`.
    pub(super) configurations: Vec<String>,
}

impl Named {
    /// Reads the file names of a Kustomization.
    pub(super) fn of(document: &Value) -> Self {
        let items = |field: &str| document.get(field).and_then(Value::as_array).into_iter().flatten();
        let texts = |field: &str| items(field).filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let paths = |field: &str| {
            let path = |item: &Value| item.get("path").and_then(Value::as_str).map(str::to_owned);
            items(field).filter_map(path).collect::<Vec<_>>()
        };
        let merged = texts("patchesStrategicMerge").into_iter().filter(|text| !text.contains('\n')).collect();
        Self {
            resources: [texts("resources"), texts("bases")].concat(),
            components: texts("components"),
            patches: [merged, paths("patches"), paths("patchesJson6902")].concat(),
            replacements: paths("replacements"),
            configurations: texts("configurations"),
        }
    }

    /// Files without own objects, or with parts of objects only.
    pub(super) fn parts(&self) -> impl Iterator<Item = &String> {
        self.patches.iter().chain(&self.replacements).chain(&self.configurations)
    }
}

/// Files that a Kustomization refers to and that a directory listing does not include, because their names have no manifest
/// extension. Only files below the directory of the command line.
pub(super) fn unlisted(text: &str, file: &Path, given: &Path, recursive: bool) -> Vec<PathBuf> {
    let (fields, parent) = (KindTable::default(), file.parent().unwrap_or(given));
    let Ok(manifests) = ManifestText::read_file(text, &fields, true) else { return Vec::new() };
    let Ok(root) = given.canonicalize() else { return Vec::new() };
    let is_within = |path: &PathBuf| {
        path.canonicalize().is_ok_and(|path| match recursive {
            true => path.starts_with(&root),
            false => path.parent() == Some(&root),
        })
    };
    let named = manifests.documents().flat_map(|document| {
        let named = Named::of(&document);
        named.resources.iter().chain(named.parts()).map(|text| parent.join(text)).collect::<Vec<_>>()
    });
    named.filter(|path| !is_manifest(path) && path.is_file() && is_within(path)).collect()
}

pub(super) fn is_manifest(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| matches!(ending, "yaml" | "yml" | "json")) || is_kustomization(file)
}

pub(super) fn is_kustomization(file: &Path) -> bool {
    file.file_name().and_then(|name| name.to_str()).is_some_and(|name| KUSTOMIZATIONS.contains(&name))
}
