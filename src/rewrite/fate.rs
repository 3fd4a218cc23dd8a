//! What the rules make of one image of a Pod, whatever the Pod was before.

use super::exempt::{Exemption, KeptNames};
use super::limits::{Budget, MAX_IMAGE};
use super::pod::{Pod, Slot};
use super::rules::{Decision, Rules};
use super::subject::Subject;
use crate::image::{ImageRef, ImageRefError};

/// Images that stand for the one that another webhook puts in their place, and who does so. They are compared as they are
/// written: `docker.io/library/auto` is none.
///
/// A placeholder stays as it is, so that its webhook recognizes it. The image that takes its place is rewritten when the
/// API server asks again (`reinvocationPolicy: IfNeeded`).
pub const PLACEHOLDERS: [(&str, &str); 2] =
    [("auto", "Istio's injector"), ("injector-envoy-image", "the injector of AWS App Mesh")];

/// Whose placeholder an image is.
pub fn placeholder(image: &str) -> Option<&'static str> {
    PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == image).map(|(_, whose)| *whose)
}

/// What becomes of an image.
#[derive(Debug)]
pub enum Fate<'r> {
    /// It stays as it is, and no rule is asked.
    Kept(Keeper),
    /// It stays as it is: no runtime can read it.
    Unreadable(ImageRefError),
    /// It is this one, and the rules say this.
    Decided(ImageRef, Decision<'r>),
}

/// Why no rule is asked about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// The label of the Pod, which its namespace allows.
    Exempt,
    /// The annotation of the Pod that names the container or volume.
    Named,
    /// The pull policy `Never`: a node has the image under this very name.
    NeverPulled,
    /// It is a placeholder, for the webhook of this name.
    Placeholder(&'static str),
}

/// Asks the rules about the images of one Pod.
#[derive(Debug)]
pub struct Reader<'r> {
    rules: &'r Rules,
    subject: &'r Subject<'r>,
    budget: &'r Budget,
    kept: KeptNames<'r>,
    exemption: Exemption,
}

impl<'r> Reader<'r> {
    /// A reader of the images of this Pod. What it costs is taken from the budget.
    pub fn new(pod: &'r Pod<'_>, rules: &'r Rules, subject: &'r Subject<'r>, budget: &'r Budget) -> Self {
        Self { rules, subject, budget, kept: KeptNames::of(pod), exemption: Exemption::of(subject) }
    }

    /// What becomes of an image. Once the budget is exhausted this says nothing any more: check the budget at the end.
    pub fn fate(&self, slot: &Slot<'_>) -> Fate<'r> {
        if let Some(keeper) = self.keeper(slot) {
            return Fate::Kept(keeper);
        }
        match parse(slot.image) {
            Err(error) => Fate::Unreadable(error),
            Ok(image) => {
                let decision = self.rules.find_within(&image, self.subject, self.budget);
                Fate::Decided(image, decision)
            }
        }
    }

    /// Whether the Pod asks to be left alone.
    pub(super) fn exemption(&self) -> Exemption {
        self.exemption
    }

    fn keeper(&self, slot: &Slot<'_>) -> Option<Keeper> {
        if self.exemption == Exemption::Granted {
            Some(Keeper::Exempt)
        } else if slot.is_never_pulled {
            Some(Keeper::NeverPulled)
        } else if let Some(whose) = placeholder(slot.image) {
            Some(Keeper::Placeholder(whose))
        } else {
            self.kept.contain(slot.name).then_some(Keeper::Named)
        }
    }
}

/// Reads an image, unless it is longer than any that a runtime can pull: what is done with images costs as much as they
/// are long.
///
/// # Errors
/// When it is no image.
pub fn parse(image: &str) -> Result<ImageRef, ImageRefError> {
    if image.len() > MAX_IMAGE {
        return Err(ImageRefError::TooLong);
    }
    ImageRef::parse(image)
}
