//! What of a file matters to Kustomizations.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Entry, Kustomization, Seen, SeenImage, name_of};
use crate::manifests::{Image, Manifests, Role};

/// A Kustomization with more words that cannot be read may build on anything.
const MAX_WORDS: usize = 4_096;

impl Seen {
    /// A Kustomization that cannot be read: what its words name it may build on, and anything where its text has parts that
    /// become words later.
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

    /// Takes from a file what its Kustomizations are. `new` is what an image is to become.
    pub(in crate::cli::rewrite) fn of(manifests: &Manifests<'_>, new: impl Fn(usize, usize) -> Option<String>) -> Self {
        let documents: Vec<Value> = manifests.documents().collect();
        let mut seen = Self::default();
        let mut kustomizations: BTreeMap<usize, Kustomization> = BTreeMap::new();
        for (index, document) in documents.iter().enumerate() {
            let group = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            if manifests.strangers().contains(&(index + 1)) {
                seen.texts.push_str(&document.to_string());
            } else if group.starts_with("kustomize.config.k8s.io/") || document.get("kind").is_none() {
                kustomizations.insert(index + 1, Kustomization::of(document));
            }
        }
        for (template, found) in manifests.templates().iter().enumerate() {
            for (number, image) in found.images.iter().enumerate() {
                let Image { role, image: text, line, .. } = image;
                match role {
                    Role::KustomizeName => {
                        let entry = Entry { at: (template, number), name: text.clone(), line: *line };
                        if let Some(kustomization) = kustomizations.get_mut(&found.document) {
                            kustomization.entries.push(entry);
                        }
                    }
                    Role::Image | Role::KustomizeNewName => {
                        let new = new(template, number).map(|new| name_of(&new).to_owned());
                        let is_new_name = *role == Role::KustomizeNewName;
                        let name = name_of(text).to_owned();
                        seen.images.push(SeenImage { name, new, at: (template, number), is_new_name });
                    }
                }
            }
        }
        seen.kustomizations = kustomizations.into_values().collect();
        seen
    }

    /// Whether there is anything here to decide.
    pub(in crate::cli::rewrite) fn has_entries(&self) -> bool {
        let has_some = |found: &Kustomization| !found.entries.is_empty() || !found.legacy.is_empty();
        self.unreadable || self.kustomizations.iter().any(has_some)
    }
}

impl Kustomization {
    fn of(document: &Value) -> Self {
        let items = |field: &str| document.get(field).and_then(Value::as_array).into_iter().flatten();
        let texts =
            |field: &str| -> Vec<String> { items(field).filter_map(Value::as_str).map(str::to_owned).collect() };
        let mut found = Self {
            is_component: document.get("kind").and_then(Value::as_str) == Some("Component"),
            builds_on: [texts("resources"), texts("bases")].concat(),
            components: texts("components"),
            legacy: items("imageTags").filter_map(|item| Some(item.get("name")?.as_str()?.to_owned())).collect(),
            ..Self::default()
        };
        for text in texts("patchesStrategicMerge") {
            if text.contains('\n') { found.inline.push_str(&text) } else { found.builds_on.push(text) }
        }
        for field in ["patches", "patchesJson6902"] {
            for patch in document.get(field).and_then(Value::as_array).into_iter().flatten() {
                let text = |key: &str| patch.get(key).and_then(Value::as_str).map(str::to_owned);
                found.builds_on.extend(text("path"));
                found.inline.push_str(&text("patch").unwrap_or_default());
            }
        }
        const MAKING: [&str; 4] = ["helmCharts", "helmChartInflationGenerator", "generators", "transformers"];
        found.makes = MAKING.into_iter().find(|field| document.get(*field).is_some());
        // They copy fields: most of them names, some of them images.
        let replacements = document.get("replacements").map(Value::to_string).unwrap_or_default();
        if replacements.contains("image") || replacements.contains("\"path\"") {
            found.makes.get_or_insert("replacements");
        }
        found
    }
}
