//! `crds/` holds what the code says, and the chart has the same files: Helm packs nothing from outside of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use harbor_pilot::api;

#[test]
fn the_committed_definitions_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stale = Vec::new();
    for directory in ["crds", "charts/harbor-pilot/files/crds"] {
        let directory = root.join(directory);
        for crd in api::crds() {
            let file = directory.join(format!("{}.yaml", crd.spec.names.plural));
            let text = api::yaml(&crd).unwrap();
            if std::env::var_os("HARBOR_PILOT_BLESS").is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&file, &text).unwrap();
            }
            if std::fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
                stale.push(file.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; run HARBOR_PILOT_BLESS=1 cargo test --test crds");
}

#[test]
fn every_field_that_a_user_writes_is_documented() {
    fn undocumented(path: &str, schema: &serde_json::Value, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if property["description"].as_str().is_none_or(str::is_empty) {
                found.push(path.clone());
            }
            undocumented(&path, property, found);
            undocumented(&path, &property["items"], found);
        }
    }
    let mut found = Vec::new();
    for crd in api::crds() {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema).unwrap();
        for part in ["spec", "status"] {
            undocumented(&format!("{}.{part}", crd.spec.names.kind), &schema["properties"][part], &mut found);
        }
    }
    assert!(found.is_empty(), "fields without a description: {found:#?}");
}
