//! Finds image references in any text.

use std::collections::BTreeSet;

/// A reference, and its position in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextReference {
    pub(super) at: usize,
    pub(super) image: String,
}

/// Schemes before an image. A text with another scheme is not an image.
const SCHEMES: [&str; 5] = ["oci", "docker", "docker-pullable", "docker-image", "registry"];
/// Longer runs of characters are cut: host, repository, tag and digest of an image are shorter.
const MAX_TOKEN: usize = 512;
/// Keys of values that images begin with: `imageRegistry: quay.io/org`.
const PREFIX_KEYS: [&str; 4] = ["registry", "hub", "repository", "mirror"];

/// Returns all references of a text for which `is_meant` is true, each once. `called` is the name of the text: its key, or
/// the name of its variable.
pub(super) fn references(text: &str, called: &str, is_meant: &dyn Fn(&str) -> bool) -> Vec<TextReference> {
    let mut found = Vec::new();
    let mut taken = BTreeSet::new();
    for (at, token) in tokens(text) {
        if let Some((skipped, image)) = explicit(token, is_meant) {
            taken.insert(at + skipped);
            found.push(TextReference { at: at + skipped, image: image.to_owned() });
        }
    }
    let mut add = |at: usize, image: &str| {
        if !image.is_empty() && taken.insert(at) {
            found.push(TextReference { at, image: image.to_owned() });
        }
    };
    let (trimmed, start) = (text.trim(), text.len() - text.trim_start().len());
    let prefix = trimmed.trim_end_matches('/');
    if is_called_prefix(called)
        && !prefix.contains('/')
        && is_meant(&format!("{prefix}/x"))
        && prefix.contains(['.', ':'])
    {
        add(start, prefix);
    } else if is_called_image(called)
        && (is_short(trimmed, called == "image") || is_namespaced(trimmed))
        && is_meant(trimmed)
    {
        add(start, trimmed);
    }
    for (at, image) in embedded(text) {
        if is_meant(image) {
            add(at, image);
        }
    }
    found
}

/// Returns runs of the characters that references and addresses have.
fn tokens(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '/' | '@' | '-');
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let start = at + rest.find(of_token)?;
            let rest = text.get(start..)?;
            let length = rest.find(|c| !of_token(c)).unwrap_or(rest.len());
            at = start + length;
            let token = rest.get(..length)?;
            if token.contains('/') {
                return Some((start, token));
            }
        }
    })
}

/// Returns the reference with a host that a token is or ends with, and the number of bytes before it.
fn explicit<'t>(token: &'t str, is_meant: &dyn Fn(&str) -> bool) -> Option<(usize, &'t str)> {
    let whole = token;
    let mut token = token;
    if let Some((scheme, rest)) = token.split_once("://") {
        let scheme = scheme.rsplit(['.', ':', '@', '/']).next().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            return None;
        }
        token = rest;
    }
    token = token.trim_start_matches(['.', '_', ':', '/', '@', '-']);
    let host = token.split('/').next()?;
    // `user@host/`, `label:host/`: the text before the host is not part of the reference.
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let host_start = host.rfind('@').map_or(0, |at| at + 1);
    let host = host.get(host_start..)?;
    let host_start = host_start
        + match host.rsplit_once(':') {
            Some((before, port)) if is_port(port) => before.rfind(':').map_or(0, |at| at + 1),
            Some((before, _)) => before.len() + 1,
            None => 0,
        };
    token = token.get(host_start..)?;
    let (host, _) = token.split_once('/')?;
    if !host.contains(['.', ':']) && host != "localhost" {
        return None;
    }
    let at = token.as_ptr() as usize - whole.as_ptr() as usize;
    let token = token.get(..token.len().min(MAX_TOKEN))?;
    let mut candidate = token.trim_end_matches(['.', '_', ':', '/', '@', '-']);
    loop {
        if candidate.contains('/') && is_meant(candidate) {
            return Some((at, candidate));
        }
        let after_host = candidate.find('/')?;
        let cut = candidate.get(after_host..)?.rfind(['@', ':', '/'])?;
        if cut == 0 {
            return None;
        }
        candidate = candidate.get(..after_host + cut)?.trim_end_matches(['.', '_', ':', '/', '@', '-']);
    }
}

/// Returns the values that an embedded text names an image: `image: nginx`, `"image":"nginx"`, `--image=nginx:1`.
fn embedded(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(find_image).map(|at| at + from) {
        let end = at + "image".len();
        from = end;
        let mut rest = text.get(end..).unwrap_or_default();
        let before_name = text.get(..at).unwrap_or_default();
        rest = rest.trim_start_matches(['"', '\'', '\\']).trim_start_matches(' ');
        let patched = before_name.ends_with('/').then(|| patch_value(rest)).flatten();
        rest = patched.unwrap_or(rest);
        let Some(mark) = rest.chars().next().filter(|mark| matches!(mark, ':' | '=')) else { continue };
        let value = rest.get(1..).unwrap_or_default().trim_start_matches(' ').trim_start_matches(['"', '\'', '\\']);
        let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(byte);
        let length = value.bytes().take(MAX_TOKEN + 1).take_while(of_token).count();
        if length > MAX_TOKEN {
            continue;
        }
        let (Some(token), start) = (value.get(..length), text.len() - value.len()) else { continue };
        let before = before_name.trim_end_matches([' ', '\u{feff}']).bytes().next_back();
        let alone =
            at.checked_sub(1).and_then(|before| bytes.get(before)).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        let is_key = patched.is_some()
            || alone && mark == ':' && matches!(before, None | Some(b'-' | b'{' | b',' | b'"' | b'\'' | b'\n' | b'\\'));
        // A value that continues with a placeholder is not an image yet.
        let goes_on = value.get(length..).is_some_and(|rest| rest.starts_with(['{', '$', '*', '<', '%']));
        if !goes_on && (is_short(token, is_key) || is_namespaced(token)) {
            found.push((start, token));
        }
    }
    found
}

/// Returns the text after `value` in a JSON Patch operation, after its path: `path: /spec/image`, `value: nginx`.
fn patch_value(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("/reference").unwrap_or(text);
    let rest = rest.trim_start_matches(['"', '\'', '\\', ' ', ',', '\r', '\n']).strip_prefix("value")?;
    Some(rest.trim_start_matches(['"', '\'', '\\']).trim_start_matches(' '))
}

fn find_image(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    bytes.windows("image".len()).position(|window| window.eq_ignore_ascii_case(b"image"))
}

/// Returns whether a name without a host is an image: it has a tag or a digest, or its key names it an image.
fn is_short(text: &str, may_be_bare: bool) -> bool {
    let is_word = matches!(text, "" | "true" | "false" | "null" | "none") || text.parse::<f64>().is_ok();
    !is_word && !text.contains('/') && (may_be_bare || text.contains([':', '@']))
}

/// Returns whether a text is `namespace/name`, and the namespace is not a host.
fn is_namespaced(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, rest)| {
        !first.is_empty() && !rest.is_empty() && !first.contains(['.', ':']) && !text.ends_with('/')
    })
}

/// Returns whether the name is that of an image: `image`, `sidecarImage`, `SIDECAR_IMAGE`, `imageName`.
pub(super) fn is_called_image(called: &str) -> bool {
    let called = called.trim_end_matches(['s', 'S']);
    let ends_with = |ending: &str| {
        let start = called.len().checked_sub(ending.len());
        start.and_then(|start| called.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
    };
    ends_with("image")
        || ends_with("imageName")
        || ends_with("image_name")
        || called.get(.."RELATED_IMAGE_".len()).is_some_and(|start| start == "RELATED_IMAGE_")
}

fn is_called_prefix(called: &str) -> bool {
    let called = called.to_ascii_lowercase();
    PREFIX_KEYS.iter().any(|key| called.ends_with(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_meant(image: &str) -> bool {
        let valid = |text: &str| {
            let name = text.rsplit_once('@').map_or(text, |(name, _)| name);
            let (path, tag) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((name, "x"));
            !tag.is_empty()
                && !path.contains(':')
                && path.chars().all(|c| !c.is_ascii_uppercase())
                && !path.ends_with('/')
        };
        match image.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) => ["quay.io", "ghcr.io"].contains(&host) && valid(rest),
            _ => valid(image),
        }
    }

    fn found(text: &str, called: &str) -> Vec<String> {
        references(text, called, &is_meant).into_iter().map(|reference| reference.image).collect()
    }

    #[test]
    fn references_with_a_host_are_found_in_any_text() {
        for (text, expected) in [
            ("quay.io/a/b:1", &["quay.io/a/b:1"][..]),
            ("--reloader=quay.io/a/b:1", &["quay.io/a/b:1"]),
            ("a=quay.io/a/b:1,b=ghcr.io/c/d@sha256:00", &["quay.io/a/b:1", "ghcr.io/c/d@sha256:00"]),
            ("see quay.io/a/b. Or (ghcr.io/c/d)", &["quay.io/a/b", "ghcr.io/c/d"]),
            ("oci://ghcr.io/charts/app", &["ghcr.io/charts/app"]),
            ("docker://quay.io/a/b:1", &["quay.io/a/b:1"]),
            ("registry://ghcr.io/a/policy:1", &["ghcr.io/a/policy:1"]),
            ("myregistry://ghcr.io/a/policy:1", &[]),
            ("https://quay.io/repository/a/b", &[]),
            ("git@ghcr.io/a/b", &["ghcr.io/a/b"]),
            ("image:quay.io/a/b:1", &["quay.io/a/b:1"]),
            ("mirror.corp/quay.io/a/b", &[]),
            ("notquay.io/a/b", &[]),
            ("quay.io/a/b:{{ .tag }}", &["quay.io/a/b"]),
            ("quay.io/a/b:1/more", &["quay.io/a/b:1"]),
            ("quay.io/a/*", &["quay.io/a"]),
            ("\u{feff}quay.io/a/b", &["quay.io/a/b"]),
            ("x \u{feff} quay.io/a/b:1", &["quay.io/a/b:1"]),
            ("quay.io/", &[]),
            ("{\"spec\":{\"image\":\"quay.io/a/b:1\"}}", &["quay.io/a/b:1"]),
            ("a\\nquay.io/a/b", &[]),
            ("app.kubernetes.io/name", &[]),
        ] {
            assert_eq!(found(text, "args"), expected, "{text}");
        }
    }

    #[test]
    fn references_without_a_host_count_where_they_are_called_images() {
        for (text, called, expected) in [
            ("nginx:1.27", "args", &[][..]),
            ("nginx:1.27", "image", &["nginx:1.27"]),
            ("nginx", "image", &["nginx"]),
            ("nginx:1.27", "SIDECAR_IMAGE", &["nginx:1.27"]),
            ("nginx", "SIDECAR_IMAGE", &[]),
            ("bitnami/redis", "RELATED_IMAGE_REDIS", &["bitnami/redis"]),
            ("true", "image", &[]),
            ("IfNotPresent", "imagePullPolicy", &[]),
            ("--image=nginx:1.27", "args", &["nginx:1.27"]),
            ("--image=fast", "args", &[]),
            ("containers:\n- {name: a, image: \"nginx\"}\n- image: redis\n", "pod.yaml", &["nginx", "redis"]),
            ("{\"image\":\"nginx\"}", "note", &["nginx"]),
            ("{\\\"image\\\":\\\"nginx\\\"}", "note", &["nginx"]),
            ("the image: nginx", "note", &[]),
            ("\u{feff}image: nginx\n", "note", &["nginx"]),
            ("nginx:1.27", "imageName", &["nginx:1.27"]),
            ("- path: /spec/image\n  value: nginx\n", "patch", &["nginx"]),
            ("[{\"op\":\"add\",\"path\":\"/spec/image\",\"value\":\"nginx\"}]", "patch", &["nginx"]),
            ("- path: /spec/volumes/0/image/reference\n  value: a/b\n", "patch", &["a/b"]),
            ("- path: /spec/paused\n  value: nginx\n", "patch", &[]),
            ("image: {{ .image }}", "note", &[]),
            ("image: app-{{ .image }}", "note", &[]),
            ("quay.io", "imageRegistry", &["quay.io"]),
            ("quay.io/", "registry", &["quay.io"]),
            ("quay.io/org", "imageRegistry", &["quay.io/org"]),
            ("quay.io", "host", &[]),
        ] {
            assert_eq!(found(text, called), expected, "{called}: {text}");
        }
    }

    /// Returns the number of calls of `is_meant`, and the bytes in all of them.
    fn asked(text: &str) -> (usize, usize) {
        let asked = std::cell::Cell::new((0, 0));
        references(text, "note", &|image| {
            asked.set((asked.get().0 + 1, asked.get().1 + image.len()));
            false
        });
        asked.get()
    }

    #[test]
    fn references_ask_little_about_a_long_token() {
        for text in [format!("quay.io{}", "/a".repeat(20_000)), "image:".repeat(20_000)] {
            let (count, bytes) = asked(&text);
            assert!(count <= MAX_TOKEN && bytes <= MAX_TOKEN * MAX_TOKEN, "{count} {bytes}");
        }
        assert_eq!(found(&format!("quay.io/a/b:1{}", "/x".repeat(2_000)), "note"), ["quay.io/a/b:1"]);
    }
}
