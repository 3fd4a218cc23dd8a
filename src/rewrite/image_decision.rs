//! The decision of the rules on one image of a Pod, without regard to the old Pod.

use super::limits::{MAX_IMAGE, StepBudget};
use super::opt_out::{KeptNames, OptOut};
use super::pod::{ImageField, Pod};
use super::pod_scope::PodScope;
use super::rules::{RuleDecision, Rules};
use crate::image::{ImageRef, ImageRefError};

/// Placeholder images that another webhook replaces, each with the name of that webhook. They are compared as written:
/// `docker.io/library/auto` is not a placeholder.
///
/// A placeholder is not modified, so that its webhook recognizes it. The image that replaces it is rewritten when the API
/// server calls again (`reinvocationPolicy: IfNeeded`).
pub const PLACEHOLDERS: [(&str, &str); 2] =
    [("auto", "Istio's injector"), ("injector-envoy-image", "the injector of AWS App Mesh")];

/// Returns the webhook whose placeholder the image is.
pub fn placeholder(image: &str) -> Option<&'static str> {
    PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == image).map(|(_, whose)| *whose)
}

/// The decision on an image.
#[derive(Debug)]
pub enum ImageDecision<'r> {
    /// Not modified; no rule is evaluated.
    Kept(KeepReason),
    /// Not modified: no runtime can read the image.
    Unreadable(ImageRefError),
    /// The parsed image, and the decision of the rules.
    Decided(ImageRef, RuleDecision<'r>),
}

/// The reason why no rule is evaluated for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepReason {
    /// The Pod has the exemption label, and its namespace allows it.
    Exempt,
    /// The annotation of the Pod names the container or volume.
    Named,
    /// The pull policy is `Never`: a node has the image under this exact name.
    NeverPulled,
    /// The image is a placeholder for the webhook of this name.
    Placeholder(&'static str),
}

/// Evaluates the rules for the images of one Pod.
#[derive(Debug)]
pub struct ImageDecider<'r> {
    rules: &'r Rules,
    subject: &'r PodScope<'r>,
    budget: &'r StepBudget,
    kept: KeptNames<'r>,
    exemption: OptOut,
}

impl<'r> ImageDecider<'r> {
    /// Creates a reader for the images of this Pod. Its work counts against the budget.
    pub fn new(pod: &'r Pod<'_>, rules: &'r Rules, subject: &'r PodScope<'r>, budget: &'r StepBudget) -> Self {
        Self { rules, subject, budget, kept: KeptNames::of(pod), exemption: OptOut::of(subject) }
    }

    /// Returns the decision on an image. After the budget is exhausted the result means nothing: check the budget at the end.
    pub fn decide(&self, slot: &ImageField<'_>) -> ImageDecision<'r> {
        if let Some(keeper) = self.keeper(slot) {
            return ImageDecision::Kept(keeper);
        }
        match parse(slot.image) {
            Err(error) => ImageDecision::Unreadable(error),
            Ok(image) => {
                let decision = self.rules.find_within(&image, self.subject, self.budget);
                ImageDecision::Decided(image, decision)
            }
        }
    }

    /// Returns whether the Pod asks for an exemption.
    pub(super) fn exemption(&self) -> OptOut {
        self.exemption
    }

    fn keeper(&self, slot: &ImageField<'_>) -> Option<KeepReason> {
        if self.exemption == OptOut::Granted {
            Some(KeepReason::Exempt)
        } else if slot.is_never_pulled {
            Some(KeepReason::NeverPulled)
        } else if let Some(whose) = placeholder(slot.image) {
            Some(KeepReason::Placeholder(whose))
        } else {
            self.kept.contain(slot.name).then_some(KeepReason::Named)
        }
    }
}

/// Parses an image, unless it is longer than any image that a runtime can pull: the cost of all work on images grows with
/// their length.
///
/// # Errors
/// When the text is not a valid image.
pub fn parse(image: &str) -> Result<ImageRef, ImageRefError> {
    if image.len() > MAX_IMAGE {
        return Err(ImageRefError::TooLong);
    }
    ImageRef::parse(image)
}
