//! Which repositories and artifacts a policy is about.

use serde_json::Value;

use super::{glob, tables::Filter};

/// A repository at the source, with what of it is to be copied or deleted.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Full name.
    pub(crate) repository: String,
    /// Of the source's project; `None` where the source has no projects.
    pub(crate) public: Option<bool>,
    pub(crate) artifacts: Vec<Item>,
    pub(crate) deletes: Option<Deletes>,
}

/// What an event deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletes {
    Artifacts,
    Tags,
}

/// An artifact at the source. Plain registries list tags alone.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) digest: String,
    pub(crate) tags: Vec<String>,
    pub(crate) labels: Vec<String>,
}

impl Found {
    /// What is copied: tags, and the digests of what has none.
    pub(crate) fn references(&self) -> Vec<String> {
        let of = |item: &Item| if item.tags.is_empty() { vec![item.digest.clone()] } else { item.tags.clone() };
        self.artifacts.iter().flat_map(of).collect()
    }
}

/// The pattern for names, if there is one.
pub(crate) fn name_pattern(filters: &[Filter]) -> &str {
    filters.iter().find(|filter| filter.kind == "name").and_then(|filter| filter.value.as_str()).unwrap_or_default()
}

/// Whether every name filter matches.
pub(crate) fn keeps_repository(filters: &[Filter], name: &str) -> Result<bool, String> {
    for filter in filters.iter().filter(|filter| filter.kind == "name") {
        if !glob::matches(filter.value.as_str().unwrap_or_default(), name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the filters for tags and labels leave. Of the tags of an artifact only the fitting ones stay.
pub(crate) fn keep_artifacts(filters: &[Filter], mut items: Vec<Item>) -> Result<Vec<Item>, String> {
    for filter in filters {
        let excludes = filter.decoration == "excludes";
        match (filter.kind.as_str(), &filter.value) {
            ("tag", Value::String(pattern)) if !pattern.is_empty() => {
                let mut kept = Vec::new();
                for mut item in items {
                    let untagged = item.tags.is_empty();
                    let mut tags = Vec::new();
                    for tag in if untagged { vec![String::new()] } else { item.tags.clone() } {
                        if glob::matches(pattern, &tag)? != excludes {
                            tags.push(tag);
                        }
                    }
                    if !tags.is_empty() {
                        if !untagged {
                            item.tags = tags;
                        }
                        kept.push(item);
                    }
                }
                items = kept;
            }
            ("label", Value::Array(wanted)) if !wanted.is_empty() => {
                let has_all = |item: &Item| {
                    wanted.iter().all(|label| item.labels.iter().any(|found| Some(found.as_str()) == label.as_str()))
                };
                items.retain(|item| has_all(item) != excludes);
            }
            _ => {}
        }
    }
    Ok(items)
}

/// The name at the destination.
pub(crate) fn destination(name: &str, namespace: &str, replace: i64, levels: Option<usize>) -> Result<String, String> {
    if namespace.is_empty() {
        return Ok(name.to_owned());
    }
    let components: Vec<&str> = name.split('/').collect();
    let (last, path) = components.split_last().unwrap_or((&"", &[]));
    let kept = match usize::try_from(replace) {
        Err(_) => &[][..],
        Ok(replace) => path.get(replace..).ok_or_else(|| {
            format!(
                "the source repository \"{name}\" contains only {} path components [{}] excepting the last one, but the \
                 destination namespace flattening level is {replace}",
                path.len(),
                path.join(" ")
            )
        })?,
    };
    let all = [&namespace.split('/').collect::<Vec<_>>()[..], kept, &[last]].concat();
    if levels.is_some_and(|least| all.len() < least) {
        let message = format!(
            "the destination repository \"{}\" contains only {} path components [{}], but the destination registry requires \
             at least 2",
            all.join("/"),
            all.len(),
            all.join(" ")
        );
        return Err(message);
    }
    Ok(all.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_destination_replaces_as_many_levels_as_asked() {
        for (name, namespace, replace, wanted) in [
            ("app/single", "plain", -1, "plain/single"),
            ("a/b/c", "plain/x", -1, "plain/x/c"),
            ("app/single", "plain/rc0", 0, "plain/rc0/app/single"),
            ("app/single", "plain/rc1", 1, "plain/rc1/single"),
            ("a/b/c", "p", 1, "p/b/c"),
            ("app/single", "", 5, "app/single"),
        ] {
            assert_eq!(destination(name, namespace, replace, Some(2)).as_deref(), Ok(wanted));
        }
        let too_many = destination("app/single", "plain/rc2", 2, Some(2)).unwrap_err();
        assert!(too_many.contains("contains only 1 path components [app] excepting the last one"), "{too_many}");
    }

    #[test]
    fn filters_keep_tags_one_by_one_and_labels_together() {
        let item = |tags: &[&str], labels: &[&str]| Item {
            digest: String::new(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        };
        let filter = |kind: &str, value: Value, decoration: &str| Filter {
            kind: kind.to_owned(),
            value,
            decoration: decoration.to_owned(),
        };
        let items = || vec![item(&["v1", "latest"], &["a", "b"]), item(&[], &["a"])];
        let tags = |filters: &[Filter]| {
            keep_artifacts(filters, items()).unwrap().into_iter().map(|item| item.tags.join(",")).collect::<Vec<_>>()
        };
        assert_eq!(tags(&[filter("tag", json!("v*"), "")]), ["v1"]);
        assert_eq!(tags(&[filter("tag", json!("v*"), "excludes")]), ["latest", ""]);
        assert_eq!(tags(&[filter("label", json!(["a", "b"]), "matches")]), ["v1,latest"]);
        assert_eq!(tags(&[filter("label", json!(["a", "b"]), "excludes")]), [""]);
    }
}
