//! Kustomizations and the files that they build on: an entry of `images` means images by name, so the name changes when
//! theirs does. Where that is not possible for all that an entry means, these images stay as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use crate::manifests::{Image, Manifests, Role};

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
    /// Whether it is only looked at: the command was not given it.
    pub(super) outside: bool,
    /// Whether it is a Kustomization that cannot be read here: `kubectl` may read it.
    pub(super) unreadable: bool,
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
    components: Vec<String>,
    /// Patches within it.
    inline: String,
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

impl Seen {
    /// Takes from a file what its Kustomizations are. `new` is what an image is to become.
    pub(super) fn of(manifests: &Manifests<'_>, new: impl Fn(usize, usize) -> Option<String>) -> Self {
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
    pub(super) fn has_entries(&self) -> bool {
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

/// Decides for all files of the input together, and files beside them that were only looked at.
pub(super) fn consequences(files: &[Seen]) -> Consequences {
    let by_path: BTreeMap<&Path, usize> =
        files.iter().enumerate().filter_map(|(index, file)| Some((file.path.as_deref()?, index))).collect();
    let scopes: Vec<Scope> = files
        .iter()
        .enumerate()
        .filter(|(_, file)| !file.kustomizations.is_empty())
        .map(|(index, _)| scope(files, &by_path, index))
        .collect();
    let mut done = Consequences::default();
    files.iter().filter(|file| file.unreadable).for_each(|file| hold_below(files, file, &mut done));
    scopes.iter().for_each(|scope| hold_unclear(files, scope, &mut done));
    // Each round holds an image more at least, or is the last one.
    loop {
        let before = done.held.len();
        done.renamed.clear();
        for scope in &scopes {
            let file = files.get(scope.file);
            let entries = file.iter().flat_map(|file| &file.kustomizations).flat_map(|found| &found.entries);
            for entry in entries {
                decide(files, scope, entry, &mut done);
            }
        }
        if done.held.len() == before {
            return done;
        }
    }
}

/// Holds all images beside and below a Kustomization that cannot be read: its entries may mean them.
fn hold_below(files: &[Seen], unreadable: &Seen, done: &mut Consequences) {
    let Some(directory) = unreadable.path.as_deref().and_then(Path::parent) else { return };
    for (index, file) in files.iter().enumerate() {
        if file.path.as_deref().is_some_and(|path| path.starts_with(directory)) {
            for image in &file.images {
                let why = format!("{} cannot be read, and may have an entry for it", unreadable.name);
                done.held.insert((index, image.name.clone()), why);
            }
        }
    }
}

/// Holds what entries mean that are not rewritten: those of `imageTags`, and those with a regular expression or a tag as name.
fn hold_unclear(files: &[Seen], scope: &Scope, done: &mut Consequences) {
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

fn decide(files: &[Seen], scope: &Scope, entry: &Entry, done: &mut Consequences) {
    let Some(own) = files.get(scope.file) else { return };
    let mut becomes: BTreeSet<Option<&str>> = BTreeSet::new();
    let mut in_text = false;
    for index in &scope.files {
        let Some(file) = files.get(*index) else { continue };
        let is_held = done.held.contains_key(&(*index, entry.name.clone()));
        // Of its own file it means what entries before it put there.
        let is_before = |image: &&SeenImage| image.is_new_name && image.at < entry.at;
        let in_scope = file.images.iter().filter(|image| *index != scope.file || is_before(image));
        let meant = in_scope.filter(|image| image.name == entry.name);
        becomes.extend(meant.map(|image| image.new.as_deref().filter(|_| !is_held)));
        let inline = file.kustomizations.iter().any(|found| names_image(&found.inline, &entry.name));
        in_text |= inline || names_image(&file.texts, &entry.name);
    }
    let mut new = becomes.iter().flatten();
    let (first, another) = (new.next(), new.next());
    let Some(first) = first else { return hold_newcomers(files, scope, entry, done) };
    let taken = others_named(files, scope, entry, first, done);
    let why = if own.outside {
        Some("is not among the files: give it, too, so that both change together".to_owned())
    } else if let Some(missing) = &scope.missing {
        Some(format!("builds on {missing}, which is not among the files, and may have it, too"))
    } else if in_text {
        Some("has a patch or another text with this image, which is not rewritten".to_owned())
    } else if another.is_some() || becomes.contains(&None) {
        Some("means more images of this name, which do not all become the same".to_owned())
    } else if let Some((_, name)) = taken.first() {
        Some(format!("would mean {name}, too: both have the name {first} at Harbor; write the images out alike"))
    } else {
        None
    };
    let Some(why) = why else {
        done.renamed.insert((scope.file, entry.at.0, entry.at.1), (*first).to_owned());
        return;
    };
    for index in &scope.files {
        let why = format!("{}:{}: the entry of `images` for {} {why}", own.name, entry.line, entry.name);
        done.held.entry((*index, entry.name.clone())).or_insert(why);
    }
}

/// An entry that keeps its name must not mean images that get this name now.
fn hold_newcomers(files: &[Seen], scope: &Scope, entry: &Entry, done: &mut Consequences) {
    let name = files.get(scope.file).map_or("", |file| &file.name);
    for found in others_named(files, scope, entry, &entry.name, done) {
        let why = format!("{name}:{}: the entry of `images` for {} would mean it, too", entry.line, entry.name);
        done.held.entry(found).or_insert(why);
    }
}

/// Images in scope, by file and name, that the entry does not mean and that have, or get, this name.
fn others_named(files: &[Seen], scope: &Scope, entry: &Entry, name: &str, done: &Consequences) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for index in &scope.files {
        for image in files.get(*index).iter().flat_map(|file| &file.images) {
            let is_later = *index == scope.file && !(image.is_new_name && image.at < entry.at);
            let key = (*index, image.name.clone());
            let new = image.new.as_deref().filter(|_| !done.held.contains_key(&key)).unwrap_or(&image.name);
            if image.name != entry.name && new == name && !is_later {
                found.push(key);
            }
        }
    }
    found
}

/// What the entries of a Kustomization mean.
struct Scope {
    file: usize,
    files: BTreeSet<usize>,
    /// Something that it builds on and that is not known.
    missing: Option<String>,
}

fn scope(files: &[Seen], by_path: &BTreeMap<&Path, usize>, file: usize) -> Scope {
    let mut scope = Scope { file, files: BTreeSet::new(), missing: None };
    extend(files, by_path, file, &mut scope);
    let is_component = |index: &usize| {
        files.get(*index).is_some_and(|file| file.kustomizations.iter().any(|found| found.is_component))
    };
    if is_component(&file) {
        // A Component changes what those have that use it.
        let users: Vec<usize> = (0..files.len()).filter(|user| uses(files, by_path, *user, file)).collect();
        if users.is_empty() {
            scope.missing.get_or_insert_with(|| "what uses it".to_owned());
        }
        users.into_iter().for_each(|user| extend(files, by_path, user, &mut scope));
    }
    scope
}

fn uses(files: &[Seen], by_path: &BTreeMap<&Path, usize>, user: usize, component: usize) -> bool {
    let Some(file) = files.get(user) else { return false };
    let all = file.kustomizations.iter().flat_map(|found| &found.components);
    all.into_iter().any(|text| find(file, by_path, text) == Some(component))
}

fn extend(files: &[Seen], by_path: &BTreeMap<&Path, usize>, index: usize, scope: &mut Scope) {
    let Some(file) = files.get(index) else { return };
    if !scope.files.insert(index) {
        return;
    }
    for found in &file.kustomizations {
        if let Some(makes) = found.makes {
            scope.missing.get_or_insert_with(|| format!("what its `{makes}` make"));
        }
        for text in found.builds_on.iter().chain(&found.components) {
            match find(file, by_path, text) {
                Some(other) => extend(files, by_path, other, scope),
                None => {
                    scope.missing.get_or_insert_with(|| text.clone());
                }
            }
        }
    }
}

/// The file of the input that a Kustomization names, or the Kustomization of the directory that it names.
fn find(file: &Seen, by_path: &BTreeMap<&Path, usize>, text: &str) -> Option<usize> {
    let path = file.path.as_deref()?.parent()?.join(text);
    // The files are known by what symbolic links lead to.
    let path = path.canonicalize().unwrap_or_else(|_| normal(&path));
    let in_directory = super::super::input::KUSTOMIZATIONS.iter().map(|name| path.join(name));
    std::iter::once(path.clone()).chain(in_directory).find_map(|path| by_path.get(path.as_path()).copied())
}

/// Without `.` and `..`, as text.
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

/// An image without tag and digest.
pub(super) fn name_of(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name)
}

/// Whether a text has an image of this name: the name, with nothing of a name around it.
fn names_image(text: &str, name: &str) -> bool {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
    let bytes = text.as_bytes();
    text.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let after = bytes.get(at + name.len());
        !before.is_some_and(of_name) && !after.is_some_and(of_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> Seen {
        let manifests = Manifests::read(text).unwrap();
        let new = |template: usize, image: usize| {
            let image = &manifests.templates()[template].images[image];
            (image.role != Role::KustomizeName).then(|| format!("harbor.test/hub/{}", image.image))
        };
        Seen { name: path.to_owned(), path: Some(path.into()), ..Seen::of(&manifests, new) }
    }

    fn pod(image: &str) -> String {
        format!("{{apiVersion: v1, kind: Pod, spec: {{containers: [{{name: a, image: '{image}'}}]}}}}")
    }

    fn kustomization(more: &str) -> String {
        format!("{{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization, {more}}}")
    }

    fn renamed(done: &Consequences) -> Vec<&str> {
        done.renamed.values().map(String::as_str).collect()
    }

    #[test]
    fn an_entry_is_renamed_with_the_images_that_it_means() {
        let images = "images: [{name: nginx, newTag: '1'}, {name: other, newTag: '2'}]";
        let files = [
            file("/a/pod.yaml", &pod("nginx:latest")),
            file("/a/kustomization.yaml", &kustomization(&format!("resources: [pod.yaml], {images}"))),
        ];
        let done = consequences(&files);
        assert_eq!(renamed(&done), ["harbor.test/hub/nginx"]);
        assert!(done.held.is_empty(), "{done:?}");
    }

    #[test]
    fn an_entry_means_what_the_kustomizations_below_put_there() {
        let files = [
            file("/base/pod.yaml", &pod("nginx")),
            file(
                "/base/kustomization.yaml",
                &kustomization("resources: [pod.yaml], images: [{name: nginx, newName: web}]"),
            ),
            file("/prod/kustomization.yml", &kustomization("resources: [../base], images: [{name: web, newTag: '2'}]")),
        ];
        assert_eq!(renamed(&consequences(&files)), ["harbor.test/hub/nginx", "harbor.test/hub/web"]);
    }

    #[test]
    fn a_component_means_what_those_have_that_use_it() {
        let component =
            "{apiVersion: kustomize.config.k8s.io/v1alpha1, kind: Component, images: [{name: nginx, newTag: '1'}]}";
        let files = [
            file("/app/pod.yaml", &pod("nginx")),
            file("/app/kustomization.yaml", &kustomization("resources: [pod.yaml], components: [../c]")),
            file("/c/kustomization.yaml", component),
        ];
        assert_eq!(renamed(&consequences(&files)), ["harbor.test/hub/nginx"]);
        let done = consequences(&files[1..]);
        assert!(done.renamed.is_empty() && done.held.is_empty(), "nothing of it changes: {done:?}");
    }

    #[test]
    fn images_stay_where_an_entry_would_not_mean_all_of_them_any_more() {
        for (more, why) in [
            ("resources: [pod.yaml, ../elsewhere]", "builds on ../elsewhere"),
            ("resources: [pod.yaml, 'https://example.com/x.yaml']", "builds on https://example.com/x.yaml"),
            ("resources: [pod.yaml], helmCharts: [{name: x}]", "`helmCharts`"),
            ("resources: [pod.yaml], patches: [{patch: '[{op: add, path: /x, value: \"nginx:2\"}]'}]", "has a patch"),
        ] {
            let images = "images: [{name: nginx, newTag: '1'}]";
            let files = [
                file("/a/pod.yaml", &pod("nginx:latest")),
                file("/a/kustomization.yaml", &kustomization(&format!("{more}, {images}"))),
            ];
            let done = consequences(&files);
            assert!(done.renamed.is_empty(), "{more}");
            assert!(done.held[&(0, "nginx".to_owned())].contains(why), "{done:?}");
        }
    }

    #[test]
    fn an_image_that_one_overlay_holds_is_held_for_all() {
        let overlay = |path: &str, more: &str| {
            file(
                path,
                &kustomization(&format!("resources: [../base/pod.yaml{more}], images: [{{name: nginx, newTag: '1'}}]")),
            )
        };
        let files = [
            file("/base/pod.yaml", &pod("nginx")),
            overlay("/one/kustomization.yaml", ""),
            overlay("/two/kustomization.yaml", ", missing.yaml"),
        ];
        let done = consequences(&files);
        assert!(done.renamed.is_empty(), "{done:?}");
        assert!(done.held.contains_key(&(0, "nginx".to_owned())));
    }

    #[test]
    fn a_kustomization_that_was_not_given_holds_what_it_means() {
        let outside = Seen {
            outside: true,
            ..file(
                "/a/kustomization.yaml",
                &kustomization("resources: [pod.yaml], images: [{name: nginx, newTag: '1'}]"),
            )
        };
        let done = consequences(&[file("/a/pod.yaml", &pod("nginx")), outside]);
        assert!(done.held[&(0, "nginx".to_owned())].contains("is not among the files"), "{done:?}");
    }

    /// As [`file`], where images of Docker Hub have one name at Harbor.
    fn hub_file(path: &str, text: &str) -> Seen {
        let manifests = Manifests::read(text).unwrap();
        let new = |template: usize, image: usize| {
            let image = &manifests.templates()[template].images[image];
            let name = image.image.trim_start_matches("docker.io/");
            (!name.starts_with("harbor.test/")).then(|| format!("harbor.test/hub/{name}"))
        };
        Seen { name: path.to_owned(), path: Some(path.into()), ..Seen::of(&manifests, new) }
    }

    fn two_images(first: &str, second: &str, entries: &str) -> Consequences {
        consequences(&[
            hub_file("/a/one.yaml", &pod(first)),
            hub_file("/a/two.yaml", &pod(second)),
            hub_file(
                "/a/kustomization.yaml",
                &kustomization(&format!("resources: [one.yaml, two.yaml], images: [{entries}]")),
            ),
        ])
    }

    #[test]
    fn an_image_stays_where_its_entry_would_mean_another_one_of_the_same_name_at_harbor() {
        for second in ["docker.io/web:2", "harbor.test/hub/web:2"] {
            let done = two_images("web:1", second, "{name: web, newTag: '3'}");
            assert!(done.renamed.is_empty(), "{second}: {done:?}");
            assert!(done.held[&(0, "web".to_owned())].contains("would mean"), "{done:?}");
        }
        let done =
            two_images("web:1", "docker.io/web:2", "{name: web, newTag: '3'}, {name: docker.io/web, newTag: '4'}");
        assert_eq!((renamed(&done), done.held.len()), (vec!["harbor.test/hub/web"], 3), "{done:?}");
        assert!(!done.held.contains_key(&(1, "docker.io/web".to_owned())), "{done:?}");
    }

    #[test]
    fn an_image_stays_where_an_entry_that_stays_would_mean_it() {
        let done = two_images("web:1", "harbor.test/hub/web:2", "{name: harbor.test/hub/web, newTag: '3'}");
        assert!(done.renamed.is_empty(), "{done:?}");
        assert!(done.held[&(0, "web".to_owned())].contains("would mean it, too"), "{done:?}");
    }

    #[test]
    fn an_entry_means_what_an_entry_before_it_puts_there() {
        let done = two_images("web", "other", "{name: web, newName: site}, {name: site, newTag: '2'}");
        assert_eq!(renamed(&done), ["harbor.test/hub/web", "harbor.test/hub/site"]);
        let done = two_images("web", "other", "{name: site, newTag: '2'}, {name: web, newName: site}");
        assert_eq!(renamed(&done), ["harbor.test/hub/web"], "{done:?}");
    }

    #[test]
    fn images_stay_that_an_entry_without_a_plain_name_or_of_image_tags_may_mean() {
        for (more, held) in [
            ("images: [{name: 'we.', newTag: '1'}]", vec![0, 1, 2]),
            ("images: [{name: '.*web', newTag: '1'}]", vec![0, 1, 2]),
            ("images: [{name: 'web:1', newTag: '2'}]", vec![0]),
            ("imageTags: [{name: web, newTag: '2'}]", vec![0]),
        ] {
            let own = kustomization(&format!("resources: [one.yaml, two.yaml], {more}"));
            let files = [
                hub_file("/a/one.yaml", &pod("web:1")),
                hub_file("/a/two.yaml", &pod("other:1")),
                hub_file("/a/kustomization.yaml", &own),
            ];
            let done = consequences(&files);
            let files: Vec<usize> = done.held.keys().map(|(file, _)| *file).filter(|file| *file < 2).collect();
            let expected: Vec<usize> = held.into_iter().filter(|file| *file < 2).collect();
            assert_eq!(files, expected, "{more}: {done:?}");
        }
    }

    #[test]
    fn images_beside_a_kustomization_that_cannot_be_read_stay() {
        let unreadable =
            Seen { path: Some("/a/kustomization.yaml".into()), unreadable: true, outside: true, ..Seen::default() };
        let files = [hub_file("/a/one.yaml", &pod("web:1")), hub_file("/b/two.yaml", &pod("web:1")), unreadable];
        let held: Vec<usize> = consequences(&files).held.keys().map(|(file, _)| *file).collect();
        assert_eq!(held, [0]);
    }
}
