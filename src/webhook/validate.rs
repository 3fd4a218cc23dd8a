//! Takes an AdmissionReview, returns the decision of the policies on its images. Pure, as [`super::review`] is.
//!
//! A Pod is checked as it arrives, because the kubelet pulls these images. In a cluster, `/mutate` acts before `/validate`.
//! If `/mutate` did not act, or another webhook set an image after it, the Pod has an image that is not at Harbor, and
//! policies see it. On an update, images that the old Pod has in the same position are skipped. Nothing else that a tenant
//! can write exempts an image: no annotation and no record of originals.
//!
//! Workloads are admitted with warnings, so that the user who applies them sees the problem, and not only the controller that
//! creates their Pods. Their templates are checked as rules would rewrite their Pods.
//!
//! Fails as the policies say: a review that cannot be read, or takes too much work, is refused while at least one policy
//! refuses Pods, and otherwise admitted with a warning.

use k8s_openapi::jiff::Timestamp;

use super::request::{self, NotJson, Operation, PartialRequest, RequestInfo};
use super::response::ReviewResponse;
use super::review::{ReviewOutcome, ReviewReply};
use super::workload::{Workload, is_workload};
use crate::image::ImageRef;
use crate::policy::{ForeignReason, JudgedImage, Policies, PolicyResult, ScanEvidence, ScanIndex};
use crate::rewrite::pod::{ImageField, Pod};
use crate::rewrite::{
    BudgetExhausted, ImageDecider, ImageDecision, KeepReason, Namespaces, PodChange, RuleDecision, Rules, StepBudget,
};
use crate::text::PrintableText;

/// The most problems of policies in a warning; the log has all.
const MAX_FINDINGS: usize = 2;
const MAX_FINDING: usize = 240;
const MAX_KIND: usize = 32;

/// Answers a review with the decision of the policies. `scans` and `now` are for policies that check scans.
///
/// # Errors
/// When the body is no JSON.
pub fn validate(
    body: &[u8],
    rules: &Rules,
    namespaces: &Namespaces,
    policies: &Policies,
    scans: Option<(&ScanIndex, Timestamp)>,
) -> Result<ReviewReply, NotJson> {
    let judge = Validator { rules, namespaces, policies, scans };
    let Some(review) = request::read::<Pod<'_>>(body) else {
        return unread(body, "the request does not look like an AdmissionReview of a Pod or a workload", policies);
    };
    let request = match review.request() {
        Ok(request) => request,
        Err((about, problem)) => return Ok(judge.refuse(about, problem)),
    };
    let (group, kind) = request.kind();
    if is_workload(group, kind) {
        return judge.workload(body);
    }
    let about = request.about();
    Ok(match request.ask() {
        None => about.skipped(),
        Some(Err(problem)) => judge.refuse(about, problem),
        Some(Ok(ask)) => judge.pod(about, ask),
    })
}

/// Refuses an object whose review could not be read or decided while at least one policy refuses Pods, and otherwise admits
/// it with a warning. A workload is always admitted, because its Pods are checked.
///
/// # Errors
/// When the body is no JSON.
pub fn unread(body: &[u8], problem: &str, policies: &Policies) -> Result<ReviewReply, NotJson> {
    let rest = PartialRequest::read(body)?;
    Ok(decide_unread(rest.about(), &rest, problem, policies))
}

/// The same for a review of which only these fields were read.
pub(super) fn decide_unread(
    about: RequestInfo<'_>,
    rest: &PartialRequest,
    problem: &str,
    policies: &Policies,
) -> ReviewReply {
    match &rest.kind {
        Some((group, kind)) if is_workload(group, kind) => about.malformed(problem),
        Some(_) if rest.is_no_pod() => about.skipped(),
        _ => refuse(about, problem, policies),
    }
}

/// The inputs of the decision.
struct Validator<'j> {
    rules: &'j Rules,
    namespaces: &'j Namespaces,
    policies: &'j Policies,
    scans: Option<(&'j ScanIndex, Timestamp)>,
}

/// The form in which images are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JudgedAs {
    /// As they arrive.
    They,
    /// As rules would rewrite them.
    Rewritten,
}

impl Validator<'_> {
    fn pod(&self, about: RequestInfo<'_>, request: PodChange<'_>) -> ReviewReply {
        let (judgement, unrewritten) = match self.evaluate(about, request, JudgedAs::They) {
            Ok(judged) => judged,
            Err(exhausted) => return self.refuse(about, &exhausted.to_string()),
        };
        let denied = judgement.is_denied().then(|| judgement.denials().join("; "));
        let mut warnings = prefixed(judgement.warnings(), "");
        warnings.extend(self.findings());
        let verdict = if denied.is_some() { ReviewOutcome::Denied } else { ReviewOutcome::Unchanged };
        let violated = judgement.audit();
        let (denied, violated) = (denied.as_deref(), violated.as_deref());
        let answer =
            ReviewResponse { uid: about.uid, denied, warnings: &warnings, violated, ..ReviewResponse::default() };
        ReviewReply { unrewritten, ..about.reply(&answer, verdict) }
    }

    fn workload(&self, body: &[u8]) -> Result<ReviewReply, NotJson> {
        let Some(review) = request::read::<Workload<'_>>(body) else {
            return unread(body, "the template of the workload cannot be read", self.policies);
        };
        let request = match review.request() {
            Ok(request) => request,
            Err((about, problem)) => return Ok(about.malformed(problem)),
        };
        let about = request.about();
        let new = request.object.as_ref().and_then(Workload::template);
        let old = request.old_object.as_ref().and_then(Workload::template);
        let ask = match (about.operation, new, old) {
            _ if !request.is_whole() => return Ok(about.skipped()),
            (Operation::Other, ..) | (_, None, _) => return Ok(about.skipped()),
            (Operation::Update, Some(pod), Some(old)) => PodChange::Update { pod, old },
            (_, Some(pod), _) => PodChange::Create { pod },
        };
        if let Some(excess) = ask.excess() {
            return Ok(about.malformed(excess));
        }
        let judgement = match self.evaluate(about, ask, JudgedAs::Rewritten) {
            Ok((judgement, _)) => judgement,
            Err(exhausted) => return Ok(about.malformed(&exhausted.to_string())),
        };
        let (_, kind) = request.kind();
        let refused = format!("Pods of this {} will be rejected: ", PrintableText(kind, MAX_KIND));
        let mut warnings = prefixed(judgement.denials(), &refused);
        warnings.extend(prefixed(judgement.warnings(), ""));
        warnings.extend(self.findings());
        let violated = judgement.audit();
        let answer = ReviewResponse {
            uid: about.uid,
            warnings: &warnings,
            violated: violated.as_deref(),
            ..ReviewResponse::default()
        };
        Ok(about.reply(&answer, ReviewOutcome::Unchanged))
    }

    /// Checks the images that the old object does not have, and returns whether rules would rewrite one that arrived.
    fn evaluate(
        &self,
        about: RequestInfo<'_>,
        request: PodChange<'_>,
        judged_as: JudgedAs,
    ) -> Result<(PolicyResult, bool), BudgetExhausted> {
        let budget = StepBudget::of_review();
        let subject = about.subject(request.pod(), self.namespaces);
        let reader = ImageDecider::new(request.pod(), self.rules, &subject, &budget);
        let new = request.new_images().into_iter();
        let images: Vec<_> = new.map(|slot| (slot, reader.decide(&slot))).collect();
        budget.check()?;
        let unrewritten = images.iter().any(|(_, decision)| rewritten(decision).is_some());
        let at_harbor = |image: &ImageRef| self.rules.canonical_for_anyone_within(image, &budget);
        let evidence = self.scans.map(|(scans, now)| ScanEvidence { scans, now, at_harbor: &at_harbor });
        let judged = images.iter().filter_map(|(slot, decision)| judged(slot, decision, judged_as));
        let judgement = self.policies.evaluate_within(&subject, judged, evidence.as_ref(), &budget)?;
        Ok((judgement, unrewritten))
    }

    fn refuse(&self, about: RequestInfo<'_>, problem: &str) -> ReviewReply {
        refuse(about, problem, self.policies)
    }

    fn findings(&self) -> impl Iterator<Item = String> {
        let findings = self.policies.findings().iter().take(MAX_FINDINGS);
        findings.map(|finding| format!("harbor-pilot: {}", PrintableText(&finding.to_string(), MAX_FINDING)))
    }
}

/// Returns the image that the rules write, if they change it.
fn rewritten<'f>(decision: &'f ImageDecision<'_>) -> Option<&'f str> {
    match decision {
        ImageDecision::Decided(_, RuleDecision::Rewritten { image, .. }) => Some(image.as_str()),
        _ => None,
    }
}

/// Returns an image in the form that policies take; `None` for an image that is not known yet.
fn judged<'i>(slot: &ImageField<'i>, decision: &'i ImageDecision<'_>, judged_as: JudgedAs) -> Option<JudgedImage<'i>> {
    let made = rewritten(decision);
    let (image, note) = match (judged_as, decision) {
        // The image that its webhook writes is checked in the Pod.
        (JudgedAs::Rewritten, ImageDecision::Kept(KeepReason::Placeholder(_))) => return None,
        (JudgedAs::Rewritten, _) if made.is_some() => (made, ForeignReason::None),
        (JudgedAs::They, _) if made.is_some() => (None, made.map_or(ForeignReason::None, ForeignReason::Missed)),
        (_, ImageDecision::Kept(KeepReason::Placeholder(whose))) => (None, ForeignReason::Placeholder(whose)),
        (_, ImageDecision::Kept(KeepReason::NeverPulled)) => (None, ForeignReason::NeverPulled),
        (_, ImageDecision::Kept(KeepReason::Exempt | KeepReason::Named)) => (None, ForeignReason::Kept),
        _ => (None, ForeignReason::None),
    };
    Some(JudgedImage {
        noun: slot.kind.noun(),
        name: slot.name,
        sent: slot.image,
        image: image.unwrap_or(slot.image),
        unavailable: matches!(decision, ImageDecision::Decided(_, RuleDecision::Unavailable { .. })),
        note,
    })
}

fn prefixed(texts: Vec<String>, prefix: &str) -> Vec<String> {
    texts.into_iter().map(|text| format!("harbor-pilot: {prefix}{text}")).collect()
}

fn refuse(about: RequestInfo<'_>, problem: &str, policies: &Policies) -> ReviewReply {
    if !policies.enforces() {
        return about.malformed(problem);
    }
    let why = format!("rejected without a check, because a policy with action Enforce exists: {problem}");
    about.reply(
        &ReviewResponse { uid: about.uid, denied: Some(&why), ..ReviewResponse::default() },
        ReviewOutcome::Denied,
    )
}
