//! The decision on one Pod.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::exempt::{ALLOW_EXEMPT, EXEMPT, Exemption};
use super::fate::{Fate, Reader, parse, placeholder};
use super::limits::{Budget, Exhausted, MAX_ANNOTATIONS};
use super::patch::{Annotation, Change, Edits, To, distinct};
use super::pod::{Kind, Pod, Slot};
use super::record::{Entries, ORIGINAL_IMAGES, Record, may_be_made_from};
use super::rules::{Decision, Rules};
use super::subject::Subject;
use crate::image::{ImageRef, ImageRefError};

/// The most warnings. The API server would cut more.
const MAX_WARNINGS: usize = 8;
const MAX_NAME_IN_WARNING: usize = 63;

/// The kind of the request for a Pod.
#[derive(Debug, Clone, Copy)]
pub enum Request<'p> {
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
pub struct Outcome<'p> {
    edits: Edits<'p>,
    at_harbor: Vec<Wanted>,
    left_alone: usize,
    warnings: Vec<String>,
}

/// An image to prewarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image at Harbor, as the kubelet pulls it.
    pub image: ImageRef,
    /// Name of the ProxyProject of the image.
    pub proxy_project: Arc<str>,
}

/// Decides on a Pod without a budget: for commands and controllers. See [`decide_within`].
pub fn decide<'p>(request: Request<'p>, rules: &Rules, subject: &Subject<'_>) -> Outcome<'p> {
    outcome(request, rules, subject, &Budget::unlimited())
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
    request: Request<'p>,
    rules: &Rules,
    subject: &Subject<'_>,
    budget: &Budget,
) -> Result<Outcome<'p>, Exhausted> {
    let outcome = outcome(request, rules, subject, budget);
    budget.check().map(|()| outcome)
}

fn outcome<'p>(request: Request<'p>, rules: &Rules, subject: &Subject<'_>, budget: &Budget) -> Outcome<'p> {
    let (pod, old, kinds) = request.parts();
    let mut outcome = Outcome::default();
    if pod.annotations().is_some_and(|annotations| annotations.mirror)
        || old.is_some_and(|old| is_same(pod, old, kinds))
    {
        return outcome;
    }
    let reader = Reader::new(pod, rules, subject, budget);
    if reader.exemption() == Exemption::Refused {
        let why = format!("label {EXEMPT} is ignored: the namespace has no label {ALLOW_EXEMPT}=true");
        outcome.warnings.push(format!("harbor-pilot: {why}"));
    }

    let sent = Record::read(pod.originals());
    let recorded = Record::read(old.and_then(Pod::originals));
    let believed = |slot: &Slot<'p>| believed(&sent, slot, rules, budget);
    let before = old.map(Before::new);
    let mut record = Entries::default();
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
            outcome.edits.images.push(Change { slot, to: To::Earlier(earlier) });
            record.add(slot, slot.image);
        } else {
            match outcome.take(slot, reader.fate(&slot)) {
                Noted::Nothing => {}
                Noted::Foreign => {
                    let original = sent.original(&slot).filter(|original| may_be_made_from(slot.image, original));
                    if old.is_none() && original.is_some() {
                        outcome.drop_record(&slot);
                    }
                }
                Noted::Rewritten => {
                    // A Pod that a backup restores from another Harbor keeps the images that its user wrote.
                    let made = outcome.edits.images.last().map(|change| change.to.text());
                    let original = made.and_then(|made| made_from(&sent, &slot, rules, made, budget));
                    record.add(slot, original.unwrap_or(slot.image));
                }
                Noted::AtHarbor => believed(&slot).into_iter().for_each(|original| record.add(slot, original)),
            }
        }
    }
    if matches!(request, Request::Create { .. }) {
        outcome.edits.pull_secrets.remove(pod.pull_secrets());
    } else {
        // The pull secrets of an existing Pod are immutable.
        outcome.edits.pull_secrets.names.clear();
    }
    if !matches!(request, Request::EphemeralContainers { .. }) {
        outcome.annotate(pod, &record);
    }
    outcome.warn_of_the_rest();
    outcome
}

/// How the record treats an image.
enum Noted {
    Nothing,
    Rewritten,
    AtHarbor,
    /// No rule matches it.
    Foreign,
}

impl<'p> Outcome<'p> {
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
            To::Harbor(wanted) => Some(&*wanted.proxy_project),
            To::Earlier(_) => None,
        }))
    }

    /// Returns the image of one position after the patch, if it changes.
    pub fn image(&self, kind: Kind, index: usize) -> Option<&str> {
        // Changes are in the order of the Pod.
        let place = |change: &Change<'_>| (change.slot.kind, change.slot.index);
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
    pub fn left_alone(&self) -> usize {
        self.left_alone
    }

    /// Returns the warnings for the user, few and short.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the images to prewarm: the rewritten ones, and those that already name a managed project.
    pub fn into_wanted(self) -> Vec<Wanted> {
        let mut wanted = self.at_harbor;
        wanted.extend(self.edits.images.into_iter().filter_map(|change| match change.to {
            To::Harbor(wanted) => Some(wanted),
            To::Earlier(_) => None,
        }));
        wanted
    }

    fn take(&mut self, slot: Slot<'p>, fate: Fate<'_>) -> Noted {
        let (image, decision) = match fate {
            Fate::Kept(_) => return Noted::Nothing,
            Fate::Unreadable(error) => {
                self.leave(&slot, &error);
                return Noted::Nothing;
            }
            Fate::Decided(image, decision) => (image, decision),
        };
        match decision {
            Decision::Rewritten { image, rule } => {
                let wanted = Wanted { image, proxy_project: Arc::clone(rule.name()) };
                self.edits.images.push(Change { slot, to: To::Harbor(wanted) });
                rule.pull_secret().into_iter().for_each(|secret| self.edits.pull_secrets.add(secret));
                return Noted::Rewritten;
            }
            Decision::Mapped { image, rule } => {
                self.at_harbor.push(Wanted { image, proxy_project: Arc::clone(rule.name()) });
            }
            Decision::Unavailable { rule } => {
                let (host, rule) = (rule.pull_host(), rule.name());
                self.leave(&slot, &format_args!("{host} is unavailable, and ProxyProject {rule} waits for it"));
            }
            Decision::AlreadyAtHarbor { rule } => {
                if let Some(rule) = rule {
                    let image = rule.canonical(&image);
                    self.at_harbor.push(Wanted { image, proxy_project: Arc::clone(rule.name()) });
                }
                return Noted::AtHarbor;
            }
            Decision::TooLong { rule } => {
                self.leave(&slot, &format_args!("under {rule} {}", ImageRefError::TooLong));
            }
            Decision::NoRule => return Noted::Foreign,
        }
        Noted::Nothing
    }

    /// A Pod that a backup restores from another Harbor has a record, and no rule knows that Harbor.
    fn drop_record(&mut self, slot: &Slot<'_>) {
        if self.warnings.len() < MAX_WARNINGS {
            let (noun, name) = (slot.kind.noun(), Printable(slot.name));
            self.warnings.push(format!(
                "harbor-pilot: the record of the original image of {noun} \"{name}\" is dropped: no rule maps the image that it \
                 has; if that is at another Harbor, add its HOST/PROJECT to rewrite.matches of a ProxyProject"
            ));
        }
    }

    fn leave(&mut self, slot: &Slot<'_>, why: &dyn fmt::Display) {
        self.left_alone += 1;
        if self.left_alone <= MAX_WARNINGS {
            let name = Printable(slot.name);
            let noun = slot.kind.noun();
            self.warnings.push(format!("harbor-pilot: the image of {noun} \"{name}\" was left as it is: {why}"));
        }
    }

    fn warn_of_the_rest(&mut self) {
        if let Some(rest) = self.left_alone.checked_sub(MAX_WARNINGS).filter(|rest| *rest > 0) {
            self.warnings.push(format!("harbor-pilot: {rest} more images were left as they are"));
        }
    }

    fn annotate(&mut self, pod: &Pod<'_>, record: &Entries<'_>) {
        let room = MAX_ANNOTATIONS
            .saturating_sub(ORIGINAL_IMAGES.len())
            .saturating_sub(pod.annotations().map_or(0, |annotations| annotations.other_bytes));
        let text = if record.is_empty() { None } else { record.text(room) };
        if text.is_none() && !record.is_empty() {
            self.warnings.push(format!("harbor-pilot: no room for the annotation {ORIGINAL_IMAGES}"));
        }
        self.edits.annotation = match (text, pod.originals()) {
            (None, None) => Annotation::Keep,
            (None, Some(_)) => Annotation::Remove,
            (Some(text), Some(sent)) if text == sent => Annotation::Keep,
            (Some(text), _) if pod.annotations().is_some() => Annotation::Set(text),
            (Some(text), _) if pod.metadata.is_some() => Annotation::SetFirst(text),
            (Some(text), _) => Annotation::SetMetadata(text),
        };
    }
}

impl<'p> Request<'p> {
    /// Returns the new Pod.
    pub fn pod(self) -> &'p Pod<'p> {
        self.parts().0
    }

    /// Returns the new images of all lists of the Pod: those that the old Pod does not have in the same position.
    pub fn new_images(self) -> Vec<Slot<'p>> {
        let (pod, old, _) = self.parts();
        let before = old.map(Before::new);
        let is_new = |slot: &Slot<'p>| before.as_ref().and_then(|before| before.image(slot)) != Some(slot.image);
        Kind::ALL.iter().flat_map(|kind| pod.slots(*kind)).filter(is_new).collect()
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

    fn parts(self) -> (&'p Pod<'p>, Option<&'p Pod<'p>>, &'static [Kind]) {
        match self {
            Self::Create { pod } => (pod, None, &Kind::ALL),
            Self::Update { pod, old } => (pod, Some(old), &Kind::ALL),
            Self::EphemeralContainers { pod, old } => (pod, Some(old), &[Kind::EphemeralContainers]),
        }
    }
}

/// The images of the old Pod, found by position first, and by name where lists have shifted.
struct Before<'p> {
    pod: &'p Pod<'p>,
    by_name: OnceCell<HashMap<(Kind, &'p str), &'p str>>,
}

impl<'p> Before<'p> {
    fn new(pod: &'p Pod<'p>) -> Self {
        Self { pod, by_name: OnceCell::new() }
    }

    fn image(&self, slot: &Slot<'_>) -> Option<&'p str> {
        if let Some(same) = self.pod.slot(slot.kind, slot.index)
            && same.name == slot.name
        {
            return Some(same.image);
        }
        let by_name = self.by_name.get_or_init(|| {
            let all = Kind::ALL.into_iter().flat_map(|kind| self.pod.slots(kind));
            all.map(|slot| ((slot.kind, slot.name), slot.image)).collect()
        });
        by_name.get(&(slot.kind, slot.name)).copied()
    }
}

/// Returns whether an update concerns neither images nor our annotation: the common case, decided without reading records.
fn is_same(pod: &Pod<'_>, old: &Pod<'_>, kinds: &[Kind]) -> bool {
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
fn believed<'s>(sent: &'s Record, slot: &Slot<'_>, rules: &Rules, budget: &Budget) -> Option<&'s str> {
    made_from(sent, slot, rules, slot.image, budget)
}

/// Returns the original of a position in the sent record, if the rules compute `made` from it.
fn made_from<'s>(sent: &'s Record, slot: &Slot<'_>, rules: &Rules, made: &str, budget: &Budget) -> Option<&'s str> {
    let original = sent.original(slot)?;
    let found = rules.find_for_anyone_within(&parse(original).ok()?, budget);
    matches!(found, Decision::Rewritten { image, .. } if image.as_str() == made).then_some(original)
}

/// A name for a warning, which travels in an HTTP header: short, and without control characters.
struct Printable<'t>(&'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let graphic = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        self.0.chars().take(MAX_NAME_IN_WARNING).try_for_each(|c| fmt::Write::write_char(f, graphic(c)))
    }
}

#[cfg(test)]
mod tests;
