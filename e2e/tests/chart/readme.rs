//! The table of values in the chart's README is made of the comments of `values.yaml`.

use std::fmt::Write;

use harbor_pilot_e2e::helm::chart;
use serde_json::Value;

use super::support::{Setting, defaults, holds, read, settings};

const BEGIN: &str = "<!-- values: made of values.yaml -->\n";
const END: &str = "<!-- end of values -->\n";

#[test]
fn the_readme_explains_every_value() {
    let path = chart().join("README.md");
    let text = read(&path);
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    holds(&path, &format!("{before}{BEGIN}{}{END}{after}", tables(&settings())));
}

#[test]
fn every_value_has_a_comment() {
    let settings = settings();
    let mut bare = Vec::new();
    leaves(&defaults(), &mut Vec::new(), &mut |path| {
        let explained = settings.iter().any(|setting| !setting.group && path.starts_with(&setting.path));
        if !explained {
            bare.push(path.join("."));
        }
    });
    assert!(bare.is_empty(), "values without a comment: {bare:?}");
}

fn leaves(value: &Value, path: &mut Vec<String>, each: &mut impl FnMut(&[String])) {
    match value.as_object().filter(|object| !object.is_empty()) {
        None => each(path),
        Some(object) => {
            for (key, value) in object {
                path.push(key.clone());
                leaves(value, path, each);
                path.pop();
            }
        }
    }
}

/// One table for what stands alone, and one for each group.
fn tables(settings: &[Setting]) -> String {
    const HEAD: &str = "\n| value | default | what it is |\n|---|---|---|\n";
    let mut text = HEAD.to_owned();
    let top = |setting: &&Setting| setting.path.len() == 1;
    for setting in settings.iter().filter(top).filter(|setting| !setting.group) {
        row(&mut text, setting);
    }
    for group in settings.iter().filter(top).filter(|setting| setting.group) {
        let name = &group.path[0];
        write!(text, "\n### `{name}`\n\n{}\n{HEAD}", group.text).unwrap();
        for setting in settings.iter().filter(|setting| setting.path.len() > 1 && setting.path[0] == *name) {
            row(&mut text, setting);
        }
    }
    text.push('\n');
    text
}

fn row(text: &mut String, setting: &Setting) {
    let default = match &setting.default {
        _ if setting.group => String::new(),
        Value::String(text) if text.is_empty() => "`\"\"`".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    let what = setting.text.replace('|', "\\|");
    writeln!(text, "| `{}` | {default} | {what} |", setting.path.join(".")).unwrap();
}
