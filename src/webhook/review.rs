//! Takes an AdmissionReview, returns an AdmissionReview (admission.k8s.io/v1). Pure, one pass over the request.
//!
//! Fails open: the answer to any JSON admits the object, and a warning reports the problem.

use super::request::{self, PartialRequest, RequestInfo};
pub use super::request::{NotJson, Operation};
use super::response::ReviewResponse;
use crate::rewrite::pod::Pod;
use crate::rewrite::{Namespaces, PodMutation, PrewarmTarget, Rules, StepBudget, decide_within};

/// The answer to one review.
#[derive(Debug)]
pub struct ReviewReply {
    /// The AdmissionReview to send back, as JSON.
    pub body: Vec<u8>,
    /// Images to prewarm. Empty for a dry run.
    pub wanted: Vec<PrewarmTarget>,
    /// `request.uid`; empty if there is none.
    pub uid: String,
    /// `request.namespace`; empty if there is none.
    pub namespace: String,
    /// `request.dryRun`.
    pub dry_run: bool,
    /// `request.operation`.
    pub operation: Operation,
    /// The result of the review.
    pub verdict: ReviewOutcome,
    /// The number of images that the patch changes.
    pub rewritten: usize,
    /// The number of images that were not modified although the user may expect it.
    pub skipped_images: usize,
    /// Whether the request validates a Pod with an image that a rule would rewrite.
    pub unrewritten: bool,
}

/// The result of a review. All but [`ReviewOutcome::Denied`] admit the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReviewOutcome {
    /// Admitted with a patch.
    Patched,
    /// A Pod that needs no patch.
    Unchanged,
    /// No decision needed: not a Pod, or an operation without images.
    Skipped,
    /// A policy refuses the Pod, or the review cannot be read while at least one policy refuses Pods.
    Denied,
    /// The review could not be read; the answer warns.
    Malformed,
}

/// Answers a review with the result of the rules.
pub fn mutate(body: &[u8], rules: &Rules, namespaces: &Namespaces) -> Result<ReviewReply, NotJson> {
    let Some(review) = request::read::<Pod<'_>>(body) else {
        return admit_unread(body, "the request does not look like an AdmissionReview of a Pod");
    };
    let request = match review.request() {
        Ok(request) => request,
        Err((about, problem)) => return Ok(about.malformed(problem)),
    };
    let about = request.about();
    let Some(ask) = request.ask() else {
        return Ok(about.skipped());
    };
    Ok(match ask {
        Ok(ask) => match decide_within(ask, rules, &about.subject(ask.pod(), namespaces), &StepBudget::of_review()) {
            Ok(outcome) => {
                let verdict =
                    if outcome.changes_anything() { ReviewOutcome::Patched } else { ReviewOutcome::Unchanged };
                about.answer(outcome, verdict)
            }
            Err(exhausted) => about.malformed(&exhausted.to_string()),
        },
        Err(problem) => about.malformed(problem),
    })
}

/// Admits an object whose review could not be read or decided, with a warning. Fails if the body is not JSON.
pub fn admit_unread(body: &[u8], problem: &str) -> Result<ReviewReply, NotJson> {
    let rest = PartialRequest::read(body)?;
    Ok(admit(rest.about(), &rest, problem))
}

/// Admits an object of whose review only these fields were read, with a warning.
pub(super) fn admit(about: RequestInfo<'_>, rest: &PartialRequest, problem: &str) -> ReviewReply {
    if rest.is_no_pod() { about.skipped() } else { about.malformed(problem) }
}

impl RequestInfo<'_> {
    fn answer(self, outcome: PodMutation<'_>, verdict: ReviewOutcome) -> ReviewReply {
        let patch = outcome.changes_anything().then(|| {
            let mut patch = String::with_capacity(1024);
            outcome.write_patch(&mut patch);
            patch
        });
        let (rewritten, skipped_images) = (outcome.rewritten(), outcome.skipped_images());
        let acted = outcome.acted();
        let warnings = outcome.warnings();
        let answer = ReviewResponse {
            uid: self.uid,
            patch,
            warnings,
            rewritten,
            skipped_images,
            acted: &acted,
            ..ReviewResponse::default()
        };
        let reply = self.reply(&answer, verdict);
        let wanted = if self.dry_run { Vec::new() } else { outcome.into_wanted() };
        ReviewReply { wanted, rewritten, skipped_images, ..reply }
    }

    pub(super) fn malformed(self, problem: &str) -> ReviewReply {
        let warnings = [format!("harbor-pilot: admitted without changes: {problem}")];
        self.reply(
            &ReviewResponse { uid: self.uid, warnings: &warnings, ..ReviewResponse::default() },
            ReviewOutcome::Malformed,
        )
    }

    /// Returns an empty answer: the request needs no decision.
    pub(super) fn skipped(self) -> ReviewReply {
        self.reply(&ReviewResponse { uid: self.uid, ..ReviewResponse::default() }, ReviewOutcome::Skipped)
    }

    /// Returns an answer without images to prewarm or to count.
    pub(super) fn reply(self, answer: &ReviewResponse<'_>, verdict: ReviewOutcome) -> ReviewReply {
        ReviewReply {
            body: answer.to_json(),
            wanted: Vec::new(),
            uid: self.uid.to_owned(),
            namespace: self.namespace.to_owned(),
            dry_run: self.dry_run,
            operation: self.operation,
            verdict,
            rewritten: 0,
            skipped_images: 0,
            unrewritten: false,
        }
    }
}
