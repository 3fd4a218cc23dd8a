//! An AdmissionReview in, and what policies say of its images out: pure, as [`super::review`] is.
//!
//! What is judged is what admission would make of the images: in a cluster it has, before this is asked. Pods are refused
//! where a policy says so; workloads are admitted with warnings, so that the one who applies them is told, and not the
//! controller that makes their Pods. Nothing in a Pod keeps a policy off: an image that a Pod keeps is judged as it is.
//!
//! Fails as the policies say: what cannot be read is refused while there is a policy that refuses, else admitted with a
//! warning.

use k8s_openapi::jiff::Timestamp;

use super::answer::Answer;
use super::request::{self, About, NotJson, Operation, Rest};
use super::review::{Reply, Verdict};
use super::workload::{Workload, is_workload};
use crate::image::ImageRef;
use crate::policy::{Evidence, Judged, Judgement, Policies, Printable, Scans};
use crate::rewrite::pod::Pod;
use crate::rewrite::{Decision, Namespaces, Request, Rules, Subject, decide};

/// More of what is wrong with policies is in the log.
const MAX_FINDINGS: usize = 2;
const MAX_FINDING: usize = 240;
const MAX_KIND: usize = 32;
/// Shown where the mutating webhook has been passed by, or another one has undone what it did.
const UNREWRITTEN: &str = "harbor-pilot: an image came to /validate unrewritten, and was judged as it would be \
     rewritten; as it is it violates a policy: is /mutate asked before?";

/// Answers a review with what the policies say. `scans` and the moment are what policies go by that ask for scans.
///
/// # Errors
/// When the body is no JSON.
pub fn validate(
    body: &[u8],
    rules: &Rules,
    namespaces: &Namespaces,
    policies: &Policies,
    scans: Option<(&Scans, Timestamp)>,
) -> Result<Reply, NotJson> {
    let judge = Judge { rules, namespaces, policies, scans };
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

/// Refuses what could not be read or decided on while there is a policy that refuses, else admits it with a warning. A
/// workload is admitted in any case: its Pods are judged.
///
/// # Errors
/// When the body is no JSON.
pub fn unread(body: &[u8], problem: &str, policies: &Policies) -> Result<Reply, NotJson> {
    let rest = Rest::read(body)?;
    let about = About { uid: &rest.uid, ..About::default() };
    Ok(match &rest.kind {
        Some((group, kind)) if is_workload(group, kind) => about.malformed(problem),
        Some(_) if rest.is_no_pod() => about.skipped(),
        _ => refuse(about, problem, policies),
    })
}

/// All that is in force.
struct Judge<'j> {
    rules: &'j Rules,
    namespaces: &'j Namespaces,
    policies: &'j Policies,
    scans: Option<(&'j Scans, Timestamp)>,
}

/// Whether images came to be validated that rules rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unrewritten {
    None,
    /// As they came, they would be judged as they are judged rewritten.
    Alike,
    /// As they came, they would be judged worse.
    Otherwise,
}

impl Judge<'_> {
    fn pod(&self, about: About<'_>, request: Request<'_>) -> Reply {
        let (judgement, unrewritten) = self.judge(about, request);
        let otherwise = unrewritten == Unrewritten::Otherwise;
        let denied = judgement.is_denied().then(|| judgement.denials().join("; "));
        let mut warnings = prefixed(judgement.warnings(), "");
        if otherwise {
            warnings.push(UNREWRITTEN.to_owned());
        }
        warnings.extend(self.findings());
        let verdict = if denied.is_some() { Verdict::Denied } else { Verdict::Unchanged };
        let violated = judgement.audit();
        let (denied, violated) = (denied.as_deref(), violated.as_deref());
        let answer = Answer { uid: about.uid, denied, warnings: &warnings, violated, ..Answer::default() };
        Reply { unrewritten: unrewritten != Unrewritten::None, ..about.reply(&answer, verdict) }
    }

    fn workload(&self, body: &[u8]) -> Result<Reply, NotJson> {
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
            (Operation::Update, Some(pod), Some(old)) => Request::Update { pod, old },
            (_, Some(pod), _) => Request::Create { pod },
        };
        let (judgement, _) = self.judge(about, ask);
        let (_, kind) = request.kind();
        let refused = format!("Pods of this {} will be refused: ", Printable(kind, MAX_KIND));
        let mut warnings = prefixed(judgement.denials(), &refused);
        warnings.extend(prefixed(judgement.warnings(), ""));
        warnings.extend(self.findings());
        let violated = judgement.audit();
        let answer = Answer { uid: about.uid, warnings: &warnings, violated: violated.as_deref(), ..Answer::default() };
        Ok(about.reply(&answer, Verdict::Unchanged))
    }

    /// Judges the images that the old object does not have, as they would be rewritten.
    fn judge(&self, about: About<'_>, request: Request<'_>) -> (Judgement, Unrewritten) {
        let subject = about.subject(request.pod(), self.namespaces);
        let outcome = decide(request, self.rules, &subject);
        let images = request.new_images();
        let judged = |as_sent: bool| {
            let outcome = &outcome;
            images.iter().filter_map(move |(slot, earlier)| {
                let made = outcome.image(slot.kind, slot.index);
                // It gets the image that it runs with.
                if made.is_some() && made == *earlier {
                    return None;
                }
                Some(Judged {
                    noun: slot.kind.noun(),
                    name: slot.name,
                    sent: slot.image,
                    image: if as_sent { slot.image } else { made.unwrap_or(slot.image) },
                    unavailable: made.is_none() && self.waits(slot.image, &subject),
                })
            })
        };
        let at_harbor = |image: &ImageRef| self.rules.rewritten_for_anyone(image);
        let evidence = self.scans.map(|(scans, now)| Evidence { scans, now, at_harbor: &at_harbor });
        let judgement = self.policies.judge(&subject, judged(false), evidence.as_ref());
        if outcome.acted().is_empty() {
            return (judgement, Unrewritten::None);
        }
        let otherwise = !judgement.is_denied() && {
            let sent = self.policies.judge(&subject, judged(true), evidence.as_ref());
            sent.is_denied() || sent.warnings().len() > judgement.warnings().len()
        };
        (judgement, if otherwise { Unrewritten::Otherwise } else { Unrewritten::Alike })
    }

    fn waits(&self, image: &str, subject: &Subject<'_>) -> bool {
        let image = ImageRef::parse(image).ok();
        image.is_some_and(|image| matches!(self.rules.find(&image, subject), Decision::Unavailable { .. }))
    }

    fn refuse(&self, about: About<'_>, problem: &str) -> Reply {
        refuse(about, problem, self.policies)
    }

    fn findings(&self) -> impl Iterator<Item = String> {
        let findings = self.policies.findings().iter().take(MAX_FINDINGS);
        findings.map(|finding| format!("harbor-pilot: {}", Printable(&finding.to_string(), MAX_FINDING)))
    }
}

fn prefixed(texts: Vec<String>, prefix: &str) -> Vec<String> {
    texts.into_iter().map(|text| format!("harbor-pilot: {prefix}{text}")).collect()
}

fn refuse(about: About<'_>, problem: &str, policies: &Policies) -> Reply {
    if !policies.enforces() {
        return about.malformed(problem);
    }
    let why = format!("no policy could be asked, and one with action Enforce is in force: {problem}");
    about.reply(&Answer { uid: about.uid, denied: Some(&why), ..Answer::default() }, Verdict::Denied)
}
