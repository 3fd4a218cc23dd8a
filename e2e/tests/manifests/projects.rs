//! The manifests of other projects: each image of a mapped host is rewritten, or listed.
//!
//! They come with the Go modules of these projects, which the module proxy serves and `modules.sum` pins. What images they
//! name is counted here by patterns, in the values of the documents, and not by the reader of the product.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use regex::Regex;
use serde_json::Value;

use super::desk::{Desk, HARBOR, HOSTS, files};

/// Modules with the directories of their manifests. Directories with charts are left out: these are no manifests yet.
const PROJECTS: [(&str, &[&str]); 13] = [
    ("github.com/argoproj/argo-workflows/v3", &["examples", "manifests/base", "manifests/quick-start"]),
    ("github.com/argoproj/argo-rollouts", &["manifests", "docs"]),
    ("github.com/tektoncd/pipeline", &["examples", "config"]),
    (
        "github.com/prometheus-operator/prometheus-operator",
        &["bundle.yaml", "example/rbac", "example/thanos", "example/user-guides"],
    ),
    ("github.com/cloudnative-pg/cloudnative-pg", &["docs", "config"]),
    ("knative.dev/serving", &["config", "third_party", "test"]),
    ("sigs.k8s.io/jobset", &["config", "site", "examples"]),
    ("sigs.k8s.io/lws", &["config", "docs"]),
    ("github.com/kubeflow/training-operator", &["manifests", "examples"]),
    ("github.com/kubeflow/katib", &["manifests", "examples"]),
    ("github.com/zalando/postgres-operator", &["manifests"]),
    ("github.com/ray-project/kuberay/ray-operator", &["config"]),
    ("github.com/percona/percona-xtradb-cluster-operator", &["deploy"]),
];

#[tokio::test]
async fn rewrite_changes_or_lists_each_image_of_the_manifests_of_other_projects() {
    let mut all = (0, 0, 0);
    for (module, directories) in PROJECTS {
        let source = module_directory(module);
        let desk = Desk::new();
        let count = copy(&source, directories, &desk);
        assert!(count > 0, "{module}: no manifests in {directories:?}");
        let before = texts(&desk);
        let done = desk.rewrite("in").await;
        assert!([0, 3].contains(&done.code), "{module}: {}", done.err);
        let after = texts(&desk);
        let listed = listed(&done.err);

        let (mut found, mut rewritten) = (0, 0);
        for (file, texts) in &before {
            let (was, is) = (images(texts), images(&after[file]));
            let listed = listed.get(file).copied().unwrap_or(0);
            assert_eq!(is.len(), listed, "{module}: {file}: left are {is:#?}\n{}", reported_for(&done.err, file));
            found += was.len();
            rewritten += was.len() - is.len();
        }
        let left: usize = listed.values().sum();
        assert_eq!(found, rewritten + left, "{module}");
        assert_eq!(at_harbor(&after), counted(&done.err), "{module}: {}", done.err);
        assert!(found > 0 || module.starts_with("knative.dev"), "{module}: no image found");
        all = (all.0 + found, all.1 + rewritten, all.2 + left);
    }
    assert!(all.1 > 800, "images, rewritten, listed: {all:?}");
}

/// Where the module is, by the pinned version and sum.
fn module_directory(module: &str) -> PathBuf {
    let pinned = include_str!("modules.sum").lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let pinned =
        pinned.into_iter().find(|fields| fields[0] == module).unwrap_or_else(|| panic!("{module} is not pinned"));
    let elsewhere = tempfile::tempdir().unwrap();
    let output = Command::new("go")
        .args(["mod", "download", "-json", &format!("{module}@{}", pinned[1])])
        .current_dir(elsewhere.path())
        .env("GOFLAGS", "-mod=mod")
        .output()
        .expect("run `go`: install Go, https://go.dev/dl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let downloaded: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{module}: {error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(downloaded["Sum"], pinned[2], "{module}: {downloaded:#}");
    PathBuf::from(downloaded["Dir"].as_str().unwrap())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known))
}

/// Copies what is YAML into `in`, and says how many files that are.
fn copy(source: &Path, directories: &[&str], desk: &Desk) -> usize {
    let mut count = 0;
    for directory in directories {
        let from = source.join(directory);
        let all = if from.is_dir() { files(&from) } else { vec![from] };
        for file in all.into_iter().filter(|file| is_manifest(file)) {
            let name = file.strip_prefix(source).unwrap().display().to_string();
            let text = fs::read_to_string(&file).unwrap();
            desk.write(&format!("in/{name}"), &text);
            count += 1;
        }
    }
    count
}

/// A text with the key that it is the value of.
type Named = (String, String);

/// The texts of all files by name.
fn texts(desk: &Desk) -> BTreeMap<String, Vec<Named>> {
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        // This reader has a limit on comments; a file that exceeds it has nothing but comments and short lists.
        let without_comments = || text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let documents = parse(&text).or_else(|_| parse(&without_comments()));
        let documents = documents.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut found = Vec::new();
        documents.iter().flatten().for_each(|document| collect("", document, &mut found));
        (file.strip_prefix(desk.path("")).unwrap().display().to_string(), found)
    };
    files(&desk.path("in")).into_iter().map(read).collect()
}

fn parse(text: &str) -> Result<Vec<Option<Value>>, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        budget: None,
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

fn collect(key: &str, value: &Value, found: &mut Vec<Named>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            found.push((String::new(), key.clone()));
            collect(key, value, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| collect("", item, found)),
        Value::String(text) => found.push((key.to_owned(), text.clone())),
        _ => {}
    }
}

static EXPLICIT: LazyLock<Regex> = LazyLock::new(|| {
    let hosts = HOSTS.map(|(host, _)| regex::escape(host)).join("|");
    let scheme = "(?:(?:oci|docker)://)?";
    Regex::new(&format!(r"(?:^|[^A-Za-z0-9._/@-]){scheme}((?:{hosts})/[a-z0-9][a-z0-9._/-]*)")).unwrap()
});
static SHORT: LazyLock<Regex> = LazyLock::new(|| {
    let word = "[a-z0-9]+(?:[._-]+[a-z0-9]+)*";
    Regex::new(&format!("^{word}(?:/{word})*(?::[A-Za-z0-9_.-]+)?(?:@sha256:[0-9a-f]{{64}})?$")).unwrap()
});

/// Names with a mapped host, wherever they stand; and names without a host where the key is `image`.
fn images(texts: &[Named]) -> Vec<String> {
    let mut found = Vec::new();
    for (key, text) in texts {
        let with_host = EXPLICIT.captures_iter(text).map(|captures| captures[1].to_owned());
        found.extend(with_host);
        let has_host = text.split_once('/').is_some_and(|(first, _)| first.contains('.') || first.contains(':'));
        if key == "image" && !has_host && SHORT.is_match(text) {
            found.push(text.clone());
        }
    }
    found
}

/// How many images were listed, of those that are counted here, by file.
fn listed(err: &str) -> BTreeMap<String, usize> {
    let line = Regex::new(r"^harbor-pilot: (\S+?):\d+:\d+: (?:.*: )?(\S+): (\S+) is not rewritten").unwrap();
    let held = Regex::new(r"^harbor-pilot: (\S+?):\d+:\d+: (\S+) is not rewritten: ").unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for text in err.lines() {
        let (file, place, image) = match (line.captures(text), held.captures(text)) {
            (Some(captures), _) => (captures[1].to_owned(), captures[2].to_owned(), captures[3].to_owned()),
            (None, Some(captures)) => (captures[1].to_owned(), "image".to_owned(), captures[2].to_owned()),
            (None, None) => continue,
        };
        let has_host = HOSTS.iter().any(|(host, _)| image.strip_prefix(host).is_some_and(|rest| rest.starts_with('/')));
        let is_field = place == "image" || place.ends_with(".image");
        // The independent count has no templates, and no fields with what is no reference (`ko://…`).
        let is_reference = !image.contains(['{', '$', '(']) && !text.contains("invalid reference format");
        let counts = has_host || (is_field && is_reference);
        *found.entry(file).or_default() += usize::from(counts);
    }
    found
}

fn reported_for(err: &str, file: &str) -> String {
    err.lines().filter(|line| line.contains(file)).collect::<Vec<_>>().join("\n")
}

/// Texts at Harbor.
fn at_harbor(texts: &BTreeMap<String, Vec<Named>>) -> usize {
    texts.values().flatten().map(|(_, text)| text.matches(&format!("{HARBOR}/")).count()).sum()
}

/// What the command says that it rewrote.
fn counted(err: &str) -> usize {
    let summary = Regex::new(r"(?m)^harbor-pilot: (\d+) of \d+ images rewritten").unwrap();
    summary.captures(err).unwrap()[1].parse().unwrap()
}
