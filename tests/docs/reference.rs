//! docs/reference.md is made from the definitions of the kinds.

use std::fmt::Write;

use harbor_pilot::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::{at, read};

#[test]
fn the_reference_of_fields_is_that_of_the_definitions() {
    let mut text = String::from(
        "# Fields of all kinds\n\nMade from the definitions in `crds/`; `kubectl explain KIND.spec` shows the same. All kinds are \
         `harbor-pilot.dev/v1alpha1`.\n\n",
    );
    let crds = api::crds();
    for crd in &crds {
        writeln!(text, "- [{0}](#{1})", crd.spec.names.kind, crd.spec.names.kind.to_lowercase()).unwrap();
    }
    for crd in &crds {
        kind(&mut text, crd);
    }
    let file = at("docs/reference.md");
    if std::env::var_os("HARBOR_PILOT_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert!(read(&file) == text, "docs/reference.md is stale: HARBOR_PILOT_BLESS=1 cargo test --test docs");
}

fn kind(text: &mut String, crd: &CustomResourceDefinition) {
    let names = &crd.spec.names;
    let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
    let schema = &version["schema"]["openAPIV3Schema"];
    let short = names.short_names.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    writeln!(
        text,
        "\n## {}\n\n{} `kubectl get {}`, short {short}; {}.",
        names.kind,
        said(schema),
        names.plural,
        crd.spec.scope.to_lowercase()
    )
    .unwrap();
    for part in ["spec", "status"] {
        writeln!(text, "\n### {} of {}\n\n| field | type | meaning |\n|---|---|---|", part, names.kind).unwrap();
        fields(text, "", &schema["properties"][part]);
    }
    let rules = rules(&schema["properties"]["spec"]);
    if !rules.is_empty() {
        writeln!(text, "\nThe API server refuses what breaks these:\n").unwrap();
        rules.iter().for_each(|rule| writeln!(text, "- {rule}").unwrap());
    }
}

fn fields(text: &mut String, prefix: &str, schema: &Value) {
    let required = |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|item| item == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        let known = name == "conditions";
        let must = if required(name) { ", required" } else { "" };
        writeln!(text, "| `{path}` | {}{must} | {} |", type_of(field), cell(field)).unwrap();
        match field["type"].as_str() {
            // Those of Kubernetes.
            _ if known => {}
            Some("array") => fields(text, &format!("{path}[]."), &field["items"]),
            _ => fields(text, &format!("{path}."), field),
        }
        if field["additionalProperties"].is_object() {
            fields(text, &format!("{path}.*."), &field["additionalProperties"]);
        }
    }
}

fn type_of(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`"));
        return values.collect::<Vec<_>>().join(", ");
    }
    match field["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&field["items"])),
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&field["additionalProperties"]))
        }
        Some(name) => {
            field["format"].as_str().filter(|format| *format == "date-time").map_or(name, |_| "time").to_owned()
        }
        None if field["x-kubernetes-int-or-string"] == true => "integer or string".to_owned(),
        None => "any".to_owned(),
    }
}

/// Description, default and bounds, in one cell of a table.
fn cell(field: &Value) -> String {
    let mut text = said(field);
    let default = &field["default"];
    let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
    if !field["default"].is_null() && !text.contains("Default") {
        write!(text, " Default `{default}`.").unwrap();
    }
    for (least, most, of) in
        [("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " entries")]
    {
        match (field[least].as_f64(), field[most].as_f64()) {
            (Some(least), Some(most)) if text.contains(&format!("{least} to {most}")) => {}
            (Some(least), Some(most)) => write!(text, " {least} to {most}{of}.").unwrap(),
            (None, Some(most)) => write!(text, " At most {most}{of}.").unwrap(),
            (Some(least), None) => write!(text, " At least {least}{of}.").unwrap(),
            (None, None) => {}
        }
    }
    text
}

/// The description in one line, safe in a table.
fn said(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default().trim();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// The messages of all CEL rules below a schema.
fn rules(schema: &Value) -> Vec<String> {
    let own = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let mut found: Vec<String> = own.filter_map(|rule| rule["message"].as_str()).map(str::to_owned).collect();
    for (_, field) in schema["properties"].as_object().into_iter().flatten() {
        found.extend(rules(field));
        found.extend(rules(&field["items"]));
    }
    found.dedup();
    found
}
