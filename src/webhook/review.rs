//! An AdmissionReview in, an AdmissionReview out (admission.k8s.io/v1): pure, one pass over the request.
//!
//! Fails open: whatever the request is, as long as it is JSON, the answer admits, and says in a warning what was wrong.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::answer::Answer;
use super::skim;
use crate::rewrite::pod::{Pod, Text};
use crate::rewrite::{Namespaces, Outcome, Request, Rules, Subject, Wanted, decide};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The answer to one review.
#[derive(Debug)]
pub struct Reply {
    /// The AdmissionReview to send back, as JSON.
    pub body: Vec<u8>,
    /// Images that Harbor ought to have warm. Empty for a dry run.
    pub wanted: Vec<Wanted>,
    /// `request.uid`; empty if there is none.
    pub uid: String,
    /// `request.namespace`; empty if there is none.
    pub namespace: String,
    /// `request.dryRun`.
    pub dry_run: bool,
    /// `request.operation`.
    pub operation: Operation,
    /// What came of it.
    pub verdict: Verdict,
    /// How many images the patch changes.
    pub rewritten: usize,
    /// How many images were left as they are although somebody may have meant otherwise.
    pub left_alone: usize,
}

/// `request.operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `CREATE`.
    Create,
    /// `UPDATE`.
    Update,
    /// `DELETE`, `CONNECT`, or none that we know.
    Other,
}

/// What came of a review. Every one of them admits the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// With a patch.
    Patched,
    /// A Pod as it ought to be.
    Unchanged,
    /// Nothing that concerns us: no Pod, or an operation that carries no images.
    Skipped,
    /// A review that could not be read; the answer warns.
    Malformed,
}

/// The request body is no JSON, so that no answer in kind can be given. The API server takes that for a failed webhook
/// and goes by the `failurePolicy`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON: send an AdmissionReview of {API_VERSION}")]
pub struct NotJson;

/// Answers a review with what the rules say.
pub fn mutate(body: &[u8], rules: &Rules, namespaces: &Namespaces) -> Result<Reply, NotJson> {
    let read = skim::from_slice::<Review<'_>>(body).or_else(|_| serde_json::from_slice(body));
    let Ok(review) = read else {
        return admit_unread(body, "the request does not look like an AdmissionReview of a Pod");
    };
    let Review { api_version, kind, request } = review;
    let Some(request) = request else {
        return Ok(malformed("", "the review has no request"));
    };
    let about = request.about();
    if api_version.as_deref() != Some(API_VERSION) || kind.as_deref() != Some(KIND) {
        return Ok(about.malformed("only AdmissionReview of admission.k8s.io/v1 is understood"));
    }
    if about.uid.is_empty() {
        return Ok(about.malformed("the request has no uid"));
    }
    let Some(ask) = request.ask() else {
        return Ok(about.answer(Outcome::default(), Verdict::Skipped));
    };
    Ok(match ask {
        Ok(ask) => {
            let subject = Subject {
                namespace: about.namespace,
                namespace_labels: namespaces.labels(about.namespace),
                labels: ask.pod().labels(),
            };
            let outcome = decide(ask, rules, &subject);
            let verdict = if outcome.changes_anything() { Verdict::Patched } else { Verdict::Unchanged };
            about.answer(outcome, verdict)
        }
        Err(problem) => about.malformed(problem),
    })
}

/// Admits what could not be read or decided on, with a warning, if the body is JSON at all.
pub fn admit_unread(body: &[u8], problem: &str) -> Result<Reply, NotJson> {
    let loose: Loose<'_> = match serde_json::from_slice(body) {
        Ok(loose) => loose,
        Err(_) if serde_json::from_slice::<IgnoredAny>(body).is_ok() => Loose::default(),
        Err(_) => return Err(NotJson),
    };
    let request: LooseRequest<'_> =
        loose.request.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let uid: Option<Text<'_>> = request.uid.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let uid = uid.as_deref().unwrap_or_default();
    let kind: Option<Named<'_>> = request.kind.and_then(|raw| serde_json::from_str(raw.get()).ok());
    if kind.is_some_and(|kind| !kind.is("Pod")) {
        return Ok(About { uid, ..About::default() }.answer(Outcome::default(), Verdict::Skipped));
    }
    Ok(malformed(uid, problem))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(borrow)]
    api_version: Option<Text<'a>>,
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    request: Option<AdmissionRequest<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionRequest<'a> {
    #[serde(borrow)]
    uid: Option<Text<'a>>,
    #[serde(borrow)]
    kind: Option<Named<'a>>,
    #[serde(borrow)]
    resource: Option<Resource<'a>>,
    #[serde(borrow)]
    sub_resource: Option<Text<'a>>,
    #[serde(borrow)]
    operation: Option<Text<'a>>,
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    dry_run: Option<bool>,
    #[serde(borrow)]
    object: Option<Pod<'a>>,
    #[serde(borrow)]
    old_object: Option<Pod<'a>>,
}

/// A GroupVersionKind.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    group: Option<Text<'a>>,
    #[serde(borrow)]
    kind: Option<Text<'a>>,
}

/// A GroupVersionResource.
#[derive(Deserialize)]
struct Resource<'a> {
    #[serde(borrow)]
    group: Option<Text<'a>>,
    #[serde(borrow)]
    resource: Option<Text<'a>>,
}

/// What can still be read where the rest is not as it should be.
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

impl Named<'_> {
    fn is(&self, kind: &str) -> bool {
        self.group.as_deref().unwrap_or_default().is_empty() && self.kind.as_deref() == Some(kind)
    }
}

impl AdmissionRequest<'_> {
    fn about(&self) -> About<'_> {
        About {
            uid: self.uid.as_deref().unwrap_or_default(),
            namespace: self.namespace.as_deref().unwrap_or_default(),
            dry_run: self.dry_run.unwrap_or_default(),
            operation: match self.operation.as_deref() {
                Some("CREATE") => Operation::Create,
                Some("UPDATE") => Operation::Update,
                _ => Operation::Other,
            },
        }
    }

    /// What is asked of which Pod; `None` when the request does not concern us, an error when something is missing.
    fn ask(&self) -> Option<Result<Request<'_>, &'static str>> {
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
        Some(match (create, ephemeral, &self.old_object) {
            (true, _, _) => Ok(Request::Create { pod }),
            (false, _, None) => Err("the update has no oldObject"),
            (false, false, Some(old)) => Ok(Request::Update { pod, old }),
            (false, true, Some(old)) => Ok(Request::EphemeralContainers { pod, old }),
        })
    }

    fn is_pod(&self) -> bool {
        let is_pods = |resource: &Resource<'_>| {
            resource.group.as_deref().unwrap_or_default().is_empty() && resource.resource.as_deref() == Some("pods")
        };
        self.kind.as_ref().is_none_or(|kind| kind.is("Pod")) && self.resource.as_ref().is_none_or(is_pods)
    }
}

/// What of a request goes into its answer.
#[derive(Clone, Copy)]
struct About<'r> {
    uid: &'r str,
    namespace: &'r str,
    dry_run: bool,
    operation: Operation,
}

impl Default for About<'_> {
    fn default() -> Self {
        Self { uid: "", namespace: "", dry_run: false, operation: Operation::Other }
    }
}

impl About<'_> {
    fn answer(self, outcome: Outcome<'_>, verdict: Verdict) -> Reply {
        let patch = outcome.changes_anything().then(|| {
            let mut patch = String::with_capacity(1024);
            outcome.write_patch(&mut patch);
            patch
        });
        let (rewritten, left_alone) = (outcome.rewritten(), outcome.left_alone());
        let acted = outcome.acted();
        let body = Answer { uid: self.uid, patch, warnings: outcome.warnings(), rewritten, left_alone, acted: &acted }
            .to_json();
        Reply {
            body,
            uid: self.uid.to_owned(),
            namespace: self.namespace.to_owned(),
            dry_run: self.dry_run,
            operation: self.operation,
            verdict,
            rewritten,
            left_alone,
            wanted: if self.dry_run { Vec::new() } else { outcome.into_wanted() },
        }
    }

    fn malformed(self, problem: &str) -> Reply {
        let warnings = [format!("harbor-pilot: admitted as it is: {problem}")];
        let body = Answer { uid: self.uid, warnings: &warnings, ..Answer::default() }.to_json();
        Reply {
            body,
            wanted: Vec::new(),
            uid: self.uid.to_owned(),
            namespace: self.namespace.to_owned(),
            dry_run: self.dry_run,
            operation: self.operation,
            verdict: Verdict::Malformed,
            rewritten: 0,
            left_alone: 0,
        }
    }
}

fn malformed(uid: &str, problem: &str) -> Reply {
    About { uid, ..About::default() }.malformed(problem)
}
