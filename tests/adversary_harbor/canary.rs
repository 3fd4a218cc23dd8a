//! Secrets that would be recognised anywhere, and the robot that has one of them.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use harbor_double::Harbor;
use serde_json::{Value, json};

/// Of the account, and of the upstream.
pub const PASSWORD: &str = r#"C4nary/p@ss"w<rd+é"#;
pub const UPSTREAM_PASSWORD: &str = "upstr3am&canary=Ü/x";
pub const ROBOT: &str = "robot$adversary";
/// Gives a Harbor the robot that has all rights, and its password.
pub async fn make_robot(harbor: &Harbor) {
    let robot = json!({"name": "adversary", "level": "system", "duration": -1, "permissions": all_rights()});
    let (status, made) = harbor.manual_request("POST", "/robots", Some(robot)).await;
    assert_eq!(status, 201, "{made}");
    let secret = json!({"secret": PASSWORD});
    harbor.manual_request("PATCH", &format!("/robots/{}", made["id"]), Some(secret)).await;
}

fn all_rights() -> Value {
    let access = |pairs: &[(&str, &[&str])]| -> Value {
        pairs
            .iter()
            .flat_map(|(resource, actions)| {
                actions.iter().map(move |action| json!({"resource": resource, "action": action}))
            })
            .collect()
    };
    let crud: &[&str] = &["list", "read", "create", "update", "delete"];
    json!([
        {"kind": "system", "namespace": "/", "access": access(&[("registry", crud), ("project", crud), ("quota", crud),
            ("replication-policy", crud), ("replication", crud)])},
        {"kind": "project", "namespace": "*", "access": access(&[
            ("project", crud), ("label", crud), ("metadata", crud), ("repository", &["list", "read", "pull", "delete"]), ("artifact", crud),
            ("tag-retention", crud),
        ])},
    ])
}

/// A secret in the forms in which it would be recognised.
pub fn forms(user: &str, secret: &str) -> Vec<String> {
    let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let kept = |byte: u8| match char::from(byte) {
        character if byte.is_ascii_alphanumeric() || "-_.~".contains(character) => character.to_string(),
        _ => format!("%{byte:02X}"),
    };
    let quoted = serde_json::to_string(secret).unwrap().trim_matches('"').to_owned();
    let twice = serde_json::to_string(&quoted).unwrap().trim_matches('"').to_owned();
    let basic = STANDARD.encode(format!("{user}:{secret}"));
    let mut forms = vec![
        secret.to_owned(),
        percent.to_uppercase(),
        secret.bytes().map(kept).collect(),
        quoted,
        twice,
        STANDARD.encode(secret),
        basic[..20].to_owned(),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect(),
    ];
    for before in 0..3 {
        let text = STANDARD.encode([&b"xyz"[..before], secret.as_bytes()].concat());
        forms.push(text[4..text.len() - 4].to_owned());
    }
    forms
}

pub fn assert_no_secret(whose: &str, text: &str) {
    for (user, secret) in [(ROBOT, PASSWORD), ("puller", UPSTREAM_PASSWORD)] {
        for form in forms(user, secret) {
            if let Some(at) = text.find(&form) {
                let around: String =
                    text[..at + form.len()].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
                panic!("{whose}: {form} in …{around}");
            }
        }
    }
}
