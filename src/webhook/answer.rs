//! The AdmissionReview that goes back, written into one buffer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::rewrite::json::push_string;

/// `response` of an AdmissionReview. All of them admit.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// That of the request.
    pub(super) uid: &'a str,
    /// A JSON Patch.
    pub(super) patch: Option<Vec<u8>>,
    /// Shown to the user by kubectl.
    pub(super) warnings: &'a [String],
    /// How many images the patch changes: kept, if any, by the API server in its audit log, under the webhook's name.
    pub(super) rewritten: usize,
    /// How many images were left alone: kept as the other one is.
    pub(super) left_alone: usize,
}

impl Answer<'_> {
    /// The whole review.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let encoded = self.patch.as_ref().map_or(0, |patch| patch.len().div_ceil(3) * 4);
        let warnings: usize = self.warnings.iter().map(|warning| warning.len() + 16).sum();
        let mut out = Vec::with_capacity(320 + self.uid.len() + encoded + warnings);
        out.extend_from_slice(br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"#);
        push_string(&mut out, self.uid);
        out.extend_from_slice(br#","allowed":true"#);
        if let Some(patch) = &self.patch {
            out.extend_from_slice(br#","patchType":"JSONPatch","patch":""#);
            push_base64(&mut out, patch);
            out.push(b'"');
        }
        if !self.warnings.is_empty() {
            let mut before = br#","warnings":["#.as_slice();
            for warning in self.warnings {
                out.extend_from_slice(std::mem::replace(&mut before, b","));
                push_string(&mut out, warning);
            }
            out.push(b']');
        }
        self.push_audit(&mut out);
        out.extend_from_slice(b"}}");
        out
    }

    fn push_audit(&self, out: &mut Vec<u8>) {
        let counts = [("images-rewritten", self.rewritten), ("images-left-alone", self.left_alone)];
        let mut before = r#","auditAnnotations":{"#;
        let mut after = "";
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            // Annotations are texts.
            out.extend_from_slice(format!("{before}\"{name}\":\"{count}\"").as_bytes());
            (before, after) = (",", "}");
        }
        out.extend_from_slice(after.as_bytes());
    }
}

/// The alphabet needs no escapes.
fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(start..).and_then(|room| STANDARD.encode_slice(bytes, room).ok()).unwrap_or_default();
    out.truncate(start + written);
}
