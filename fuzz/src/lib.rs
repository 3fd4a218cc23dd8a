//! What must hold of any input. The fuzzer looks for bytes that break it; `tests/fuzz.rs` tries some in every test run.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harbor_pilot::image::ImageRef;
use harbor_pilot::rewrite::{Namespaces, Rule, Rules};
use harbor_pilot::webhook::review::mutate;
use serde_json::Value;

/// No text makes the parser panic. What it reads is the sum of its parts, and its normalised form is read as the same.
pub fn image_ref(data: &[u8]) {
    let Ok(image) = ImageRef::parse(&String::from_utf8_lossy(data)) else { return };
    let name = if image.host().is_empty() {
        image.repository().to_owned()
    } else {
        format!("{}/{}", image.host(), image.repository())
    };
    assert_eq!(image.name(), name);
    let part = |sign: &str, text: Option<&str>| text.map(|text| format!("{sign}{text}")).unwrap_or_default();
    assert_eq!(image.as_str(), name + &part(":", image.tag()) + &part("@", image.digest()));
    assert_eq!(ImageRef::parse(image.as_str()).as_ref(), Ok(&image));
}

/// No body makes the webhook panic. What it answers admits, and its patch fits the object that was sent.
pub fn review(data: &[u8]) {
    let Ok(reply) = mutate(data, &rules(), &Namespaces::default()) else { return };
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(answer.pointer("/response/allowed"), Some(&Value::Bool(true)));
    let Some(patch) = answer.pointer("/response/patch") else { return };
    let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch.as_str().unwrap()).unwrap()).unwrap();
    let Ok(sent) = serde_json::from_slice::<Value>(data) else { return };
    let mut object = sent.pointer("/request/object").unwrap().clone();
    json_patch::patch(&mut object, &patch).unwrap();
}

fn rules() -> Rules {
    let rule = |name: &str, matched: &str| Rule {
        name: name.to_owned(),
        created: 1,
        matches: vec![matched.to_owned()],
        pull_host: "harbor.corp".to_owned(),
        project: name.to_owned(),
        ..Rule::default()
    };
    Rules::compile([rule("hub", "docker.io"), rule("acme", "ghcr.io/acme")])
}
