//! Writes texts as YAML scalars.

/// Returns whether a text needs no quotes, in block and in flow style: true for all images without an IPv6 host.
pub(super) fn is_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '_' || last == '-' || last == '.')
        && text.contains('/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte))
}

/// Returns the text as JSON, which is also YAML.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Names of Secrets are DNS names: a name needs quotes if it looks like a number or a YAML keyword.
pub(super) fn secret_name(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.contains('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
    if plain { name.to_owned() } else { quoted(name) }
}
