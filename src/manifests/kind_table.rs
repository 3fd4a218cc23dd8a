//! The fields of known kinds: where their objects name images and take pull secrets.
//!
//! The table is data of one format (`kinds.yaml`); users add entries in the same format.

use std::sync::LazyLock;

use super::{
    ManifestError, Object,
    field_path::{FieldPattern, PathSegment},
    tree::Tree,
    value::{Value, values},
};

const BUILTIN: &str = include_str!("kinds.yaml");
const FIELDS: [&str; 9] =
    ["group", "kinds", "images", "podSpecs", "pullSecrets", "pullSecretNames", "listed", "ignored", "runtimeText"];

static KNOWN: LazyLock<Vec<KindEntry>> = LazyLock::new(|| read(BUILTIN).unwrap_or_default());

/// A table of kinds.
#[derive(Debug, Default)]
pub struct KindTable {
    own: Vec<KindEntry>,
}

/// The fields of some kinds of a group.
#[derive(Debug, Clone, Default)]
struct KindEntry {
    group: String,
    kinds: Vec<String>,
    images: Vec<FieldPattern>,
    pod_specs: Vec<FieldPattern>,
    pull_secrets: Vec<(FieldPattern, String)>,
    pull_secret_names: Vec<(FieldPattern, String)>,
    listed: Vec<FieldPattern>,
    ignored: Vec<FieldPattern>,
    runtime_text: bool,
}

/// A mapping that takes pull secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PullSecretsField {
    /// The field of the mapping.
    pub(super) field: String,
    /// Whether its items are plain names, not objects with a name.
    pub(super) names: bool,
}

/// The known fields of one kind.
#[derive(Debug, Clone)]
pub(super) struct KnownKind<'f>(Vec<&'f KindEntry>);

impl KindTable {
    /// Creates the built-in table with the entries of the user's text.
    ///
    /// # Errors
    /// When the text is not a table, with the position.
    pub fn with(text: &str) -> Result<Self, ManifestError> {
        Ok(Self { own: read(text)? })
    }

    /// Returns the known fields of an object's kind.
    pub(super) fn of(&self, object: &Object) -> KnownKind<'_> {
        KnownKind(self.own.iter().chain(KNOWN.iter()).filter(|entry| entry.means(object)).collect())
    }
}

impl KindEntry {
    fn means(&self, object: &Object) -> bool {
        let group = object.group();
        let is_group = match self.group.strip_prefix('*') {
            Some(ending) => group.ends_with(ending),
            None => group == self.group,
        };
        is_group && self.kinds.iter().any(|kind| kind == "*" || *kind == object.kind)
    }
}

impl KnownKind<'_> {
    /// Returns whether an image is at this place.
    pub(super) fn is_image(&self, steps: &[PathSegment<'_>]) -> bool {
        self.any(steps, |entry| &entry.images)
    }

    /// Returns whether a Pod spec is at this place.
    pub(super) fn is_pod_spec(&self, steps: &[PathSegment<'_>]) -> bool {
        self.any(steps, |entry| &entry.pod_specs)
    }

    /// Returns whether values below this place are listed and not changed.
    pub(super) fn is_listed(&self, steps: &[PathSegment<'_>]) -> bool {
        self.any(steps, |entry| &entry.listed)
    }

    /// Returns whether values below this place are ignored.
    pub(super) fn is_ignored(&self, steps: &[PathSegment<'_>]) -> bool {
        self.any(steps, |entry| &entry.ignored)
    }

    /// Returns whether texts of this kind have placeholders that are filled in at run time.
    pub(super) fn has_runtime_text(&self) -> bool {
        self.0.iter().any(|entry| entry.runtime_text)
    }

    /// Returns how the mapping at this place takes pull secrets.
    pub(super) fn taking(&self, steps: &[PathSegment<'_>]) -> Option<PullSecretsField> {
        let find = |list: &[(FieldPattern, String)], names| {
            let found = list.iter().find(|(pattern, _)| pattern.matches(steps));
            found.map(|(_, field)| PullSecretsField { field: field.clone(), names })
        };
        self.0
            .iter()
            .find_map(|entry| find(&entry.pull_secrets, false).or_else(|| find(&entry.pull_secret_names, true)))
    }

    fn any(&self, steps: &[PathSegment<'_>], patterns: impl Fn(&KindEntry) -> &Vec<FieldPattern>) -> bool {
        self.0.iter().any(|entry| patterns(entry).iter().any(|pattern| pattern.matches(steps)))
    }
}

fn read(text: &str) -> Result<Vec<KindEntry>, ManifestError> {
    let tree = Tree::parse(text)?;
    let mut entries = Vec::new();
    for value in values(&tree)? {
        let kinds = value.get("kinds").and_then(Value::items);
        let kinds =
            kinds.ok_or_else(|| tree.error(value.token, "no list `kinds`: see docs/rewrite.md for the format"))?;
        for entry in kinds {
            entries.push(read_entry(&tree, entry)?);
        }
    }
    Ok(entries)
}

fn read_entry(tree: &Tree, value: &Value) -> Result<KindEntry, ManifestError> {
    let wrong = |at: &Value, detail: String| Err(tree.error(at.token, detail));
    for (key, _) in value.entries() {
        if !key.text().is_some_and(|key| FIELDS.contains(&key)) {
            return wrong(key, format!("unknown field; known are {}", FIELDS.join(", ")));
        }
    }
    let texts = |field: &str| -> Result<Vec<(&Value, &str)>, ManifestError> {
        let Some(list) = value.get(field) else { return Ok(Vec::new()) };
        let items = list.items().ok_or_else(|| tree.error(list.token, format!("`{field}` takes a list of texts")))?;
        let text = |item| Value::text(item).ok_or_else(|| tree.error(item.token, format!("`{field}` takes texts")));
        items.iter().map(|item| Ok((item, text(item)?))).collect()
    };
    let patterns = |field: &str| -> Result<Vec<FieldPattern>, ManifestError> {
        let read = |(item, text): (&Value, &str)| {
            FieldPattern::read(text)
                .ok_or_else(|| tree.error(item.token, "a path is keys with dots between: spec.template.image"))
        };
        texts(field)?.into_iter().map(read).collect()
    };
    let fields_of = |field: &str| -> Result<Vec<(FieldPattern, String)>, ManifestError> {
        let split = |pattern: FieldPattern| {
            let split = pattern.split_last().map(|(before, last)| (before, last.to_owned()));
            split.ok_or_else(|| tree.error(value.token, format!("a path of `{field}` ends with the name of a field")))
        };
        patterns(field)?.into_iter().map(split).collect()
    };
    let Some(group) = value.get("group").and_then(Value::text) else {
        return wrong(value, "an entry needs `group`: the part of apiVersion before the slash, \"\" for v1".to_owned());
    };
    let kinds: Vec<String> = texts("kinds")?.into_iter().map(|(_, kind)| kind.to_owned()).collect();
    if kinds.is_empty() {
        return wrong(value, "an entry needs `kinds`: a list of kinds, [\"*\"] for all".to_owned());
    }
    Ok(KindEntry {
        group: group.to_owned(),
        kinds,
        images: patterns("images")?,
        pod_specs: patterns("podSpecs")?,
        pull_secrets: fields_of("pullSecrets")?,
        pull_secret_names: fields_of("pullSecretNames")?,
        listed: patterns("listed")?,
        ignored: patterns("ignored")?,
        runtime_text: value.get("runtimeText").is_some_and(Value::is_true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_built_in_can_be_read() {
        let entries = read(BUILTIN).unwrap();
        assert!(entries.len() > 40, "{}", entries.len());
    }

    #[test]
    fn fields_that_are_wrong_are_refused_with_their_place() {
        for (text, expected) in [
            ("a: 1", "no list `kinds`"),
            ("kinds:\n- {group: x, kinds: [A], image: [spec.image]}", "line 2, column 26: unknown field"),
            ("kinds:\n- {kinds: [A]}", "needs `group`"),
            ("kinds:\n- {group: x}", "needs `kinds`"),
            ("kinds:\n- {group: x, kinds: [A], images: spec.image}", "`images` takes a list"),
            ("kinds:\n- {group: x, kinds: [A], images: [spec..image]}", "keys with dots"),
            ("kinds:\n- {group: x, kinds: [A], pullSecrets: ['spec.*']}", "ends with the name of a field"),
            ("kinds: [", "unclosed"),
        ] {
            let error = KindTable::with(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
