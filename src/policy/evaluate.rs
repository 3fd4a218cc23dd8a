//! The result of the policies for the images of one Pod.

use std::fmt;
use std::sync::Arc;

use super::compiled::{ApplicablePolicy, Policy, PolicyScope};
use super::violation::PolicyViolation;
use crate::api::image_policy::{DuringOutage, OnUnscanned, PolicyAction};
use crate::text::{PrintableText, Quoted};

/// The most messages of a kind; the last one counts the rest. The API server cuts longer texts.
const MAX_MESSAGES: usize = 8;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 720;
const MAX_NAME: usize = 63;
const MAX_IMAGE: usize = 128;
/// The most policies that the audit log names.
const MAX_NAMED: usize = 16;

/// An image to check.
#[derive(Debug, Clone, Copy)]
pub struct JudgedImage<'i> {
    /// The noun of its field: `container`, `volume`.
    pub noun: &'i str,
    /// Name of the container or volume.
    pub name: &'i str,
    /// The image as the request has it.
    pub sent: &'i str,
    /// The image to check: of a Pod the image that it would run, of a template the image that the rules write.
    pub image: &'i str,
    /// Whether the image was not rewritten because Harbor is unavailable.
    pub unavailable: bool,
    /// Why the image is not at Harbor although it could be; for the message to the user.
    pub note: ForeignReason<'i>,
}

/// The reason why an image is not at Harbor although it could be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForeignReason<'i> {
    /// No reason is known.
    #[default]
    None,
    /// A rule would rewrite it to this image, and `/mutate` did not act.
    Missed(&'i str),
    /// It is a placeholder for the webhook of this name, which did not act either.
    Placeholder(&'i str),
    /// Its pull policy is `Never`.
    NeverPulled,
    /// An annotation or a label of the Pod exempts it.
    Kept,
}

/// The result of the policies for a Pod. The default is no finding.
#[derive(Debug, Default)]
pub struct PolicyResult {
    denials: Messages,
    warnings: Messages,
    notes: Messages,
    violations: Vec<(Arc<str>, usize)>,
}

/// Messages, few and short.
#[derive(Debug, Default)]
struct Messages {
    texts: Vec<String>,
    more: usize,
}

impl PolicyResult {
    /// Returns whether a policy refuses the Pod.
    pub fn is_denied(&self) -> bool {
        !self.denials.texts.is_empty()
    }

    /// Returns whether no policy has a finding.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.warnings.texts.is_empty()
    }

    /// Returns why the Pod is refused: at most nine texts; the last one counts the rest. Printable ASCII.
    pub fn denials(&self) -> Vec<String> {
        self.denials.all()
    }

    /// Returns the warnings for the user, in the form of [`PolicyResult::denials`].
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.all()
    }

    /// Returns the findings of policies with the action `Audit`, in the form of [`PolicyResult::denials`].
    pub fn notes(&self) -> Vec<String> {
        self.notes.all()
    }

    /// Returns the violated policies with their counts for the audit log, for any action: `only-harbor=2`.
    pub fn audit(&self) -> Option<String> {
        let named: Vec<String> =
            self.violations.iter().take(MAX_NAMED).map(|(policy, count)| format!("{policy}={count}")).collect();
        let more = self.violations.len().saturating_sub(MAX_NAMED);
        match (named.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(named.join(",")),
            (false, more) => Some(format!("{} and {more} more", named.join(","))),
        }
    }

    pub(super) fn add(
        &mut self,
        judged: &JudgedImage<'_>,
        applying: &mut ApplicablePolicy<'_>,
        problem: PolicyViolation,
    ) {
        let (policy, scope) = (applying.policy, applying.scope);
        // No vulnerability of it is known.
        let lenient = matches!(problem, PolicyViolation::Unscanned(_, OnUnscanned::Warn));
        if lenient && policy.action != PolicyAction::Audit {
            self.warnings.add(|| reported(judged, policy, problem));
            return;
        }
        applying.violations += 1;
        // Known vulnerabilities count in an outage, too.
        let unreachable =
            judged.unavailable && matches!(problem, PolicyViolation::NotAllowed | PolicyViolation::Unscanned(..));
        match policy.action {
            PolicyAction::Enforce if unreachable && policy.during_outage == DuringOutage::Warn => {
                self.warnings
                    .add(|| format!("{}; admitted while Harbor is unavailable", reported(judged, policy, problem)));
            }
            PolicyAction::Enforce => self.denials.add(|| {
                let why = match (unreachable, scope) {
                    (true, _) => "; Harbor is unavailable, try again later",
                    (_, PolicyScope::Perhaps) => "; the labels of the namespace are not known yet, try again",
                    _ => "",
                };
                format!("{}{why}", reported(judged, policy, problem))
            }),
            PolicyAction::Warn => self.warnings.add(|| reported(judged, policy, problem)),
            PolicyAction::Audit => self.notes.add(|| reported(judged, policy, problem)),
        }
    }
}

impl PolicyResult {
    /// Records how often each policy is violated.
    pub(super) fn count(&mut self, applying: &[ApplicablePolicy<'_>]) {
        let violated = applying.iter().filter(|applying| applying.violations > 0);
        self.violations = violated.map(|applying| (Arc::clone(&applying.policy.name), applying.violations)).collect();
    }
}

impl Messages {
    fn add(&mut self, text: impl FnOnce() -> String) {
        if self.texts.len() < MAX_MESSAGES {
            self.texts.push(PrintableText(&text(), MAX_MESSAGE).to_string());
        } else {
            self.more += 1;
        }
    }

    fn all(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.texts.iter().cloned().chain(more).collect()
    }
}

fn reported(judged: &JudgedImage<'_>, policy: &Policy, problem: PolicyViolation) -> String {
    let (noun, name, sent) = (judged.noun, Quoted(judged.name, MAX_NAME), Quoted(judged.sent, MAX_IMAGE));
    let policy_name = PrintableText(&policy.name, MAX_NAME);
    let is_placeholder = matches!(judged.note, ForeignReason::Placeholder(_));
    let what = match problem {
        PolicyViolation::Unreadable => {
            format!("is not a valid image reference (policy {policy_name}); write host/project/name:tag")
        }
        PolicyViolation::NotAllowed => format!(
            "is not from an allowed registry (policy {policy_name} allows {}){}",
            policy.allows,
            Advice(judged.note, judged.unavailable)
        ),
        PolicyViolation::Latest if is_placeholder => {
            format!("has no fixed tag (policy {policy_name} forbids latest){}", Advice(judged.note, false))
        }
        PolicyViolation::Latest => {
            format!("has no fixed tag (policy {policy_name} forbids latest); name a version or a digest")
        }
        PolicyViolation::Vulnerable(found, admitted) => format!(
            "has vulnerabilities of severity {} (policy {policy_name} allows at most {admitted:?}): {} found, {} fixable, scanned \
             {}; use a fixed image, or ask for an exemption",
            found.severity, found.total, found.fixable, found.scanned_at
        ),
        PolicyViolation::Unscanned(why, _) => {
            format!("has no scan result (policy {policy_name} requires one): {why}; try again after the scan")
        }
        PolicyViolation::NoDigest if is_placeholder => {
            format!("has no digest (policy {policy_name} requires one){}", Advice(judged.note, false))
        }
        PolicyViolation::NoDigest => format!("has no digest (policy {policy_name} requires one); append @sha256:..."),
    };
    if judged.image == judged.sent {
        return format!("{noun} {name}: image {sent} {what}");
    }
    format!("{noun} {name}: image {sent}, which becomes {}, {what}", Quoted(judged.image, MAX_IMAGE))
}

/// The fix for an image that is not allowed.
struct Advice<'n>(ForeignReason<'n>, bool);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            // The fix is known: to wait.
            Self(_, true) => Ok(()),
            Self(ForeignReason::None, _) => f.write_str("; push it to Harbor or ask for a rule"),
            Self(ForeignReason::Missed(image), _) => write!(
                f,
                "; /mutate did not act on it, else it would be {}: try again, then check that \
                 MutatingWebhookConfiguration harbor-pilot exists, that its calls succeed in time, and that no other \
                 webhook sets images after it",
                Quoted(image, MAX_IMAGE)
            ),
            Self(ForeignReason::Placeholder(whose), _) => {
                write!(f, "; it is a placeholder that {whose} did not replace: check that it selects this Pod")
            }
            Self(ForeignReason::NeverPulled, _) => {
                f.write_str("; its pull policy is Never, so no rule rewrites it: ask for an exemption")
            }
            Self(ForeignReason::Kept, _) => f.write_str(
                "; the Pod opts out of rewriting: remove its label harbor-pilot.dev/exempt, or its name from the annotation harbor-pilot.dev/keep-images",
            ),
        }
    }
}
