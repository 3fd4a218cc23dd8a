//! An AdmissionReview in, an AdmissionReview out (admission.k8s.io/v1): pure, one pass over the request.
//!
//! Fails open: whatever the request is, as long as it is JSON, the answer admits, and says in a warning what was wrong.

use super::answer::Answer;
use super::beginning::Beginning;
use super::request::{self, About, Rest};
pub use super::request::{NotJson, Operation};
use crate::rewrite::pod::Pod;
use crate::rewrite::{Budget, Namespaces, Outcome, Rules, Wanted, decide_within};

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
    /// Whether a Pod came to be validated with an image that a rule rewrites.
    pub unrewritten: bool,
}

/// What came of a review. All but [`Verdict::Denied`] admit the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// With a patch.
    Patched,
    /// A Pod as it ought to be.
    Unchanged,
    /// Nothing that concerns us: no Pod, or an operation that carries no images.
    Skipped,
    /// A Pod that a policy refuses, or that cannot be read while there is a policy that refuses.
    Denied,
    /// A review that could not be read; the answer warns.
    Malformed,
}

/// Answers a review with what the rules say.
pub fn mutate(body: &[u8], rules: &Rules, namespaces: &Namespaces) -> Result<Reply, NotJson> {
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
        Ok(ask) => match decide_within(ask, rules, &about.subject(ask.pod(), namespaces), &Budget::of_review()) {
            Ok(outcome) => {
                let verdict = if outcome.changes_anything() { Verdict::Patched } else { Verdict::Unchanged };
                about.answer(outcome, verdict)
            }
            Err(exhausted) => about.malformed(&exhausted.to_string()),
        },
        Err(problem) => about.malformed(problem),
    })
}

/// Admits what could not be read or decided on, with a warning, if the body is JSON at all.
pub fn admit_unread(body: &[u8], problem: &str) -> Result<Reply, NotJson> {
    let rest = Rest::read(body)?;
    let about = About { uid: &rest.uid, ..About::default() };
    Ok(if rest.is_no_pod() { about.skipped() } else { about.malformed(problem) })
}

/// The same for a review of which only the beginning was read.
pub(super) fn admit_begun(beginning: &Beginning, problem: &str) -> Reply {
    let about = beginning.about();
    if beginning.rest().is_no_pod() { about.skipped() } else { about.malformed(problem) }
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
        let warnings = outcome.warnings();
        let answer =
            Answer { uid: self.uid, patch, warnings, rewritten, left_alone, acted: &acted, ..Answer::default() };
        let reply = self.reply(&answer, verdict);
        let wanted = if self.dry_run { Vec::new() } else { outcome.into_wanted() };
        Reply { wanted, rewritten, left_alone, ..reply }
    }

    pub(super) fn malformed(self, problem: &str) -> Reply {
        let warnings = [format!("harbor-pilot: admitted as it is: {problem}")];
        self.reply(&Answer { uid: self.uid, warnings: &warnings, ..Answer::default() }, Verdict::Malformed)
    }

    /// An answer that says nothing: what is asked does not concern us.
    pub(super) fn skipped(self) -> Reply {
        self.reply(&Answer { uid: self.uid, ..Answer::default() }, Verdict::Skipped)
    }

    /// An answer, and nothing to be warmed or counted.
    pub(super) fn reply(self, answer: &Answer<'_>, verdict: Verdict) -> Reply {
        Reply {
            body: answer.to_json(),
            wanted: Vec::new(),
            uid: self.uid.to_owned(),
            namespace: self.namespace.to_owned(),
            dry_run: self.dry_run,
            operation: self.operation,
            verdict,
            rewritten: 0,
            left_alone: 0,
            unrewritten: false,
        }
    }
}
