//! The parts of a file that matter for Kustomizations.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Entry, Kustomization, Seen, SeenImage, name_of};
use crate::{
    cli::kustomization::Named,
    manifests::{ImageRole, ManifestText, TemplateImage},
};

/// An unreadable Kustomization with more words than this may use any file.
const MAX_WORDS: usize = 4_096;

impl Seen {
    /// An unreadable Kustomization: it may use the files that its words name, or any file if it contains parts of words.
    pub(in crate::cli::rewrite) fn unreadable(text: Option<&str>) -> Self {
        let literal = text.filter(|text| !text.contains("{{") && !text.contains(['\\', '$', '&', '*']));
        let words = literal.map(|text| {
            let words =
                text.split(|c: char| c.is_whitespace() || "\"'[]{},".contains(c)).filter(|word| !word.is_empty());
            let lines = text.lines().map(|line| line.trim().trim_start_matches("- ").trim_matches(['"', '\'', ' ']));
            words.chain(lines).map(str::to_owned).collect::<BTreeSet<String>>()
        });
        let may_build_on = words.filter(|words| words.len() <= MAX_WORDS).map(|words| words.into_iter().collect());
        Self { unreadable: true, may_build_on, ..Self::default() }
    }

    /// Reads the Kustomizations of a file. `new` is the new image for an image.
    pub(in crate::cli::rewrite) fn of(
        manifests: &ManifestText<'_>,
        new: impl Fn(usize, usize) -> Option<String>,
    ) -> Self {
        let documents: Vec<Value> = manifests.documents().collect();
        let mut seen = Self::default();
        let mut kustomizations: BTreeMap<usize, Kustomization> = BTreeMap::new();
        for (index, document) in documents.iter().enumerate() {
            let group = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            if manifests.foreign_documents().contains(&(index + 1)) {
                seen.texts.push_str(&document.to_string());
            } else if group.starts_with("kustomize.config.k8s.io/") || document.get("kind").is_none() {
                kustomizations.insert(index + 1, Kustomization::of(document));
            }
        }
        for (template, found) in manifests.templates().iter().enumerate() {
            for (number, image) in found.images.iter().enumerate() {
                let TemplateImage { role, image: text, line, .. } = image;
                match role {
                    ImageRole::KustomizeName => {
                        let entry = Entry { at: (template, number), name: text.clone(), line: *line };
                        if let Some(kustomization) = kustomizations.get_mut(&found.document) {
                            kustomization.entries.push(entry);
                        }
                    }
                    ImageRole::Image | ImageRole::KustomizeNewName => {
                        let new = new(template, number).map(|new| name_of(&new).to_owned());
                        let is_new_name = *role == ImageRole::KustomizeNewName;
                        seen.images.push(SeenImage {
                            name: name_of(text).to_owned(),
                            new,
                            at: (template, number),
                            is_new_name,
                            document: found.document,
                            kind: found.object.kind.clone(),
                            object: found.object.name.clone(),
                            place: image.place.clone(),
                        });
                    }
                }
            }
        }
        seen.kustomizations = kustomizations.into_values().collect();
        seen.documents = documents;
        seen
    }

    /// Returns whether the file has anything to decide.
    pub(in crate::cli::rewrite) fn is_kustomization(&self) -> bool {
        self.unreadable || !self.kustomizations.is_empty()
    }

    /// Files that its Kustomizations refer to.
    pub(in crate::cli::rewrite) fn parts(&self) -> impl Iterator<Item = &String> {
        self.kustomizations.iter().flat_map(|found| found.named.parts())
    }
}

impl Kustomization {
    fn of(document: &Value) -> Self {
        let items = |field: &str| document.get(field).and_then(Value::as_array).into_iter().flatten();
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut found = Self {
            is_component: document.get("kind").and_then(Value::as_str) == Some("Component"),
            named: Named::of(document),
            legacy: items("imageTags").filter_map(|item| Some(item.get("name")?.as_str()?.to_owned())).collect(),
            vars: items("vars").cloned().collect(),
            name_prefix: text("namePrefix"),
            name_suffix: text("nameSuffix"),
            has_transformers: document.get("transformers").is_some(),
            replacements: items("replacements").filter(|item| item.get("path").is_none()).cloned().collect(),
            ..Self::default()
        };
        found.builds_on = [found.named.resources.clone(), found.named.patches.clone()].concat();
        let merged = items("patchesStrategicMerge").filter_map(Value::as_str).filter(|text| text.contains('\n'));
        let patches = items("patches").chain(items("patchesJson6902"));
        let patches = patches.filter_map(|patch| patch.get("patch").and_then(Value::as_str));
        for text in merged.chain(patches) {
            found.inline.push_str(text);
            found.patches.extend(ManifestText::read(text).iter().flat_map(ManifestText::documents));
        }
        const MAKING: [&str; 4] = ["helmCharts", "helmChartInflationGenerator", "generators", "transformers"];
        found.makes = MAKING.into_iter().find(|field| document.get(*field).is_some());
        // They copy fields: mostly names, sometimes images.
        let replacements = document.get("replacements").map(Value::to_string).unwrap_or_default();
        if replacements.contains("image") || replacements.contains("\"path\"") {
            found.makes.get_or_insert("replacements");
        }
        found
    }
}
