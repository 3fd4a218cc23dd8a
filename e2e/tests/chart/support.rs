//! What the tests of the chart share: its values as `values.yaml` has them, and the files of `ci/`.

use std::path::Path;

use harbor_pilot_e2e::helm::{Helm, chart};
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

/// Something of `values.yaml` that has a comment.
#[derive(Debug)]
pub struct Setting {
    /// Keys from the root.
    pub path: Vec<String>,
    /// The comment.
    pub text: String,
    /// What it is without anybody's doing.
    pub default: Value,
    /// Whether settings below have comments of their own.
    pub group: bool,
}

/// All of `values.yaml` that has a comment, in its order.
pub fn settings() -> Vec<Setting> {
    let text = read(&chart().join("values.yaml"));
    let defaults: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut settings, mut comment, mut open) = (Vec::<Setting>::new(), Vec::new(), Vec::<(usize, String)>::new());
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(words) = content.strip_prefix("# ") {
            comment.push(words);
            continue;
        }
        let key = content.split_once(':').map(|(key, _)| key).filter(|key| !key.starts_with('-'));
        if let Some(key) = key {
            open.retain(|(depth, _)| *depth < indent);
            open.push((indent, key.to_owned()));
            if !comment.is_empty() {
                let path: Vec<String> = open.iter().map(|(_, key)| key.clone()).collect();
                let default = at(&defaults, &path).unwrap_or_else(|| panic!("{path:?} is no value")).clone();
                settings.push(Setting { path, text: comment.join(" "), default, group: false });
            }
        }
        comment.clear();
    }
    let paths: Vec<Vec<String>> = settings.iter().map(|setting| setting.path.clone()).collect();
    for setting in &mut settings {
        setting.group = paths.iter().any(|path| path.len() > setting.path.len() && path.starts_with(&setting.path));
    }
    settings
}

/// The defaults.
pub fn defaults() -> Value {
    serde_saphyr::from_str(&read(&chart().join("values.yaml"))).unwrap()
}

/// The files of values that the chart is tried with: name and content, first the defaults.
pub fn cases() -> Vec<(String, Value)> {
    let mut cases = vec![("defaults".to_owned(), Value::Object(Map::new()))];
    let mut files: Vec<_> = std::fs::read_dir(chart().join("ci")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap().trim_end_matches("-values.yaml").to_owned();
        cases.push((name, serde_saphyr::from_str(&read(&file)).unwrap()));
    }
    assert!(cases.len() > 4, "{cases:?}");
    cases
}

/// The values of one of the [cases].
pub fn case(name: &str) -> Value {
    cases().into_iter().find(|(case, _)| case == name).unwrap_or_else(|| panic!("there is no case {name}")).1
}

/// What the chart makes of these values.
pub async fn rendered(values: &Value) -> Vec<Value> {
    helm().await.objects(values).await.unwrap()
}

/// A Helm that only renders.
pub async fn helm() -> &'static Helm {
    static HELM: OnceCell<Helm> = OnceCell::const_new();
    HELM.get_or_try_init(Helm::offline).await.unwrap()
}

/// `kind/name` of an object.
pub fn id(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}", text("/kind"), text("/metadata/name"))
}

/// The object of this kind and name.
pub fn find<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    objects.iter().find(|object| id(object) == wanted).unwrap_or_else(|| panic!("there is no {wanted}"))
}

/// What lies at a path.
pub fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Where `found` has not what is `wanted`; what it has beyond that is no difference.
pub fn differences(wanted: &Value, found: &Value) -> Vec<String> {
    let mut differing = Vec::new();
    compare(wanted, found, "", &mut differing);
    differing
}

fn compare(wanted: &Value, found: &Value, path: &str, differing: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                compare(value, found.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), differing);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                compare(wanted, found, &format!("{path}[{index}]"), differing);
            }
        }
        // 1.0 is 1 in JSON.
        (Value::Number(wanted), Value::Number(found)) if wanted.as_f64() == found.as_f64() => {}
        _ if wanted == found => {}
        _ => differing.push(format!("{path}: {wanted} is {found}")),
    }
}

/// The text of a file.
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails where a file is not what it is made of; writes it instead where `HARBOR_PILOT_BLESS` is set.
pub fn holds(path: &Path, text: &str) {
    if std::env::var_os("HARBOR_PILOT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    let advice = "run HARBOR_PILOT_BLESS=1 cargo test -p harbor-pilot-e2e --test chart";
    assert!(stored == text, "{} is stale; {advice}. It should be:\n{text}", path.display());
}
