//! The decision on one Pod.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::exempt::{ALLOW_EXEMPT, EXEMPT, Exemption, keeps};
use super::patch::{Annotation, Change, Edits, To};
use super::pod::{Kind, Pod, Slot};
use super::record::{Entries, ORIGINAL_IMAGES, Record};
use super::rules::{Decision, Rules, Target};
use super::subject::Subject;
use crate::image::{ImageRef, ImageRefError};

/// Kubernetes' bound on all annotations of an object, keys and values together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// More warnings than these would be cut by the API server.
const MAX_WARNINGS: usize = 8;
const MAX_NAME_IN_WARNING: usize = 63;

/// What is asked of a Pod.
#[derive(Debug, Clone, Copy)]
pub enum Request<'p> {
    /// A new Pod.
    Create {
        /// The Pod.
        pod: &'p Pod<'p>,
    },
    /// A change of a Pod.
    Update {
        /// As it is to be.
        pod: &'p Pod<'p>,
        /// As it was.
        old: &'p Pod<'p>,
    },
    /// A change by way of the subresource `ephemeralcontainers`, which can change those containers alone.
    EphemeralContainers {
        /// As it is to be.
        pod: &'p Pod<'p>,
        /// As it was.
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

/// An image that Harbor ought to have warm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image at Harbor, as the kubelet will ask for it.
    pub image: ImageRef,
    /// Name of the ProxyProject whose project it lies in.
    pub proxy_project: Arc<str>,
}

/// Decides on a Pod. Nothing that is asked can fail: what cannot be read is left alone, with a warning.
///
/// On an update only images that differ from the old ones are looked at; one that the old Pod's record knows as the
/// original gets the old image back, so that applying a manifest again restarts nothing. What a user sent as the record
/// is not believed: an entry stays only if the rules make this very image from it, as they do when the API server asks
/// a second time.
pub fn decide<'p>(request: Request<'p>, rules: &Rules, subject: &Subject<'_>) -> Outcome<'p> {
    let (pod, old, kinds) = request.parts();
    let mut outcome = Outcome::default();
    if pod.annotations().is_some_and(|annotations| annotations.mirror)
        || old.is_some_and(|old| is_same(pod, old, kinds))
    {
        return outcome;
    }
    let exemption = Exemption::of(subject);
    if exemption == Exemption::Refused {
        let why = format!("label {EXEMPT} is ignored: the namespace has no label {ALLOW_EXEMPT}=true");
        outcome.warnings.push(format!("harbor-pilot: {why}"));
    }

    let sent = Record::read(pod.originals());
    let recorded = Record::read(old.and_then(Pod::originals));
    let before = old.map(Before::new);
    let mut record = Entries::default();
    for slot in kinds.iter().flat_map(|kind| pod.slots(*kind)) {
        let earlier = before.as_ref().and_then(|before| before.image(&slot));
        let original = earlier.and_then(|_| recorded.original(&slot));
        if earlier == Some(slot.image) {
            let kept = believed(&sent, &slot, rules).or(original);
            kept.into_iter().for_each(|original| record.add(slot, original));
        } else if let (Some(earlier), true) = (earlier, original == Some(slot.image)) {
            outcome.edits.images.push(Change { slot, to: To::Earlier(earlier) });
            record.add(slot, slot.image);
        } else if exemption != Exemption::Granted && !keeps(pod, slot.name) {
            outcome.look_at(slot, rules, subject, &sent, &mut record);
        }
    }
    if matches!(request, Request::Create { .. }) {
        outcome.add_pull_secrets(pod);
    } else {
        // They are immutable.
        outcome.edits.pull_secrets.names.clear();
    }
    if !matches!(request, Request::EphemeralContainers { .. }) {
        outcome.annotate(pod, &record);
    }
    outcome.warn_of_the_rest();
    outcome
}

impl<'p> Outcome<'p> {
    /// Whether there is a patch.
    pub fn changes_anything(&self) -> bool {
        !self.edits.is_empty()
    }

    /// Appends the JSON Patch: an array of operations, an empty one when the Pod stays as it is.
    pub fn write_patch(&self, out: &mut String) {
        self.edits.write(out);
    }

    /// Names of the ProxyProjects whose rules changed images, each once.
    pub fn acted(&self) -> Vec<&str> {
        let mut names = Vec::with_capacity(1);
        for change in &self.edits.images {
            if let To::Harbor(wanted) = &change.to
                && !names.contains(&&*wanted.proxy_project)
            {
                names.push(&*wanted.proxy_project);
            }
        }
        names
    }

    /// The image that one place has after the patch, if it changes.
    pub fn image(&self, kind: Kind, index: usize) -> Option<&str> {
        let mut changes = self.edits.images.iter();
        let change = changes.find(|change| change.slot.kind == kind && change.slot.index == index);
        change.map(|change| change.to.text())
    }

    /// Names of the pull secrets that the patch adds.
    pub fn pull_secrets(&self) -> &[Arc<str>] {
        &self.edits.pull_secrets.names
    }

    /// How many images the patch changes.
    pub fn rewritten(&self) -> usize {
        self.edits.images.len()
    }

    /// How many images were left as they are because they could not be read, or not be rewritten.
    pub fn left_alone(&self) -> usize {
        self.left_alone
    }

    /// Texts for the user, few and short.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The images that Harbor ought to have warm: those rewritten now, and those that named a managed project.
    pub fn into_wanted(self) -> Vec<Wanted> {
        let mut wanted = self.at_harbor;
        wanted.extend(self.edits.images.into_iter().filter_map(|change| match change.to {
            To::Harbor(wanted) => Some(wanted),
            To::Earlier(_) => None,
        }));
        wanted
    }

    fn look_at<'e>(
        &mut self,
        slot: Slot<'p>,
        rules: &Rules,
        subject: &Subject<'_>,
        sent: &'e Record,
        record: &mut Entries<'e>,
    ) where
        'p: 'e,
    {
        let image = match ImageRef::parse(slot.image) {
            Ok(image) => image,
            Err(error) => return self.leave(&slot, &error),
        };
        match rules.find(&image, subject) {
            Decision::Rewritten { image, rule } => {
                // A Pod that a backup brings from another Harbor keeps what its user wrote.
                record.add(slot, made_from(sent, &slot, rules, image.as_str()).unwrap_or(slot.image));
                let wanted = Wanted { image, proxy_project: Arc::clone(rule.name()) };
                self.edits.images.push(Change { slot, to: To::Harbor(wanted) });
                self.need(rule);
            }
            Decision::Mapped { image, rule } => {
                self.at_harbor.push(Wanted { image, proxy_project: Arc::clone(rule.name()) });
            }
            Decision::Unavailable { rule } => {
                let (host, rule) = (rule.pull_host(), rule.name());
                self.leave(&slot, &format_args!("{host} is unavailable, and ProxyProject {rule} waits for it"));
            }
            Decision::AlreadyAtHarbor { rule } => {
                believed(sent, &slot, rules).into_iter().for_each(|original| record.add(slot, original));
                if let Some(rule) = rule {
                    self.at_harbor.push(Wanted { image, proxy_project: Arc::clone(rule.name()) });
                }
            }
            Decision::TooLong { rule } => {
                self.leave(&slot, &format_args!("under {rule} {}", ImageRefError::TooLong));
            }
            Decision::NoRule => {}
        }
    }

    /// Notes the Secret of a rule that changed an image.
    fn need(&mut self, rule: &Target) {
        let names = &mut self.edits.pull_secrets.names;
        if let Some(secret) = rule.pull_secret()
            && !names.contains(secret)
        {
            names.push(Arc::clone(secret));
        }
    }

    /// Leaves those that the Pod does not have. The ServiceAccount's own are among those that it has: the API server
    /// copies them before it asks us.
    fn add_pull_secrets(&mut self, pod: &Pod<'_>) {
        let secrets = &mut self.edits.pull_secrets;
        let has = pod.pull_secrets();
        secrets.beside_others = !has.is_empty();
        secrets.names.retain(|name| !has.iter().any(|secret| secret.name.as_deref() == Some(&**name)));
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
        let mut text = record.text();
        if text.as_ref().is_some_and(|text| text.len() > room) {
            self.warnings.push(format!("harbor-pilot: no room for the annotation {ORIGINAL_IMAGES}"));
            text = None;
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
    /// The Pod as it is to be.
    pub fn pod(self) -> &'p Pod<'p> {
        self.parts().0
    }

    /// The images that the Pod does not have yet: each with the one that the old Pod has in its place, if there is one.
    pub fn new_images(self) -> Vec<(Slot<'p>, Option<&'p str>)> {
        let (pod, old, kinds) = self.parts();
        let before = old.map(Before::new);
        let slots = kinds.iter().flat_map(|kind| pod.slots(*kind));
        let with_earlier = slots.map(|slot| (slot, before.as_ref().and_then(|before| before.image(&slot))));
        with_earlier.filter(|(slot, earlier)| *earlier != Some(slot.image)).collect()
    }

    fn parts(self) -> (&'p Pod<'p>, Option<&'p Pod<'p>>, &'static [Kind]) {
        match self {
            Self::Create { pod } => (pod, None, &Kind::ALL),
            Self::Update { pod, old } => (pod, Some(old), &Kind::ALL),
            Self::EphemeralContainers { pod, old } => (pod, Some(old), &[Kind::EphemeralContainers]),
        }
    }
}

/// The images of the old Pod, found by place first and by name where lists have shifted.
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

/// Whether an update concerns neither images nor our annotation: the common case, answered without reading records.
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

/// What a sent record says of an image, if the rules make this very image from it.
fn believed<'s>(sent: &'s Record, slot: &Slot<'_>, rules: &Rules) -> Option<&'s str> {
    made_from(sent, slot, rules, slot.image)
}

/// What a sent record says of a place, if the rules make `made` from it.
fn made_from<'s>(sent: &'s Record, slot: &Slot<'_>, rules: &Rules, made: &str) -> Option<&'s str> {
    let original = sent.original(slot)?;
    let found = rules.find_for_anyone(&ImageRef::parse(original).ok()?);
    matches!(found, Decision::Rewritten { image, .. } if image.as_str() == made).then_some(original)
}

/// A name as it may stand in a warning, which travels in an HTTP header: short, and without control characters.
struct Printable<'t>(&'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let graphic = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        self.0.chars().take(MAX_NAME_IN_WARNING).try_for_each(|c| fmt::Write::write_char(f, graphic(c)))
    }
}

#[cfg(test)]
mod tests;
