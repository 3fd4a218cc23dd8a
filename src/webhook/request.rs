//! Reads an AdmissionReview with any object, in one pass over the text.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::json_scan::{self, Read, fields};
use crate::rewrite::pod::{JsonStr, Pod};
use crate::rewrite::{Namespaces, PodChange, PodScope};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The longest `request.uid` in bytes; the answer repeats it. UUIDs of the API server have 36 bytes.
pub(super) const MAX_UID: usize = 128;

/// `request.operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `CREATE`.
    Create,
    /// `UPDATE`.
    Update,
    /// `DELETE`, `CONNECT`, or an unknown operation.
    Other,
}

/// The request body is not JSON, so no AdmissionReview can answer. The API server takes that for a failed webhook and applies
/// the `failurePolicy`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON: send an AdmissionReview of {API_VERSION}")]
pub struct NotJson;

/// Reads a review whose objects are `O`s; `None` when the text is not such a review.
pub(super) fn read<'a, O: Read<'a> + Default>(body: &'a [u8]) -> Option<Review<'a, O>> {
    json_scan::read(body).ok()
}

/// An AdmissionReview.
#[derive(Default)]
pub(super) struct Review<'a, O> {
    api_version: Option<JsonStr<'a>>,
    kind: Option<JsonStr<'a>>,
    request: Option<AdmissionRequest<'a, O>>,
}

/// Its `request`.
#[derive(Default)]
pub(super) struct AdmissionRequest<'a, O> {
    uid: Option<JsonStr<'a>>,
    kind: Option<GroupVersionKind<'a>>,
    resource: Option<GroupVersionResource<'a>>,
    sub_resource: Option<JsonStr<'a>>,
    operation: Option<JsonStr<'a>>,
    namespace: Option<JsonStr<'a>>,
    dry_run: Option<bool>,
    pub(super) object: Option<O>,
    pub(super) old_object: Option<O>,
}

/// A GroupVersionKind.
#[derive(Default)]
pub(super) struct GroupVersionKind<'a> {
    group: Option<JsonStr<'a>>,
    kind: Option<JsonStr<'a>>,
}

/// A GroupVersionResource.
#[derive(Default)]
struct GroupVersionResource<'a> {
    group: Option<JsonStr<'a>>,
    resource: Option<JsonStr<'a>>,
}

/// The fields that can still be read from a malformed review.
#[derive(Debug, Default)]
pub(super) struct PartialRequest {
    /// `request.uid`; empty if there is none.
    pub(super) uid: String,
    /// Group and kind of the object, if the review has them.
    pub(super) kind: Option<(String, String)>,
}

#[derive(Default, Deserialize)]
struct Loose<'a> {
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct LooseRequest<'a> {
    #[serde(borrow)]
    uid: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
}

impl PartialRequest {
    /// Reads the known fields, if the body is JSON.
    pub(super) fn read(body: &[u8]) -> Result<Self, NotJson> {
        let loose: Loose<'_> = match serde_json::from_slice(body) {
            Ok(loose) => loose,
            Err(_) if serde_json::from_slice::<IgnoredAny>(body).is_ok() => Loose::default(),
            Err(_) => return Err(NotJson),
        };
        let request: LooseRequest<'_> =
            loose.request.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let uid: Option<JsonStr<'_>> = request.uid.and_then(|raw| json_scan::read(raw.get().as_bytes()).ok());
        let kind: Option<GroupVersionKind<'_>> =
            request.kind.and_then(|raw| json_scan::read(raw.get().as_bytes()).ok());
        Ok(Self {
            uid: uid.as_deref().filter(|uid| uid.len() <= MAX_UID).unwrap_or_default().to_owned(),
            kind: kind.as_ref().map(GroupVersionKind::to_pair),
        })
    }

    /// Returns the fields that an answer needs; only the uid is known.
    pub(super) fn about(&self) -> RequestInfo<'_> {
        RequestInfo { uid: &self.uid, ..RequestInfo::default() }
    }

    /// Whether the review names an object that is not a Pod.
    pub(super) fn is_no_pod(&self) -> bool {
        self.kind.as_ref().is_some_and(|(group, kind)| !(group.is_empty() && kind == "Pod"))
    }
}

/// The fields of a request that its answer needs.
#[derive(Clone, Copy)]
pub(super) struct RequestInfo<'r> {
    pub(super) uid: &'r str,
    pub(super) namespace: &'r str,
    pub(super) dry_run: bool,
    pub(super) operation: Operation,
}

impl Default for RequestInfo<'_> {
    fn default() -> Self {
        Self { uid: "", namespace: "", dry_run: false, operation: Operation::Other }
    }
}

impl<'r> RequestInfo<'r> {
    /// Returns the subject of a Pod's images: its namespace, the labels of the namespace, and its own labels.
    pub(super) fn subject(self, pod: &'r Pod<'_>, namespaces: &'r Namespaces) -> PodScope<'r> {
        PodScope {
            namespace: self.namespace,
            namespace_labels: namespaces.labels(self.namespace),
            labels: pod.labels(),
        }
    }
}

impl<'a, O> Review<'a, O> {
    /// Returns the request; otherwise its known fields and the problem.
    pub(super) fn request(&self) -> Result<&AdmissionRequest<'a, O>, (RequestInfo<'_>, &'static str)> {
        let Some(request) = &self.request else {
            return Err((RequestInfo::default(), "the review has no request"));
        };
        let about = request.about();
        if self.api_version.as_deref() != Some(API_VERSION) || self.kind.as_deref() != Some(KIND) {
            return Err((about, "only AdmissionReview of admission.k8s.io/v1 is supported"));
        }
        if about.uid.is_empty() {
            let problem = if request.uid.is_none() { "the request has no uid" } else { "the uid is empty or too long" };
            return Err((about, problem));
        }
        Ok(request)
    }
}

impl<O> AdmissionRequest<'_, O> {
    pub(super) fn about(&self) -> RequestInfo<'_> {
        RequestInfo {
            uid: self.uid.as_deref().filter(|uid| uid.len() <= MAX_UID).unwrap_or_default(),
            namespace: self.namespace.as_deref().unwrap_or_default(),
            dry_run: self.dry_run.unwrap_or_default(),
            operation: match self.operation.as_deref() {
                Some("CREATE") => Operation::Create,
                Some("UPDATE") => Operation::Update,
                _ => Operation::Other,
            },
        }
    }

    /// Returns the fields that an answer needs where the review cannot be decided.
    pub(super) fn rest(&self) -> PartialRequest {
        PartialRequest { uid: self.about().uid.to_owned(), kind: self.kind.as_ref().map(GroupVersionKind::to_pair) }
    }

    /// Returns group and kind of the object; empty when the review has none.
    pub(super) fn kind(&self) -> (&str, &str) {
        let Some(GroupVersionKind { group, kind }) = &self.kind else { return ("", "") };
        (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or_default())
    }

    /// Whether the request is about the object itself, and not about a subresource such as `status`.
    pub(super) fn is_whole(&self) -> bool {
        self.sub_resource.as_deref().is_none_or(str::is_empty)
    }

    fn is_pod(&self) -> bool {
        let is_pods = |resource: &GroupVersionResource<'_>| {
            resource.group.as_deref().unwrap_or_default().is_empty() && resource.resource.as_deref() == Some("pods")
        };
        self.kind.as_ref().is_none_or(|kind| kind.is("Pod")) && self.resource.as_ref().is_none_or(is_pods)
    }
}

impl<'a> AdmissionRequest<'a, Pod<'a>> {
    /// Returns the Pod and what to do with it. `None` when the request needs no decision; an error when a field is missing or
    /// the Pod exceeds the limits. An update that keeps the images of such a Pod needs no decision: the Pod's controller must
    /// still be able to release it.
    pub(super) fn ask(&self) -> Option<Result<PodChange<'_>, &'static str>> {
        if !self.is_pod() {
            return None;
        }
        let ephemeral = match self.sub_resource.as_deref() {
            None | Some("") => false,
            Some("ephemeralcontainers") => true,
            Some(_) => return None,
        };
        let create = match self.operation.as_deref() {
            Some("CREATE") if !ephemeral => true,
            Some("UPDATE") => false,
            _ => return None,
        };
        let Some(pod) = &self.object else { return Some(Err("the request has no object")) };
        let ask = match (create, ephemeral, &self.old_object) {
            (true, _, _) => PodChange::Create { pod },
            (false, _, None) => return Some(Err("the update has no oldObject")),
            (false, false, Some(old)) => PodChange::Update { pod, old },
            (false, true, Some(old)) => PodChange::EphemeralContainers { pod, old },
        };
        match ask.excess() {
            Some(_) if ask.leaves_images() => None,
            Some(excess) => Some(Err(excess)),
            None => Some(Ok(ask)),
        }
    }
}

fields!(Review<'a, O> where [O: Read<'a> + Default] {
    b"apiVersion" => api_version, b"kind" => kind, b"request" => request
});
fields!(AdmissionRequest<'a, O> where [O: Read<'a> + Default] {
    b"uid" => uid,
    b"kind" => kind,
    b"resource" => resource,
    b"subResource" => sub_resource,
    b"operation" => operation,
    b"namespace" => namespace,
    b"dryRun" => dry_run,
    b"object" => object,
    b"oldObject" => old_object
});
fields!(GroupVersionKind<'a> { b"group" => group, b"kind" => kind });
fields!(GroupVersionResource<'a> { b"group" => group, b"resource" => resource });

impl GroupVersionKind<'_> {
    fn to_pair(&self) -> (String, String) {
        let owned = |text: &Option<JsonStr<'_>>| text.as_deref().unwrap_or_default().to_owned();
        (owned(&self.group), owned(&self.kind))
    }

    fn is(&self, kind: &str) -> bool {
        self.group.as_deref().unwrap_or_default().is_empty() && self.kind.as_deref() == Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn uid_beyond_its_bound_counts_as_none_wherever_it_is_read() {
        for (length, kept) in [(36, true), (MAX_UID, true), (MAX_UID + 1, false), (1 << 20, false)] {
            let uid = "u".repeat(length);
            let body = json!({"apiVersion": API_VERSION, "kind": KIND, "request": {"uid": uid}}).to_string();
            let expected = if kept { uid.len() } else { 0 };
            assert_eq!(PartialRequest::read(body.as_bytes()).unwrap().uid.len(), expected, "{length}");
            let review = read::<Pod<'_>>(body.as_bytes()).unwrap();
            assert_eq!(review.request().is_ok(), kept, "{length}");
            assert_eq!(review.request.as_ref().unwrap().about().uid.len(), expected, "{length}");
        }
    }
}
