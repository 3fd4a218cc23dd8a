//! The decision on one Pod.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::image_decision::{ImageDecider, ImageDecision, parse, placeholder};
use super::limits::{BudgetExhausted, MAX_ANNOTATIONS, StepBudget};
use super::opt_out::{ALLOW_EXEMPT, EXEMPT, OptOut};
use super::original_images::{OriginalEntries, OriginalImages, may_be_made_from};
use super::patch::{ImageChange, NewImage, PodEdits, RecordEdit, distinct};
use super::pod::{ImageField, ImageLocation, ORIGINAL_IMAGES, Pod};
use super::pod_scope::PodScope;
use super::prewarm_target::PrewarmTarget;
use super::rules::{RuleDecision, Rules};
use crate::image::ImageRefError;
use crate::text::PrintableText;

/// The most warnings. The API server would cut more.
const MAX_WARNINGS: usize = 8;
const MAX_NAME_IN_WARNING: usize = 63;

/// The kind of the request for a Pod.
#[derive(Debug, Clone, Copy)]
pub enum PodChange<'p> {
    /// A new Pod.
    Create {
        /// The Pod.
        pod: &'p Pod<'p>,
    },
    /// An update of a Pod.
    Update {
        /// The new Pod.
        pod: &'p Pod<'p>,
        /// The old Pod.
        old: &'p Pod<'p>,
    },
    /// An update through the subresource `ephemeralcontainers`, which can change only those containers.
    EphemeralContainers {
        /// The new Pod.
        pod: &'p Pod<'p>,
        /// The old Pod.
        old: &'p Pod<'p>,
    },
}

/// What admission does with a Pod. The default is nothing.
#[derive(Debug, Default)]
pub struct PodMutation<'p> {
    edits: PodEdits<'p>,
    at_harbor: Vec<PrewarmTarget>,
    skipped_images: usize,
    warnings: Vec<String>,
}

/// Decides on a Pod without a budget: for commands and controllers. See [`decide_within`].
pub fn decide<'p>(request: PodChange<'p>, rules: &Rules, subject: &PodScope<'_>) -> PodMutation<'p> {
    outcome(request, rules, subject, &StepBudget::unlimited())
}

/// Decides on a Pod. An image that cannot be read is not modified, with a warning.
///
/// On an update, only images that differ from the old ones are checked. An image that the old Pod's record has as the
/// original gets the old image back, so that applying a manifest again restarts nothing. A user can write the text of a
/// record. So an entry of the old record counts only if the old image may come from it, and an entry of the sent record
/// counts only if the rules compute this exact image from it, as they do when the API server calls a second time.
///
/// # Errors
/// When there are too many images and rules for the budget.
pub fn decide_within<'p>(
    request: PodChange<'p>,
    rules: &Rules,
    subject: &PodScope<'_>,
    budget: &StepBudget,
) -> Result<PodMutation<'p>, BudgetExhausted> {
    let outcome = outcome(request, rules, subject, budget);
    budget.check().map(|()| outcome)
}

fn outcome<'p>(request: PodChange<'p>, rules: &Rules, subject: &PodScope<'_>, budget: &StepBudget) -> PodMutation<'p> {
    let (pod, old, kinds) = request.parts();
    let mut outcome = PodMutation::default();
    if pod.annotations().is_some_and(|annotations| annotations.mirror)
        || old.is_some_and(|old| is_same(pod, old, kinds))
    {
        return outcome;
    }
    let reader = ImageDecider::new(pod, rules, subject, budget);
    if reader.exemption() == OptOut::Refused {
        let why = format!("label {EXEMPT} is ignored: the namespace has no label {ALLOW_EXEMPT}=true");
        outcome.warnings.push(format!("harbor-pilot: {why}"));
    }

    let sent = OriginalImages::read(pod.originals());
    let recorded = OriginalImages::read(old.and_then(Pod::originals));
    let believed = |slot: &ImageField<'p>| trusted_original(&sent, slot, rules, budget);
    let before = old.map(OldImages::new);
    let mut record = OriginalEntries::default();
    for slot in kinds.iter().flat_map(|kind| pod.slots(*kind)) {
        let earlier = before.as_ref().and_then(|before| before.image(&slot));
        let original =
            earlier.and_then(|earlier| recorded.original(&slot).filter(|original| may_be_made_from(earlier, original)));
        if earlier == Some(slot.image) {
            let kept = believed(&slot).or(original);
            kept.into_iter().for_each(|original| record.add(slot, original));
        } else if let Some(earlier) = earlier
            && original == Some(slot.image)
            && !slot.is_never_pulled
            && placeholder(slot.image).is_none()
            // Otherwise the rules wrote it a moment ago, and the API server calls a second time.
            && believed(&slot).is_none()
        {
            outcome.edits.images.push(ImageChange { slot, to: NewImage::Earlier(earlier) });
            record.add(slot, slot.image);
        } else {
            match outcome.take(slot, reader.decide(&slot)) {
                RecordedImage::Nothing => {}
                RecordedImage::Foreign => {
                    let original = sent.original(&slot).filter(|original| may_be_made_from(slot.image, original));
                    if old.is_none() && original.is_some() {
                        outcome.drop_record(&slot);
                    }
                }
                RecordedImage::Rewritten => {
                    // A Pod that a backup restores from another Harbor keeps the images that its user wrote.
                    let made = outcome.edits.images.last().map(|change| change.to.text());
                    let original = made.and_then(|made| made_from(&sent, &slot, rules, made, budget));
                    record.add(slot, original.unwrap_or(slot.image));
                }
                RecordedImage::AtHarbor => believed(&slot).into_iter().for_each(|original| record.add(slot, original)),
            }
        }
    }
    if matches!(request, PodChange::Create { .. }) {
        outcome.edits.pull_secrets.remove(pod.pull_secrets());
    } else {
        // The pull secrets of an existing Pod are immutable.
        outcome.edits.pull_secrets.names.clear();
    }
    if !matches!(request, PodChange::EphemeralContainers { .. }) {
        outcome.annotate(pod, &record);
    }
    outcome.warn_of_the_rest();
    outcome
}

/// How the record treats an image.
enum RecordedImage {
    Nothing,
    Rewritten,
    AtHarbor,
    /// No rule matches it.
    Foreign,
}

impl<'p> PodMutation<'p> {
    /// Returns whether there is a patch.
    pub fn changes_anything(&self) -> bool {
        !self.edits.is_empty()
    }

    /// Appends the JSON Patch: an array of operations, empty when the Pod does not change.
    pub fn write_patch(&self, out: &mut String) {
        self.edits.write(out);
    }

    /// Returns the names of the ProxyProjects whose rules changed images, each once.
    pub fn acted(&self) -> Vec<&str> {
        distinct(self.edits.images.iter().filter_map(|change| match &change.to {
            NewImage::Harbor(wanted) => Some(&*wanted.proxy_project),
            NewImage::Earlier(_) => None,
        }))
    }

    /// Returns the image of one position after the patch, if it changes.
    pub fn image(&self, kind: ImageLocation, index: usize) -> Option<&str> {
        // Changes are in the order of the Pod.
        let place = |change: &ImageChange<'_>| (change.slot.kind, change.slot.index);
        let at = self.edits.images.binary_search_by_key(&(kind, index), place).ok()?;
        self.edits.images.get(at).map(|change| change.to.text())
    }

    /// Returns the names of the pull secrets that the patch adds.
    pub fn pull_secrets(&self) -> &[Arc<str>] {
        &self.edits.pull_secrets.names
    }

    /// Returns the number of images that the patch changes.
    pub fn rewritten(&self) -> usize {
        self.edits.images.len()
    }

    /// Returns the number of images that were not modified because they could not be read or rewritten.
    pub fn skipped_images(&self) -> usize {
        self.skipped_images
    }

    /// Returns the warnings for the user, few and short.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the images to prewarm: the rewritten ones, and those that already name a managed project.
    pub fn into_wanted(self) -> Vec<PrewarmTarget> {
        let mut wanted = self.at_harbor;
        wanted.extend(self.edits.images.into_iter().filter_map(|change| match change.to {
            NewImage::Harbor(wanted) => Some(wanted),
            NewImage::Earlier(_) => None,
        }));
        wanted
    }

    fn take(&mut self, slot: ImageField<'p>, decided: ImageDecision<'_>) -> RecordedImage {
        let (image, decision) = match decided {
            ImageDecision::Kept(_) => return RecordedImage::Nothing,
            ImageDecision::Unreadable(error) => {
                self.leave(&slot, &error);
                return RecordedImage::Nothing;
            }
            ImageDecision::Decided(image, decision) => (image, decision),
        };
        match decision {
            RuleDecision::Rewritten { image, rule } => {
                let wanted = PrewarmTarget { image, proxy_project: Arc::clone(rule.name()) };
                self.edits.images.push(ImageChange { slot, to: NewImage::Harbor(wanted) });
                rule.pull_secret().into_iter().for_each(|secret| self.edits.pull_secrets.add(secret));
                return RecordedImage::Rewritten;
            }
            RuleDecision::Mapped { image, rule } => {
                self.at_harbor.push(PrewarmTarget { image, proxy_project: Arc::clone(rule.name()) });
            }
            RuleDecision::Unavailable { rule } => {
                let (host, rule) = (rule.pull_host(), rule.name());
                self.leave(
                    &slot,
                    &format_args!("{host} is unavailable, and ProxyProject {rule} does not rewrite images meanwhile"),
                );
            }
            RuleDecision::AlreadyAtHarbor { rule } => {
                if let Some(rule) = rule {
                    let image = rule.canonical(&image);
                    self.at_harbor.push(PrewarmTarget { image, proxy_project: Arc::clone(rule.name()) });
                }
                return RecordedImage::AtHarbor;
            }
            RuleDecision::TooLong { rule } => {
                self.leave(&slot, &format_args!("under {rule} {}", ImageRefError::TooLong));
            }
            RuleDecision::NoRule => return RecordedImage::Foreign,
        }
        RecordedImage::Nothing
    }

    /// A Pod that a backup restores from another Harbor has a record, and no rule knows that Harbor.
    fn drop_record(&mut self, slot: &ImageField<'_>) {
        if self.warnings.len() < MAX_WARNINGS {
            let (noun, name) = (slot.kind.noun(), PrintableText(slot.name, MAX_NAME_IN_WARNING));
            self.warnings.push(format!(
                "harbor-pilot: the record of the original image of {noun} \"{name}\" is dropped: no rule maps the image that it \
                 has; if that is at another Harbor, add its HOST/PROJECT to rewrite.matches of a ProxyProject"
            ));
        }
    }

    fn leave(&mut self, slot: &ImageField<'_>, why: &dyn fmt::Display) {
        self.skipped_images += 1;
        if self.skipped_images <= MAX_WARNINGS {
            let name = PrintableText(slot.name, MAX_NAME_IN_WARNING);
            let noun = slot.kind.noun();
            self.warnings.push(format!("harbor-pilot: the image of {noun} \"{name}\" was not rewritten: {why}"));
        }
    }

    fn warn_of_the_rest(&mut self) {
        if let Some(rest) = self.skipped_images.checked_sub(MAX_WARNINGS).filter(|rest| *rest > 0) {
            self.warnings.push(format!("harbor-pilot: {rest} more images were not rewritten"));
        }
    }

    fn annotate(&mut self, pod: &Pod<'_>, record: &OriginalEntries<'_>) {
        let room = MAX_ANNOTATIONS
            .saturating_sub(ORIGINAL_IMAGES.len())
            .saturating_sub(pod.annotations().map_or(0, |annotations| annotations.other_bytes));
        let text = if record.is_empty() { None } else { record.text(room) };
        if text.is_none() && !record.is_empty() {
            self.warnings.push(format!("harbor-pilot: the annotations of the Pod have no room for {ORIGINAL_IMAGES}"));
        }
        self.edits.annotation = match (text, pod.originals()) {
            (None, None) => RecordEdit::Keep,
            (None, Some(_)) => RecordEdit::Remove,
            (Some(text), Some(sent)) if text == sent => RecordEdit::Keep,
            (Some(text), _) if pod.annotations().is_some() => RecordEdit::Set(text),
            (Some(text), _) if pod.metadata.is_some() => RecordEdit::SetFirst(text),
            (Some(text), _) => RecordEdit::SetMetadata(text),
        };
    }
}

impl<'p> PodChange<'p> {
    /// Returns the new Pod.
    pub fn pod(self) -> &'p Pod<'p> {
        self.parts().0
    }

    /// Returns the new images of all lists of the Pod: those that the old Pod does not have in the same position.
    pub fn new_images(self) -> Vec<ImageField<'p>> {
        let (pod, old, _) = self.parts();
        let before = old.map(OldImages::new);
        let is_new = |slot: &ImageField<'p>| before.as_ref().and_then(|before| before.image(slot)) != Some(slot.image);
        ImageLocation::ALL.iter().flat_map(|kind| pod.slots(*kind)).filter(is_new).collect()
    }

    /// Returns the limit that one of the Pods exceeds.
    pub fn excess(self) -> Option<&'static str> {
        let (pod, old, _) = self.parts();
        pod.excess().or_else(|| old.and_then(Pod::excess))
    }

    /// Returns whether an update changes no list that holds images. Then it brings no new image, at any size.
    pub fn leaves_images(self) -> bool {
        let (pod, old, _) = self.parts();
        old.is_some_and(|old| pod.has_the_lists_of(old))
    }

    fn parts(self) -> (&'p Pod<'p>, Option<&'p Pod<'p>>, &'static [ImageLocation]) {
        match self {
            Self::Create { pod } => (pod, None, &ImageLocation::ALL),
            Self::Update { pod, old } => (pod, Some(old), &ImageLocation::ALL),
            Self::EphemeralContainers { pod, old } => (pod, Some(old), &[ImageLocation::EphemeralContainers]),
        }
    }
}

/// The images of the old Pod, found by position first, and by name where lists have shifted.
struct OldImages<'p> {
    pod: &'p Pod<'p>,
    by_name: OnceCell<HashMap<(ImageLocation, &'p str), &'p str>>,
}

impl<'p> OldImages<'p> {
    fn new(pod: &'p Pod<'p>) -> Self {
        Self { pod, by_name: OnceCell::new() }
    }

    fn image(&self, slot: &ImageField<'_>) -> Option<&'p str> {
        if let Some(same) = self.pod.slot(slot.kind, slot.index)
            && same.name == slot.name
        {
            return Some(same.image);
        }
        let by_name = self.by_name.get_or_init(|| {
            let all = ImageLocation::ALL.into_iter().flat_map(|kind| self.pod.slots(kind));
            all.map(|slot| ((slot.kind, slot.name), slot.image)).collect()
        });
        by_name.get(&(slot.kind, slot.name)).copied()
    }
}

/// Returns whether an update concerns neither images nor our annotation: the common case, decided without reading records.
fn is_same(pod: &Pod<'_>, old: &Pod<'_>, kinds: &[ImageLocation]) -> bool {
    pod.originals() == old.originals()
        && kinds.iter().all(|kind| {
            let pairs = |pod: &Pod<'_>, other: &Pod<'_>| {
                pod.slots(*kind).all(|slot| {
                    let same = other.slot(*kind, slot.index);
                    same.is_some_and(|same| same.name == slot.name && same.image == slot.image)
                })
            };
            pairs(pod, old) && pairs(old, pod)
        })
}

/// Returns the original of an image in the sent record, if the rules compute this exact image from it.
fn trusted_original<'s>(
    sent: &'s OriginalImages,
    slot: &ImageField<'_>,
    rules: &Rules,
    budget: &StepBudget,
) -> Option<&'s str> {
    made_from(sent, slot, rules, slot.image, budget)
}

/// Returns the original of a position in the sent record, if the rules compute `made` from it.
fn made_from<'s>(
    sent: &'s OriginalImages,
    slot: &ImageField<'_>,
    rules: &Rules,
    made: &str,
    budget: &StepBudget,
) -> Option<&'s str> {
    let original = sent.original(slot)?;
    let found = rules.find_for_anyone_within(&parse(original).ok()?, budget);
    matches!(found, RuleDecision::Rewritten { image, .. } if image.as_str() == made).then_some(original)
}

#[cfg(test)]
mod tests;
