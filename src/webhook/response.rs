//! Writes the AdmissionReview of the response into one buffer.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::rewrite::json::push_string;

/// The `response` of an AdmissionReview. It admits the object unless `denied` is set.
#[derive(Debug, Default)]
pub(super) struct ReviewResponse<'a> {
    /// The `uid` of the request.
    pub(super) uid: &'a str,
    /// Why the object is refused.
    pub(super) denied: Option<&'a str>,
    /// A JSON Patch.
    pub(super) patch: Option<String>,
    /// Warnings that kubectl shows to the user.
    pub(super) warnings: &'a [String],
    /// The number of images that the patch changes. The API server keeps it in its audit log, if it has one, under the
    /// webhook's name.
    pub(super) rewritten: usize,
    /// The number of images that were not modified; kept in the audit log as `rewritten` is.
    pub(super) skipped_images: usize,
    /// The ProxyProjects whose rules changed images; kept in the audit log as `rewritten` is.
    pub(super) acted: &'a [&'a str],
    /// The violated policies, each with its count; kept in the audit log as `rewritten` is.
    pub(super) violated: Option<&'a str>,
}

/// The most rules that the answer names; it counts the rest.
const MAX_NAMED: usize = 8;
/// The most warnings. The API server cuts each warning at 256 characters, and all together at 4 KiB.
const MAX_WARNINGS: usize = 64;
const MAX_WARNING: usize = 1024;
/// The most bytes of a refusal that kubectl shows.
const MAX_MESSAGE: usize = 16 * 1024;

impl ReviewResponse<'_> {
    /// Returns the whole review as JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let encoded = self.patch.as_ref().map_or(0, |patch| patch.len().div_ceil(3) * 4);
        let warnings = self.warnings.iter().take(MAX_WARNINGS).map(|warning| clipped(warning, MAX_WARNING));
        let size: usize = warnings.clone().map(|warning| warning.len() + 16).sum();
        let mut out = String::with_capacity(320 + self.uid.len() + encoded + size);
        out.push_str(r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"#);
        push_string(&mut out, self.uid);
        match self.denied {
            None => out.push_str(r#","allowed":true"#),
            Some(why) => {
                out.push_str(r#","allowed":false,"status":{"code":403,"reason":"Forbidden","message":"#);
                push_string(&mut out, clipped(why, MAX_MESSAGE));
                out.push('}');
            }
        }
        if let Some(patch) = &self.patch {
            out.push_str(r#","patchType":"JSONPatch","patch":""#);
            // The base64 alphabet needs no escapes.
            STANDARD.encode_string(patch, &mut out);
            out.push('"');
        }
        if !self.warnings.is_empty() {
            let mut before = r#","warnings":["#;
            for warning in warnings {
                out.push_str(std::mem::replace(&mut before, ","));
                push_string(&mut out, warning);
            }
            out.push(']');
        }
        self.push_audit(&mut out);
        out.push_str("}}");
        out.into_bytes()
    }

    fn push_audit(&self, out: &mut String) {
        let counts = [("images-rewritten", self.rewritten), ("images-skipped", self.skipped_images)];
        let mut before = r#","auditAnnotations":{"#;
        let mut after = "";
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            // Annotation values are strings. A write to a `String` cannot fail.
            let _ = write!(out, "{before}\"{name}\":\"{count}\"");
            (before, after) = (",", "}");
        }
        if !self.acted.is_empty() {
            out.push_str(before);
            out.push_str("\"rules\":");
            push_string(out, &named(self.acted));
            (before, after) = (",", "}");
        }
        if let Some(violated) = self.violated {
            out.push_str(before);
            out.push_str("\"policy-violations\":");
            push_string(out, clipped(violated, MAX_MESSAGE));
            after = "}";
        }
        out.push_str(after);
    }
}

/// Returns the first `most` bytes, or the whole text if it is shorter.
fn clipped(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

fn named(rules: &[&str]) -> String {
    let mut text = rules.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(",");
    if let Some(rest) = rules.len().checked_sub(MAX_NAMED).filter(|rest| *rest > 0) {
        text.push_str(&format!(" and {rest} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_json_bounds_each_text_and_their_number_whatever_is_said() {
        let long = "\u{e9}".repeat(16 << 10);
        let warnings = vec![long.clone(); 2 * MAX_WARNINGS];
        let answer = ReviewResponse {
            denied: Some(&long),
            violated: Some(&long),
            warnings: &warnings,
            ..ReviewResponse::default()
        }
        .to_json();
        assert!(answer.len() < 128 << 10, "{}", answer.len());
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["warnings"].as_array().unwrap().len(), MAX_WARNINGS);
    }
}
