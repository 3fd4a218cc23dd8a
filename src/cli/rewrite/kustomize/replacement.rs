//! `replacements` of a Kustomization: they copy a field, or a part of it, into other fields.
//!
//! A complete image that is copied to an image is the same before and after rewriting. A part of an image (`options.delimiter`)
//! changes when the name changes, and an image that is copied into another text is not rewritten there. Such images are not
//! rewritten. The same applies to images that `vars` copy: they can be in any text.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{
    Consequences, Seen, SeenImage,
    scope::{self, Scope},
};

/// Holds images that `replacements` read or write in part.
pub(super) fn hold(files: &[Seen], by_path: &BTreeMap<&Path, usize>, scope: &Scope, done: &mut Consequences) {
    let Some(own) = files.get(scope.file) else { return };
    for found in &own.kustomizations {
        for object in &found.vars {
            hold_of_var(files, scope, object, &own.name, done);
        }
        for replacement in &found.replacements {
            hold_of(files, scope, replacement, &own.name, done);
        }
        for path in &found.named.replacements {
            match scope::find(own, by_path, path).and_then(|index| files.get(index)) {
                Some(file) => {
                    // A file has one or a list of them.
                    for document in &file.documents {
                        let list = document.as_array().map_or(std::slice::from_ref(document), Vec::as_slice);
                        list.iter().for_each(|replacement| hold_of(files, scope, replacement, &file.name, done));
                    }
                }
                None => {
                    let why = format!("{}: `replacements` of {path}, which cannot be read, may select it", own.name);
                    hold_images(files, scope, &why, done, |_| true);
                }
            }
        }
    }
}

fn hold_of_var(files: &[Seen], scope: &Scope, object: &Value, file: &str, done: &mut Consequences) {
    let path = object.get("fieldref").and_then(|field| field.get("fieldpath")).and_then(Value::as_str);
    let path = path.unwrap_or("metadata.name").replace(".[", "[").replace('[', ".[");
    let (select, affixes) = (object.get("objref").unwrap_or(&Value::Null), Affixes::of(files, scope));
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
    let why = format!("{file}: `vars` copies it into other texts (`$({name})`)");
    hold_images(files, scope, &why, done, |image| selects(select, image, &affixes) && leads_to(&path, &image.place));
}

fn hold_of(files: &[Seen], scope: &Scope, replacement: &Value, file: &str, done: &mut Consequences) {
    let source = replacement.get("source").unwrap_or(&Value::Null);
    let affixes = Affixes::of(files, scope);
    let targets = replacement.get("targets").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_source = |image: &SeenImage| {
        let path = source.get("fieldPath").and_then(Value::as_str).unwrap_or("metadata.name");
        selects(source, image, &affixes) && leads_to(path, &image.place)
    };
    let mut holds_source = is_partial(source);
    for target in targets {
        let paths = || {
            let list = target.get("fieldPaths").or_else(|| target.get("fieldpaths")).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str)
        };
        let partial = is_partial(target);
        holds_source |= partial || !paths().all(|path| steps(path).last().is_some_and(|step| step == "image"));
        if partial {
            let why = format!("{file}: a target of `replacements` changes a part of it");
            let select = target.get("select").unwrap_or(&Value::Null);
            let is_target = |image: &SeenImage| {
                selects(select, image, &affixes) && paths().any(|path| leads_to(path, &image.place))
            };
            hold_images(files, scope, &why, done, is_target);
        }
    }
    if holds_source {
        let why = format!("{file}: the source of `replacements` copies it, or a part of it, into other texts");
        hold_images(files, scope, &why, done, is_source);
    }
}

fn hold_images(
    files: &[Seen],
    scope: &Scope,
    why: &str,
    done: &mut Consequences,
    is_meant: impl Fn(&SeenImage) -> bool,
) {
    for index in &scope.files {
        for image in files.get(*index).iter().flat_map(|file| &file.images).filter(|image| is_meant(image)) {
            done.held.entry((*index, image.name.clone())).or_insert_with(|| why.to_owned());
        }
    }
}

/// Returns whether a source or a target is a part of a field.
fn is_partial(side: &Value) -> bool {
    let delimiter = side.get("options").and_then(|options| options.get("delimiter"));
    delimiter.and_then(Value::as_str).is_some_and(|delimiter| !delimiter.is_empty())
}

/// The prefixes and suffixes that Kustomizations add to the names of objects.
struct Affixes<'f> {
    prefixes: Vec<&'f str>,
    suffixes: Vec<&'f str>,
    /// Whether something else may change names, too.
    any: bool,
}

impl<'f> Affixes<'f> {
    fn of(files: &'f [Seen], scope: &Scope) -> Self {
        let all = || scope.files.iter().filter_map(|index| files.get(*index)).flat_map(|file| &file.kustomizations);
        let is_some = |text: &&str| !text.is_empty();
        Self {
            prefixes: all().map(|found| found.name_prefix.as_str()).filter(is_some).collect(),
            suffixes: all().map(|found| found.name_suffix.as_str()).filter(is_some).collect(),
            any: all().any(|found| found.has_transformers),
        }
    }

    /// Returns whether an object can have this name: its own, or one with prefixes and suffixes.
    fn make(&self, name: &str, own: &str) -> bool {
        own.is_empty()
            || name.match_indices(own).any(|(at, _)| {
                let (before, after) =
                    (name.get(..at).unwrap_or_default(), name.get(at + own.len()..).unwrap_or_default());
                self.any
                    || (before.is_empty() || self.prefixes.iter().any(|prefix| before.ends_with(prefix)))
                        && (after.is_empty() || self.suffixes.iter().any(|suffix| after.starts_with(suffix)))
            })
    }
}

/// Returns whether a selector may select the object of an image. Selectors may be regular expressions.
fn selects(selector: &Value, image: &SeenImage, affixes: &Affixes<'_>) -> bool {
    let plain = |field: &str| {
        let text = selector.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    };
    plain("kind").is_none_or(|kind| kind == image.kind)
        && plain("name").is_none_or(|name| affixes.make(name, &image.object))
}

/// Returns whether the path of a field is that of a field, or of a mapping or list around it. In a List the field's path has
/// leading steps.
fn leads_to(path: &str, place: &str) -> bool {
    let place = place.replace('[', ".[");
    let place: Vec<&str> = place.split('.').collect();
    let path = steps(path);
    let fits = |(step, at): (&String, &&str)| {
        step == at || step == "*" || at.starts_with('[') && (step.starts_with('[') || step.parse::<usize>().is_ok())
    };
    let starts = 0..=place.len().saturating_sub(path.len());
    let mut tails = starts.filter_map(|start| place.get(start..));
    path.len() <= place.len() && tails.any(|tail| path.iter().zip(tail).all(fits))
}

/// The steps of a path of kustomize: `spec.containers.[name=a.b].image`, `metadata.annotations.a\.b`.
fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut step, mut depth) = (Vec::new(), String::new(), 0_usize);
    let mut chars = path.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => step.extend(chars.next()),
            '.' if depth == 0 => steps.push(std::mem::take(&mut step)),
            _ => {
                depth = if next == '[' { depth + 1 } else { depth.saturating_sub(usize::from(next == ']')) };
                step.push(next);
            }
        }
    }
    steps.push(step);
    steps
}
