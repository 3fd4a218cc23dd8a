//! Reads manifests from a directory, and checks them as the API server would.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps,
};
use kube::{CustomResourceExt, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use sha2::{Digest, Sha256};

use crate::{
    api::{CachedImage, GROUP, HarborInstance, ImagePolicy, ProxyProject, Registry, ReplicationRule},
    controller::SecretValue,
};

/// Maximum size of a file, in bytes: people write manifests.
const MAX_FILE: u64 = 4 << 20;

/// The content of a directory.
#[derive(Debug, Clone, Default)]
pub struct ManifestSet {
    /// HarborInstances.
    pub instances: Vec<HarborInstance>,
    /// Registries.
    pub registries: Vec<Registry>,
    /// ProxyProjects.
    pub projects: Vec<ProxyProject>,
    /// ReplicationRules.
    pub rules: Vec<ReplicationRule>,
    /// CachedImages.
    pub images: Vec<CachedImage>,
    /// ImagePolicies.
    pub policies: Vec<ImagePolicy>,
    /// Labels of Namespaces by name, for selectors.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretValue>,
    /// Changes with the content of the files.
    pub fingerprint: Vec<u8>,
}

/// An error in a file, and its location.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {detail}", file.display(), document.map(|number| format!(", document {number}")).unwrap_or_default())]
pub struct ManifestProblem {
    /// The file, or the directory.
    pub file: PathBuf,
    /// Number of the document, counted from 1.
    pub document: Option<usize>,
    /// What to do.
    pub detail: String,
}

/// Reads a file, or every `.yaml`, `.yml` and `.json` file of a directory in the order of their names. Ignores objects of
/// other API groups.
///
/// # Errors
/// The first [`ManifestProblem`] found. If one file of a directory has an error, nothing is loaded.
pub fn read(directory: &Path) -> Result<ManifestSet, ManifestProblem> {
    let problem = |file: &Path, detail: String| ManifestProblem { file: file.to_owned(), document: None, detail };
    let mut files = Vec::new();
    if directory.is_file() {
        files.push(directory.to_owned());
    } else {
        let listing = std::fs::read_dir(directory).map_err(|error| problem(directory, error.to_string()))?;
        files.extend(listing.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_manifest(path)));
        files.sort();
    }
    let mut texts = Vec::with_capacity(files.len());
    for file in files {
        let length = std::fs::metadata(&file).map_err(|error| problem(&file, error.to_string()))?.len();
        if length > MAX_FILE {
            return Err(problem(&file, format!("longer than {MAX_FILE} bytes")));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| problem(&file, error.to_string()))?;
        texts.push((file, text));
    }
    parse(texts.iter().map(|(file, text)| (file.as_path(), text.as_str())))
}

/// Reads texts, each with the file that it is from.
///
/// # Errors
/// As [`read`]. No problem contains a part of the text, which may be a Secret.
pub fn parse<'t>(texts: impl IntoIterator<Item = (&'t Path, &'t str)>) -> Result<ManifestSet, ManifestProblem> {
    let mut reader = ManifestReader::default();
    let mut fingerprint = Sha256::new();
    for (file, text) in texts {
        fingerprint.update(file.as_os_str().as_encoded_bytes());
        fingerprint.update(text);
        let documents =
            documents(text).map_err(|detail| ManifestProblem { file: file.to_owned(), document: None, detail })?;
        for (index, document) in documents.into_iter().enumerate() {
            let Some(document) = document else { continue };
            reader.add(document).map_err(|detail| ManifestProblem {
                file: file.to_owned(),
                document: Some(index + 1),
                detail,
            })?;
        }
    }
    Ok(ManifestSet { fingerprint: fingerprint.finalize().to_vec(), ..reader.manifests })
}

/// The documents of a text, as kubectl reads them: the last of duplicate keys counts, and JSON values need no separator.
fn documents(text: &str) -> Result<Vec<Option<Value>>, String> {
    let json = text.trim_start_matches('\u{feff}').trim_start();
    if json.starts_with('{')
        && let Ok(values) = serde_json::Deserializer::from_str(json).into_iter().collect::<Result<_, _>>()
    {
        return Ok(values);
    }
    // Comments are not kept: a licence or a commented-out block of any length is accepted.
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins, emit_comments: false };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.without_snippet().to_string())
}

fn is_manifest(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| matches!(ending, "yaml" | "yml" | "json"))
}

/// The manifests read so far.
#[derive(Default)]
struct ManifestReader {
    manifests: ManifestSet,
    /// Kinds and names, to detect duplicates.
    names: HashSet<(String, String)>,
    /// Schema of the spec of each kind: built once, because that takes milliseconds.
    specs: HashMap<String, Option<JSONSchemaProps>>,
}

impl ManifestReader {
    fn add(&mut self, document: Value) -> Result<(), String> {
        let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        match (version.as_str(), kind.as_str()) {
            ("v1", "Secret") => {
                let (name, secret) = secret_of(document)?;
                self.once("Secret", &name)?;
                self.manifests.secrets.insert(name, secret);
            }
            ("v1", "Namespace") => {
                let namespace: Namespace =
                    serde_json::from_value(document).map_err(|error| format!("Namespace: {error}"))?;
                let name = namespace.metadata.name.ok_or("Namespace without metadata.name")?;
                self.manifests.namespaces.insert(name, namespace.metadata.labels.unwrap_or_default());
            }
            ("v1", "List") => {
                let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                for item in items {
                    self.add(item)?;
                }
            }
            _ if version.split('/').next() != Some(GROUP) => {}
            (_, "HarborInstance") => self.push(document, HarborInstance::validate_cel, |all| &mut all.instances)?,
            (_, "Registry") => self.push(document, Registry::validate_cel, |all| &mut all.registries)?,
            (_, "ProxyProject") => self.push(document, ProxyProject::validate_cel, |all| &mut all.projects)?,
            (_, "ReplicationRule") => self.push(document, ReplicationRule::validate_cel, |all| &mut all.rules)?,
            (_, "CachedImage") => self.push(document, CachedImage::validate_cel, |all| &mut all.images)?,
            (_, "ImagePolicy") => self.push(document, ImagePolicy::validate_cel, |all| &mut all.policies)?,
            _ => {
                return Err(format!(
                    "{version} has no kind `{kind}`; the kinds are HarborInstance, Registry, ProxyProject, \
                     ReplicationRule, CachedImage, ImagePolicy"
                ));
            }
        }
        Ok(())
    }

    fn push<K, E>(
        &mut self,
        document: Value,
        validate: impl Fn(&K) -> Result<(), E>,
        list: fn(&mut ManifestSet) -> &mut Vec<K>,
    ) -> Result<(), String>
    where
        K: Resource<DynamicType = ()> + CustomResourceExt + DeserializeOwned,
        E: std::fmt::Display,
    {
        let kind = K::kind(&());
        if document.get("apiVersion").and_then(Value::as_str) != Some(K::api_version(&()).as_ref()) {
            return Err(format!("{kind} has only the version {}", K::api_version(&())));
        }
        let known = self.specs.entry(kind.to_string()).or_insert_with(spec_of::<K>);
        let spec = document.get("spec").zip(known.as_ref());
        if let Some(field) = spec.and_then(|(spec, known)| unknown_below(spec, known, "spec")) {
            return Err(format!("{kind} has no field {field}"));
        }
        let object: K = serde_json::from_value(document).map_err(|error| format!("{kind}: {error}"))?;
        let name = object.meta().name.clone().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("{kind} without metadata.name"))?;
        validate(&object).map_err(|error| format!("{kind} {name}: {error}"))?;
        self.once(&kind, &name)?;
        list(&mut self.manifests).push(object);
        Ok(())
    }

    fn once(&mut self, kind: &str, name: &str) -> Result<(), String> {
        let fresh = self.names.insert((kind.to_owned(), name.to_owned()));
        if fresh { Ok(()) } else { Err(format!("{kind} {name} is duplicated")) }
    }
}

/// The schema of a kind's spec.
fn spec_of<K: CustomResourceExt>() -> Option<JSONSchemaProps> {
    let version = K::crd().spec.versions.into_iter().next()?;
    version.schema?.open_api_v3_schema?.properties?.remove("spec")
}

/// The path of a field that the schema does not have: probably a typing error, which the API server would report.
fn unknown_below(value: &Value, schema: &JSONSchemaProps, path: &str) -> Option<String> {
    let (Value::Object(fields), Some(known)) = (value, schema.properties.as_ref()) else { return None };
    fields.iter().find_map(|(name, value)| match known.get(name) {
        Some(schema) => unknown_below(value, schema, &format!("{path}.{name}")),
        None => Some(format!("{path}.{name}")),
    })
}

/// The value of a Secret. No API server provides a revision here, so it is computed from the values.
pub fn secret_value(values: BTreeMap<String, String>) -> SecretValue {
    let mut revision = Sha256::new();
    for (key, value) in &values {
        revision.update(key);
        revision.update([0]);
        revision.update(value);
        revision.update([0]);
    }
    // Kept only in this process, and never printed.
    let revision = revision.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let values = values.into_iter().map(|(key, value)| (key, value.into())).collect();
    SecretValue { revision, values }
}

fn secret_of(document: Value) -> Result<(String, SecretValue), String> {
    // The error of the parser would show the value.
    let secret: Secret = serde_json::from_value(document).map_err(|_| {
        "Secret: a value is of the wrong type: `data` takes base64, `stringData` text (put numbers, true and false in quotes)"
    })?;
    let name = secret.metadata.name.ok_or("Secret without metadata.name")?;
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in secret.data.unwrap_or_default() {
        if let Ok(text) = String::from_utf8(value.0) {
            values.insert(key, text);
        }
    }
    values.extend(secret.string_data.unwrap_or_default());
    Ok((name, secret_value(values)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(text: &str) -> Result<ManifestSet, ManifestProblem> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("all.yaml"), text).unwrap();
        read(directory.path())
    }

    #[test]
    fn several_documents_of_one_file_are_read_and_strangers_passed_over() {
        let manifests = read_one(concat!(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: harbor}\nstringData: {username: admin, password: x}\n---\n",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n---\n",
            "apiVersion: harbor-pilot.dev/v1alpha1\nkind: HarborInstance\nmetadata: {name: default}\n",
            "spec: {url: 'https://harbor.example.com', credentialsSecretRef: {name: harbor}}\n",
        ))
        .unwrap();
        assert_eq!((manifests.instances.len(), manifests.registries.len()), (1, 0));
        assert!(manifests.secrets["harbor"].credentials().is_ok());
    }

    #[test]
    fn parse_reads_json_lines_and_keys_that_stand_twice_as_kubectl_does() {
        let namespace =
            |name: &str| format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
        let lines = read_one(&format!("{}\n{}\n", namespace("a"), namespace("b"))).unwrap();
        assert_eq!(lines.namespaces.keys().collect::<Vec<_>>(), ["a", "b"]);
        let twice = read_one("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, name: b}\n").unwrap();
        assert_eq!(twice.namespaces.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn parse_reads_past_thousands_of_comment_lines() {
        let comments = |indent: &str| format!("{indent}# image: nginx\n").repeat(5_000);
        let text = format!(
            "{0}apiVersion: v1\n{0}kind: Namespace\nmetadata:\n{1}  name: a\n  labels:\n{1}    team: shop\n{0}",
            comments(""),
            comments("  ")
        );
        assert_eq!(read_one(&text).unwrap().namespaces["a"]["team"], "shop");
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_showing_it() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n";
        for wrong in [
            "stringData: {username: bot, password: 918273645}\n",
            "data: {password: '918273645*'}\n",
            "stringData: {password: 918273645, x: [}\n",
        ] {
            let problem = read_one(&format!("{secret}{wrong}")).unwrap_err().to_string();
            assert!(problem.contains("all.yaml") && !problem.contains("918273645"), "{problem}");
        }
    }

    #[test]
    fn what_the_api_server_would_refuse_is_refused_with_file_document_and_reason() {
        let registry = |spec: &str| {
            format!(
                "---\napiVersion: harbor-pilot.dev/v1alpha1\nkind: Registry\nmetadata: {{name: hub}}\nspec: {spec}\n"
            )
        };
        for (text, expected) in [
            (registry("{type: docker-hub, url: 'ftp://x.example'}"), "http://"),
            (registry("{type: docker-hub, url: 'https://hub.docker.com', adopton: Never}"), "spec.adopton"),
            (registry("{type: dockerhub, url: 'https://hub.docker.com'}"), "docker-hub"),
            (registry("{type: aws-ecr, url: 'https://ecr.example.com'}"), "amazonaws.com"),
            (registry("{type: harbor}"), "url is required"),
            (registry("{type: docker-hub, url: 'https://hub.docker.com', interval: 5x}"), "1h30m"),
            (
                "apiVersion: harbor-pilot.dev/v1alpha1\nkind: CachedImage\nmetadata: {name: a}\n\
                 spec: {image: nginx, refreshInterval: 59s}\n"
                    .to_owned(),
                "at least 1m",
            ),
            ("apiVersion: harbor-pilot.dev/v1alpha1\nkind: Regstry\n".to_owned(), "ProxyProject"),
            ("{ not yaml".to_owned(), "all.yaml"),
        ] {
            let problem = read_one(&text).unwrap_err().to_string();
            assert!(problem.contains(expected) && problem.contains("all.yaml"), "{text}: {problem}");
        }
    }
}
